"""Who could run something now, and whose turn it is.

Workers that offer the same functions form a pool, jobs that need the same functions a league; a pool
serves every league whose needs it offers. Nearly always there is one of each. A pool keeps its idle slots and
those with room, a league its jobs in a heap by the number of attempts they hold, so that finding a
slot or a job takes no search. The cost of a decision grows with the number of *different* sets of offers
and needs, not with workers, jobs or tasks.

Invariants:

- a slot is filed under `idle`, `half` or `deep` of its pool, or under none, as `Roster.file` said when what it holds
  changed last;
- a slot has queued attempts only if it has a running one;
- of several jobs in a league, one is in the heap if and only if it has tasks that any slot may take.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmgevent.errors import SchedulerError

if TYPE_CHECKING:
    from mmgevent.engine.scheduler.attempts import Attempt, Task
    from mmgevent.engine.scheduler.ledger import Ledger


class Slot:
    """One place of a worker to run attempts, one after another."""

    __slots__ = ("filed", "index", "queued", "running", "worker")

    def __init__(self, worker: Worker, index: int):
        self.worker = worker
        self.index = index
        self.running: Attempt | None = None
        self.queued: list[Attempt] = []  #: the next one first
        self.filed: OrderedDict[Slot, None] | None = None  #: the set it is in


class Worker:
    """One link to a worker."""

    __slots__ = ("bound", "is_leaving", "number", "pool", "slots")

    def __init__(self, number: int, slots: int, pool: Pool):
        self.number = number
        self.pool = pool
        self.slots = [Slot(self, index) for index in range(slots)]
        self.is_leaving = False
        #: items of "oneshot" jobs that wait for one of its slots to become idle; meanwhile nothing is queued here
        self.bound: dict[Ledger, Task] = {}

    def idle_slot(self) -> Slot | None:
        """Any slot of it that has nothing to do."""
        return next((slot for slot in self.slots if slot.running is None), None)


class Pool:
    """The workers that offer the same functions."""

    __slots__ = ("deep", "half", "idle", "leagues", "offers", "slots", "workers")

    def __init__(self, offers: frozenset[str]):
        self.offers = offers
        self.leagues: list[League] = []  #: the ones it serves
        self.idle: OrderedDict[Slot, None] = OrderedDict()
        self.half: OrderedDict[Slot, None] = OrderedDict()  #: slots with nothing queued, and room for it
        self.deep: OrderedDict[Slot, None] = OrderedDict()  #: slots with room for one more, if it is short
        self.slots = 0  #: of workers that are not leaving
        self.workers = 0

    def next_job(self) -> Ledger | None:
        """The job that holds the fewest attempts, of those that have a task for this pool."""
        leagues = self.leagues
        if len(leagues) == 1:
            return leagues[0].first()
        firsts = [job for league in leagues if (job := league.first()) is not None]
        return min(firsts, key=lambda job: (len(job.live), job.job), default=None)


class League:
    """The jobs that need the same functions."""

    __slots__ = ("_heap", "_only", "jobs", "needs", "pools", "recallable", "slots", "waiting")

    def __init__(self, needs: frozenset[str]):
        self.needs = needs
        self.pools: list[Pool] = []  #: the ones that serve it
        self.slots = 0  #: of workers that serve it and are not leaving
        self.jobs: dict[int, Ledger] = {}
        self.waiting = 0  #: tasks that any slot may take
        self.recallable: OrderedDict[Attempt, None] = OrderedDict()  #: queued attempts, oldest first
        self._heap: list[tuple[int, int, Ledger]] = []
        self._only: Ledger | None = None  # the one job, if there is one

    def add(self, job: Ledger) -> None:
        """Enter a job; the one that was alone gets its rank now."""
        self.jobs[job.job] = job
        self._only = job if len(self.jobs) == 1 else None
        if len(self.jobs) == 2:
            for each in self.jobs.values():
                self.rank(each)

    def remove(self, job: Ledger) -> None:
        """Strike out a job; one that is alone from now on has no rank."""
        del self.jobs[job.job]
        job.entry = None
        self._only = None
        if len(self.jobs) == 1:
            (self._only,) = self.jobs.values()
            self._only.entry = None
            self._heap.clear()

    def idle_count(self) -> int:
        """Number of idle slots that serve it."""
        return sum(len(pool.idle) for pool in self.pools)

    def rank(self, job: Ledger) -> None:
        """Put a job where it belongs, after its share or its waiting tasks changed."""
        if self._only is not None:
            return  # alone it needs no rank: most servers have one job most of the time
        if not job.has_tasks_to_give:
            job.entry = None
            return
        if job.entry is not None and job.entry[0] == len(job.live):
            return
        job.entry = (len(job.live), job.job, job)
        heapq.heappush(self._heap, job.entry)
        if len(self._heap) > 2 * len(self.jobs) + 16:  # old entries are left in place until they are the most
            self._heap = [job.entry for job in self.jobs.values() if job.entry is not None]
            heapq.heapify(self._heap)

    def first(self) -> Ledger | None:
        """The job with tasks to give that holds the fewest attempts."""
        job = self._only
        if job is not None:
            return job if job.waiting and job.is_shared else None
        heap = self._heap
        while heap:
            entry = heap[0]
            if entry[2].entry is entry:
                return entry[2]
            heapq.heappop(heap)
        return None


class Roster:
    """Workers and jobs, and which of them fit together."""

    __slots__ = ("leagues", "owing", "pools", "workers")

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.pools: dict[frozenset[str], Pool] = {}  #: those with the fewest offers first
        self.leagues: dict[frozenset[str], League] = {}
        self.owing: dict[Worker, None] = {}  #: workers with a bound item and, perhaps, an idle slot

    def add_worker(self, number: int, slots: int, offers: frozenset[str]) -> Worker:
        """Enter a worker; SchedulerError if there is one of that number."""
        if number in self.workers:
            raise SchedulerError(f"worker {number} is there already")
        pool = self.pools.get(offers)
        if pool is None:
            pool = self._add_pool(offers)
        worker = self.workers[number] = Worker(number, slots, pool)
        pool.workers += 1
        self._count_slots(pool, slots)
        self.file_all(worker)
        return worker

    def retire(self, worker: Worker) -> None:
        """Give a worker nothing more; what it holds stays with it."""
        if worker.is_leaving:
            return
        worker.is_leaving = True
        self.owing.pop(worker, None)
        self._count_slots(worker.pool, -len(worker.slots))
        self.file_all(worker)

    def remove_worker(self, worker: Worker) -> None:
        """Strike out a worker."""
        self.retire(worker)
        del self.workers[worker.number]
        pool = worker.pool
        pool.workers -= 1
        if not pool.workers:
            del self.pools[pool.offers]
            for league in pool.leagues:
                league.pools.remove(pool)

    def add_job(self, job: Ledger, needs: frozenset[str]) -> League:
        """Enter a job into the league of its needs."""
        league = self.leagues.get(needs)
        if league is None:
            league = self.leagues[needs] = League(needs)
            for pool in self.pools.values():
                if needs <= pool.offers:
                    self._serve(pool, league)
        league.add(job)
        return league

    def remove_job(self, job: Ledger) -> None:
        """Strike out a job that has no attempts and no waiting tasks any more."""
        league = job.league
        league.remove(job)
        if not league.jobs:
            del self.leagues[league.needs]
            for pool in league.pools:
                pool.leagues.remove(league)

    def file(self, slot: Slot) -> None:
        """Put a slot where it belongs, after what it holds or its worker's state changed."""
        worker = slot.worker
        belongs: OrderedDict[Slot, None] | None = None
        if worker.is_leaving:
            pass
        elif slot.running is None:
            belongs = worker.pool.idle
        elif not slot.queued:
            if not worker.bound and not slot.running.task.is_alone:
                belongs = worker.pool.half
        elif len(slot.queued) + 1 < slot.running.task.ledger.depth and not worker.bound:
            belongs = worker.pool.deep
        if slot.filed is not belongs:
            if slot.filed is not None:
                del slot.filed[slot]
            if belongs is not None:
                belongs[slot] = None
            slot.filed = belongs

    def file_all(self, worker: Worker) -> None:
        """Put all slots of a worker where they belong."""
        for slot in worker.slots:
            self.file(slot)

    def take_bound(self, worker: Worker) -> Task:
        """Take out the item that was bound to a worker first."""
        job = next(iter(worker.bound))
        assert job.oneshot is not None
        return job.oneshot.unbind(worker)

    def jobs_for(self, worker: Worker) -> Iterator[Ledger]:
        """The jobs whose tasks this worker may get."""
        for league in worker.pool.leagues:
            yield from league.jobs.values()

    def _add_pool(self, offers: frozenset[str]) -> Pool:
        pool = Pool(offers)
        pools = [*self.pools.values(), pool]
        pools.sort(
            key=lambda pool: len(pool.offers)
        )  # so that those who can do more are kept free the longest
        self.pools = {pool.offers: pool for pool in pools}
        for league in self.leagues.values():
            if league.needs <= offers:
                self._serve(pool, league)
        return pool

    @staticmethod
    def _serve(pool: Pool, league: League) -> None:
        pool.leagues.append(league)
        league.pools.append(pool)
        league.slots += pool.slots

    @staticmethod
    def _count_slots(pool: Pool, change: int) -> None:
        pool.slots += change
        for league in pool.leagues:
            league.slots += change
