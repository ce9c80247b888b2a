"""The last events of jobs, kept for whoever looks: limited in memory, and cheap to add to.

Nobody is sent anything. Whoever looks asks for what has come since a number, so a slow reader costs
no memory, and a reader that is too slow learns how many events it missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

#: Memory of an event beside its texts, bytes: the objects that Python makes of it.
EVENT_BYTES = 250


class Room:
    """The memory that the recent events of all jobs share."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._holders: dict[Recent, None] = {}

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def spend(self, recent: Recent, n_bytes: int) -> None:
        """Count bytes of events. If that is too much, the holder of most loses its older half."""
        self._holders[recent] = None
        self._used_bytes += n_bytes
        while self._used_bytes > self._max_bytes:
            largest = max(self._holders, key=lambda each: each.n_bytes)
            largest.shrink(largest.n_bytes // 2)

    def give_back(self, recent: Recent, n_bytes: int) -> None:
        """Count bytes no longer."""
        self._used_bytes -= n_bytes
        if not recent.n_bytes:
            self._holders.pop(recent, None)


class Recent:
    """The last events of one kind of one job. Event n is the n-th that was added, from 1."""

    __slots__ = ("_events", "_last", "_max_bytes", "_room", "n_bytes")

    def __init__(self, room: Room, max_bytes: int):
        self._room, self._max_bytes = room, max_bytes
        self._events: deque[tuple[Any, int]] | None = None  # most jobs have none
        self._last = 0
        #: memory of the events
        self.n_bytes = 0

    @property
    def last(self) -> int:
        """Return the number of the last event, 0 if there was none."""
        return self._last

    def add(self, event: Any, text_bytes: int) -> None:
        """Add an event with texts of so many bytes."""
        if self._events is None:
            self._events = deque()
        n_bytes = EVENT_BYTES + text_bytes
        self._events.append((event, n_bytes))
        self._last += 1
        self.n_bytes += n_bytes
        self._room.spend(self, n_bytes)
        if self.n_bytes > self._max_bytes:
            self.shrink(self._max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Forget the oldest events, until the others have at most so many bytes."""
        freed = 0
        while self._events and self.n_bytes > max_bytes:
            n_bytes = self._events.popleft()[1]
            self.n_bytes -= n_bytes
            freed += n_bytes
        self._room.give_back(self, freed)

    def since(self, seen: int) -> tuple[int, int, Iterator[Any]]:
        """Return (last, lost, events) after event `seen`.

        `events` yields those that are kept, oldest first, and `last` is the number before them.
        `lost` events are forgotten.
        """
        events = self._events or ()
        forgotten = self._last - len(events)
        if seen > self._last:  # of another server, before this one
            seen = 0
        last = max(seen, forgotten)
        return last, last - seen, (event for event, _ in islice(events, last - forgotten, None))
