"""Tasks and their attempts, the slots and workers that run them, and the queues of jobs.

These records refer to one another, so they stand together:

- A *batch* is cut into *tasks*; in reduce a task is some partitions. An *attempt* is one execution
  of a task. It occupies a *slot* of a *worker*: one runs, others are queued behind it.
- Workers that offer the same functions form a *worker pool*. Jobs that need the same functions
  form a *job queue*. A pool serves every queue whose needs it offers.
- A *queued job* is what the choice of the next task looks at. Every job's ledger is one, and knows
  more: the input and what was counted.

Invariants:

- A slot has queued attempts only if it has a running one.
- A job queue with several jobs ranks exactly those that have tasks to give.
"""

from __future__ import annotations

import abc
from collections import OrderedDict, deque
from collections.abc import Iterable

from mmgevent.engine.scheduler.durations import Durations
from mmgevent.engine.scheduler.input import Batch
from mmgevent.engine.scheduler.ranking import Owner, Ranking
from mmgevent.engine.scheduler.transitions import (
    NEXT_ATTEMPT_STATES,
    NEXT_TASK_STATES,
    AttemptEvent,
    AttemptState,
    TaskEvent,
    TaskState,
)
from mmgevent.errors import SchedulerError
from mmgevent.wire.positions import ALL, Part

# Looking up a member of an Enum costs as much as a call in C.
_RUNNING, _KEPT, _BEGAN = AttemptState.RUNNING, AttemptState.KEPT, AttemptEvent.BEGAN


class Task:
    """A range of a batch to map, or some partitions to reduce."""

    __slots__ = (
        "attempts",
        "batch",
        "deaths",
        "failures",
        "hi",
        "is_exclusive",
        "is_suspect",
        "job",
        "lo",
        "losses",
        "number",
        "open_entries",
        "part",
        "partitions",
        "skip",
        "state",
        "unprepared",
    )

    def __init__(
        self,
        job: QueuedJob,
        number: int,
        batch: Batch | None,
        lo: int,
        hi: int,
        *,
        partitions: tuple[int, ...] = (),
        is_exclusive: bool = False,
    ):
        self.job = job
        self.number = number
        self.batch = batch  #: None in reduce
        self.lo = lo  #: first entry
        self.hi = hi  #: one behind the last entry
        self.skip: tuple[int, ...] = ()  #: positions in [lo, hi) that were set aside, ascending
        self.part: Part = ALL  #: which part of its only entry it maps; ALL for most tasks
        self.open_entries = hi - lo  #: entries still to be mapped by it; 0 in reduce
        self.partitions = partitions
        self.is_exclusive = is_exclusive  #: a "oneshot" item: neither queued nor queued behind
        self.state = TaskState.WAITING
        self.attempts: list[Attempt] = []  #: the live ones, at most two
        self.deaths = 0  #: executors that died while running it
        self.losses = 0  #: workers lost soon after they began it
        self.failures = 0  #: user exceptions that named no item
        self.is_suspect = False  #: made to find a culprit: its first death or failure counts
        self.unprepared = 0  #: executors that could not be set up for it

    def set_range(self, lo: int, hi: int, skip: tuple[int, ...], closed: int) -> None:
        """Change its entries; nothing is left to map of `closed` of them."""
        self.lo, self.hi, self.skip = lo, hi, skip
        self.open_entries = hi - lo - closed

    def split_off(self, number: int, lo: int, hi: int) -> Task:
        """Make a task of other entries of its batch, which inherits its deaths and failures."""
        rest = Task(self.job, number, self.batch, lo, hi, is_exclusive=self.is_exclusive)
        rest.deaths, rest.failures, rest.is_suspect = self.deaths, self.failures, self.is_suspect
        rest.unprepared, rest.losses = self.unprepared, self.losses
        return rest

    def transition(self, event: TaskEvent) -> None:
        """Change the state by the table. Raises SchedulerError if the table has no such row."""
        state = NEXT_TASK_STATES[self.state].get(event)
        if state is None:
            raise SchedulerError(f"task {self.number} is {self.state.name}: {event.name} cannot happen")
        self.state = state


