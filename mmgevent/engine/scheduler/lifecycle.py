"""The life of a job, from its first grant of batches to its end, as commands to the server.

    map -> plan -> reduce -> finished      from every phase: failed

`JobLifecycle.advance` takes a job to its next phase after anything of it changed. Every job ends by
exactly one `FinishJob` or one `FailJob`. After that the scheduler no longer knows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmgevent.engine.scheduler.attempts import Task, Worker
from mmgevent.engine.scheduler.commands import (
    Allow,
    Command,
    EnoughInput,
    FailJob,
    FinishJob,
    ItemSkipped,
    Notice,
    PlanReduce,
    ReleaseBatch,
)
from mmgevent.engine.scheduler.dispatcher import Dispatcher
from mmgevent.engine.scheduler.ledger import Ledger
from mmgevent.engine.scheduler.oneshot import OneshotLedger
from mmgevent.engine.scheduler.roster import Roster
from mmgevent.engine.scheduler.rules import MAP, REDUCE, JobRules
from mmgevent.engine.scheduler.transitions import TaskEvent
from mmgevent.wire.positions import position_of


class JobLifecycle:
    """All jobs of one scheduler that are not over."""

    def __init__(self, roster: Roster, dispatcher: Dispatcher, commands: list[Command]):
        self._roster = roster
        self._dispatcher = dispatcher
        self._commands = commands  # commands of the current event
        self.ledgers: dict[int, Ledger] = {}  #: ledgers by job number

    def begin(self, job: int, rules: JobRules, now: float) -> None:
        """Add a job and grant it its first batches."""
        ledger: Ledger
        if rules.allocation == "oneshot":
            ledger = OneshotLedger(job, rules, now, self._roster)
        else:
            ledger = Ledger(job, rules, now)
        self.ledgers[job] = ledger
        self._roster.add_job(ledger, rules.needs, rules.owner)
        if not ledger.is_shared:
            for worker in self._roster.workers_for(ledger):
                ledger.worker_joined(worker, now)
        self.allow(ledger)

    def advance(self, ledger: Ledger, now: float) -> None:
        """Take a job to its next phase, or its end, if it is ready for that."""
        if ledger.is_over:
            return
        if ledger.phase == MAP:
            if not ledger.is_shared:
                self._distribute(ledger, now)
            if ledger.queue.is_ranked:
                ledger.queue.rank(ledger)
            if ledger.input.is_mapped:
                ledger.begin_plan()
                self._commands.append(PlanReduce(ledger.number))
            return
        if ledger.queue.is_ranked:
            ledger.queue.rank(ledger)
        if ledger.phase == REDUCE and not ledger.reduce_left:
            self._commands.append(FinishJob(ledger.number))
            self._remove(ledger)

    def allow(self, ledger: Ledger) -> None:
        """Let the driver send more batches, if it may."""
        allowed = ledger.grant_batches()
        if allowed is not None:
            self._commands.append(Allow(ledger.number, allowed))

    def release(self, ledger: Ledger, batch: int) -> None:
        """Release a batch of which nothing is left to do, and let the driver send more."""
        self._commands.append(ReleaseBatch(ledger.number, batch))
        self.allow(ledger)

    def fail(self, ledger: Ledger, failure: dict[str, Any], code: str, now: float) -> None:
        """End a job without success. Its attempts are revoked."""
        for attempt in list(ledger.live):
            self._dispatcher.revoke(attempt, now)
        self._commands.append(FailJob(ledger.number, failure, code))
        self._remove(ledger)

    def fail_if_limit_exceeded(self, ledger: Ledger, now: float) -> None:
        """End a job if more of its items were set aside than it allows."""
        if not ledger.is_over and ledger.input.exceeds_limit():
            failure = ledger.input.explain_limit(ledger.input.last_failure)
            self.fail(ledger, failure, "skipped", now)

    def workers_for(self, ledger: Ledger) -> Iterator[Worker]:
        """Yield the workers that may get tasks of a job, and do not leave."""
        return (worker for worker in self._roster.workers_for(ledger) if not worker.is_leaving)

    def withdraw(self, worker: Worker) -> dict[Ledger, None]:
        """Take back items that were meant for a worker that leaves; return the jobs concerned."""
        ledgers = (self.ledgers[job.number] for job in self._roster.jobs_for(worker))
        return {ledger: None for ledger in ledgers if ledger.withdraw(worker)}

    def drop(self, task: Task) -> None:
        """Drop a "oneshot" item that was lost with its worker, and report it."""
        assert task.batch is not None
        ledger, batch = self.ledgers[task.job.number], task.batch
        task.transition(TaskEvent.DROPPED)
        failure = {"kind": "lost", "function": "mapfn", "error": "its worker was lost", "item": task.lo}
        self._commands.append(ItemSkipped(ledger.number, batch.number, position_of(task.lo), failure))
        text = f"a worker was lost; item {task.lo} of batch {batch.number} is dropped"
        self._commands.append(Notice(ledger.number, text))
        if ledger.input.count_lost(batch):
            self.release(ledger, batch.number)

    def warn_without_slots(self, ledger: Ledger, now: float) -> None:
        """Warn the user of a job that no worker can serve it, once and after a while."""
        if ledger.should_warn(now):
            needs = ", ".join(sorted(ledger.rules.needs))
            text = f"no worker offers {needs}" if needs else "there are no workers"
            self._commands.append(Notice(ledger.number, f"{text}; the job waits for one"))

    def _distribute(self, ledger: Ledger, now: float) -> None:
        """Reserve items of a "oneshot" job; end its input once no further worker will get one."""
        ledger.distribute()
        self.allow(ledger)
        if not ledger.has_distributed_all(now):
            return
        if not ledger.input.has_ended:
            ledger.input.end()
            self._commands.append(EnoughInput(ledger.number))
        while ledger.waiting:
            self.drop(ledger.dequeue())

    def _remove(self, ledger: Ledger) -> None:
        del self.ledgers[ledger.number]
        ledger.end()
        self._roster.remove_job(ledger)
