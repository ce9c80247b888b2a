"""Check the options of a job, once, where they are given.

Everything below the driver can rely on the types and ranges written at each field. A server checks
them again with `JobOptions.from_wire`, a worker with `find_fault`: they do not trust their peers.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mmgevent.errors import OptionError
from mmgevent.shown_text import shown
from mmgevent.wire.limits import MAX_COUNT, MAX_PARTITIONS, MAX_TIMEOUT_S

#: Least `memory_limit`, bytes. Python needs this much before it runs a line of the user's.
MIN_MEMORY_LIMIT_BYTES = 16 * 1024 * 1024

#: Largest `memory_limit`, bytes. setrlimit(2) takes no larger number.
MAX_MEMORY_LIMIT_BYTES = 2**63 - 1

#: Largest memory for intermediate data of a server, bytes. No machine has more.
MAX_SEGMENT_MEMORY_BYTES = 2**60

#: Default of `setup_timeout`, seconds. Large models load in a few minutes from a cold disk.
SETUP_TIMEOUT_S = 300.0

#: Most items at once in one executor. One process is slow long before that.
MAX_GREENLETS = 100_000

#: Most items of one call of mapfn. No batch of a datasource has more.
MAX_ITEMS_PER_CALL = 1_000_000

#: Longest name of a job, characters. A longer one would not fit the lines of logs and dashboards.
MAX_JOB_NAME_CHARS = 200

#: Longest text of a value in an error about it, characters.
_MAX_SHOWN_CHARS = 200

_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


@dataclass(frozen=True)
class JobOptions:
    """The options of one job, checked. Making one raises OptionError for a value out of range."""

    #: times that an item is tried again after an exception of the user's function, >= 0
    retries: int = 0
    #: seconds for one item (map) or one key (reduce), > 0; None for no limit
    task_timeout: float | None = None
    #: seconds for the job's setupfn in an executor, > 0; None for no limit
    setup_timeout: float | None = SETUP_TIMEOUT_S
    #: bytes of memory of each executor, at least MIN_MEMORY_LIMIT_BYTES; None for no limit
    memory_limit: int | None = None
    #: items (int) or share of items (float, 0 <= x < 1) that may be set aside
    max_skipped: int | float = 0
    #: number of partitions, 1 to MAX_PARTITIONS; None lets the server choose
    partitions: int | None = None
    #: items at once in one executor, for a mapfn that waits; 0: one after the other
    greenlets: int = 0
    #: most items of one call of mapfn, which gets a list of keys and a list of values, >= 1; None:
    #: it gets one key and one value
    items_per_call: int | None = None
    #: whether reducefn gets the values of a key as one numpy array; stays with the driver
    arrays: bool = False
    #: "continuous" or "oneshot"
    allocation: str = "continuous"
    #: share of the slots, 0 to 1, that may run duplicates of slow tasks once no other work is left
    retransmit: float = 0.05
    #: paths of modules to ship; stays with the driver
    py_files: tuple[str, ...] = ()
    #: "plain": workers may give plain data only, of which nothing can run code here; "trusted":
    #: anything; None: mmg-run decides, and a program trusts them. Stays with the driver
    results: str | None = None
    #: classes that plain results may hold, besides those of the program's own modules: classes, or names
    #: such as "module.Class"; stays with the driver
    plain_classes: tuple[str | type, ...] = ()
    #: names of environment variables of the driver that executors of this job get; stays with the driver
    pass_env: tuple[str, ...] = ()
    #: folder in which failures leave bundles (see `job.bundle`), or True for that of the user's cache; None:
    #: no bundles are kept. Stays with the driver
    bundles: str | bool | None = None
    #: what logs call the job; "" until the job chooses one
    name: str = ""

    def __post_init__(self) -> None:
        for name, (is_in_range, expected) in _RANGES.items():
            given = getattr(self, name)
            value = _NORMAL_FORMS[name](given) if name in _NORMAL_FORMS else given
            if not is_in_range(value):
                raise _out_of_range(name, "its value" if name == "pass_env" else given, expected)
            object.__setattr__(self, name, value)
        if self.allocation == "oneshot" and self.retries:
            raise OptionError(
                'retries cannot go with allocation="oneshot", where an item runs once or not at all; '
                "leave one of them out"
            )
        if self.items_per_call is not None and (self.greenlets or self.allocation == "oneshot"):
            other = "greenlets" if self.greenlets else 'allocation="oneshot"'
            raise OptionError(
                f"items_per_call cannot go with {other}, where mapfn gets one item; leave one of them out"
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
        """Raise OptionError for an option that has no effect on an offered function, `name`."""
        for option, advice in _NOT_OFFERED.items():
            if getattr(self, option):
                raise OptionError(
                    f"option {option} cannot go with the function {name!r}, which is given by name and runs in a "
                    f"thread of the process that offers it; {advice}, or pass the function itself"
                )

    def to_wire(self) -> dict[str, Any]:
        """Return the options in types that JSON has, for servers and workers.

        Those that stay with the driver are left out.
        """
        wire = asdict(self)
        for name in ("arrays", "py_files", "results", "plain_classes", "pass_env", "bundles"):
            del wire[name]
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


_NULLABLE = frozenset(
    ("task_timeout", "setup_timeout", "memory_limit", "partitions", "items_per_call", "results", "bundles")
)


def parse_option(name: str, text: str) -> Any:
    """Turn the text of `--set NAME=TEXT` into the option's value.

    "none" or an empty text is None, where None is allowed. Commas separate py_files and plain_classes.
    Raise OptionError for an unknown name or a value out of range.
    """
    check_name(name)
    text = text.strip()
    value: Any = text
    if name in _NULLABLE and text.lower() in ("", "none"):
        value = None
    elif name in ("retries", "partitions", "greenlets", "items_per_call"):
        value = _parse_number(name, text, int)
    elif name in ("task_timeout", "setup_timeout", "retransmit"):
        value = _parse_number(name, text, float)
    elif name == "arrays":
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif name == "max_skipped":
        value = _parse_number(name, text, int if text.lstrip("+-").isdecimal() else float)
    elif name in ("py_files", "plain_classes", "pass_env"):
        value = tuple(part for part in text.split(",") if part)
    return getattr(JobOptions(**{name: value}), name)


def parse_size(size: int | str) -> int:
    """Return a size in bytes: an int as it is, or text such as "512MiB", "2 GB", "1.5g".

    KiB, MiB, GiB, TiB and single letters are powers of 1024. KB to TB are powers of 1000.
    Raise OptionError for anything else.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    n_bytes = float(match[1]) * _UNITS.get(match[2].lower(), math.nan) if match else math.nan
    if not math.isfinite(n_bytes):
        raise OptionError(f'a size is a number of bytes, or text like "512MiB" or "2GiB"; got {_show(size)}')
    return int(n_bytes)


