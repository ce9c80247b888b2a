"""Check the options of a job, once, where they are given.

Everything below the driver can rely on the types and ranges written at each
field: what is not in range never gets onto the wire.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mmgevent.errors import OptionError
from mmgevent.wire.limits import MAX_PARTITIONS

#: Python with the user's modules needs this much before it does anything
MIN_MEMORY_BYTES = 16 * 1024 * 1024

#: Default of `setup_timeout`, seconds. Large models load in one or two minutes, from a cold disk in a few.
SETUP_TIMEOUT_S = 300.0

#: items waiting at once in one executor, far beyond what one process does well
MAX_GREENLETS = 100_000

#: longer names would not fit the lines of logs and dashboards
MAX_NAME_CHARS = 200

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


@dataclass(frozen=True)
class JobOptions:
    """The options of one job; making one raises OptionError for what is out of range."""

    #: times an item is tried again after a user exception, >= 0
    retries: int = 0
    #: seconds for one item (map) or one key (reduce), > 0; None for no limit
    task_timeout: float | None = None
    #: seconds for the job's setupfn in an executor, > 0; None for no limit
    setup_timeout: float | None = SETUP_TIMEOUT_S
    #: bytes of memory of each executor, at least MIN_MEMORY_BYTES; None for no limit
    memory_limit: int | None = None
    #: items (int) or share of items (float, 0 <= x < 1) that may be set aside
    max_skipped: int | float = 0
    #: number of partitions, 1 to MAX_PARTITIONS; None lets the server choose
    partitions: int | None = None
    #: items at once in one executor, for maps that wait; 0 for plain execution
    greenlets: int = 0
    #: "continuous" or "oneshot"
    allocation: str = "continuous"
    #: share of slots, 0 to 1, that may run duplicates of the oldest unfinished tasks
    retransmit: float = 0.05
    #: paths of modules to ship; stays with the driver
    py_files: tuple[str, ...] = ()
    #: what logs call the job; "" until the job chooses one
    name: str = ""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.allocation == "oneshot" and self.retries:
            raise OptionError(
                'retries cannot go with allocation="oneshot", where an item runs once or not at all; '
                "leave one of them out"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> JobOptions:
        """Make options from a mapping; raise OptionError for an unknown name or a bad value."""
        for name in options:
            check_name(name)
        return cls(**options)

    def with_options(self, **changes: Any) -> JobOptions:
        """Return a copy with some options changed; raise OptionError as `of` does."""
        for name in changes:
            check_name(name)
        return replace(self, **changes)

    def check_for_offered(self, name: str) -> None:
        """Raise OptionError for options that cannot go with a function offered by workers, of this name."""
        for option, advice in _NOT_OFFERED.items():
            if getattr(self, option):
                raise OptionError(
                    f"option {option} cannot go with the function {name!r}, which is given by name and runs in a "
                    f"thread of the process that offers it; {advice}, or pass the function itself"
                )

    def to_wire(self) -> dict[str, Any]:
        """Return the options that workers and servers see, as JSON can say them (no py_files)."""
        wire = asdict(self)
        del wire["py_files"]
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> JobOptions:
        """Make options from what `to_wire` gave; raise OptionError for anything else."""
        return cls.of(wire)


def check_name(name: str) -> None:
    """Raise OptionError, naming the nearest right name, unless `name` is an option."""
    names = [f.name for f in fields(JobOptions)]
    if name in names:
        return
    import difflib

    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(names)}"
    raise OptionError(f"unknown option {name!r}; {hint}")


def parse_option(name: str, text: str) -> Any:
    """Turn the text of `--set NAME=TEXT` into the option's value.

    "none" or nothing is None, where None is allowed; py_files are separated by
    commas.  Raise OptionError for an unknown name or a bad value.
    """
    check_name(name)
    text = text.strip()
    value: Any = text
    if name in ("task_timeout", "setup_timeout", "memory_limit", "partitions") and text.lower() in (
        "",
        "none",
    ):
        value = None
    elif name in ("retries", "partitions", "greenlets"):
        value = _parse_number(name, text, int)
    elif name in ("task_timeout", "setup_timeout", "retransmit"):
        value = _parse_number(name, text, float)
    elif name == "max_skipped":
        value = _parse_number(name, text, int if text.lstrip("+-").isdecimal() else float)
    elif name == "py_files":
        value = tuple(part for part in text.split(",") if part)
    return getattr(JobOptions(**{name: value}), name)


def parse_size(size: int | str) -> int:
    """Return a size in bytes: an int as it is, or text such as "512MiB", "2 GB", "1.5g".

    KiB, MiB, GiB, TiB and single letters are powers of 1024, KB to TB of 1000.
    Raise OptionError for anything else.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None or match[2].lower() not in _UNITS:
        raise OptionError(f'a size is a number of bytes, or text like "512MiB" or "2GiB"; got {size!r}')
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _parse_number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise _out_of_range(name, text, "a whole number" if kind is int else "a number") from None


