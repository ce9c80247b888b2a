"""Decide which worker runs which task next.

There is no I/O here and no clock. The server reports what happened, and when. The scheduler returns
commands, which the server carries out in order. It sees numbers only, never an item. `now` is in
seconds and never decreases.

A message about an attempt or a job that is over is late, and ignored. An event that no rule allows
is an error of its sender: it raises `SchedulerError`, and nothing has changed.

| module | what it holds |
|---|---|
| `transitions` | the states of tasks and attempts, and every legal change |
| `attempts` | tasks, attempts, slots, workers, and the queues of jobs |
| `input`, `durations`, `ledger`, `oneshot` | what is to be done and what was counted of a job |
| `roster` | which workers and jobs there are, and which slots are free |
| `dispatcher` | which attempt is on which slot |
| `retries` | what becomes of a task whose attempt failed |
| `lifecycle` | the phases of a job and its end |
| `rules`, `commands` | what goes in and what comes out |

Invariants, after every event:

- Every item is counted by exactly one commit, or set aside, or lost with its worker ("oneshot").
- A slot runs at most one attempt. At most one is queued behind it, or a few of short tasks. A
  "oneshot" item is neither queued nor queued behind.
- No task waits while a slot that may take it has nothing queued. None is queued while a slot that
  may take it is idle.
- Of the jobs with waiting tasks, the one that holds the fewest attempts gets the next slot.
- Every attempt ends by one `Commit` or `Discard`, every job by one `FinishJob` or `FailJob`.
- No command names a lost worker.

An event costs O(log jobs), with these exceptions:

- A "oneshot" job looks at every worker when it is submitted.
- A job that avoids workers, since its setupfn failed there, looks at idle slots.
- A lost worker or a job that ends costs as much as it held.
- `tick` looks at every job, and at the oldest few attempts of each.
"""

from __future__ import annotations

import random as random_module
from typing import Any

from mmgevent.engine.scheduler.commands import Command, Commit, NeedContent, ReleaseBatch
from mmgevent.engine.scheduler.dispatcher import Dispatcher
from mmgevent.engine.scheduler.lifecycle import JobLifecycle
from mmgevent.engine.scheduler.retries import Retries
from mmgevent.engine.scheduler.roster import Roster
from mmgevent.engine.scheduler.rules import MAP, PLAN, REDUCE, JobRules, JobStatus
from mmgevent.engine.scheduler.transitions import AttemptEvent, AttemptState, TaskEvent
from mmgevent.errors import SchedulerError
from mmgevent.wire.failures import with_place

# Looking up a member of an Enum costs as much as a call in C.
_SUCCEEDED, _COMMITTED = AttemptEvent.SUCCEEDED, TaskEvent.COMMITTED

#: Time between two calls of `tick`, seconds. The server and the simulations keep to it.
TICK_S = 0.1


