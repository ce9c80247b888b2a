"""Pass events of peers to the scheduler, and carry out its commands.

Peers (`peers`) check frames and call the methods here. Each event is a method of the scheduler,
called with the numbers that the peer named. The scheduler answers with commands, which `actions`
turns into frames and calls of the stores.

No method blocks. Work that waits for the disk or a slow reader runs in a greenlet of its job.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from mmgevent.engine.net.link import Link
from mmgevent.engine.scheduler import commands
from mmgevent.engine.scheduler.scheduler import Scheduler
from mmgevent.engine.server.actions import Actions
from mmgevent.engine.server.attempts import Attempts, HostedAttempt, note_end
from mmgevent.engine.server.deaths import record_death
from mmgevent.engine.server.hosted import HostedJob, internal_failure
from mmgevent.engine.server.jobs import Jobs
from mmgevent.engine.server.kept_results import StageInput
from mmgevent.engine.server.looking.lookout import ServerLookout
from mmgevent.engine.server.looking.orders import Orders
from mmgevent.engine.server.oversight import Oversight
from mmgevent.engine.server.partitioning import REDUCE_TASKS_PER_SLOT, choose_partitions, cut_partitions
from mmgevent.engine.server.watchers import MAX_REASON_BYTES, Watchers
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.errors import MmgeventError, ProtocolError, SchedulerError
from mmgevent.machine.logs import get_log
from mmgevent.wire.deaths import describe_death
from mmgevent.wire.failures import bound, shorten
from mmgevent.wire.messages import MAX_NOTICE_BYTES

log = get_log(__name__)


class Conductor:
    """Brings jobs and workers together."""

    def __init__(self, jobs: Jobs, on_start: Callable[[], None]):
        """`on_start` is called when a job starts: from then on `tick` must be called."""
        self.jobs = jobs
        self.workers = Workers()
        self.watchers = Watchers(self.workers)
        self.attempts = Attempts(self.workers, self._attempt_stored)
        self.scheduler = Scheduler(random.Random())
        self.oversight = Oversight(self.workers)
        #: Address of the server that takes jobs in place of this one, or None.
        self.moved_to: str | None = None
        orders = Orders(jobs, self.workers, self._cancel_for, self.drain_worker)
        self.lookout = ServerLookout(jobs, self.workers, self.scheduler, orders)
        self._on_start = on_start
        self._last_owner = 0
        self._busy = 0  # slots that have attempts, as counted while progress is sent
        self._actions = Actions(self.jobs, self.workers, self.attempts)
        self._handlers: dict[type, Callable[[Any], Iterable[commands.Command] | None]] = {
            **self._actions.handlers,
            commands.PlanReduce: self._plan_reduce,
            commands.Allow: self._allow,
        }

    # scheduler

    def report(self, event: Callable[..., list[commands.Command]], *args: Any, **facts: Any) -> None:
        """Call an event method of the scheduler and carry out its commands.

        Raises ProtocolError for an event that cannot have happened: the peer broke the rules, and
        nothing has changed.
        """
        self.run(self._ask(event, *args, **facts))

    @staticmethod
    def _ask(
        event: Callable[..., list[commands.Command]], *args: Any, **facts: Any
    ) -> list[commands.Command]:
        try:
            return event(*args, time.monotonic(), **facts)
        except SchedulerError as error:
            raise ProtocolError(str(error)) from error

    def run(self, made: Iterable[commands.Command]) -> None:
        """Carry out commands in order, and the commands that follow from them.

        A command that fails ends its own job, never the link of the peer that caused it.
        """
        queue = deque(made)
        while queue:
            command = queue.popleft()
            try:
                queue.extend(self._handlers[type(command)](command) or ())
            except Exception as error:
                log.exception("a command failed: %s", type(command).__name__)
                queue.extend(self._give_up(command, error))

    def _give_up(self, command: commands.Command, error: Exception) -> Iterable[commands.Command]:
        """Fail the job of a command that could not be carried out."""
        if isinstance(command, commands.FailJob):  # the failure could not even be sent
            self._actions.drop_job(self.jobs[command.job])
            return ()
        return self.scheduler.fail_job(command.job, internal_failure(error), time.monotonic())

    def _plan_reduce(self, c: commands.PlanReduce) -> list[commands.Command]:
        job = self.jobs[c.job]
        job.figures.reduce_began_s = time.monotonic()
        sizes = job.store.partition_sizes()
        sizes.pop(job.partitions, None)  # items that were set aside
        delivered = frozenset(job.delivered)
        job.sizes = {p: n for p, n in sizes.items() if p not in delivered}
        job.history.shape.note_partitions(job.sizes)
        job.figures.shuffled_bytes = sum(job.sizes.values())
        groups = cut_partitions(job.sizes, REDUCE_TASKS_PER_SLOT * max(1, self.workers.slot_count))
        return self.scheduler.plan_reduce(c.job, groups, time.monotonic())

    def _allow(self, c: commands.Allow) -> list[commands.Command]:
        self._actions.allow(c)
        return self._feed_stage(self.jobs[c.job])

    def _feed_stage(self, job: HostedJob) -> list[commands.Command]:
        """Give a job whose input is results of another as many batches as it may have now."""
        if not isinstance(job.input, StageInput):
            return []
        made: list[commands.Command] = []
        now = time.monotonic()
        try:
            batches = list(job.input.next_batches())
        except MmgeventError as error:
            return self.scheduler.fail_job(job.number, {"kind": "record", "error": str(error)}, now)
        for number, batch in batches:
            made += self.scheduler.add_batch(job.number, number, batch.items, now)
        if job.input.ends_now():
            made += self.scheduler.end_input(job.number, now)
        return made

    def tick(self) -> None:
        """Let the scheduler act on the time that has passed.

        A job whose tick fails fails by name. Raises what fails without any job.
        """
        now = time.monotonic()
        for worker in self.oversight.readmit_due(now):
            self.run(self.scheduler.readmit_worker(worker.number, now))
        try:
            made = self.scheduler.tick(now)
        except Exception:
            log.exception("a tick of the server failed: each job gets one of its own")
            self._for_each_job(lambda job: self.run(self.scheduler.tick(time.monotonic(), only=job.number)))
        else:
            self.run(made)

    def _for_each_job(self, act: Callable[[HostedJob], None]) -> None:
        """Do something for every job that is scheduled. A job for which it fails fails by name."""
        for job in list(self.jobs):
            if not job.is_scheduled or job not in self.jobs:  # one before it may have ended it
                continue
            try:
                act(job)
            except Exception as error:
                log.exception("job failed by an internal error: %s", job.id)
                self._fail_job(job, internal_failure(error))

    # workers

    def add_worker(self, worker: WorkerRecord) -> None:
        """Take a worker that said hello."""
        self.workers.add(worker)
        log.info("worker joined: %s with %d slots", worker.link.name, worker.slots)
        self.watchers.joined(worker)
        now = time.monotonic()
        self.run(self.scheduler.add_worker(worker.number, worker.slots, worker.offers, now))

    def remove_worker(self, worker: WorkerRecord, reason: str) -> None:
        """Forget a worker whose link closed; its attempts are lost."""
        self.workers.remove(worker)
        self.oversight.forget(worker)
        self.lookout.note_left(worker, reason)
        name = worker.link.name
        log.info("worker left: %s: %s", name, reason)
        self.watchers.left(worker.number, reason)
        lost: dict[HostedJob, list[HostedAttempt]] = {}
        for number in sorted(worker.attempts):
            attempt = self.attempts[number]
            lost.setdefault(attempt.job, []).append(attempt)
            note_end(attempt, "lost", {"kind": "lost", "error": reason})
        is_innocent = worker.link.is_silent or worker.is_dismissed
        is_doubted = self.oversight.doubts(worker)
        made = self.scheduler.remove_worker(
            worker.number, time.monotonic(), is_innocent=is_innocent, is_doubted=is_doubted
        )
        error = f"worker {name} was lost ({shorten(reason, MAX_REASON_BYTES)})"
        failure = {"kind": "lost", "worker": name, "error": error}
        for job, attempts in lost.items():
            job.send("died", failure=record_death(failure, attempts, made, self.workers))
        self.run(made)

    def drain_worker(self, worker: WorkerRecord) -> None:
        """Give no more attempts to a worker that is about to leave."""
        self.workers.retire(worker)
        self.report(self.scheduler.drain_worker, worker.number)

    def set_aside_if_due(self, worker: WorkerRecord) -> None:
        """Set a worker aside that does not do its share, and say so to the drivers it worked for."""
        reason = self.oversight.find_fault(worker)
        if reason is None:
            return
        now = time.monotonic()
        seconds = self.oversight.set_aside(worker, reason, now)
        text = f"worker {worker.link.name} is set aside for {seconds:.0f} s: {reason}"
        for job in self.jobs:
            if job.number in worker.jobs:
                job.send("notice", text=shorten(text, MAX_NOTICE_BYTES))
        self.run(self.scheduler.set_worker_aside(worker.number, now))

    # attempts

    def _attempt_stored(self, attempt: HostedAttempt, done: dict[str, Any]) -> None:
        """Report an attempt that is done and whose output is stored."""
        worker = self.workers.get(attempt.worker)
        doubted = None if worker is None else self.oversight.note_done(worker, attempt)
        self._report_done(attempt, done)
        if doubted is not None:
            self.set_aside_if_due(doubted)

    def _report_done(self, attempt: HostedAttempt, done: dict[str, Any]) -> None:
        if not attempt.is_map:
            self.report(self.scheduler.attempt_done, attempt.number)
            return
        job = attempt.job
        job.input.count_mapped(attempt.batch, attempt.hi - attempt.lo, done["seconds"])
        skipped = job.store.staged_records(attempt.number, job.partitions) if "skipped" in done else 0
        failure = None
        if skipped:
            failure = bound({**done.get("failure", {}), "worker": self.workers.name_of(attempt.worker)})
        self.report(
            self.scheduler.attempt_done, attempt.number, items=done["items"], skipped=skipped, failure=failure
        )

    def report_failed(
        self, attempt: HostedAttempt, failure: dict[str, Any], item: int | None, **facts: Any
    ) -> None:
        """Report an attempt that a user exception ended. `facts`: of `Scheduler.attempt_failed`."""
        made = self._ask(self.scheduler.attempt_failed, attempt.number, failure, item, **facts)
        attempt.job.history.note_error(failure)
        if not any(isinstance(c, (commands.FailJob, commands.ItemSkipped)) for c in made):
            attempt.job.figures.add_retries(1)
        self.run(made)

    def report_death(
        self, attempt: HostedAttempt, failure: dict[str, Any], item: int | None, **facts: bool
    ) -> None:
        """Report an executor that died to the scheduler, and the outcome to the driver.

        `facts` are those of `Scheduler.attempt_died`.
        """
        worker = self.workers[attempt.worker]
        worker.note_death(str(failure.get("error", "")))
        worker.standing.excuse_returns()
        is_doubted = self.oversight.note_failure(worker, attempt)
        made = self._ask(
            self.scheduler.attempt_died, attempt.number, failure, item, is_doubted=is_doubted, **facts
        )
        death = record_death(failure, [attempt], made, self.workers)
        note_end(attempt, "died", failure, item)
        attempt.job.history.note_error(failure)
        attempt.job.send("died", attempt.task, failure=death, item=item)
        self.run(made)
        self.set_aside_if_due(worker)

    def report_unprepared(self, attempt: HostedAttempt, failure: dict[str, Any], has_died: bool) -> None:
        """Report an executor in which the job's setupfn failed, or which died in it.

        The driver gets a notice, unless the failure ends the job.
        """
        worker = self.workers[attempt.worker]
        worker.standing.excuse_returns()
        is_doubted = self.oversight.doubts(worker)
        made = self._ask(self.scheduler.attempt_unprepared, attempt.number, failure, is_doubted=is_doubted)
        note_end(attempt, "unprepared", failure)
        attempt.job.history.note_error(failure)
        death = record_death(failure, [attempt], made, self.workers)
        del death["task"]  # the task had not begun and is not to blame
        if has_died:
            worker.note_death(str(failure.get("error", "")))
            attempt.job.send("died", attempt.task, failure=death)
        elif death["outcome"] != "failed":
            text = shorten(describe_death(death) or "", MAX_NOTICE_BYTES)
            once = f"{failure.get('worker')} {failure.get('error')}"
            attempt.job.send("notice", text=text, once=shorten(once, MAX_NOTICE_BYTES))
        self.run(made)

    # jobs

    def number_owner(self) -> int:
        """Return a number for a driver, by which its jobs share slots with those of others."""
        self._last_owner += 1
        return self._last_owner

    def add_job(
        self,
        link: Link,
        driver_job: int,
        submit: dict[str, Any],
        owner: int,
        source: HostedJob | None = None,
    ) -> HostedJob:
        """Take a job from a driver; `start_job` schedules it once its code is here.

        `owner` is the number of the driver. `source`: a job whose kept results are the input.

        Raises MmgeventError if the server cannot take the job.
        """
        job = self.jobs.admit(link, driver_job, submit, self._fail_job)
        job.rules = replace(job.rules, owner=owner)
        job.history.submitter = str(self.lookout.who(link))
        if source is not None:
            self.jobs.take_kept(job, source, self.workers.slot_count)
        return job

    def start_job(self, job: HostedJob) -> None:
        """Schedule a job, and let its driver send the first batches."""
        job.partitions = job.options.get("partitions") or choose_partitions(self.workers.slot_count)
        job.spawn(self._actions.deliver, job)
        self._on_start()
        made = self.scheduler.add_job(job.number, job.rules, time.monotonic())
        job.is_scheduled = True
        allowed = max((c.batches for c in made if isinstance(c, commands.Allow)), default=0)
        job.input.allowed = allowed
        slots = self.workers.slot_count
        job.send("accepted", id=job.id, slots=slots, partitions=job.partitions, batches=allowed)
        log.info("job accepted: %s %s, submitted by %s", job.id, job.name, self.lookout.who(job.link))
        self.run(made)
        if job in self.jobs:
            self.run(self._feed_stage(job))  # of no results, there is nothing to allow

    def take_batch(self, job: HostedJob, number: int) -> None:
        """Report a batch that arrived whole."""
        batch = job.input.batches[number]
        if batch.is_content:
            self.report(self.scheduler.content_arrived, job.number, number)
            return
        job.input.batch_count += 1
        self.report(self.scheduler.add_batch, job.number, number, batch.items, has_refs=batch.has_refs)
        self.end_input_if_complete(job)

    def end_input_if_complete(self, job: HostedJob) -> None:
        """Report the end of a job's input if the last batch is here."""
        if job.input.is_complete and job in self.jobs:
            self.report(self.scheduler.end_input, job.number)

    def refuse_input(self, job: HostedJob, error: MmgeventError) -> None:
        """Fail a job whose driver announced a batch that the server does not take."""
        self._fail_job(job, {"kind": "datasource", "error": str(error)})

    def _fail_job(self, job: HostedJob, failure: dict[str, Any]) -> None:
        """End a job with a failure that the scheduler does not know of."""
        self.run(self.scheduler.fail_job(job.number, failure, time.monotonic()))
        # The scheduler forgets a job before the results are sent.
        self._actions.fail_job(commands.FailJob(job.number, failure, "failed"))

    def cancel(self, job: HostedJob) -> None:
        """End a job that its driver no longer wants."""
        self.run(self.scheduler.cancel_job(job.number, time.monotonic()))
        self._actions.drop_job(job)  # the scheduler does not know a job that was never started

    def _cancel_for(self, job: HostedJob, why: str) -> None:
        """End a job that somebody else than its driver cancels, and say so to its driver."""
        end = commands.FailJob(job.number, {"kind": "cancelled", "error": why}, "cancelled")
        made = self.scheduler.cancel_job(job.number, time.monotonic())
        self.run(end if isinstance(command, commands.FailJob) else command for command in made)
        self._actions.fail_job(end)  # the scheduler does not know a job whose code is on the way

    def send_progress(self) -> None:
        """Send each driver the progress of its jobs."""
        self._busy = 0
        self._for_each_job(self._send_progress)
        self.jobs.histories.sample(self._busy, self.workers.slot_count)

    def _send_progress(self, job: HostedJob) -> None:
        job.tell_task_ends()
        status = self.scheduler.status(job.number)
        self._busy += status.busy
        job.figures.note_slots(status.slots, time.monotonic())
        job.send_progress(
            status.phase,
            done=status.done,
            total=job.input.known_items if status.total is None else status.total,
            waiting=status.waiting,
            running=status.running,
            workers=len(self.workers),
            slots=self.workers.slot_count,
            bytes=job.input.weight_done,
            busy=status.busy,
            spilled=job.store.spilled_bytes,
        )
