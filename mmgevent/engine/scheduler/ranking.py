"""Which job gets the next slot: owners share the slots evenly, and so do the jobs of one owner.

The owner that holds the fewest attempts comes first, and of its jobs the one that holds the fewest.
To rank and to find the first costs O(log jobs).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sized
from typing import Any, Protocol

#: Outdated entries that a heap may hold, in addition to two for each job. To rebuild a heap costs
#: more than to keep them.
_SPARE_ENTRIES = 16


class Owner:
    """Who submitted jobs: one link of a driver."""

    __slots__ = ("held", "job_count", "number", "rankings")

    def __init__(self, number: int):
        self.number = number
        self.held = 0  #: attempts of all its jobs, in whatever queue
        self.job_count = 0
        #: The rankings that it is in: one for each queue with several jobs in which it has tasks to give.
        self.rankings: list[Ranking] = []

    def hold(self, change: int) -> None:
        """Count attempts that one of its jobs was given or, with a negative change, got rid of."""
        self.held += change
        for ranking in self.rankings:
            ranking.update(self)


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

    __slots__ = ("_heap", "_ranks", "_serials")

    def __init__(self) -> None:
        # {number: (attempts held, number, serial, thing)}. Things are not compared, since serials
        # differ: an owner that comes again is another object with the same number.
        self._ranks: dict[int, tuple[int, int, int, Any]] = {}
        self._heap: list[tuple[int, int, int, Any]] = []
        self._serials = itertools.count()

    def put(self, held: int, number: int, thing: Any) -> None:
        rank = self._ranks.get(number)
        if rank is not None and rank[0] == held:
            return
        rank = self._ranks[number] = (held, number, next(self._serials), thing)
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
                return rank[3]
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
            owner.rankings.append(self)
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
            self._remove(owner)
        else:
            self._owners.put(owner.held, owner.number, owner)

    def update(self, owner: Owner) -> None:
        """Update the rank of an owner that is there."""
        self._owners.put(owner.held, owner.number, owner)

    def clear(self) -> None:
        """Remove every job."""
        for owner in list(self._jobs):
            self._remove(owner)

    def _remove(self, owner: Owner) -> None:
        del self._jobs[owner]
        owner.rankings.remove(self)
        self._owners.discard(owner.number)

    def first(self) -> Any:
        """Return the job that gets the next slot, or None."""
        owner = self._owners.first()
        return None if owner is None else self._jobs[owner].first()
