"""Read how many cores and how much memory the control groups of this process allow (Linux).

A container is a process in control groups that have limits. Inside it the system reports the cores
and memory of the whole machine. A process that uses so much is killed by the kernel. The files of
the control groups have the real limits:

    version 2   cpu.max, memory.max, memory.high; memory.events counts killed processes; pids.max
    version 1   cpu.cfs_quota_us with cpu.cfs_period_us, memory.limit_in_bytes, memory.stat;
                memory.oom_control counts killed processes; pids.max

Three rules:

1. A limit holds for all groups below. So the smallest one counts, from the group of this process up
   to the top.
2. `/proc/self/mountinfo` says where groups are mounted. What it calls the root of a mount is the
   group at the mount point: in a container often its own group, or "/" with a namespace.
3. A file that cannot be read sets no limit. Cpusets are not read: the affinity of a process lies in
   its cpuset.

All functions take the folder that stands for "/", so that tests can make a machine of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

#: Usual mounts of control groups, for processes that see no /proc: version, controllers, mount
#: point.
_CUSTOMARY = (
    (2, {"cpu", "memory", "pids"}, "/sys/fs/cgroup"),
    (1, {"memory"}, "/sys/fs/cgroup/memory"),
    (1, {"pids"}, "/sys/fs/cgroup/pids"),
    (1, {"cpu"}, "/sys/fs/cgroup/cpu"),
)
#: Limit from which on version 1 means "no limit", bytes. It writes the largest number of pages.
_NO_LIMIT_BYTES = 2**60
#: Period of cpu.max if it is left out, microseconds. It is the kernel's default.
_PERIOD_US = 100_000
_CONTROLLERS = {"cpu", "memory", "pids"}
#: How mountinfo writes characters that would end a field or a line.
_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


class Limits(NamedTuple):
    """What the control groups of a process allow. None: no limit."""

    cores: float | None  #: CPU seconds per second, such as 0.5
    memory_bytes: int | None


class _Hierarchy(NamedTuple):
    """The groups of this process in one hierarchy: its own folder first, then those above."""

    version: int
    controllers: set[str]  #: all that may exist, in version 2
    folders: list[str]


class ControlGroups:
    """The control groups of this process. They are searched once."""

    def __init__(self, root: str = "/"):
        """root: the folder that stands for "/"."""
        self._hierarchies = list(_find_hierarchies(root))
        #: smallest limits of its groups and of all above them, when this object was made
        self.limits = self._read_limits()

    def count_memory_kills(self) -> int | None:
        """Return how many processes of this group the kernel killed for memory; None if unknown.

        Kills at the limit of a group above count, too.
        """
        counts = []
        for version, controllers, folders in self._hierarchies:
            if "memory" in controllers:
                name = "memory.events" if version == 2 else "memory.oom_control"
                found = (_read_field(os.path.join(folder, name), "oom_kill") for folder in folders)
                counts += [next((count for count in found if count is not None), None)]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def find_process_limit(self) -> int | None:
        """Return how many processes and threads the groups allow, or None if there is no limit."""
        texts = [
            _read(os.path.join(folder, "pids.max")).strip()
            for _, controllers, folders in self._hierarchies
            if "pids" in controllers
            for folder in folders
        ]
        return min((int(text) for text in texts if text.isdigit()), default=None)

    def _read_limits(self) -> Limits:
        cores: list[float] = []
        memory: list[int] = []
        for version, controllers, folders in self._hierarchies:
            for folder in folders:
                if "cpu" in controllers:
                    cores += _read_quota(version, folder)
                if "memory" in controllers:
                    memory += _read_memory(version, folder)
        return Limits(min(cores, default=None), min(memory, default=None))


def _find_hierarchies(root: str) -> Iterator[_Hierarchy]:
    groups = _read_groups(root)
    mounts = list(_read_mounts(root))
    if not groups or not mounts:
        for version, controllers, point in _CUSTOMARY:
            yield _Hierarchy(version, controllers, [_below(root, point)])
        return
    for version, controllers, group in groups:
        seen = [m for m in mounts if m[0] == version and (version == 2 or m[1] & controllers)]
        if seen:
            yield _Hierarchy(
                version, controllers or set(_CONTROLLERS), _find_folders(root, group, [m[2:] for m in seen])
            )


def _read_groups(root: str) -> list[tuple[int, set[str], str]]:
    """Return version, controllers and group of each line of /proc/self/cgroup."""
    found = []
    for line in _read(_below(root, "/proc/self/cgroup")).splitlines():
        number, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if number == "0" and not names:
            found.append((2, set[str](), group))
        elif _CONTROLLERS & set(names.split(",")):
            found.append((1, set(names.split(",")), group))
    return found


def _read_mounts(root: str) -> Iterator[tuple[int, set[str], str, str]]:
    """Return version, controllers, root and point of each mount of control groups."""
    for line in _read(_below(root, "/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if kinds[0] in ("cgroup", "cgroup2") and len(fields) > 4 and len(kinds) > 2:
            mount_root, point = map(_unescape, fields[3:5])
            yield (2 if kinds[0] == "cgroup2" else 1), set(kinds[2].split(",")), mount_root, point


def _unescape(field: str) -> str:
    for written, meant in _ESCAPES.items():
        field = field.replace(written, meant)
    return field


def _find_folders(root: str, group: str, mounts: list[tuple[str, str]]) -> list[str]:
    """Return the folders of a group and those above it, as far as a mount shows them."""
    covering = [
        (len(seen), point, group[len(seen.rstrip("/")) :]) for seen, point in mounts if _lies_in(group, seen)
    ]
    if covering:
        _, point, below = min(covering)  # the one that shows most of the groups above
    else:  # outside of its namespace, the mount shows a group above or this one under another name
        point, below = mounts[0][1], ""
    names = [name for name in below.split("/") if name]
    top = _below(root, point)
    return [os.path.join(top, *names[:count]) for count in range(len(names), -1, -1)]


def _lies_in(group: str, seen: str) -> bool:
    return ".." not in group.split("/") and f"{group.rstrip('/')}/".startswith(f"{seen.rstrip('/')}/")


def _read_quota(version: int, folder: str) -> list[float]:
    """Return the limit of cores of one group, in a list that is empty if there is none."""
    if version == 2:
        quota, _, period = _read(os.path.join(folder, "cpu.max")).strip().partition(" ")
    else:
        quota = _read(os.path.join(folder, "cpu.cfs_quota_us")).strip()
        period = _read(os.path.join(folder, "cpu.cfs_period_us")).strip()
    if not quota.isdigit():  # "max", -1
        return []
    period_us = int(period) if period.isdigit() else _PERIOD_US
    return [int(quota) / period_us] if int(quota) and period_us else []


def _read_memory(version: int, folder: str) -> list[int]:
    """Return the limits of memory of one group, bytes; an empty list if there is none."""
    if version == 2:
        texts = [_read(os.path.join(folder, name)).strip() for name in ("memory.max", "memory.high")]
        return [int(text) for text in texts if text.isdigit() and int(text)]
    text = _read(os.path.join(folder, "memory.limit_in_bytes")).strip()
    found = [
        int(text) if text.isdigit() else None,
        # This includes groups above, which a container may not see.
        _read_field(os.path.join(folder, "memory.stat"), "hierarchical_memory_limit"),
    ]
    return [limit for limit in found if limit and limit < _NO_LIMIT_BYTES]


def _read_field(path: str, name: str) -> int | None:
    """Return the number in the line "NAME NUMBER" of a file, or None if there is no such line."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def _read(path: str) -> str:
    """Return the text of a file, or "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))
