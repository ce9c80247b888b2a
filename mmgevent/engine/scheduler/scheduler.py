"""Decide which worker runs which task next.

No I/O and no clock: the server reports what happened, and when; the scheduler answers with commands to
carry out, in order. It sees numbers only, never an item. `now` is in seconds and never goes back.

Every change of a task's or an attempt's state is a row of the tables in `attempts`. A message about an
attempt or a job that is over is late, and ignored; an event that no row allows is a fault of whoever sent
it: `SchedulerError`, and nothing has changed. `ledger` keeps the books of each job, `roster` knows which
slot is free and which job is next, `dispatcher` gives attempts to slots and takes them off, `oneshot` is the
jobs of which every worker gets one item.

Invariants, after every event:

- every item is counted by exactly one commit, or set aside ("oneshot": or lost with its worker);
- a slot runs at most one attempt and has at most one queued behind it, or a few of short tasks, the item of a
  "oneshot" job neither queued nor queued behind;
- no task waits while a slot that may take it has nothing queued, and none is queued while one that may take it is
  idle;
- of the jobs with waiting tasks the one that holds the fewest attempts gets the next slot;
- every attempt ends by one `Commit` or one `Discard`, every job by one `FinishJob` or one `FailJob`;
- no command names a lost worker.

An event costs O(log jobs); only a "oneshot" job looks at every worker when it comes, a job that avoids
workers (its setupfn failed there) at idle slots, and losing a worker or a job costs what it held. `tick` looks at the jobs, and of each at its few oldest attempts.
"""

from __future__ import annotations

import random as random_module
from typing import Any

from mmgevent.engine.scheduler.attempts import AttemptEvent, AttemptState, Task, TaskEvent
from mmgevent.engine.scheduler.commands import (
    Allow,
    Command,
    Commit,
    EnoughInput,
    FailJob,
    FinishJob,
    ItemSkipped,
    NeedContent,
    Notice,
    PlanReduce,
    ReleaseBatch,
)
from mmgevent.engine.scheduler.dispatcher import Dispatcher
from mmgevent.engine.scheduler.ledger import (
    MAP,
    MAX_DEATHS,
    MAX_UNPREPARED,
    PLAN,
    REDUCE,
    JobRules,
    JobStatus,
    Ledger,
)
from mmgevent.engine.scheduler.oneshot import Oneshot
from mmgevent.engine.scheduler.roster import Roster, Worker
from mmgevent.errors import SchedulerError
from mmgevent.wire.failures import advise_on_reduce
from mmgevent.wire.positions import MAX_DEPTH, WHOLE, entry_of, position_of

__all__ = ["TICK_S", "JobRules", "JobStatus", "Scheduler"]

_SUCCEEDED, _COMMITTED = AttemptEvent.SUCCEEDED, TaskEvent.COMMITTED  # at hand on the hot path

#: Time between two calls of `tick`, seconds. The server and the simulations keep to it.
TICK_S = 0.1

#: Seconds without any worker for a job before its user is told: embedded workers take a moment to start.
NO_WORKERS_S = 2.0


