"""Which workers and jobs there are, which of them fit together, and which slots have room.

A worker pool keeps its idle slots and those with room. A job queue ranks its jobs. So finding a
slot or a job takes no search. The cost of a decision grows with the number of *different* sets of
offers and needs, not with workers, jobs or tasks.

Invariants:

- A slot is in one set of its pool or in none, as `Roster.update_slot` chose when its attempts
  changed last.
- A pool has workers, a queue has jobs: empty ones are removed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from mmgevent.engine.scheduler.attempts import JobQueue, QueuedJob, Slot, Task, Worker, WorkerPool
from mmgevent.engine.scheduler.ranking import Owner
from mmgevent.errors import SchedulerError


class Roster:
    """The workers and jobs of one scheduler, in their pools and queues."""

    __slots__ = ("owners", "pools", "queues", "reserved_workers", "workers")

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.pools: dict[frozenset[str], WorkerPool] = {}  #: those with the fewest offers first
        self.queues: dict[frozenset[str], JobQueue] = {}
        self.owners: dict[int, Owner] = {}  #: those that have jobs
        #: Workers with a reserved item and perhaps an idle slot.
        self.reserved_workers: dict[Worker, None] = {}

    def add_worker(self, number: int, slots: int, offers: frozenset[str]) -> Worker:
        """Add a worker to the pool of its offers. Raises SchedulerError if the number is taken."""
        if number in self.workers:
            raise SchedulerError(f"worker {number} is there already")
        pool = self.pools.get(offers)
        if pool is None:
            pool = self._add_pool(offers)
        worker = self.workers[number] = Worker(number, slots, pool)
        pool.workers += 1
        self._count_slots(pool, slots)
        self.update_slots(worker)
        return worker

    def retire(self, worker: Worker) -> None:
        """Let a worker get nothing more. It keeps what it holds."""
        if worker.is_leaving:
            return
        worker.is_leaving = True
        self.reserved_workers.pop(worker, None)
        self._count_slots(worker.pool, -len(worker.slots))
        self.update_slots(worker)

    def readmit(self, worker: Worker) -> None:
        """Let a worker that got nothing more get tasks again."""
        if not worker.is_leaving:
            return
        worker.is_leaving = False
        self._count_slots(worker.pool, len(worker.slots))
        self.update_slots(worker)

    def remove_worker(self, worker: Worker) -> None:
        """Remove a worker from its pool."""
        self.retire(worker)
        del self.workers[worker.number]
        pool = worker.pool
        pool.workers -= 1
        if not pool.workers:
            del self.pools[pool.offers]
            for queue in pool.queues:
                queue.pools.remove(pool)

    def add_job(self, job: QueuedJob, needs: frozenset[str], owner: int) -> None:
        """Add a job to the queue of its needs."""
        job.owner = self.owners.setdefault(owner, Owner(owner))
        job.owner.job_count += 1
        queue = self.queues.get(needs)
        if queue is None:
            queue = self.queues[needs] = JobQueue(needs)
            for pool in self.pools.values():
                if needs <= pool.offers:
                    self._serve(pool, queue)
        queue.add(job)

    def remove_job(self, job: QueuedJob) -> None:
        """Remove a job that has neither attempts nor waiting tasks any longer."""
        queue, owner = job.queue, job.owner
        queue.remove(job)
        owner.job_count -= 1
        if not owner.job_count:
            del self.owners[owner.number]
        if not queue.jobs:
            del self.queues[queue.needs]
            for pool in queue.pools:
                pool.queues.remove(queue)

    def jobs_for(self, worker: Worker) -> Iterator[QueuedJob]:
        """Yield the jobs whose tasks this worker may get."""
        for queue in worker.pool.queues:
            yield from queue.jobs.values()

    def workers_for(self, job: QueuedJob) -> Iterator[Worker]:
        """Yield the workers that may get tasks of this job, in the order in which they joined."""
        for worker in self.workers.values():
            if job.queue.needs <= worker.pool.offers:
                yield worker

    def update_slot(self, slot: Slot) -> None:
        """Move a slot to the right set of its pool, after its attempts or its worker changed."""
        worker = slot.worker
        belongs: OrderedDict[Slot, None] | None = None
        if worker.is_leaving:
            pass
        elif slot.running is None:
            belongs = worker.pool.idle
        elif worker.reserved:
            pass
        elif not slot.queued:
            if not slot.running.task.is_exclusive:
                belongs = worker.pool.unqueued
        elif len(slot.queued) + 1 < slot.running.task.job.durations.attempts_per_slot:
            belongs = worker.pool.with_room
        if slot.pool_set is not belongs:
            if slot.pool_set is not None:
                del slot.pool_set[slot]
            if belongs is not None:
                belongs[slot] = None
            slot.pool_set = belongs

    def update_slots(self, worker: Worker) -> None:
        """Move all slots of a worker to the right sets."""
        for slot in worker.slots:
            self.update_slot(slot)

    def reserve(self, worker: Worker, job: QueuedJob, task: Task) -> None:
        """Reserve a task for a worker. It is assigned once a slot of that worker is idle."""
        job.reserved[worker] = worker.reserved[job] = task
        self.reserved_workers[worker] = None
        self.update_slots(worker)

    def take_reserved(self, worker: Worker, job: QueuedJob) -> Task:
        """Take the task of a job that is reserved for a worker."""
        task = job.reserved.pop(worker)
        del worker.reserved[job]
        self.update_slots(worker)
        return task

    def _add_pool(self, offers: frozenset[str]) -> WorkerPool:
        """Add a pool. Those with more offers stand behind, so that they stay free the longest."""
        pool = WorkerPool(offers)
        pools = [*self.pools.values(), pool]
        pools.sort(key=lambda pool: len(pool.offers))
        self.pools = {pool.offers: pool for pool in pools}
        for queue in self.queues.values():
            if queue.needs <= offers:
                self._serve(pool, queue)
        return pool

    @staticmethod
    def _serve(pool: WorkerPool, queue: JobQueue) -> None:
        pool.queues.append(queue)
        queue.pools.append(pool)
        queue.slots += pool.slots

    @staticmethod
    def _count_slots(pool: WorkerPool, change: int) -> None:
        pool.slots += change
        for queue in pool.queues:
            queue.slots += change