class Scheduler:
    """All jobs and workers of one server. Every event method returns the commands that follow."""

    def __init__(self, random: random_module.Random):
        self._random = random
        self._commands: list[Command] = []  # commands of the current event
        self._roster = Roster()
        self._dispatcher = Dispatcher(self._roster, self._commands)
        self._lifecycle = JobLifecycle(self._roster, self._dispatcher, self._commands)
        self._retries = Retries(self._lifecycle, self._dispatcher, self._commands)
        self._ledgers = self._lifecycle.ledgers
        self._attempts = self._dispatcher.attempts

    # Workers

    def add_worker(self, worker: int, slots: int, offers: frozenset[str], now: float) -> list[Command]:
        """A worker joined. Raises SchedulerError if its number is taken."""
        joined = self._roster.add_worker(worker, slots, offers)
        for job in self._roster.jobs_for(joined):
            ledger = self._ledgers[job.number]
            ledger.worker_joined(joined, now)
            if ledger.doubted:
                ledger.avoid_strangers([joined])
            self._lifecycle.allow(ledger)
        return self._finish_event(now)

    def remove_worker(
        self, worker: int, now: float, *, is_innocent: bool = False, is_doubted: bool = False
    ) -> list[Command]:
        """A worker disconnected. What it held is done again elsewhere.

        Nobody is blamed, unless a task has taken MAX_LOSSES workers down (see `retries`). If the loss
        `is_innocent` nobody is: a driver sent the worker away, or it fell silent, so that it may have
        been gone when it was given its tasks. `is_doubted` is as in `attempt_failed`.
        """
        lost = self._roster.workers.get(worker)
        if lost is None:
            return []
        suspects = (
            []
            if is_innocent or lost.is_leaving
            else self._retries.count_losses(lost, now, is_doubted=is_doubted)
        )
        self._roster.remove_worker(lost)
        self._retries.end_all(lost, AttemptEvent.LOST, now)
        for job in self._roster.jobs_for(lost):
            job.forget_worker(lost)
        self._retries.after_losses(suspects, now)
        return self._finish_event(now)

    def set_worker_aside(self, worker: int, now: float) -> list[Command]:
        """A worker does not do its share. Its tasks go elsewhere until `readmit_worker`."""
        aside = self._roster.workers.get(worker)
        if aside is None or aside.is_leaving:
            return []
        self._roster.retire(aside)
        self._retries.end_all(aside, AttemptEvent.REVOKED, now)
        return self._finish_event(now)

    def readmit_worker(self, worker: int, now: float) -> list[Command]:
        """A worker that was set aside gets tasks again."""
        aside = self._roster.workers.get(worker)
        if aside is not None:
            self._roster.readmit(aside)
            for job in self._roster.jobs_for(aside):
                self._lifecycle.allow(self._ledgers[job.number])
        return self._finish_event(now)

    def drain_worker(self, worker: int, now: float) -> list[Command]:
        """A worker is about to leave. It gets nothing more. Its queued attempts are recalled."""
        leaving = self._roster.workers.get(worker)
        if leaving is None or leaving.is_leaving:
            return []
        self._roster.retire(leaving)
        touched = self._lifecycle.withdraw(leaving)
        for slot in leaving.slots:
            for attempt in slot.queued:
                if attempt.state is AttemptState.QUEUED:
                    self._dispatcher.recall(attempt)
        for ledger in touched:
            self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    # Jobs

    def add_job(self, job: int, rules: JobRules, now: float) -> list[Command]:
        """A job was submitted. Raises SchedulerError if its number is taken."""
        if job in self._ledgers:
            raise SchedulerError(f"job {job} is there already")
        self._lifecycle.begin(job, rules, now)
        return self._finish_event(now)

    def add_batch(
        self, job: int, batch: int, items: int, now: float, *, has_refs: bool = False
    ) -> list[Command]:
        """A batch arrived whole. Raises SchedulerError if it arrived before, or was not allowed.

        Args:
            items: number of its entries.
            has_refs: each entry may stand for any number of items.
        """
        ledger = self._ledgers.get(job)
        if ledger is None:
            return []
        counts = ledger.input
        if counts.has_ended and ledger.ignores_late_input:
            self._commands.append(ReleaseBatch(job, batch))
            return self._finish_event(now)
        if counts.has_ended or counts.received >= counts.allowed:
            end = "the input ended" if counts.has_ended else f"only {counts.allowed} are allowed"
            raise SchedulerError(f"batch {batch} of job {job} came, but {end}")
        if batch < 1 or items < 0 or batch in counts.batches:
            raise SchedulerError(f"batch {batch} of job {job} with {items} items: a new batch was expected")
        if items:
            ledger.add_batch(batch, items, has_refs)
        else:
            counts.add_empty_batch()
            self._lifecycle.release(ledger, batch)
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def end_input(self, job: int, now: float) -> list[Command]:
        """The driver has sent its last batch. Raises SchedulerError if it said so before."""
        ledger = self._ledgers.get(job)
        if ledger is None or (ledger.input.has_ended and ledger.ignores_late_input):
            return []
        if ledger.input.has_ended:
            raise SchedulerError(f"the input of job {job} ended twice")
        ledger.input.end()
        self._lifecycle.fail_if_limit_exceeded(ledger, now)
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def content_arrived(self, job: int, batch: int, now: float) -> list[Command]:
        """A batch is here with the contents of its files, whether requested or not."""
        ledger = self._ledgers.get(job)
        if ledger is None or batch not in ledger.input.batches:
            return []
        ledger.unblock(ledger.input.batches[batch])
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def plan_reduce(self, job: int, groups: list[tuple[int, ...]], now: float) -> list[Command]:
        """The server answered `PlanReduce` with the partitions of each reduce task.

        Without tasks the job ends at once. Raises SchedulerError if no plan was requested.
        """
        ledger = self._ledgers.get(job)
        if ledger is None:
            return []
        if ledger.phase != PLAN:
            raise SchedulerError(f"job {job} is in its {ledger.phase} phase: no plan was asked for")
        ledger.begin_reduce(groups)
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def cancel_job(self, job: int, now: float) -> list[Command]:
        """The driver cancelled the job, or disconnected."""
        ledger = self._ledgers.get(job)
        if ledger is not None:
            failure = {"kind": "cancelled", "error": "the job was cancelled"}
            self._lifecycle.fail(ledger, failure, "cancelled", now)
        return self._finish_event(now)

    def fail_job(self, job: int, failure: dict[str, Any], now: float) -> list[Command]:
        """Something outside the scheduler, such as a full disk, ends the job."""
        ledger = self._ledgers.get(job)
        if ledger is not None:
            self._lifecycle.fail(ledger, failure, "failed", now)
        return self._finish_event(now)

    def count_busy(self, worker: int) -> int:
        """Return how many slots of a worker run something."""
        return sum(slot.running is not None for slot in self._roster.workers[worker].slots)

    def status(self, job: int) -> JobStatus:
        """Return how far a job is. Raises SchedulerError if there is no such job, or no longer."""
        ledger = self._ledgers.get(job)
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
        """The output of an attempt arrived whole. The first attempt of a task to succeed counts.

        Args:
            items: items that it mapped.
            skipped: items that it set aside, the last one because of `failure`.
        """
        done = self._attempts.get(attempt)
        if done is None:
            return []
        task, worker = done.task, done.slot.worker
        ledger, batch = self._ledgers[task.job.number], task.batch
        worker.has_worked = True
        worker.overdue = 0
        if ledger.avoided:
            ledger.settle(task)
            ledger.stop_avoiding(worker)
        phase, batch_number = (REDUCE, 0) if batch is None else (MAP, batch.number)
        self._commands.append(
            Commit(ledger.number, task.number, attempt, phase, batch_number, task.lo, task.part)
        )
        self._dispatcher.end(done, _SUCCEEDED, now)
        was_slow = bool(task.attempts)
        if was_slow:
            (duplicate,) = task.attempts
            self._dispatcher.revoke(duplicate, now)
        task.transition(_COMMITTED)
        if done.started_s is not None:
            ledger.durations.add(now - done.started_s, self._random)
        if not ledger.is_shared:
            ledger.worker_answered(now)
        counts = ledger.input
        if skipped:
            if failure and batch is not None:
                failure = {**failure, "batch": batch_number}  # beside its position
            counts.count_skipped(skipped, failure)
        if batch is None:
            ledger.count_reduce()
        elif counts.count_mapped(batch, task.open_entries, items):
            self._lifecycle.release(ledger, batch_number)
        if counts.set_aside:
            self._lifecycle.fail_if_limit_exceeded(ledger, now)
        self._lifecycle.advance(ledger, now)
        if was_slow and not ledger.is_over:  # the slot that did it takes the next one at once
            self._dispatcher.fill_slots(now)
            self._dispatcher.duplicate_stragglers(ledger, now)
        return self._finish_event(now)

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
        is_doubted: bool = False,
    ) -> list[Command]:
        """A user exception ended an attempt.

        Args:
            item: the position of the item; None, or a position that the task has not, if unknown.
            is_spent: the executor has tried that item as often as `retries` allows.
            is_divisible: attempts of some of the items may show which of them fails.
            skipped: items that the attempt had to set aside, if those are too many.
            is_doubted: nobody vouches for the worker; see `Retries.doubt`.
        """
        failed = self._attempts.get(attempt)
        if failed is None:
            return []
        task, ledger = failed.task, self._ledgers[failed.task.job.number]
        self._dispatcher.end(failed, AttemptEvent.FAILED, now)
        ledger.worker_answered(now)
        if self._retries.doubt(task, ledger, failed.slot.worker, is_doubted):
            pass
        elif task.batch is not None and skipped and ledger.input.exceeds_limit(skipped):
            failure = ledger.input.explain_limit(with_place(failure, task.batch.number, item))
            self._lifecycle.fail(ledger, failure, "skipped", now)
        else:
            self._retries.after_failure(
                task, ledger, item, failure, now, is_spent=is_spent, is_divisible=is_divisible
            )
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def attempt_died(
        self,
        attempt: int,
        failure: dict[str, Any],
        item: int | None,
        now: float,
        *,
        is_divisible: bool = False,
        is_doubted: bool = False,
        has_ended_template: bool = False,
    ) -> list[Command]:
        """The executor of an attempt died: a crash, memory, a time limit.

        `item`, `is_divisible` and `is_doubted` are as in `attempt_failed`. `has_ended_template`:
        with the process that forks executors, which the job's functions ended.
        """
        died = self._attempts.get(attempt)
        if died is None:
            return []
        task, ledger = died.task, self._ledgers[died.task.job.number]
        self._dispatcher.end(died, AttemptEvent.DIED, now)
        ledger.worker_answered(now)
        if self._retries.doubt(task, ledger, died.slot.worker, is_doubted):
            pass  # another worker tries it first
        elif has_ended_template:
            self._retries.after_template_death(task, ledger, failure, now)
        else:
            self._retries.after_death(task, ledger, item, failure, now, is_divisible=is_divisible)
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def attempt_unprepared(
        self, attempt: int, failure: dict[str, Any], now: float, *, is_doubted: bool = False
    ) -> list[Command]:
        """The job's setupfn failed in the executor of an attempt, or killed it.

        The task is tried in other executors, on other workers if there are any. `is_doubted` is as
        in `attempt_failed`.
        """
        unprepared = self._attempts.get(attempt)
        if unprepared is None:
            return []
        task, ledger = unprepared.task, self._ledgers[unprepared.task.job.number]
        self._dispatcher.end(unprepared, AttemptEvent.UNPREPARED, now)
        worker = unprepared.slot.worker
        if not self._retries.doubt(task, ledger, worker, is_doubted):
            self._retries.after_failed_setup(task, ledger, worker, failure, now)
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def was_recalled(self, attempt: int) -> bool:
        """Return whether a live attempt was recalled, so that its worker may return it."""
        recalled = self._attempts.get(attempt)
        return recalled is not None and recalled.state in (AttemptState.RECALLED, AttemptState.CONTESTED)

    def attempt_returned(self, attempt: int, now: float) -> list[Command]:
        """A worker returned an attempt that had not begun."""
        returned = self._attempts.get(attempt)
        if returned is None:
            return []
        task, ledger = returned.task, self._ledgers[returned.task.job.number]
        self._dispatcher.end(returned, AttemptEvent.RETURNED, now)
        ledger.give_back(task, returned.slot.worker)
        self._retries.requeue(task)
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def attempt_kept(self, attempt: int, now: float) -> list[Command]:
        """A worker refused a recall, since its executor has the attempt.

        Raises SchedulerError if there was no recall.
        """
        kept = self._attempts.get(attempt)
        if kept is None:
            return []
        self._dispatcher.keep(kept, now)
        return self._finish_event(now)

    def attempt_needs_content(self, attempt: int, now: float) -> list[Command]:
        """The files that the items of an attempt name are not there.

        Raises SchedulerError if their contents were sent with it.
        """
        lacking = self._attempts.get(attempt)
        if lacking is None:
            return []
        task, ledger, batch = lacking.task, self._ledgers[lacking.task.job.number], lacking.task.batch
        if lacking.had_content or batch is None:
            raise SchedulerError(f"attempt {attempt} has all its contents, and asks for them")
        self._dispatcher.end(lacking, AttemptEvent.LACKED_CONTENT, now)
        ledger.give_back(task, lacking.slot.worker)
        if batch.has_content:
            self._retries.requeue(task)
        elif not task.attempts and ledger.block(task, batch):
            self._commands.append(NeedContent(ledger.number, batch.number))
        self._lifecycle.advance(ledger, now)
        return self._finish_event(now)

    def tick(self, now: float, only: int | None = None) -> list[Command]:
        """Time has passed: warn, duplicate stragglers, end oneshot input; of all jobs, or one."""
        for ledger in [v for number, v in self._ledgers.items() if only is None or number == only]:
            self._lifecycle.warn_without_slots(ledger, now)
            self._lifecycle.advance(ledger, now)
            self._dispatcher.duplicate_stragglers(ledger, now)
        return self._finish_event(now)

    def _finish_event(self, now: float) -> list[Command]:
        """Assign tasks to slots with room, and return the commands of this event."""
        self._dispatcher.fill_slots(now)
        commands = self._commands[:]
        self._commands.clear()
        return commands
