"""What becomes of a task whose attempt ended without success: it is tried again, cut, or given up.

Who is to blame decides:

- a lost worker: nobody. The task waits again. But a task that `MAX_LOSSES` workers in a row began
  just before they were lost is to blame, and its job fails. If several are, it is that of the newest
  job: the workers did the others well before.
- a user exception: the item, `retries` times; without a known item the task.
- results that an executor cannot write, as on a full disk: the job, at once. Another attempt would
  make them all again, and end as this one did.
- an executor that died: the item or the task, `MAX_DEATHS` times.
- a setupfn that failed: the job, `MAX_UNPREPARED` times.
- functions that ended the process that forks executors: the job, `MAX_TEMPLATE_DEATHS` times.

A job that may set items aside goes on without the culprit. If nobody knows which item that is, the
task is halved until the culprit is alone.
"""

from __future__ import annotations

from typing import Any

from mmgevent.engine.scheduler.attempts import Task, Worker
from mmgevent.engine.scheduler.commands import Command, ItemSkipped
from mmgevent.engine.scheduler.dispatcher import Dispatcher
from mmgevent.engine.scheduler.input import Batch
from mmgevent.engine.scheduler.ledger import Ledger
from mmgevent.engine.scheduler.lifecycle import JobLifecycle
from mmgevent.engine.scheduler.transitions import AttemptEvent, TaskEvent
from mmgevent.wire.failures import advise_on_reduce, is_of_output, with_place, without_input
from mmgevent.wire.positions import MAX_DEPTH, WHOLE, entry_of, position_of

#: Executors that may die running one task before it is given up.
MAX_DEATHS = 3

#: Workers in a row that may be lost just after they began one task before its job is given up.
#: Machines that are taken away at random seldom hit the begin of one task even twice.
MAX_LOSSES = 10

#: Time between the begin of a task and the loss of its worker after which the task is not to blame,
#: seconds. What kills a worker on purpose or by its size does so at once.
LOSS_S = 5.0

#: Executors in which the job's setupfn may fail for one task before the job is given up.
MAX_UNPREPARED = 3

#: Processes that fork executors which a job may end before it is given up. Each costs its worker a
#: new one, 0.15 s, and a rest of the job.
MAX_TEMPLATE_DEATHS = 3


