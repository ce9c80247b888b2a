"""Let the functions of a job that run in this process see the `sys.argv` that its job file saw.

`sys.argv` belongs to the process, so it is replaced only while such a function runs. Several
threads may do that at once, each for its own job. Then the list that was shown last is in place.
When all of these functions have ended, in any order, the program's own list is in place again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
#: Lists that are shown; the last one is `sys.argv`. If there is none, the program's own is.
_shown: list[list[str]] = []
_own: list[str] = []


def list_to_show(argv: Sequence[str] | None) -> list[str] | None:
    """Return `argv` as a list for the functions below, or None if `sys.argv` is the same anyway."""
    return None if argv is None or list(argv) == sys.argv else list(argv)


@contextmanager
def showing(argv: list[str]) -> Iterator[None]:
    """Show this list, not a copy: what a function changes in it is there at the next call."""
    global _own
    with _lock:
        if not _shown:
            _own = sys.argv
        _shown.append(argv)
        sys.argv = argv
    try:
        yield
    finally:
        with _lock:
            del _shown[max(i for i, shown in enumerate(_shown) if shown is argv)]
            sys.argv = _shown[-1] if _shown else _own


def calls_showing(argv: list[str] | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `function` while `argv`, if any, is shown."""
    if argv is None:
        return function

    def call(*args: Any) -> Any:
        with showing(argv):
            return function(*args)

    return call


def items_showing(argv: list[str] | None, items: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator over `items` that shows `argv`, unless None, while it gets an item."""
    return iter(items) if argv is None else _each(argv, items)


def _each(argv: list[str], items: Iterable[Any]) -> Iterator[Any]:
    with showing(argv):
        iterator = iter(items)
    try:
        while True:
            with showing(argv):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            with showing(argv):
                close()