def parse_memory(size: int | str | None) -> int | None:
    """Return the bytes of a server's memory for intermediate data; None for None.

    Raises OptionError for what is no size, or is out of range.
    """
    if size is None:
        return None
    try:
        n_bytes = parse_size(size)
    except OptionError:
        n_bytes = 0
    if isinstance(size, bool) or not 0 < n_bytes <= MAX_SEGMENT_MEMORY_BYTES:
        raise OptionError(f'expected a size above 0, at most 1024 PiB, such as "512MiB"; got {_show(size)}')
    return n_bytes


def find_fault(options: Mapping[str, Any]) -> str | None:
    """Return what is wrong with options as a peer sent them, or None if all are in range.

    The mapping may lack options, and may hold other names: those are not looked at. Unlike
    `JobOptions`, this accepts a value only in the form that `to_wire` gives it.
    """
    for name, (is_in_range, expected) in _RANGES.items():
        if name in options and not is_in_range(options[name]):
            return str(_out_of_range(name, options[name], expected))
    return None


def _parse_number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        # Python also reads 1_000 and digits of other scripts, and refuses thousands of digits.
        if not text.isascii() or "_" in text:
            raise ValueError(text)
        return kind(text)
    except ValueError:
        raise _out_of_range(name, text, "a whole number" if kind is int else "a number") from None


def _out_of_range(name: str, value: Any, expected: str) -> OptionError:
    return OptionError(f"option {name} must be {expected}; got {_show(value)}")


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than `sys.get_int_max_str_digits()`
        text = f"an int of {value.bit_length()} bits"
    return shown(text, max_line_chars=_MAX_SHOWN_CHARS)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number that a float can hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_int(value) and abs(value) < _FLOAT_LIMIT


#: The int from which on `float()` may raise OverflowError.
_FLOAT_LIMIT = 2**1023


def _is_count(value: Any) -> bool:
    return _is_int(value) and 0 <= value <= MAX_COUNT


def _is_timeout(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 < value <= MAX_TIMEOUT_S)