class Retries:
    """The policy of one scheduler for attempts that ended without success."""

    def __init__(self, lifecycle: JobLifecycle, dispatcher: Dispatcher, commands: list[Command]):
        self._lifecycle = lifecycle
        self._dispatcher = dispatcher
        self._commands = commands  # commands of the current event

    def requeue(self, task: Task) -> None:
        """Let a task wait again, before all others, unless another attempt of it is live."""
        if not task.attempts:
            task.transition(TaskEvent.FREED)
            task.job.enqueue(task, first=True)

    def end_all(self, worker: Worker, event: AttemptEvent, now: float) -> None:
        """End every attempt of a worker that gets nothing more: LOST or REVOKED."""
        touched = self._lifecycle.withdraw(worker)
        for slot in worker.slots:
            if slot.running is None:
                continue
            for attempt in (*reversed(slot.queued), slot.running):
                task = attempt.task
                touched[self._lifecycle.ledgers[task.job.number]] = None
                if event is AttemptEvent.REVOKED:
                    self._dispatcher.revoke(attempt, now)
                else:
                    self._dispatcher.end(attempt, event, now)
                if task.is_exclusive:
                    self._lifecycle.drop(task)
                else:
                    self.requeue(task)
        for ledger in touched:
            self._lifecycle.advance(ledger, now)

    def doubt(self, task: Task, ledger: Ledger, worker: Worker, is_doubted: bool) -> bool:
        """Let a worker that has done tasks try a task that failed, if that `is_doubted`.

        Until it has, the job gives nothing to workers that never did a task. So it does not matter
        how many of those fail it, or how often one of them comes again.

        Returns False if the failure counts: no worker that has done tasks can try the task.
        """
        is_doubted = is_doubted and self._distrust(task, ledger, worker)
        if is_doubted:
            self.requeue(task)
        else:
            ledger.settle(task)
        return is_doubted

    def _distrust(self, task: Task, ledger: Ledger, worker: Worker) -> bool:
        """Note that nobody vouches for what a worker says of a task, if another one can try it."""
        workers = list(self._lifecycle.workers_for(ledger))
        avoided = ledger.avoided_now()
        if task.is_exclusive or not any(w.has_worked and w not in avoided for w in workers):
            return False
        ledger.doubted[task] = None
        ledger.avoid_strangers(w for w in workers if not w.has_worked)
        ledger.retry_setup(task, worker)
        return True

    def count_losses(self, worker: Worker, now: float, *, is_doubted: bool) -> list[Task]:
        """Count the loss of a worker for the tasks that it had just begun, and clear the others.

        The loss of a worker for which nobody vouches does not count if another one can try the task.
        Returns the tasks that have taken too many workers down.
        """
        running = [slot.running for slot in worker.slots if slot.running is not None]
        for attempt in running:
            task = attempt.task
            if now - (attempt.started_s or 0.0) > LOSS_S:
                task.losses = 0
            elif not (is_doubted and self._distrust(task, self._lifecycle.ledgers[task.job.number], worker)):
                task.losses += 1
        return [attempt.task for attempt in running if attempt.task.losses >= MAX_LOSSES]

    def after_losses(self, suspects: list[Task], now: float) -> None:
        """Fail the newest job whose task has taken too many workers down, if there is one."""
        task = max(suspects, key=lambda task: task.job.number, default=None)
        ledger = self._lifecycle.ledgers.get(task.job.number) if task is not None else None
        if task is None or ledger is None or ledger.is_over:
            return
        text = f"{task.losses} workers were lost soon after they began {_name_of(task)}"
        advice = "find out in the logs of the workers why they ended; no other task did this to them"
        self._lifecycle.fail(ledger, {"kind": "lost", "error": text, "advice": advice}, "failed", now)

    def after_failure(
        self,
        task: Task,
        ledger: Ledger,
        item: int | None,
        failure: dict[str, Any],
        now: float,
        *,
        is_spent: bool,
        is_divisible: bool,
    ) -> None:
        """Decide after a user exception. An item that `is_spent` was retried in its executor."""
        item = _find_item(task, item)
        if task.batch is None and is_of_output(failure):
            self._give_up(task, ledger, item, failure, now, is_divisible=is_divisible)
        elif not (is_spent and item is not None) and ledger.count_failure(task, item) <= ledger.retries:
            self.requeue(task)
        else:
            self._give_up(task, ledger, item, failure, now, is_divisible=is_divisible)

    def after_death(
        self,
        task: Task,
        ledger: Ledger,
        item: int | None,
        failure: dict[str, Any],
        now: float,
        *,
        is_divisible: bool,
    ) -> None:
        """Decide after an executor died."""
        item = _find_item(task, item)
        is_first_fatal = task.is_exclusive or task.is_suspect
        if ledger.count_death(task, item) < (1 if is_first_fatal else MAX_DEATHS):
            self.requeue(task)
        elif item is None and _can_halve(task, is_divisible):
            self._halve(task, ledger, now)
        else:
            self._give_up(task, ledger, item, failure, now, is_divisible=is_divisible)

    def after_template_death(self, task: Task, ledger: Ledger, failure: dict[str, Any], now: float) -> None:
        """Decide after a job ended the process that forks executors: the task is not to blame."""
        ledger.template_deaths += 1
        self.requeue(task)
        if ledger.template_deaths >= MAX_TEMPLATE_DEATHS:
            self._lifecycle.fail(ledger, blame_for_templates(failure), "failed", now)

    def after_failed_setup(
        self, task: Task, ledger: Ledger, worker: Worker, failure: dict[str, Any], now: float
    ) -> None:
        """Decide after setupfn failed on a worker: neither items nor the task are to blame."""
        task.unprepared += 1
        if task.unprepared >= MAX_UNPREPARED and not task.attempts:
            advice = (
                f"it failed in {task.unprepared} executors, and nothing of the job can run before it has run"
            )
            self._lifecycle.fail(ledger, {"advice": advice, **failure}, "failed", now)
        else:
            ledger.retry_setup(task, worker)
            self.requeue(task)

    def _give_up(
        self,
        task: Task,
        ledger: Ledger,
        item: int | None,
        failure: dict[str, Any],
        now: float,
        *,
        is_divisible: bool,
    ) -> None:
        """Give up an item, or a task whose culprit is unknown, that has failed too often."""
        batch, counts = task.batch, ledger.input
        if batch is None and ledger.rules.max_skipped:
            failure = advise_on_reduce(failure)
        if batch is None or not ledger.rules.max_skipped:
            if batch is not None:
                failure = with_place(failure, batch.number, item)
            self._lifecycle.fail(ledger, failure, "failed", now)
            return
        if item is None and _can_halve(task, is_divisible):
            self._halve(task, ledger, now)
            return
        self._take_off(task, now)
        if counts.exceeds_limit(1):
            failure = counts.explain_limit(with_place(failure, batch.number, item))
            self._lifecycle.fail(ledger, failure, "skipped", now)
            return
        if item is None:
            item = _only_position(task, batch)
        failure = without_input(failure)
        is_released = ledger.set_aside(task, batch, item, failure)
        self._commands.append(ItemSkipped(ledger.number, batch.number, item, failure))
        if is_released:
            self._lifecycle.release(ledger, batch.number)
        if task.open_entries:
            ledger.enqueue(task, first=True)
        else:
            task.transition(TaskEvent.DROPPED)
            self._lifecycle.fail_if_limit_exceeded(ledger, now)

    def _halve(self, task: Task, ledger: Ledger, now: float) -> None:
        """Cut a task whose culprit is unknown in two, and so on until the culprit is alone.

        From now on the first failure counts. Three for each halving would cost thirty executors to
        find one item of a thousand.
        """
        self._take_off(task, now)
        task.failures = min(task.failures, ledger.retries)
        task.is_suspect = True
        for half in reversed(ledger.halve(task)):
            ledger.enqueue(half, first=True)

    def _take_off(self, task: Task, now: float) -> None:
        """End whatever attempts a task still has, so that it can be changed."""
        for attempt in task.attempts[:]:
            self._dispatcher.revoke(attempt, now)
        task.transition(TaskEvent.FREED)


