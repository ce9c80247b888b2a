"""Control groups for tests, as containers have them, where this machine lets us make some."""

import contextlib
import os
import pathlib
import time

import pytest

from mmgevent.machine.cgroups import ControlGroups

#: for the last process of a group to be buried, seconds
LATE_S = 30.0
#: become a command in a group
ENTER = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'


@contextlib.contextmanager
def control_group(controller, v1=None, v2=None):
    """Make a group with these files, {name: value} for each version; the path, or the test is skipped."""
    for version, controllers, folders in ControlGroups()._hierarchies:
        top = pathlib.Path(folders[-1])
        path = top / f"mmgevent-test-{os.getpid()}"
        if controller not in controllers:
            continue
        if version == 2 and controller not in (top / "cgroup.subtree_control").read_text().split():
            continue
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            for name, value in ((v1 if version == 1 else v2) or {}).items():
                (path / name).write_text(str(value))
            yield path
        finally:
            remove(path)
        return
    pytest.skip(
        f"no control group of {controller} can be made here: that takes root, and a machine that has them"
    )


def memory_group(n_bytes):
    return control_group("memory", {"memory.limit_in_bytes": n_bytes}, {"memory.max": n_bytes})


def quota_group(cores):
    return control_group(
        "cpu", {"cpu.cfs_quota_us": int(cores * 100_000)}, {"cpu.max": f"{int(cores * 100_000)} 100000"}
    )


def pids_group(count):
    return control_group("pids", {"pids.max": count}, {"pids.max": count})


def inside(path):
    """Return a command that becomes the one behind it, in the group."""
    return ["sh", "-c", ENTER, "sh", str(path)]


def count_kills(path):
    """Return how many processes of the group the kernel has killed for want of memory."""
    for name in ("memory.oom_control", "memory.events"):
        if (path / name).exists():
            fields = dict(line.split() for line in (path / name).read_text().splitlines())
            return int(fields["oom_kill"])
    raise AssertionError(f"{path} does not count kills")


def remove(path):
    until = time.monotonic() + LATE_S
    while True:
        try:
            path.rmdir()
            return
        except OSError:  # somebody is in it still
            assert time.monotonic() < until, (path / "cgroup.procs").read_text()
            time.sleep(0.01)