class Attempt:
    """One execution of a task by one slot."""

    __slots__ = ("had_content", "number", "slot", "started_s", "state", "task")

    def __init__(self, number: int, task: Task, slot: Slot, state: AttemptState, had_content: bool):
        self.number = number
        self.task = task
        self.slot = slot
        self.state = state
        #: When it began or was kept, as far as the scheduler knows.
        self.started_s: float | None = None
        self.had_content = had_content  #: its input was sent with the contents of the files

    def transition(self, event: AttemptEvent) -> None:
        """Change the state by the table. Raises SchedulerError if the table has no such row."""
        state = NEXT_ATTEMPT_STATES[self.state].get(event)
        if state is None:
            raise SchedulerError(f"attempt {self.number} is {self.state.name}: {event.name} cannot happen")
        self.state = state


class Slot:
    """One place of a worker that runs attempts, one after another."""

    __slots__ = ("index", "pool_set", "queued", "running", "worker")

    def __init__(self, worker: Worker, index: int):
        self.worker = worker
        self.index = index
        self.running: Attempt | None = None
        self.queued: list[Attempt] = []  #: the next one first
        self.pool_set: OrderedDict[Slot, None] | None = None  #: the set of its pool that it is in


class Worker:
    """One link to a worker."""

    __slots__ = ("has_worked", "is_leaving", "number", "overdue", "pool", "reserved", "slots")

    def __init__(self, number: int, slots: int, pool: WorkerPool):
        self.number = number
        self.pool = pool
        self.slots = [Slot(self, index) for index in range(slots)]
        self.is_leaving = False
        self.has_worked = False  #: it has done a task, at any time
        self.overdue = 0  #: duplicates taken from it since it did a task, for they took too long
        #: Items that wait until one of its slots is idle, by "oneshot" job. Meanwhile nothing is
        #: queued on this worker.
        self.reserved: dict[QueuedJob, Task] = {}

    def idle_slot(self) -> Slot | None:
        """Return any of its slots that has nothing to run, or None."""
        return next((slot for slot in self.slots if slot.running is None), None)


class WorkerPool:
    """The workers that offer the same functions."""

    __slots__ = ("idle", "offers", "queues", "slots", "unqueued", "with_room", "workers")

    def __init__(self, offers: frozenset[str]):
        self.offers = offers
        self.queues: list[JobQueue] = []  #: the ones it serves
        self.idle: OrderedDict[Slot, None] = OrderedDict()  #: slots that run nothing
        self.unqueued: OrderedDict[Slot, None] = OrderedDict()  #: busy slots with nothing queued
        self.with_room: OrderedDict[Slot, None] = OrderedDict()  #: slots with room for a short task
        self.slots = 0  #: slots of workers that are not leaving
        self.workers = 0

    def next_job(self) -> QueuedJob | None:
        """Return the job that has tasks for this pool and holds the fewest attempts, or None."""
        queues = self.queues
        if len(queues) == 1:
            return queues[0].first()
        firsts = [job for queue in queues if (job := queue.first()) is not None]
        return min(firsts, key=QueuedJob.precedence, default=None)


