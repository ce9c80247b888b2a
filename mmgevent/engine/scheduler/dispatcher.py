"""Which attempt is on which slot: give attempts to slots, ask for them back, and take them off.

The dispatcher carries out what the scheduler decides about tasks, and collects the commands of an event. It
alone makes and ends attempts, so that the slot, the job's share, the order of running attempts and the
counts of recalls and duplicates always agree.

Invariants:

- an attempt is in `attempts` exactly while it is live, and then it is on one slot and in its task's list;
- a recall is under way for no more attempts than there were idle slots when it was sent (but for those of
  workers that leave);
- every assigned attempt is ended by one Commit of the scheduler's or one Discard of `close`.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterable

from mmgevent.engine.scheduler.attempts import Attempt, AttemptEvent, AttemptState, Task, TaskEvent
from mmgevent.engine.scheduler.commands import Assign, Command, Discard, Recall, Revoke
from mmgevent.engine.scheduler.ledger import DEPTH, MAP, REDUCE, Ledger
from mmgevent.engine.scheduler.roster import League, Pool, Roster, Slot

#: A straggler has run longer than this many times the median of its phase, ...
STRAGGLER_MEDIANS = 2.0

#: ... and longer than this, below which a duplicate costs more than it can win.
STRAGGLER_S = 1.0

# Looking a member up in its Enum costs as much as a call in C, and each event does it ten times.
_RUNNING, _QUEUED, _RECALLED, _KEPT, _CONTESTED = (
    AttemptState.RUNNING,
    AttemptState.QUEUED,
    AttemptState.RECALLED,
    AttemptState.KEPT,
    AttemptState.CONTESTED,
)
_BEGAN, _SUCCEEDED, _ASSIGNED = AttemptEvent.BEGAN, AttemptEvent.SUCCEEDED, TaskEvent.ASSIGNED

#: Attempt numbers are unsigned 32-bit numbers; 0 means none.
MAX_ATTEMPT = 0xFFFF_FFFF


class Dispatcher:
    """The live attempts of one scheduler."""

    def __init__(self, roster: Roster, commands: list[Command]):
        self._roster = roster
        self._commands = commands
        self._last_attempt = 0
        self._recalls = 0  # recalls whose answer is still to come
        self.attempts: dict[int, Attempt] = {}

    def fill_slots(self, now: float) -> None:
        """Give every slot what there is for it, those that have least first, and ask for queued attempts that could run."""
        roster = self._roster
        while roster.owing:
            worker, _ = roster.owing.popitem()
            while worker.bound and (slot := worker.idle_slot()) is not None:
                self.assign(roster.take_bound(worker), slot, now)
        has_idle = has_deep = False
        for pool in roster.pools.values():
            while pool.idle and (ledger := pool.next_job()) is not None:
                slot = next(iter(pool.idle))
                if slot.worker in ledger.avoided:
                    found = self._look_further(pool, pool.idle)
                    if found is None:
                        break
                    ledger, slot = found
                self.assign(ledger.take_to_spread(), slot, now)
            if pool.idle:
                has_idle = True
        for pool in roster.pools.values():
            while pool.half and (ledger := pool.next_job()) is not None:
                slot = next(iter(pool.half))
                if slot.worker in ledger.avoided:
                    found = self._look_further(pool, pool.half)
                    if found is None:
                        break
                    ledger, slot = found
                self.assign(ledger.take(), slot, now)
            if pool.deep:
                has_deep = True
        if has_deep:
            for pool in roster.pools.values():
                while pool.deep and (ledger := pool.next_job()) is not None and ledger.depth > DEPTH:
                    slot = next(iter(pool.deep))
                    if slot.worker in ledger.avoided:
                        found = self._look_further(pool, pool.deep, depth=DEPTH + 1)
                        if found is None:
                            break
                        ledger, slot = found
                    pool.deep.move_to_end(slot)  # in turn
                    self.assign(ledger.take(), slot, now)
        if has_idle:
            for league in roster.leagues.values():
                while league.recallable and self._recalls < league.idle_count():
                    attempt = self._next_to_recall(league)
                    if attempt is None:
                        break
                    self.recall(attempt)

    @staticmethod
    def _look_further(pool: Pool, line: Iterable[Slot], depth: int = 0) -> tuple[Ledger, Slot] | None:
        """Find a job and a slot of this line that fit, where the first job avoids the first slot's worker."""
        jobs = [job for league in pool.leagues for job in league.jobs.values() if job.has_tasks_to_give]
        for job in sorted(jobs, key=lambda job: (len(job.live), job.job)):
            for slot in line if job.depth >= depth else ():
                if not job.avoids(slot.worker):
                    return job, slot
        return None

    @staticmethod
    def _next_to_recall(league: League) -> Attempt | None:
        """The oldest queued attempt that an idle slot may take."""
        for attempt in league.recallable:
            ledger = attempt.task.ledger
            if not ledger.avoided:
                return attempt
            if any(not ledger.avoids(slot.worker) for pool in league.pools for slot in pool.idle):
                return attempt
        return None

    def assign(self, task: Task, slot: Slot, now: float) -> None:
        """Make an attempt of a task that no queue has, on a slot with room."""
        task.turn(_ASSIGNED)
        ledger = task.ledger
        batch = ledger.batches[task.batch] if task.batch else None
        number = self._next_attempt()
        state = _RUNNING if slot.running is None else _QUEUED
        attempt = Attempt(number, task, slot, state, batch is not None and batch.has_content)
        self.attempts[number] = attempt
        ledger.live[attempt] = None
        task.attempts.append(attempt)
        if state is _RUNNING:
            slot.running = attempt
            attempt.started_s = now
            ledger.oldest[attempt] = None
        else:
            slot.queued.append(attempt)
            ledger.league.recallable[attempt] = None
        self._roster.file(slot)
        ledger.league.rank(ledger)
        phase = MAP if task.batch else REDUCE
        self._commands.append(
            Assign(
                slot.worker.number, slot.index, ledger.job, task.number, number, phase,
                task.batch, task.lo, task.hi, task.skip, task.partitions, task.part,
            )
        )  # fmt: skip

    def recall(self, attempt: Attempt) -> None:
        """Ask a worker for a queued attempt."""
        attempt.turn(AttemptEvent.ASKED_BACK)
        del attempt.task.ledger.league.recallable[attempt]
        self._recalls += 1
        self._commands.append(Recall(attempt.slot.worker.number, attempt.task.ledger.job, attempt.number))

    def refuse(self, attempt: Attempt, now: float) -> None:
        """The worker keeps an attempt it was asked for. SchedulerError if it was not.

        Its executor has it already. Should what runs there take long, so does this, and may need a duplicate.
        """
        attempt.turn(AttemptEvent.REFUSED)
        self._recalls -= 1
        if attempt.state is _KEPT:
            attempt.started_s = now
            attempt.task.ledger.kept[attempt] = None

    def close(self, attempt: Attempt, event: AttemptEvent, now: float) -> None:
        """End an attempt: take it off its slot, where the one behind it begins. The caller ranks the job."""
        state = attempt.state
        attempt.turn(event)
        task, slot = attempt.task, attempt.slot
        ledger = task.ledger
        if state is not _RUNNING:
            ledger.league.recallable.pop(attempt, None)
            if state is _RECALLED or state is _CONTESTED:
                self._recalls -= 1
            ledger.kept.pop(attempt, None)
        del self.attempts[attempt.number], ledger.live[attempt]
        ledger.oldest.pop(attempt, None)
        task.attempts.remove(attempt)
        if task.attempts:
            ledger.duplicates -= 1
            twin = task.attempts[0]
            line = self._line_of(twin)
            line[twin] = None
            line.move_to_end(twin, last=False)
        if slot.running is attempt:
            slot.running = slot.queued.pop(0) if slot.queued else None
            if slot.running is not None:
                self._begin(slot.running, now)
        else:
            slot.queued.remove(attempt)
        self._roster.file(slot)
        if slot.worker.bound and slot.running is None:
            self._roster.owing[slot.worker] = None
        if event is not _SUCCEEDED:
            self._commands.append(Discard(ledger.job, task.number, attempt.number))

    def revoke(self, attempt: Attempt, now: float) -> None:
        """End an attempt whose outcome no longer matters."""
        task = attempt.task
        self._commands.append(
            Revoke(attempt.slot.worker.number, task.ledger.job, task.number, attempt.number)
        )
        self.close(attempt, AttemptEvent.REVOKED, now)

    def duplicate_stragglers(self, ledger: Ledger, now: float) -> None:
        """Start duplicates of the attempts that have run, or waited to, suspiciously long, once nothing else is left.

        Those that have not begun, behind one that takes long, come first: what is done twice of them is nothing yet,
        so only idle slots bound their number.
        """
        if ledger.waiting or not ledger.input_ended or not ledger.rules.retransmit:
            return
        median_s = ledger.median_s()
        if median_s is None:
            return
        late_s = now - max(STRAGGLER_MEDIANS * median_s, STRAGGLER_S)
        self._duplicate(ledger, ledger.kept, ledger.league.idle_count(), late_s, now)
        room = math.ceil(ledger.rules.retransmit * ledger.league.slots) - ledger.duplicates
        self._duplicate(ledger, ledger.oldest, min(room, ledger.league.idle_count()), late_s, now)

    def _duplicate(
        self, ledger: Ledger, line: OrderedDict[Attempt, None], room: int, late_s: float, now: float
    ) -> None:
        """Start duplicates of the first in this line that stand there since before `late_s`."""
        for attempt in list(itertools.islice(line, max(0, room))):
            assert attempt.started_s is not None
            if attempt.started_s >= late_s:
                return
            slot = self._idle_slot_for(attempt)
            if slot is None:
                continue
            self.assign(attempt.task, slot, now)
            for twin in attempt.task.attempts:
                self._line_of(twin).pop(twin)
            ledger.duplicates += 1

    @staticmethod
    def _idle_slot_for(attempt: Attempt) -> Slot | None:
        """An idle slot for its duplicate; what runs already would run no faster beside itself on the same worker."""
        idle = (slot for pool in attempt.task.ledger.league.pools for slot in pool.idle)
        ledger = attempt.task.ledger
        if ledger.avoided:
            idle = (slot for slot in idle if not ledger.avoids(slot.worker))
        return next(
            (slot for slot in idle if attempt.state is _KEPT or slot.worker is not attempt.slot.worker), None
        )

    @staticmethod
    def _line_of(attempt: Attempt) -> OrderedDict[Attempt, None]:
        """Where its job keeps it, running or kept, while it has no twin."""
        ledger = attempt.task.ledger
        return ledger.kept if attempt.state is _KEPT else ledger.oldest

    @staticmethod
    def _begin(attempt: Attempt, now: float) -> None:
        ledger = attempt.task.ledger
        has_twin = False
        if attempt.state is _KEPT:
            has_twin = attempt not in ledger.kept
            ledger.kept.pop(attempt, None)
        attempt.turn(_BEGAN)
        attempt.started_s = now
        if not has_twin:
            ledger.oldest[attempt] = None
        ledger.league.recallable.pop(attempt, None)

    def _next_attempt(self) -> int:
        number = self._last_attempt % MAX_ATTEMPT + 1
        while number in self.attempts:  # of the time before the numbers began anew
            number = number % MAX_ATTEMPT + 1
        self._last_attempt = number
        return number