def _out_of_range(name: str, value: Any, expected: str) -> OptionError:
    return OptionError(f"option {name} must be {expected}; got {value!r}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _check_retries(name: str, value: Any) -> int:
    if not _is_int(value) or value < 0:
        raise _out_of_range(name, value, "an int, 0 or more")
    return value


def _check_task_timeout(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or value <= 0:
        raise _out_of_range(name, value, "a number of seconds above 0, or None")
    return value


def _check_memory_limit(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        n_bytes = parse_size(value)
    except OptionError:
        n_bytes = 0
    if n_bytes < MIN_MEMORY_BYTES:
        raise _out_of_range(name, value, 'bytes or a size like "2GiB", at least 16MiB, or None')
    return n_bytes


def _check_max_skipped(name: str, value: Any) -> int | float:
    if not _is_number(value) or value < 0 or (isinstance(value, float) and value >= 1):
        raise _out_of_range(name, value, "a number of items (int), or a share of them (float below 1)")
    return value


def _check_partitions(name: str, value: Any) -> int | None:
    if value is not None and (not _is_int(value) or not 1 <= value <= MAX_PARTITIONS):
        raise _out_of_range(name, value, f"an int from 1 to {MAX_PARTITIONS}, or None")
    return value


def _check_greenlets(name: str, value: Any) -> int:
    if not _is_int(value) or not 0 <= value <= MAX_GREENLETS:
        raise _out_of_range(name, value, f"an int from 0 to {MAX_GREENLETS}")
    return value


def _check_allocation(name: str, value: Any) -> str:
    if value not in ("continuous", "oneshot"):
        raise _out_of_range(name, value, '"continuous" or "oneshot"')
    return value


def _check_retransmit(name: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise _out_of_range(name, value, "a share of the slots, 0 to 1")
    return value


def _check_py_files(name: str, value: Any) -> tuple[str, ...]:
    paths = [value] if isinstance(value, (str, os.PathLike)) else value
    if isinstance(paths, Iterable) and not isinstance(paths, (bytes, bytearray)):
        names = [os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths]
        if all(isinstance(n, str) and n for n in names):
            return tuple(names)
    raise _out_of_range(name, value, "a path or a list of paths")


def _check_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARS or not (value.isprintable()):
        raise _out_of_range(name, value, f"printable text of at most {MAX_NAME_CHARS} characters")
    return value


#: what needs an executor of its own, and what to do instead
_NOT_OFFERED = {
    "task_timeout": "a thread cannot be ended, so let the function watch the time",
    "memory_limit": "a thread has no memory of its own, so let the function hold less",
    "greenlets": "one item runs there at a time, so let the function do several things at once",
}

_CHECKS = {
    "retries": _check_retries,
    "task_timeout": _check_task_timeout,
    "setup_timeout": _check_task_timeout,
    "memory_limit": _check_memory_limit,
    "max_skipped": _check_max_skipped,
    "partitions": _check_partitions,
    "greenlets": _check_greenlets,
    "allocation": _check_allocation,
    "retransmit": _check_retransmit,
    "py_files": _check_py_files,
    "name": _check_name,
}