def blame_for_templates(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the failure of a job that ended too many templates, from that of the last one."""
    error = (
        f"tasks of this job ended the process that forks executors {MAX_TEMPLATE_DEATHS} times; "
        f"the last time: {failure.get('error')}"
    )
    return {
        **failure,
        "error": error,
        "advice": "its functions must not signal, stop or trace their parent process",
    }


def _name_of(task: Task) -> str:
    if task.batch is None:
        return f"reduce task {task.number}"
    return f"items {task.lo} to {task.hi - 1} of batch {task.batch.number}"


def _find_item(task: Task, item: int | None) -> int | None:
    """Return this position if it is one of the task's open items, else None."""
    if item is None or task.batch is None or not task.lo <= entry_of(item) < task.hi or item in task.skip:
        return None
    return item


def _can_halve(task: Task, is_divisible: bool) -> bool:
    """Return whether a task whose culprit is unknown can be cut to find it."""
    if task.open_entries > 1:
        return True
    if task.batch is None or not is_divisible:
        return False
    return task.batch.has_refs and task.part[1] < MAX_DEPTH


def _only_position(task: Task, batch: Batch) -> int:
    """Return what a task of one entry is set aside as: the item, or all that its ref stands for."""
    place = WHOLE if batch.has_refs else 0
    return next(
        position
        for position in (position_of(entry, place) for entry in range(task.lo, task.hi))
        if position not in task.skip
    )