def _is_memory_limit(value: Any) -> bool:
    return value is None or (_is_int(value) and MIN_MEMORY_LIMIT_BYTES <= value <= MAX_MEMORY_LIMIT_BYTES)


def _is_skip_limit(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= MAX_COUNT and not (isinstance(value, float) and value >= 1)


def _is_partition_count(value: Any) -> bool:
    return value is None or (_is_int(value) and 1 <= value <= MAX_PARTITIONS)


def _is_greenlet_count(value: Any) -> bool:
    return _is_int(value) and 0 <= value <= MAX_GREENLETS


def _is_call_size(value: Any) -> bool:
    return value is None or (_is_int(value) and 1 <= value <= MAX_ITEMS_PER_CALL)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _are_paths(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(path, str) and path for path in value)


def _is_results(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value in ("plain", "trusted"))


def _are_classes(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(each, type) or (isinstance(each, str) and "." in each) for each in value
    )


def _is_bundles(value: Any) -> bool:
    return value is None or value is True or (isinstance(value, str) and bool(value) and "\0" not in value)


def _is_job_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_JOB_NAME_CHARS and value.isprintable()


_TIMEOUT = (_is_timeout, f"a number of seconds above 0, at most {MAX_TIMEOUT_S:.0e} (31 years), or None")

#: {option: (predicate of its range, what an error says is expected)}
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "retries": (_is_count, f"an int from 0 to {MAX_COUNT:.0e}"),
    "task_timeout": _TIMEOUT,
    "setup_timeout": _TIMEOUT,
    "memory_limit": (_is_memory_limit, 'bytes or a size like "2GiB", from 16MiB to 8 EiB, or None'),
    "max_skipped": (
        _is_skip_limit,
        f"a number of items (int, 0 to {MAX_COUNT:.0e}), or a share of them (float, 0 to below 1)",
    ),
    "partitions": (_is_partition_count, f"an int from 1 to {MAX_PARTITIONS}, or None"),
    "greenlets": (_is_greenlet_count, f"an int from 0 to {MAX_GREENLETS}"),
    "items_per_call": (
        _is_call_size,
        f"a number of items for one call of mapfn (int, 1 to {MAX_ITEMS_PER_CALL}), or None",
    ),
    "arrays": (lambda value: isinstance(value, bool), "True or False"),
    "allocation": (
        lambda value: isinstance(value, str) and value in ("continuous", "oneshot"),
        '"continuous" or "oneshot"',
    ),
    "retransmit": (_is_share, "a share of the slots, 0 to 1"),
    "py_files": (_are_paths, "a path or a list of paths"),
    "results": (_is_results, '"plain", "trusted" or None'),
    "plain_classes": (_are_classes, 'a list of classes, or of their names such as "module.Class"'),
    "pass_env": (
        lambda value: _are_paths(value) and "=" not in "".join(value),
        "names of environment variables, not their values",
    ),
    "bundles": (_is_bundles, "a folder, True for that of the user's cache, or None"),
    "name": (_is_job_name, f"printable text of at most {MAX_JOB_NAME_CHARS} characters"),
}


def _normal_size(value: Any) -> Any:
    try:
        return parse_size(value)
    except OptionError:
        return value  # it is out of range, which is found later


def _normal_paths(value: Any) -> Any:
    paths = [value] if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(paths, Iterable) or isinstance(paths, (bytes, bytearray)):
        return value
    return tuple(os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths)


def _normal_bundles(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else None if value is False else value


def _normal_classes(value: Any) -> Any:
    classes = [value] if isinstance(value, (str, type)) else value
    return tuple(classes) if isinstance(classes, Iterable) else value


#: What turns a value as programs give it into the form that `JobOptions` holds.
_NORMAL_FORMS: dict[str, Callable[[Any], Any]] = {
    "memory_limit": _normal_size,
    "py_files": _normal_paths,
    "plain_classes": _normal_classes,
    "pass_env": _normal_classes,
    "bundles": _normal_bundles,
}

#: {option that needs an executor of its own: what to do instead}
_NOT_OFFERED = {
    "task_timeout": "a thread cannot be ended, so let the function watch the time",
    "memory_limit": "a thread has no memory of its own, so let the function hold less",
    "pass_env": "its process has an environment of its own, so set them there",
    "greenlets": "one item runs there at a time, so let the function do several things at once",
    "arrays": "what it gets is not made by the job, so let the function make an array",
    "items_per_call": "a call that ends its process is halved, and a thread cannot end alone, so give it lists as items",
}