class QueuedJob(abc.ABC):
    """A job in its queue: its waiting tasks, its live attempts, and the workers that it avoids."""

    __slots__ = (
        "avoided",
        "doubted",
        "durations",
        "is_shared",
        "live",
        "lone_kept",
        "lone_running",
        "number",
        "owner",
        "pairs",
        "queue",
        "reserved",
        "strangers",
        "waiting",
        "waiting_entries",
    )

    queue: JobQueue  #: set by the queue that it enters
    owner: Owner  #: set by the roster that it enters

    def __init__(self, number: int):
        self.number = number
        self.is_shared = True  #: any slot may take its waiting tasks; not so "oneshot" items
        self.waiting: deque[Task] = deque()
        self.waiting_entries = 0  #: entries to be mapped in `waiting`
        self.reserved: dict[Worker, Task] = {}  #: "oneshot" items that wait for this worker
        self.live: dict[Attempt, None] = {}  #: attempts that run or are queued
        #: Running attempts without a duplicate, oldest first.
        self.lone_running: OrderedDict[Attempt, None] = OrderedDict()
        #: Kept attempts without a duplicate, those kept longest first.
        self.lone_kept: OrderedDict[Attempt, None] = OrderedDict()
        self.pairs: dict[Task, None] = {}  #: tasks with two live attempts, in the order of the second
        self.durations = Durations()  #: durations of the tasks of this phase
        #: Workers that get no task of this job, see `avoided_now`: those where its setupfn failed, and
        #: those that are doubted.
        self.avoided: dict[Worker, None] = {}
        #: Tasks of which nobody knows whether they fail: a worker that never did a task says so.
        self.doubted: dict[Task, None] = {}
        #: Avoided workers that never did a task, until no task is doubted any longer.
        self.strangers: dict[Worker, None] = {}

    def precedence(self) -> tuple[int, int, int]:
        """Return what orders jobs: that with the smallest gets the next slot."""
        return self.owner.held, len(self.live), self.number

    @property
    def has_tasks_to_give(self) -> bool:
        """Whether a slot may take one of its tasks now."""
        return self.is_shared and bool(self.waiting)

    def enqueue(self, task: Task, *, first: bool = False) -> None:
        """Add a task to the waiting ones, at the end or as the first."""
        if first:
            self.waiting.appendleft(task)
        else:
            self.waiting.append(task)
        self.waiting_entries += task.open_entries
        if self.is_shared:
            self.queue.waiting += 1

    def dequeue(self) -> Task:
        """Take the first waiting task."""
        task = self.waiting.popleft()
        self.waiting_entries -= task.open_entries
        if self.is_shared:
            self.queue.waiting -= 1
        return task

    @abc.abstractmethod
    def dequeue_for_idle_slot(self) -> Task:
        """Take the first waiting task, or a piece of it if the rest can occupy other idle slots."""

    def avoided_now(self) -> dict[Worker, None]:
        """Return the workers that get no task of this job.

        A job that would avoid every worker avoids none of them.
        """
        avoided = self.avoided
        if avoided and sum(len(w.slots) for w in avoided if not w.is_leaving) >= self.queue.slots:
            avoided.clear()
            self.strangers.clear()
            self.doubted.clear()
        return avoided

    def avoids(self, worker: Worker) -> bool:
        """Return whether a worker gets no task of this job."""
        return worker in self.avoided and worker in self.avoided_now()

    def avoid_strangers(self, workers: Iterable[Worker]) -> None:
        """Give workers that never did a task none of this job, as long as one of its tasks is doubted."""
        for worker in workers:
            if worker not in self.avoided:
                self.avoided[worker] = self.strangers[worker] = None

    def settle(self, task: Task) -> None:
        """Note that a worker that has done tasks has told what becomes of a task."""
        if task not in self.doubted:
            return
        del self.doubted[task]
        if not self.doubted:
            for worker in self.strangers:
                self.avoided.pop(worker, None)
            self.strangers.clear()

    def forget_worker(self, worker: Worker) -> None:
        """Forget a worker that left."""
        self.avoided.pop(worker, None)
        self.strangers.pop(worker, None)

    def add_attempt(self, attempt: Attempt) -> None:
        """Count an attempt that was just made, running or queued."""
        attempt.task.attempts.append(attempt)
        self.live[attempt] = None
        self.owner.hold(1)
        if attempt.state is _RUNNING:
            self.lone_running[attempt] = None
        else:
            self.queue.recallable[attempt] = None

    def begin_attempt(self, attempt: Attempt, now: float) -> None:
        """Let a queued attempt run."""
        was_kept = attempt.state is _KEPT
        attempt.transition(_BEGAN)
        attempt.started_s = now
        self.queue.recallable.pop(attempt, None)
        if was_kept:
            self.lone_kept.pop(attempt, None)
            if len(attempt.task.attempts) > 1:
                return
        self.lone_running[attempt] = None

    def keep_attempt(self, attempt: Attempt) -> None:
        """Note that a worker keeps a queued attempt, which may need a duplicate."""
        self.lone_kept[attempt] = None

    def remove_attempt(self, attempt: Attempt) -> None:
        """Forget an attempt that ended. If it was one of two, the other may get a duplicate again.

        The slot still refers to the attempt.
        """
        del self.live[attempt]
        self.owner.hold(-1)
        others = attempt.task.attempts
        others.remove(attempt)
        if attempt.slot.running is not attempt:
            self.queue.recallable.pop(attempt, None)
            self.lone_kept.pop(attempt, None)
        elif not others:
            del self.lone_running[attempt]
        if not others:
            return
        self.pairs.pop(attempt.task, None)
        lone = self.lone_kept if others[0].state is _KEPT else self.lone_running
        lone[others[0]] = None
        lone.move_to_end(others[0], last=False)

    def pair_attempts(self, task: Task) -> None:
        """Note that a task has a duplicate now: neither of its two attempts gets another one."""
        self.pairs[task] = None
        for attempt in task.attempts:
            lone = self.lone_kept if attempt.state is _KEPT else self.lone_running
            del lone[attempt]