class Scheduler:
    """All jobs and workers of one server. Every event method returns the commands that follow from it."""

    def __init__(self, random: random_module.Random):
        self._random = random
        self._roster = Roster()
        self._jobs: dict[int, Ledger] = {}
        self._commands: list[Command] = []  # of the event at hand
        self._dispatcher = Dispatcher(self._roster, self._commands)

    # Workers

    def add_worker(self, worker: int, slots: int, offers: frozenset[str], now: float) -> list[Command]:
        """A worker joined. SchedulerError if one of that number is there."""
        joined = self._roster.add_worker(worker, slots, offers)
        for ledger in self._roster.jobs_for(joined):
            if ledger.oneshot is not None and ledger.phase == MAP:
                ledger.oneshot.promise(joined, now)
            self._allow(ledger)
        return self._settle(now)

    def remove_worker(self, worker: int, now: float) -> list[Command]:
        """A worker's link is gone: what it held is done again elsewhere, and nobody is blamed."""
        gone = self._roster.workers.get(worker)
        if gone is None:
            return []
        self._roster.remove_worker(gone)
        touched = self._take_back(gone)
        for slot in gone.slots:
            if slot.running is None:
                continue
            for attempt in (*reversed(slot.queued), slot.running):
                touched[attempt.task.ledger] = None
                self._dispatcher.close(attempt, AttemptEvent.LOST, now)
                if attempt.task.is_alone:
                    self._lose(attempt.task)
                else:
                    self._free(attempt.task)
        for ledger in touched:
            self._advance(ledger, now)
        return self._settle(now)

    def drain_worker(self, worker: int, now: float) -> list[Command]:
        """A worker is about to leave: it gets nothing more, and is asked for what it has not begun."""
        leaving = self._roster.workers.get(worker)
        if leaving is None or leaving.is_leaving:
            return []
        self._roster.retire(leaving)
        touched = self._take_back(leaving)
        for slot in leaving.slots:
            for attempt in slot.queued:
                if attempt.state is AttemptState.QUEUED:
                    self._dispatcher.recall(attempt)
        for ledger in touched:
            self._advance(ledger, now)
        return self._settle(now)

    # Jobs

    def add_job(self, job: int, options: JobRules, now: float) -> list[Command]:
        """A job was submitted. SchedulerError if one of that number is there."""
        if job in self._jobs:
            raise SchedulerError(f"job {job} is there already")
        ledger = self._jobs[job] = Ledger(job, options, now)
        ledger.league = self._roster.add_job(ledger, options.needs)
        if options.allocation == "oneshot":
            ledger.oneshot = Oneshot(ledger, self._roster)
            ledger.is_shared = False
            for worker in self._roster.workers.values():
                if options.needs <= worker.pool.offers:
                    ledger.oneshot.promise(worker, now)
        self._allow(ledger)
        return self._settle(now)

    def add_batch(
        self, job: int, batch: int, items: int, now: float, *, has_refs: bool = False
    ) -> list[Command]:
        """A batch arrived whole. SchedulerError if it was announced before, or was not allowed.

        `items` counts its entries; with `has_refs` each may stand for any number of items.
        """
        ledger = self._jobs.get(job)
        if ledger is None:
            return []
        if ledger.oneshot is not None and ledger.input_ended:  # EnoughInput crossed it
            self._commands.append(ReleaseBatch(job, batch))
            return self._settle(now)
        if ledger.input_ended or ledger.received >= ledger.allowed:
            end = "the input ended" if ledger.input_ended else f"only {ledger.allowed} are allowed"
            raise SchedulerError(f"batch {batch} of job {job} came, but {end}")
        if batch < 1 or items < 0 or batch in ledger.batches:
            raise SchedulerError(f"batch {batch} of job {job} with {items} items: a new batch was expected")
        ledger.received += 1
        if items:
            ledger.add_batch(batch, items, has_refs)
        else:
            ledger.released += 1
            self._release(ledger, batch)
        self._advance(ledger, now)
        return self._settle(now)

    def end_input(self, job: int, now: float) -> list[Command]:
        """The driver has sent its last batch. SchedulerError if it said so before."""
        ledger = self._jobs.get(job)
        if ledger is None or (ledger.oneshot is not None and ledger.input_ended):
            return []
        if ledger.input_ended:
            raise SchedulerError(f"the input of job {job} ended twice")
        ledger.input_ended = True
        self._fail_if_too_many_skipped(ledger, now)
        self._advance(ledger, now)
        return self._settle(now)

    def content_arrived(self, job: int, batch: int, now: float) -> list[Command]:
        """The batch is here with the contents of its files, asked for or not."""
        ledger = self._jobs.get(job)
        if ledger is None or batch not in ledger.batches:
            return []
        ledger.unblock(ledger.batches[batch])
        self._advance(ledger, now)
        return self._settle(now)

    def plan_reduce(self, job: int, groups: list[tuple[int, ...]], now: float) -> list[Command]:
        """The answer to PlanReduce: the partitions of each reduce task; none ends the job at once."""
        ledger = self._jobs.get(job)
        if ledger is None:
            return []
        if ledger.phase != PLAN:
            raise SchedulerError(f"job {job} is in its {ledger.phase} phase: no plan was asked for")
        ledger.add_reduce_tasks(groups)
        self._advance(ledger, now)
        return self._settle(now)

    def cancel_job(self, job: int, now: float) -> list[Command]:
        """The driver wants it no more, or is gone."""
        ledger = self._jobs.get(job)
        if ledger is not None:
            self._fail(ledger, {"kind": "cancelled", "error": "the job was cancelled"}, "cancelled", now)
        return self._settle(now)

    def fail_job(self, job: int, failure: dict[str, Any], now: float) -> list[Command]:
        """Something outside the scheduler (a full disk) ends the job."""
        ledger = self._jobs.get(job)
        if ledger is not None:
            self._fail(ledger, failure, "failed", now)
        return self._settle(now)

    def status(self, job: int) -> JobStatus:
        """How far a job is; SchedulerError if there is none of that number (any more)."""
        ledger = self._jobs.get(job)
        if ledger is None:
            raise SchedulerError(f"there is no job {job}")
        return ledger.status()

    # Attempts

    def attempt_done(
        self,
        attempt: int,
        now: float,
        *,
        items: int = 0,
        skipped: int = 0,
        failure: dict[str, Any] | None = None,
    ) -> list[Command]:
        """Its output has arrived whole. The first attempt of a task to do so counts.

        `items` were mapped and `skipped` were set aside, the last one by `failure`.
        """
        done = self._dispatcher.attempts.get(attempt)
        if done is None:
            return []
        task, ledger = done.task, done.task.ledger
        started_s = done.started_s
        if ledger.avoided:  # an executor of that worker is set up
            ledger.avoided.pop(done.slot.worker, None)
        self._commands.append(
            Commit(
                ledger.job,
                task.number,
                attempt,
                MAP if task.batch else REDUCE,
                task.batch,
                task.lo,
                task.part,
            )
        )
        self._dispatcher.close(done, _SUCCEEDED, now)
        if task.attempts:
            (twin,) = task.attempts
            self._dispatcher.revoke(twin, now)
        task.turn(_COMMITTED)
        if started_s is not None:
            ledger.time(now - started_s, self._random)
        if ledger.oneshot is not None:
            ledger.oneshot.answered(now)
        ledger.items_mapped += items
        if skipped:
            ledger.set_aside_count += skipped
            ledger.last_failure = failure or ledger.last_failure
        if ledger.count(task):
            self._release(ledger, task.batch)
        self._fail_if_too_many_skipped(ledger, now)
        self._advance(ledger, now)
        return self._settle(now)

    def attempt_failed(
        self,
        attempt: int,
        failure: dict[str, Any],
        item: int | None,
        now: float,
        *,
        is_spent: bool = False,
        is_divisible: bool = False,
        skipped: int = 0,
    ) -> list[Command]:
        """A user exception; `item` is the position of the item, None (or one not in its range) if unknown.

        `is_spent`: its executor has tried that item as often as `retries` allows. `is_divisible`: runs over some of
        the items may tell which it was. `skipped`: items that this attempt had to set aside, if they are too many.
        """
        failed = self._dispatcher.attempts.get(attempt)
        if failed is None:
            return []
        task, ledger = failed.task, failed.task.ledger
        item = self._known_item(task, item)
        self._dispatcher.close(failed, AttemptEvent.FAILED, now)
        if ledger.oneshot is not None:
            ledger.oneshot.answered(now)
        if task.batch and skipped and ledger.set_aside_count + skipped > ledger.skip_limit():
            self._fail(ledger, ledger.too_many_skipped(failure), "skipped", now)
        elif not (is_spent and item is not None) and ledger.count_failure(task, item) <= ledger.retries:
            self._free(task)
        else:
            self._give_up(task, item, failure, now, is_divisible=is_divisible)
        self._advance(ledger, now)
        return self._settle(now)

    def attempt_died(
        self,
        attempt: int,
        failure: dict[str, Any],
        item: int | None,
        now: float,
        *,
        is_divisible: bool = False,
    ) -> list[Command]:
        """Its executor died under it (crash, memory, timeout); `item` and `is_divisible` as in `attempt_failed`."""
        died = self._dispatcher.attempts.get(attempt)
        if died is None:
            return []
        task, ledger = died.task, died.task.ledger
        item = self._known_item(task, item)
        self._dispatcher.close(died, AttemptEvent.DIED, now)
        if ledger.oneshot is not None:
            ledger.oneshot.answered(now)
        is_first_fatal = task.is_alone or task.is_suspect
        if ledger.count_death(task, item) < (1 if is_first_fatal else MAX_DEATHS):
            self._free(task)
        elif item is None and self._can_halve(task, is_divisible):
            self._halve(task, now)
        else:
            self._give_up(task, item, failure, now, is_divisible=is_divisible)
        self._advance(ledger, now)
        return self._settle(now)

    def attempt_unprepared(self, attempt: int, failure: dict[str, Any], now: float) -> list[Command]:
        """The job's setupfn failed in its executor, or killed it, before it began: no item and no task is to blame.

        It is tried in other executors, on other workers if there are any, MAX_UNPREPARED in all.
        """
        lost = self._dispatcher.attempts.get(attempt)
        if lost is None:
            return []
        task, ledger, worker = lost.task, lost.task.ledger, lost.slot.worker
        self._dispatcher.close(lost, AttemptEvent.UNPREPARED, now)
        task.unprepared += 1
        if task.unprepared >= MAX_UNPREPARED and not task.attempts:
            advice = (
                f"it failed in {task.unprepared} executors, and nothing of the job can run before it has run"
            )
            self._fail(ledger, {"advice": advice, **failure}, "failed", now)
        elif task.is_alone and ledger.oneshot is not None:  # on this worker, or not at all
            ledger.oneshot.promise_again(worker)
            self._free(task)
        else:
            ledger.avoided[worker] = None
            self._free(task)
        self._advance(ledger, now)
        return self._settle(now)

    def attempt_returned(self, attempt: int, now: float) -> list[Command]:
        """It was not begun: recalled, or its executor died before it, or the worker is leaving."""
        returned = self._dispatcher.attempts.get(attempt)
        if returned is None:
            return []
        task = returned.task
        self._dispatcher.close(returned, AttemptEvent.RETURNED, now)
        if task.is_alone and task.ledger.oneshot is not None:
            task.ledger.oneshot.promise_again(returned.slot.worker)
        self._free(task)
        self._advance(task.ledger, now)
        return self._settle(now)

    def attempt_kept(self, attempt: int, now: float) -> list[Command]:
        """Its worker refused a recall: its executor has it. SchedulerError if there was no recall."""
        kept = self._dispatcher.attempts.get(attempt)
        if kept is None:
            return []
        self._dispatcher.refuse(kept, now)
        return self._settle(now)

    def attempt_needs_content(self, attempt: int, now: float) -> list[Command]:
        """The files its items name are not there. SchedulerError if it was sent their contents."""
        lacking = self._dispatcher.attempts.get(attempt)
        if lacking is None:
            return []
        task, ledger = lacking.task, lacking.task.ledger
        if lacking.had_content or not task.batch:
            raise SchedulerError(f"attempt {attempt} has all its contents, and asks for them")
        self._dispatcher.close(lacking, AttemptEvent.LACKED_CONTENT, now)
        batch = ledger.batches[task.batch]
        if ledger.oneshot is not None:
            ledger.oneshot.promise_again(lacking.slot.worker)
        if batch.has_content:
            self._free(task)
        elif not task.attempts:
            task.turn(TaskEvent.LACKED_CONTENT)
            batch.blocked.append(task)
            ledger.blocked += 1
            if not batch.is_wanted:
                batch.is_wanted = True
                self._commands.append(NeedContent(ledger.job, task.batch))
        self._advance(ledger, now)
        return self._settle(now)

    # Time

    def tick(self, now: float) -> list[Command]:
        """Do what only time brings about: duplicates of stragglers, and the end of a "oneshot" job's patience."""
        for ledger in list(self._jobs.values()):
            self._warn_without_slots(ledger, now)
            if ledger.oneshot is not None:
                self._advance(ledger, now)
            else:
                self._dispatcher.duplicate_stragglers(ledger, now)
        return self._settle(now)

    # What follows from an event

    def _settle(self, now: float) -> list[Command]:
        """Give all slots what there is for them, and hand out the commands of this event."""
        self._dispatcher.fill_slots(now)
        commands = self._commands[:]
        self._commands.clear()
        return commands

    @staticmethod
    def _free(task: Task) -> None:
        """Queue a task again, unless another attempt of it is live."""
        if not task.attempts:
            task.turn(TaskEvent.FREED)
            task.ledger.wait(task, first=True)

    def _fail_if_too_many_skipped(self, ledger: Ledger, now: float) -> None:
        if ledger.set_aside_count and not ledger.is_over and ledger.has_too_many_skipped:
            self._fail(ledger, ledger.too_many_skipped(ledger.last_failure), "skipped", now)

    def _give_up(
        self, task: Task, item: int | None, failure: dict[str, Any], now: float, *, is_divisible: bool
    ) -> None:
        """An item, or a task whose culprit is unknown, has failed too often."""
        ledger = task.ledger
        if not task.batch and ledger.rules.max_skipped:
            failure = advise_on_reduce(failure)
        if not task.batch or not ledger.rules.max_skipped:
            self._fail(ledger, failure, "failed", now)
            return
        if item is None and self._can_halve(task, is_divisible):
            self._halve(task, now)
            return
        for twin in task.attempts[:]:
            self._dispatcher.revoke(twin, now)
        task.turn(TaskEvent.FREED)
        if ledger.set_aside_count + 1 > ledger.skip_limit():
            self._fail(ledger, ledger.too_many_skipped(failure), "skipped", now)
            return
        if item is None:
            item = self._only_position(task)
        is_released = ledger.set_aside(task, item, failure)
        self._commands.append(ItemSkipped(ledger.job, task.batch, item, failure))
        if is_released:
            self._release(ledger, task.batch)
        task.deaths = task.failures = 0
        if task.items:
            ledger.wait(task, first=True)
        else:
            task.turn(TaskEvent.DROPPED)
            self._fail_if_too_many_skipped(ledger, now)

    def _halve(self, task: Task, now: float) -> None:
        """Cut a task whose culprit is unknown in two, and so on until the culprit is alone.

        From now on the first failure counts: three for each halving would cost thirty executors to find one
        item of a thousand.
        """
        ledger = task.ledger
        for twin in task.attempts[:]:
            self._dispatcher.revoke(twin, now)
        task.turn(TaskEvent.FREED)
        task.failures = min(task.failures, ledger.retries)
        task.is_suspect = True
        halves = ledger.cut(task, 2) if task.items > 1 else ledger.cut_entry(task)
        for half in reversed(halves):
            ledger.wait(half, first=True)

    @staticmethod
    def _can_halve(task: Task, is_divisible: bool) -> bool:
        """Return whether a task whose culprit is unknown can be cut, to find it."""
        if task.items > 1:
            return True
        if not task.batch or not is_divisible:
            return False
        return task.ledger.batches[task.batch].has_refs and task.part[1] < MAX_DEPTH

    @staticmethod
    def _only_position(task: Task) -> int:
        """Return what a task of one entry is set aside as: the item, or all that its ref stands for."""
        place = WHOLE if task.ledger.batches[task.batch].has_refs else 0
        return next(
            position
            for position in (position_of(entry, place) for entry in range(task.lo, task.hi))
            if position not in task.skip
        )

    def _fail(self, ledger: Ledger, failure: dict[str, Any], code: str, now: float) -> None:
        for attempt in list(ledger.live):
            self._dispatcher.revoke(attempt, now)
        self._commands.append(FailJob(ledger.job, failure, code))
        self._forget(ledger)

    def _forget(self, ledger: Ledger) -> None:
        ledger.is_over = True
        del self._jobs[ledger.job]
        if ledger.oneshot is not None:
            for worker in list(ledger.oneshot.bound):
                ledger.oneshot.unbind(worker)
        while ledger.waiting:
            ledger.take()
        ledger.batches.clear()
        self._roster.remove_job(ledger)

    def _advance(self, ledger: Ledger, now: float) -> None:
        """Go on to what follows, after something of a job changed."""
        if ledger.is_over:
            return
        if ledger.oneshot is not None and ledger.phase == MAP:
            self._advance_oneshot(ledger, ledger.oneshot, now)
        ledger.league.rank(ledger)
        if ledger.phase == MAP and ledger.is_mapped:
            ledger.phase = PLAN
            self._commands.append(PlanReduce(ledger.job))
        elif ledger.phase == REDUCE and not ledger.reduce_left:
            self._commands.append(FinishJob(ledger.job))
            self._forget(ledger)

    def _release(self, ledger: Ledger, batch: int) -> None:
        self._commands.append(ReleaseBatch(ledger.job, batch))
        self._allow(ledger)

    def _allow(self, ledger: Ledger) -> None:
        if ledger.input_ended:
            return
        allowance = ledger.next_allowance()
        if allowance is not None:
            ledger.allowed = allowance
            self._commands.append(Allow(ledger.job, allowance))

    @staticmethod
    def _known_item(task: Task, item: int | None) -> int | None:
        if item is None or not task.batch or not task.lo <= entry_of(item) < task.hi or item in task.skip:
            return None
        return item

    def _warn_without_slots(self, ledger: Ledger, now: float) -> None:
        if ledger.league.slots:
            ledger.without_slots_s = now
            ledger.was_warned = False
        elif not ledger.was_warned and now - ledger.without_slots_s >= NO_WORKERS_S:
            ledger.was_warned = True
            needs = ", ".join(sorted(ledger.rules.needs))
            text = f"no worker offers {needs}" if needs else "there are no workers"
            self._commands.append(Notice(ledger.job, f"{text}; the job waits for one"))

    # "oneshot" jobs

    def _take_back(self, worker: Worker) -> dict[Ledger, None]:
        """Take back what a worker was promised and has not been sent; the jobs it concerns."""
        jobs = self._roster.jobs_for(worker)
        return {job: None for job in jobs if job.oneshot is not None and job.oneshot.take_back(worker)}

    def _lose(self, task: Task) -> None:
        """Drop an item whose worker is gone, and say so."""
        ledger = task.ledger
        task.turn(TaskEvent.DROPPED)
        failure = {"kind": "lost", "function": "mapfn", "error": "its worker was lost", "item": task.lo}
        self._commands.append(ItemSkipped(ledger.job, task.batch, position_of(task.lo), failure))
        text = f"a worker was lost; item {task.lo} of batch {task.batch} is dropped"
        self._commands.append(Notice(ledger.job, text))
        if ledger.lose(task):
            self._release(ledger, task.batch)

    def _advance_oneshot(self, ledger: Ledger, oneshot: Oneshot, now: float) -> None:
        """Bind what there is to bind, and see whether any more items are to come."""
        oneshot.bind()
        self._allow(ledger)
        if not oneshot.is_finished(now):
            return
        if not ledger.input_ended:
            ledger.input_ended = True
            self._commands.append(EnoughInput(ledger.job))
        while ledger.waiting:
            self._lose(ledger.take())
