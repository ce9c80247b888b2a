"""Time the items of one task, for a job that keeps a log.

`ItemClock.marking` wraps the function that is called before each item or key. So an item costs one
more read of the clock, and a job without a log costs nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from time import monotonic
from typing import Any

from mmgevent.tasks.blame import short_repr
from mmgevent.wire.task_ends import MAX_LARGEST, MAX_SLOW, MAX_TEXT_CHARS

#: Time below which an item is never named, seconds. The repr of its key would cost more than it.
WORTH_NAMING_S = 0.001

#: Milliseconds in a second.
MS = 1000


_NOTHING: dict[str, Any] = {}


class ItemClock:
    """The slowest items of one task after another, and the keys with the most values."""

    def __init__(self) -> None:
        self._slowest: list[tuple[float, int, int, Any]] = []  # a heap: seconds, number, position, key
        self._largest: list[tuple[int, int, Any]] = []  # a heap: values, number, key
        self._is_running = False  # a task began, and `found` was not called yet
        self._number = 0  # keeps keys from being compared
        self._least_s = WORTH_NAMING_S  # an item that took less is not among the slowest
        #: Notes how long the current item took; nothing runs from now on.
        self.stop: Callable[[], None] = _do_nothing
        self._pause: Callable[[bool], None] = _do_not_pause
        # What was wrapped last: an executor asks for the same functions for each of its tasks.
        self._marks: tuple[Any, Any] = None, None
        self._flush_marks: tuple[Any, Any] = None, None

    def begin(self) -> None:
        """Forget the task before."""
        if self._is_running:  # it failed
            self.stop()
        self._is_running = True
        if self._slowest or self._largest:
            self._slowest, self._largest = [], []
            self._least_s = WORTH_NAMING_S

    def marking(self, mark: Callable[[int, Any], object]) -> Callable[[int, Any], object]:
        """Return a function that calls `mark`, and notes how long the item before this one took."""
        if self._marks[0] != mark:
            self._marks = mark, self._make_marking(mark)
        timed: Callable[[int, Any], object] = self._marks[1]
        return timed

    def _make_marking(self, mark: Callable[[int, Any], object]) -> Callable[[int, Any], None]:
        now, never = monotonic, float("inf")
        position, key, began_s, paused_s = 0, None, never, 0.0

        def timed(next_position: int, next_key: Any) -> None:
            nonlocal position, key, began_s
            at = now()
            if at - began_s > self._least_s:
                self._note(at - began_s, position, key)
            position, key, began_s = next_position, next_key, at
            mark(next_position, next_key)

        def stop() -> None:
            nonlocal key, began_s, paused_s
            if key is None and began_s == never:
                return
            seconds = (paused_s or now()) - began_s
            if seconds > self._least_s:
                self._note(seconds, position, key)
            key, began_s, paused_s = None, never, 0.0

        def pause(goes_on: bool) -> None:
            nonlocal began_s, paused_s
            if goes_on and paused_s:
                began_s += now() - paused_s
                paused_s = 0.0
            elif not goes_on:
                paused_s = now()

        self.stop, self._pause = stop, pause
        return timed

    def marking_flush(self, mark_flush: Callable[[int | None], object]) -> Callable[[int | None], object]:
        """Return a function that calls `mark_flush`, and keeps flushes out of the time of items."""
        if self._flush_marks[0] != mark_flush:

            def mark(item: int | None) -> None:
                self._pause(item is not None)
                mark_flush(item)

            self._flush_marks = mark_flush, mark
        timed: Callable[[int | None], object] = self._flush_marks[1]
        return timed

    def count_values(self, groups: dict[Any, Any]) -> None:
        """Note the keys of merged groups that have the most values."""
        largest = self._largest
        least = largest[0][0] if len(largest) == MAX_LARGEST else 1
        for key, values in groups.items():
            count = len(values)
            if count <= least:
                continue
            self._number += 1
            if len(largest) < MAX_LARGEST:
                heapq.heappush(largest, (count, self._number, key))
            else:
                heapq.heapreplace(largest, (count, self._number, key))
            if len(largest) == MAX_LARGEST:
                least = largest[0][0]

    def found(self, seconds: float = math.inf, only: tuple[int, Any] | None = None) -> dict[str, Any]:
        """End the last item; return the fields `slow` and `largest` of `wire.task_ends`, if there are any.

        `seconds`: how long the task took. `only`: position and key of its only item, which was not
        marked: it took as long.
        """
        if seconds < WORTH_NAMING_S and not self._largest:
            return _NOTHING  # the next task forgets this one
        if only is not None:
            self.begin()
            self._note(seconds, *only)
        self.stop()
        self._is_running = False
        if not (self._slowest or self._largest):
            return _NOTHING
        slow = sorted(self._slowest, key=_first, reverse=True)
        largest = sorted(self._largest, key=_first, reverse=True)
        return {
            "slow": [[round(row[0] * MS), _text_of(row[3]), row[2]] for row in slow] or None,
            "largest": [[row[0], _text_of(row[2])] for row in largest] or None,
        }

    def _note(self, seconds: float, position: int, key: Any) -> None:
        self._number += 1
        entry = (seconds, self._number, position, key)
        if len(self._slowest) < MAX_SLOW:
            heapq.heappush(self._slowest, entry)
        else:
            heapq.heapreplace(self._slowest, entry)
        if len(self._slowest) == MAX_SLOW:
            self._least_s = self._slowest[0][0]


def _first(row: tuple[Any, ...]) -> Any:
    return row[0]


def _text_of(key: Any) -> str:
    return short_repr(key)[:MAX_TEXT_CHARS]


def _do_nothing() -> None:
    pass


def _do_not_pause(goes_on: bool) -> None:
    pass