class JobQueue:
    """The jobs that need the same functions, ranked by the attempts that they hold.

    The owner that holds the fewest comes first, and of its jobs the one that holds the fewest.
    """

    __slots__ = (
        "_only",
        "_ranking",
        "is_ranked",
        "jobs",
        "needs",
        "pools",
        "recallable",
        "slots",
        "waiting",
    )

    def __init__(self, needs: frozenset[str]):
        self.needs = needs
        self.pools: list[WorkerPool] = []  #: the ones that serve it
        self.slots = 0  #: slots of workers that serve it and are not leaving
        self.jobs: dict[int, QueuedJob] = {}
        self.waiting = 0  #: tasks that any slot may take
        #: Queued attempts that were not recalled, oldest first.
        self.recallable: OrderedDict[Attempt, None] = OrderedDict()
        #: Whether it has several jobs, which need ranks. Most of the time most servers have one.
        self.is_ranked = False
        self._only: QueuedJob | None = None  # the only job, if there is just one
        self._ranking = Ranking()

    def add(self, job: QueuedJob) -> None:
        """Add a job. The job that was alone before gets its rank now."""
        job.queue = self
        self.jobs[job.number] = job
        self._only = job if len(self.jobs) == 1 else None
        self.is_ranked = len(self.jobs) > 1
        if len(self.jobs) == 2:
            for each in self.jobs.values():
                self.rank(each)

    def remove(self, job: QueuedJob) -> None:
        """Remove a job. If one is left, it needs no rank from now on."""
        del self.jobs[job.number]
        self._only = None
        if len(self.jobs) == 1:
            (self._only,) = self.jobs.values()
            self.is_ranked = False
        if self.is_ranked:
            self._ranking.discard(job)
        else:
            self._ranking.clear()

    def idle_count(self) -> int:
        """Return the number of idle slots that serve it."""
        return sum(len(pool.idle) for pool in self.pools)

    def rank(self, job: QueuedJob) -> None:
        """Update the rank of a job after its attempts or waiting tasks changed, if `is_ranked`."""
        self._ranking.put(job)

    def first(self) -> QueuedJob | None:
        """Return the job with tasks to give that comes first, or None."""
        job = self._only
        if job is not None:
            return job if job.waiting and job.is_shared else None
        found: QueuedJob | None = self._ranking.first()
        return found
