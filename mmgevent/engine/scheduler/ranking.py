"""Which job gets the next slot: owners share the slots evenly, and so do the jobs of one owner.

The owner that holds the fewest attempts comes first, and of its jobs the one that holds the fewest.
To rank and to find the first costs O(log jobs).
"""

from __future__ import annotations

import heapq
from collections.abc import Sized
from typing import Any, Protocol

#: Outdated entries that a heap may hold, in addition to two for each job. To rebuild a heap costs
#: more than to keep them.
_SPARE_ENTRIES = 16


class Owner:
    """Who submitted jobs: one link of a driver."""

    __slots__ = ("held", "job_count", "number")

    def __init__(self, number: int):
        self.number = number
        self.held = 0  #: attempts of all its jobs
        self.job_count = 0


class Ranked(Protocol):
    """What a ranking knows of a job."""

    number: int
    owner: Owner

    @property
    def live(self) -> Sized:
        """Its attempts."""

    @property
    def has_tasks_to_give(self) -> bool:
        """Whether a slot may take one of its tasks now."""


class _Ranks:
    """Things that can give tasks, by rank: the lowest first. Outdated entries stay in the heap."""

    __slots__ = ("_heap", "_ranks")

    def __init__(self) -> None:
        self._ranks: dict[int, tuple[int, int, Any]] = {}  # {number: (attempts held, number, thing)}
        self._heap: list[tuple[int, int, Any]] = []

    def put(self, held: int, number: int, thing: Any) -> None:
        rank = self._ranks.get(number)
        if rank is not None and rank[0] == held:
            return
        rank = self._ranks[number] = (held, number, thing)
        heapq.heappush(self._heap, rank)
        if len(self._heap) > 2 * len(self._ranks) + _SPARE_ENTRIES:
            self._heap = list(self._ranks.values())
            heapq.heapify(self._heap)

    def discard(self, number: int) -> None:
        self._ranks.pop(number, None)

    def first(self) -> Any:
        heap = self._heap
        while heap:
            rank = heap[0]
            if self._ranks.get(rank[1]) is rank:
                return rank[2]
            heapq.heappop(heap)
        return None


class Ranking:
    """The jobs of one queue that have tasks to give."""

    __slots__ = ("_jobs", "_owners")

    def __init__(self) -> None:
        self._jobs: dict[Owner, _Ranks] = {}
        self._owners = _Ranks()

    def put(self, job: Ranked) -> None:
        """Update the rank of a job after its attempts or waiting tasks changed."""
        if not job.has_tasks_to_give:
            self.discard(job)
            return
        owner = job.owner
        ranks = self._jobs.get(owner)
        if ranks is None:
            ranks = self._jobs[owner] = _Ranks()
        ranks.put(len(job.live), job.number, job)
        self._owners.put(owner.held, owner.number, owner)

    def discard(self, job: Ranked) -> None:
        """Remove a job, if it is there."""
        owner = job.owner
        ranks = self._jobs.get(owner)
        if ranks is None:
            return
        ranks.discard(job.number)
        if ranks.first() is None:
            del self._jobs[owner]
            self._owners.discard(owner.number)
        else:
            self._owners.put(owner.held, owner.number, owner)

    def first(self) -> Any:
        """Return the job that gets the next slot, or None."""
        owner = self._owners.first()
        return None if owner is None else self._jobs[owner].first()
