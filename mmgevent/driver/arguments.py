"""Check what a program passes to clusters, nodes and handles: each number has a range."""

from __future__ import annotations

import math
from typing import Any

from mmgevent.errors import UsageError
from mmgevent.shown_text import shown
from mmgevent.wire.limits import MAX_SLOTS, MAX_TIMEOUT_S

#: Largest `verbose`. 2 is the most that means something.
MAX_VERBOSE = 9

#: Longest text of a value in an error about it, characters.
_MAX_SHOWN_CHARS = 200


def check_procs(procs: object) -> None:
    """Raise UsageError for a number of executors that no machine can have."""
    _check_int("procs", procs, MAX_SLOTS)


def check_verbose(verbose: object) -> None:
    """Raise UsageError for what is no degree of verbosity."""
    _check_int("verbose", int(verbose) if isinstance(verbose, bool) else verbose, MAX_VERBOSE)


def check_timeout(timeout: object) -> None:
    """Raise UsageError for what is no time to connect."""
    if not _is_number(timeout) or not 0 < timeout <= MAX_TIMEOUT_S:  # type: ignore[operator] # a number
        raise UsageError(
            f"timeout must be a number of seconds above 0, at most {MAX_TIMEOUT_S:.0e}; got {_show(timeout)}"
        )


def check_wait(timeout: object) -> None:
    """Raise UsageError for what is no time to wait. A time below 0 is over at once."""
    if timeout is not None and (not _is_number(timeout) or math.isnan(timeout)):  # type: ignore[arg-type]
        raise UsageError(f"timeout must be a number of seconds, or None; got {_show(timeout)}")


def parse_memory(size: int | str | None) -> int | None:
    """Return the bytes of a size such as "64MiB", or None for None. Raises OptionError."""
    if size is None:
        return None  # spares an import
    from mmgevent.job import options

    return options.parse_memory(size)


def parse_pair(address: Any) -> tuple[str, int]:
    """Return an address that was given as a pair. Raises UsageError for what is none."""
    from mmgevent.access.addresses import MAX_PORT

    if isinstance(address, (tuple, list)) and len(address) == 2:
        host, port = address
        if isinstance(host, str) and host and type(port) is int and 0 <= port <= MAX_PORT:
            return host, port
    raise UsageError(
        f'an address is "HOST:PORT" or (host, port) with a port from 0 to {MAX_PORT}; got {_show(address)}'
    )


def _check_int(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise UsageError(f"{name} must be an int from 0 to {most}, got {_show(value)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _show(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # an int of thousands of digits, or an object of the program's
        text = f"a {type(value).__name__} whose repr() fails"
    return shown(text, max_line_chars=_MAX_SHOWN_CHARS)
