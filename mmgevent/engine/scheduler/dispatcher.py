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
from collections import OrderedDict
from collections.abc import Iterable

from mmgevent.engine.scheduler.attempts import (
    Attempt,
    JobQueue,
    QueuedJob,
    Slot,
    Task,
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
                batch_number, task.lo, task.hi, task.skip, task.partitions, task.part,
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
        median_s = ledger.durations.median_s()
        if median_s is None:
            return
        late_s = now - max(STRAGGLER_MEDIANS * median_s, STRAGGLER_S)
        queue = ledger.queue
        self._duplicate(ledger, ledger.lone_kept, queue.idle_count(), late_s, now)
        room = math.ceil(ledger.retransmit * queue.slots) - ledger.duplicates
        self._duplicate(ledger, ledger.lone_running, min(room, queue.idle_count()), late_s, now)

    def _duplicate(
        self, job: QueuedJob, attempts: OrderedDict[Attempt, None], room: int, late_s: float, now: float
    ) -> None:
        """Start at most `room` duplicates of the first attempts that began before `late_s`."""
        for attempt in list(itertools.islice(attempts, max(0, room))):
            assert attempt.started_s is not None
            if attempt.started_s >= late_s:
                return
            slot = self._idle_slot_for(attempt)
            if slot is None:
                continue
            self.assign(attempt.task, slot, now)
            job.pair_attempts(attempt.task)

    @staticmethod
    def _idle_slot_for(attempt: Attempt) -> Slot | None:
        """Return an idle slot for a duplicate, or None.

        An attempt that runs already gets none on the same worker: it would run no faster there.
        """
        job = attempt.task.job
        avoided = job.avoided_now()
        for pool in job.queue.pools:
            for slot in pool.idle:
                if slot.worker in avoided:
                    continue
                if attempt.state is _KEPT or slot.worker is not attempt.slot.worker:
                    return slot
        return None

    def _next_attempt(self) -> int:
        number = self._last_attempt = next_number(self._last_attempt, self.attempts)
        return number
