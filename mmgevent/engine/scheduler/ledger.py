"""Keep what is still to be done of one job, and the counts of what is done.

The ledger of a job knows its phase, its input, its tasks, and how long they take. Only the ledger
changes these. It knows of workers and slots only what `QueuedJob` knows. A finished task leaves
only a smaller count.

A ledger issues no commands: its methods return what the scheduler needs for them. Jobs that give
one item to every worker have a ledger of their own, `oneshot.OneshotLedger`. Some methods of
`Ledger` do almost nothing: they are there for that class to override.

Invariant: every open item is in exactly one task, and that task waits, is reserved or blocked, or
has live attempts.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

from mmgevent.engine.scheduler.attempts import QueuedJob, Task, Worker
from mmgevent.engine.scheduler.durations import ATTEMPTS_PER_SLOT, Durations
from mmgevent.engine.scheduler.input import Batch, InputProgress
from mmgevent.engine.scheduler.rules import MAP, PLAN, REDUCE, JobRules, JobStatus
from mmgevent.engine.scheduler.transitions import TaskEvent
from mmgevent.wire.numbers import MAX_NUMBER
from mmgevent.wire.positions import WHOLE, entry_of, halves_of, position_of

#: Batches that a driver may always send: enough to be ready when the first workers join.
MIN_ALLOWED = 4

#: Batches that a driver may be ahead for each slot: one running, one queued.
BATCHES_PER_SLOT = 2

#: Batches that a driver may be ahead in addition, however many slots there are.
BATCHES_AHEAD = 2

#: Batches of short tasks that a driver may be ahead for each attempt that a slot holds. It is
#: granted half of them at a time, since each grant costs a message.
SHORT_BATCHES_PER_ATTEMPT = 4

#: Time without any worker for a job before its user is warned, seconds. Embedded workers take a
#: moment to start.
NO_WORKERS_S = 2.0


class Ledger(QueuedJob):
    """The open work and the counts of one job."""

    __slots__ = (
        "_blocked",
        "_last_task",
        "_reduce_total",
        "_was_warned",
        "_without_slots_s",
        "input",
        "is_over",
        "phase",
        "reduce_left",
        "retransmit",
        "retries",
        "rules",
        "template_deaths",
    )

    #: Whether batches that arrive after the end of the input are ignored. Else they are errors.
    ignores_late_input: ClassVar[bool] = False

    def __init__(self, number: int, rules: JobRules, now: float):
        super().__init__(number)
        self.rules = rules
        #: Times that an item or a reduce task is tried again after a user exception.
        self.retries = rules.retries
        self.retransmit = rules.retransmit  #: share of slots that may run duplicates
        self.phase = MAP
        self.is_over = False
        self.input = InputProgress(rules)
        self.reduce_left = 0  #: tasks
        self._reduce_total = 0  # tasks
        self._blocked: dict[Batch, list[Task]] = {}  # tasks that wait for contents
        self._without_slots_s = now  # since when no slot can serve it
        self._was_warned = False
        self._last_task = 0
        #: processes that fork executors which its functions have ended
        self.template_deaths = 0

    def status(self) -> JobStatus:
        """Return how far the job is."""
        counts = self.input
        waiting = len(self.waiting) + len(self.reserved) + sum(map(len, self._blocked.values()))
        if self.phase == REDUCE:
            done, total = self._reduce_total - self.reduce_left, self._reduce_total
        else:
            done, total = counts.known_entries - counts.open_entries, counts.known_entries
        known = total if counts.has_ended else None
        skipped = counts.set_aside + counts.lost
        busy = len({attempt.slot for attempt in self.live})
        return JobStatus(self.phase, done, known, waiting, len(self.live), skipped, self.queue.slots, busy)

    # The input

    def grant_batches(self) -> int | None:
        """Let the driver send more batches, if they are enough to be worth a message.

        Returns:
            How many batches the driver may send in all, or None if that has not changed.
        """
        counts = self.input
        if counts.has_ended:
            return None
        allowance, step = self._next_allowance()
        if allowance < counts.allowed + step:
            return None
        counts.allowed = allowance
        return allowance

    def _next_allowance(self) -> tuple[int, int]:
        """Return how many batches to allow the driver, and how many more are worth a message.

        While its batches still grow, the driver is not allowed far ahead. Otherwise it would cut
        many more of the old size.
        """
        counts, slots = self.input, self.queue.slots
        ahead, step = BATCHES_PER_SLOT * slots + BATCHES_AHEAD, 1
        per_slot = self.durations.attempts_per_slot
        if per_slot > ATTEMPTS_PER_SLOT and counts.last_batch <= counts.largest_counted:
            of_short_tasks = SHORT_BATCHES_PER_ATTEMPT * per_slot * slots
            ahead += of_short_tasks
            step = max(1, of_short_tasks // 2)
        return max(MIN_ALLOWED, counts.released + ahead), step

    def add_batch(self, number: int, entries: int, has_refs: bool) -> None:
        """Add a batch of at least one entry, as one waiting task."""
        batch = self.input.add_batch(number, entries, has_refs)
        self.enqueue(Task(self, self._next_task(), batch, 0, entries))

    def block(self, task: Task, batch: Batch) -> bool:
        """Let a task wait for the contents of its batch; return whether to request them."""
        task.transition(TaskEvent.LACKED_CONTENT)
        self._blocked.setdefault(batch, []).append(task)
        was_requested, batch.is_requested = batch.is_requested, True
        return not was_requested

    def unblock(self, batch: Batch) -> None:
        """Queue the tasks that waited for the contents of a batch, before all others."""
        batch.has_content = True
        for task in reversed(self._blocked.pop(batch, ())):
            task.transition(TaskEvent.CONTENT_ARRIVED)
            self.enqueue(task, first=True)

    @property
    def has_blocked(self) -> bool:
        """Whether any task waits for the contents of its batch."""
        return bool(self._blocked)

    # Phases

    def begin_plan(self) -> None:
        """End the map phase. The server plans the reduce tasks."""
        self.phase = PLAN

    def begin_reduce(self, groups: list[tuple[int, ...]]) -> None:
        """Begin the reduce phase, with a task for each group of partitions."""
        self.phase = REDUCE
        self.is_shared = True
        self.reduce_left = self._reduce_total = len(groups)
        self.durations = Durations()  # durations of maps say nothing about reduces
        for partitions in groups:
            self.enqueue(Task(self, self._next_task(), None, 0, 0, partitions=tuple(partitions)))

    def end(self) -> None:
        """End the job and remove its waiting tasks. Its attempts must have ended before."""
        self.is_over = True
        while self.waiting:
            self.dequeue()
        self.input.batches.clear()

    # Tasks

    def dequeue_for_idle_slot(self) -> Task:
        """Take the first waiting task, or a piece of it if the rest can occupy other idle slots.

        At the end of the input, waiting tasks share the idle slots in proportion to their items.
        Slots that the waiting tasks of other jobs need are not shared.
        """
        task = self.waiting[0]
        if task.open_entries > 1 and not task.deaths and not task.failures and self._may_spread():
            queue = self.queue
            idle = queue.idle_count()
            if idle > queue.waiting:
                spare = idle - (queue.waiting - len(self.waiting))
                call = _entries_of_call(task, self.rules)
                pieces = min(task.open_entries // call, spare * task.open_entries // self.waiting_entries)
                if pieces > 1:
                    self.dequeue()
                    for piece in reversed(self._cut(task, pieces, call)):
                        self.enqueue(piece, first=True)
        return self.dequeue()

    def _may_spread(self) -> bool:
        """Return whether idle slots will get nothing but the tasks that wait now."""
        counts = self.input
        return counts.has_ended or (counts.received >= counts.allowed and len(self.waiting) == 1)

    def halve(self, task: Task) -> list[Task]:
        """Cut a task in two: its entries, or its only entry. It must not wait or have attempts."""
        return self._cut(task, 2) if task.open_entries > 1 else self._cut_entry(task)

    def _cut(self, task: Task, pieces: int, multiple: int = 1) -> list[Task]:
        """Cut a task into `pieces` ranges, without those that have no open items.

        Their lengths are multiples of `multiple`, but for the last one.

        The first range stays with the task itself.
        """
        assert task.batch is not None
        lo, width, skip = task.lo, task.hi - task.lo, task.skip
        bounds = [lo + width * i // pieces // multiple * multiple for i in range(pieces)] + [task.hi]
        cuts: list[Task] = []
        for start, end in itertools.pairwise(bounds):
            skipped = tuple(i for i in skip if start <= entry_of(i) < end)
            closed = task.batch.count_closed(skipped)
            if closed == end - start:
                continue
            piece = task if not cuts else task.split_off(self._next_task(), start, end)
            piece.set_range(start, end, skipped, closed)
            cuts.append(piece)
        return cuts

    def _cut_entry(self, task: Task) -> list[Task]:
        """Cut a task with one open entry into two parts of it. The first stays with the task."""
        assert task.batch is not None
        (entry,) = [e for e in range(task.lo, task.hi) if position_of(e, WHOLE) not in task.skip]
        skip = tuple(position for position in task.skip if entry_of(position) == entry)
        rest = task.split_off(self._next_task(), entry, entry + 1)
        rest.skip = skip
        task.set_range(entry, entry + 1, skip, 0)
        task.part, rest.part = halves_of(task.part)
        self.input.add_part(task.batch)
        return [task, rest]

    def _next_task(self) -> int:
        self._last_task = self._last_task % MAX_NUMBER + 1  # a task is over long before its twin
        return self._last_task

    # Counts

    def count_reduce(self) -> None:
        """Count a committed reduce task."""
        self.reduce_left -= 1

    def count_failure(self, task: Task, item: int | None) -> int:
        """Count a user exception. Return how many the item had, or the task if no item is known."""
        if item is not None and task.batch is not None:
            return task.batch.count_failure(item)
        task.failures += 1
        return task.failures

    def count_death(self, task: Task, item: int | None) -> int:
        """Count a death of an executor. Return how many the item had, or the task.

        If items may be set aside, each item has its own count. Otherwise a task with several
        culprits would give up the last one too early.
        """
        task.deaths += 1
        if item is None or task.batch is None:
            return task.deaths
        deaths = task.batch.count_death(item)
        return deaths if self.rules.max_skipped else task.deaths

    def set_aside(self, task: Task, batch: Batch, item: int, failure: dict[str, Any]) -> bool:
        """Give up an item of a task; return whether it was the last of its batch."""
        skip = tuple(sorted((*task.skip, item)))
        entries = task.open_entries
        task.set_range(task.lo, task.hi, skip, batch.count_closed(skip))
        task.deaths = task.failures = 0
        return self.input.set_entry_aside(batch, entries - task.open_entries, failure)

    # Workers and time

    def worker_joined(self, worker: Worker, now: float) -> None:
        """Note that a worker that may serve the job is here."""

    def withdraw(self, worker: Worker) -> bool:
        """Take back what was promised to a worker that leaves. Return whether anything was."""
        return False

    def distribute(self) -> None:
        """Reserve waiting items for the workers that they are meant for."""

    def has_distributed_all(self, now: float) -> bool:
        """Return whether no further worker will get an item. Waiting items are lost then."""
        return False

    def worker_answered(self, now: float) -> None:
        """Note that an attempt ended with an answer from its worker."""

    def give_back(self, task: Task, worker: Worker) -> None:
        """Note that a worker returned a task without having begun it."""

    def retry_setup(self, task: Task, worker: Worker) -> None:
        """Note that setupfn failed on a worker. Others will try the task, if there are any."""
        self.avoided[worker] = None
        self.strangers.pop(worker, None)

    def stop_avoiding(self, worker: Worker) -> None:
        """Note that an executor of a worker was set up, so that setupfn works there."""
        self.forget_worker(worker)

    def should_warn(self, now: float) -> bool:
        """Return whether to warn the user now: no slot could serve the job for `NO_WORKERS_S`."""
        if self.queue.slots:
            self._without_slots_s = now
            self._was_warned = False
        elif not self._was_warned and now - self._without_slots_s >= NO_WORKERS_S:
            self._was_warned = True
            return True
        return False


def _entries_of_call(task: Task, rules: JobRules) -> int:
    """Return how many entries a piece of a task needs at least: those of one call of mapfn."""
    if task.batch is None or task.batch.has_refs:  # refs stand for any number of items
        return 1
    return rules.items_per_call
