"""Which attempt is on which slot: assign attempts to slots, recall them, and take them off.

The dispatcher carries out what the scheduler decides about tasks, and collects the commands of an
event. It alone makes and ends attempts. So slots, jobs, and the counts of recalls and duplicates
always agree.

Invariants:

- An attempt is in `attempts` exactly while it is live. Then it is on one slot and in its task's
  list.
- No more recalls are unanswered than there were idle slots when they were sent. Recalls from
  workers that leave do not count.
- Every assigned attempt is ended by one `Commit` of the scheduler's or one `Discard` of `end`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from mmgevent.engine.scheduler.attempts import (
    Attempt,
    JobQueue,
    QueuedJob,
    Slot,
    Task,
    Worker,
    WorkerPool,
)
from mmgevent.engine.scheduler.commands import Assign, Command, Discard, Recall, Revoke
from mmgevent.engine.scheduler.durations import ATTEMPTS_PER_SLOT
from mmgevent.engine.scheduler.ledger import Ledger
from mmgevent.engine.scheduler.roster import Roster
from mmgevent.engine.scheduler.rules import MAP, REDUCE
from mmgevent.engine.scheduler.transitions import AttemptEvent, AttemptState, TaskEvent
from mmgevent.wire.numbers import next_number

#: Least duration of a straggler, as a multiple of the median duration of its phase.
STRAGGLER_MEDIANS = 2.0

#: Least duration of a straggler, seconds. Below it a duplicate costs more than it saves.
STRAGGLER_S = 1.0

#: Time after which an attempt is a straggler if no task of its phase is done, so that nobody knows
#: how long they take, seconds. A worker that holds all of them must not hold up the job for ever.
UNKNOWN_STRAGGLER_S = 60.0

#: The same if its worker never did a task, and one that did some idles, seconds.
UNPROVED_STRAGGLER_S = 3.0

#: Tasks looked at for duplicates that take too long themselves, at one time.
_MAX_REPLACED = 8

# Looking up a member of an Enum costs as much as a call in C, and each event does it ten times.
_RUNNING, _QUEUED, _RECALLED, _KEPT, _CONTESTED = (
    AttemptState.RUNNING,
    AttemptState.QUEUED,
    AttemptState.RECALLED,
    AttemptState.KEPT,
    AttemptState.CONTESTED,
)
_SUCCEEDED, _ASSIGNED = AttemptEvent.SUCCEEDED, TaskEvent.ASSIGNED


class Dispatcher:
    """The live attempts of one scheduler."""

    def __init__(self, roster: Roster, commands: list[Command]):
        self._roster = roster
        self._commands = commands  # commands of the current event
        self._last_attempt = 0
        self._recalls = 0  # unanswered recalls
        self.attempts: dict[int, Attempt] = {}

    def fill_slots(self, now: float) -> None:
        """Assign tasks to slots with room, idle slots first; recall attempts for idle slots."""
        roster = self._roster
        if roster.reserved_workers:
            self._assign_reserved(now)
        has_idle = has_room = False
        for pool in roster.pools.values():
            while pool.idle and (job := pool.next_job()) is not None:
                slot = next(iter(pool.idle))
                if slot.worker in job.avoided:
                    found = self._look_further(pool, pool.idle)
                    if found is None:
                        break
                    job, slot = found
                self.assign(job.dequeue_for_idle_slot(), slot, now)
            if pool.idle:
                has_idle = True
        for pool in roster.pools.values():
            while pool.unqueued and (job := pool.next_job()) is not None:
                slot = next(iter(pool.unqueued))
                if slot.worker in job.avoided:
                    found = self._look_further(pool, pool.unqueued)
                    if found is None:
                        break
                    job, slot = found
                self.assign(job.dequeue(), slot, now)
            if pool.with_room:
                has_room = True
        if has_room:
            self._assign_short(now)
        if has_idle:
            self._recall_for_idle_slots()

    def _assign_reserved(self, now: float) -> None:
        """Assign reserved items to idle slots of their workers."""
        roster = self._roster
        while roster.reserved_workers:
            worker, _ = roster.reserved_workers.popitem()
            while worker.reserved and (slot := worker.idle_slot()) is not None:
                self.assign(
                    roster.take_reserved(worker, min(worker.reserved, key=QueuedJob.precedence)), slot, now
                )

    def _assign_short(self, now: float) -> None:
        """Queue more attempts of short tasks than `ATTEMPTS_PER_SLOT`, slot by slot in turn."""
        for pool in self._roster.pools.values():
            while (
                pool.with_room
                and (job := pool.next_job()) is not None
                and job.durations.attempts_per_slot > ATTEMPTS_PER_SLOT
            ):
                slot = next(iter(pool.with_room))
                if slot.worker in job.avoided:
                    found = self._look_further(pool, pool.with_room, ATTEMPTS_PER_SLOT + 1)
                    if found is None:
                        break
                    job, slot = found
                pool.with_room.move_to_end(slot)
                self.assign(job.dequeue(), slot, now)

    def _recall_for_idle_slots(self) -> None:
        """Recall queued attempts that idle slots could run."""
        for queue in self._roster.queues.values():
            while queue.recallable and self._recalls < queue.idle_count():
                attempt = self._next_to_recall(queue)
                if attempt is None:
                    break
                self.recall(attempt)

    @staticmethod
    def _look_further(
        pool: WorkerPool, slots: Iterable[Slot], attempts_per_slot: int = 0
    ) -> tuple[QueuedJob, Slot] | None:
        """Find a job and a slot that fit, if the first job avoids the worker of the first slot.

        Only jobs with at least so many attempts per slot are considered.
        """
        jobs = [job for queue in pool.queues for job in queue.jobs.values() if job.has_tasks_to_give]
        for job in sorted(jobs, key=QueuedJob.precedence):
            avoided = job.avoided_now()
            for slot in slots if job.durations.attempts_per_slot >= attempts_per_slot else ():
                if slot.worker not in avoided:
                    return job, slot
        return None

    @staticmethod
    def _next_to_recall(queue: JobQueue) -> Attempt | None:
        """Return the oldest queued attempt that an idle slot may take, or None."""
        vain: set[QueuedJob] = set()
        for attempt in queue.recallable:
            job = attempt.task.job
            if job in vain:
                continue
            avoided = job.avoided_now()
            if not avoided or any(slot.worker not in avoided for pool in queue.pools for slot in pool.idle):
                return attempt
            vain.add(job)
        return None

    def assign(self, task: Task, slot: Slot, now: float) -> None:
        """Make an attempt of a task that does not wait, on a slot with room."""
        task.transition(_ASSIGNED)
        job, batch = task.job, task.batch
        number = self._next_attempt()
        if slot.running is None:
            attempt = Attempt(number, task, slot, _RUNNING, batch is not None and batch.has_content)
            attempt.started_s = now
            slot.running = attempt
        else:
            attempt = Attempt(number, task, slot, _QUEUED, batch is not None and batch.has_content)
            slot.queued.append(attempt)
        self.attempts[number] = attempt
        job.add_attempt(attempt)
        self._roster.update_slot(slot)
        if job.queue.is_ranked:
            job.queue.rank(job)
        phase, batch_number = (REDUCE, 0) if batch is None else (MAP, batch.number)
        self._commands.append(
            Assign(
                slot.worker.number, slot.index, job.number, task.number, number, phase,
                batch_number, task.lo, task.hi, task.skip, task.partitions, task.part, len(task.attempts) > 1,
            )
        )  # fmt: skip

    def recall(self, attempt: Attempt) -> None:
        """Ask a worker to return a queued attempt."""
        attempt.transition(AttemptEvent.ASKED_BACK)
        job = attempt.task.job
        del job.queue.recallable[attempt]
        self._recalls += 1
        self._commands.append(Recall(attempt.slot.worker.number, job.number, attempt.number))

    def keep(self, attempt: Attempt, now: float) -> None:
        """Leave a recalled attempt to its worker. Raises SchedulerError if it was not recalled.

        Its executor has it already. If the attempt that runs there takes long, this one waits as
        long, and may need a duplicate.
        """
        attempt.transition(AttemptEvent.REFUSED)
        self._recalls -= 1
        if attempt.state is _KEPT:
            attempt.started_s = now
            attempt.task.job.keep_attempt(attempt)

    def end(self, attempt: Attempt, event: AttemptEvent, now: float) -> None:
        """End an attempt; the next one on its slot begins. The caller updates the job's rank."""
        state = attempt.state
        attempt.transition(event)
        if state is _RECALLED or state is _CONTESTED:
            self._recalls -= 1
        del self.attempts[attempt.number]
        task, slot = attempt.task, attempt.slot
        job = task.job
        job.remove_attempt(attempt)
        if slot.running is attempt:
            if slot.queued:
                slot.running = begun = slot.queued.pop(0)
                begun.task.job.begin_attempt(begun, now)
            else:
                slot.running = None
        else:
            slot.queued.remove(attempt)
        self._roster.update_slot(slot)
        if slot.worker.reserved and slot.running is None:
            self._roster.reserved_workers[slot.worker] = None
        if event is not _SUCCEEDED:
            self._commands.append(Discard(job.number, task.number, attempt.number))

    def revoke(self, attempt: Attempt, now: float) -> None:
        """End an attempt whose outcome no longer matters."""
        task = attempt.task
        self._commands.append(
            Revoke(attempt.slot.worker.number, task.job.number, task.number, attempt.number)
        )
        self.end(attempt, AttemptEvent.REVOKED, now)

    def duplicate_stragglers(self, ledger: Ledger, now: float) -> None:
        """Start duplicates of attempts that take suspiciously long, once no task waits.

        Attempts queued behind a slow one come first. Duplicating them repeats no work, so the only
        limit is the number of idle slots.
        """
        if ledger.waiting or not ledger.input.has_ended or not ledger.retransmit:
            return
        queue = ledger.queue
        if not queue.idle_count():
            return
        median_s = ledger.durations.median_s()
        if median_s is None:
            self._duplicate(ledger, ledger.lone_running, self._room(ledger), UNKNOWN_STRAGGLER_S, now)
            unproved = [a for a in ledger.lone_running if not a.slot.worker.has_worked]
            if unproved and any(w.has_worked for w in self._idle_slots(ledger)):
                self._duplicate(ledger, unproved, self._room(ledger), UNPROVED_STRAGGLER_S, now)
            least_s = UNPROVED_STRAGGLER_S
        else:
            least_s = max(STRAGGLER_MEDIANS * median_s, STRAGGLER_S)
            self._duplicate(ledger, ledger.lone_kept, queue.idle_count(), least_s, now)
            self._duplicate(ledger, ledger.lone_running, self._room(ledger), least_s, now)
        if ledger.pairs and self._replace_duplicates(ledger, least_s, now):
            self._duplicate(ledger, ledger.lone_running, self._room(ledger), least_s, now)

    @staticmethod
    def _room(ledger: Ledger) -> int:
        """Return how many running attempts of a job may get duplicates now."""
        room = math.ceil(ledger.retransmit * ledger.queue.slots) - len(ledger.pairs)
        return max(0, min(room, ledger.queue.idle_count()))

    def _duplicate(
        self, job: QueuedJob, attempts: Iterable[Attempt], room: int, least_s: float, now: float
    ) -> None:
        """Start at most `room` duplicates of the first attempts that take `least_s` or longer."""
        first = [a for a in itertools.islice(attempts, max(0, room)) if (a.started_s or 0.0) < now - least_s]
        idle = self._idle_slots(job) if first else {}
        for attempt in first:
            slot = self._take_slot(idle, attempt)
            if slot is not None:
                self.assign(attempt.task, slot, now)
                job.pair_attempts(attempt.task)

    def _replace_duplicates(self, job: QueuedJob, least_s: float, now: float) -> bool:
        """Take away attempts that take long beside another one, where a third worker idles.

        The one that began last gets as long as its task had been running before. So one that has
        work to do can end it, and two workers that hold a task for ever do not hold up its job for
        ever. If the other one has not begun, nothing else does the work: it gets UNKNOWN_STRAGGLER_S.
        """
        idle = self._idle_slots(job)
        has_replaced = False
        for task in list(itertools.islice(job.pairs, _MAX_REPLACED)):
            older, younger = sorted(task.attempts, key=lambda attempt: attempt.started_s or 0.0)
            if younger.state is not _RUNNING or younger.started_s is None:
                continue
            had_s = younger.started_s - (older.started_s or 0.0)
            patience_s = max(had_s, least_s if older.state is _RUNNING else UNKNOWN_STRAGGLER_S)
            if now - younger.started_s <= patience_s:
                continue
            third = next((w for w in idle if w not in (older.slot.worker, younger.slot.worker)), None)
            if third is None:
                continue
            idle[third].pop()
            if not idle[third]:
                del idle[third]
            younger.slot.worker.overdue += 1
            self.revoke(younger, now)
            has_replaced = True
        return has_replaced

    @staticmethod
    def _idle_slots(job: QueuedJob) -> dict[Worker, list[Slot]]:
        """Return the idle slots for duplicates of a job, by worker, the best workers first.

        Those that have done tasks come first, and last those that kept other duplicates too long.
        """
        avoided = job.avoided_now()
        found: dict[Worker, list[Slot]] = {}
        for pool in job.queue.pools:
            for slot in pool.idle:
                if slot.worker not in avoided:
                    found.setdefault(slot.worker, []).append(slot)
        best_first = sorted(found, key=lambda worker: (worker.overdue, not worker.has_worked))
        return {worker: found[worker] for worker in best_first}

    @staticmethod
    def _take_slot(idle: dict[Worker, list[Slot]], attempt: Attempt) -> Slot | None:
        """Take an idle slot for a duplicate, or return None.

        An attempt that runs already gets none on the same worker: it would run no faster there.
        """
        own = attempt.slot.worker
        worker = next((w for w in idle if attempt.state is _KEPT or w is not own), None)
        if worker is None:
            return None
        slot = idle[worker].pop(0)
        if not idle[worker]:
            del idle[worker]
        return slot

    def _next_attempt(self) -> int:
        number = self._last_attempt = next_number(self._last_attempt, self.attempts)
        return number
