"""Calls that may block for ever, each with a deadline.

File systems have time limits of their own, or none. So every call to one runs in a thread that is
given up when it is late. Such a thread does not keep the process from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: Time for one answer of a remote file system, seconds: a look at an object, or a part of it. Libraries
#: retry several times before, with limits of up to 15 s each.
ANSWER_S = 90.0

#: Time for the list of a folder or glob, seconds. Object stores list some 5,000 objects a second.
LISTING_S = 600.0

#: Looks at objects that wait for answers at one time. An answer takes some 50 ms from far away.
AHEAD = 16


class TooLateError(OSError):
    """Nobody answered in time."""


class Call:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        """Begin it."""
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, args=(function, args), name="remote", daemon=True).start()

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self._result = function(*args)
        except BaseException as error:  # `result` raises it
            self._error = error
        finally:
            self._done.set()

    def result(self, limit_s: float) -> Any:
        """Return what the call returned, or raise what it raised, or TooLateError."""
        if not self._done.wait(limit_s):
            raise TooLateError(f"no answer in {limit_s:g} s")
        if self._error is not None:
            raise self._error
        return self._result


def within(limit_s: float, function: Callable[..., T], *args: Any) -> T:
    """Return what a call returns. Raise TooLateError if that takes longer."""
    result: T = Call(function, *args).result(limit_s)
    return result


def map_ahead(function: Callable[[Any], T], values: Iterable[Any]) -> Iterator[tuple[Any, Callable[[], T]]]:
    """Yield each value, in order, with what returns the result of its call or raises its error.

    AHEAD calls run at one time. Each has ANSWER_S from when its result is asked for.
    """
    waiting: deque[tuple[Any, Call]] = deque()
    for value in values:
        waiting.append((value, Call(function, value)))
        if len(waiting) == AHEAD:
            yield _first(waiting)
    while waiting:
        yield _first(waiting)


def _first(waiting: deque[tuple[Any, Call]]) -> tuple[Any, Callable[[], Any]]:
    value, call = waiting.popleft()
    return value, lambda: call.result(ANSWER_S)
