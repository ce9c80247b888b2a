"""Carry out the commands of the scheduler: frames to workers and drivers, calls of the stores.

Nothing here decides anything, and no method blocks.  The one command that asks the scheduler back,
`PlanReduce`, is in `conductor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mmgevent.engine.scheduler import commands
from mmgevent.engine.server.attempts import Attempts, HostedAttempt
from mmgevent.engine.server.hosted import HostedJob
from mmgevent.engine.server.jobs import Jobs
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.machine.logs import get_log
from mmgevent.wire.causes import split_by_cause
from mmgevent.wire.messages import control
from mmgevent.wire.positions import ALL

log = get_log(__name__)


class Actions:
    """What the server does when the scheduler says so."""

    def __init__(self, jobs: Jobs, workers: Workers, attempts: Attempts):
        self._jobs = jobs
        self._workers = workers
        self._attempts = attempts
        #: {type of a command: method}
        self.handlers: dict[type, Callable[[Any], None]] = {
            commands.Assign: self._assign,
            commands.Recall: self._recall,
            commands.Revoke: self._revoke,
            commands.Commit: self._commit,
            commands.Discard: self._discard,
            commands.ReleaseBatch: self._release_batch,
            commands.NeedContent: self._need_content,
            commands.EnoughInput: self._enough_input,
            commands.FinishJob: self._finish_job,
            commands.FailJob: self.fail_job,
            commands.ItemSkipped: self._item_skipped,
            commands.Notice: self._notice,
        }

    # attempts

    def _assign(self, c: commands.Assign) -> None:
        job, worker = self._jobs[c.job], self._workers[c.worker]
        attempt = HostedAttempt(c.attempt, job, c.worker, c.task)
        self._attempts.add(attempt)
        attempt.track = job.history.tracks.begin(
            c.worker, c.slot, worker.link.name, c.attempt, c.task, c.phase, time.monotonic()
        )
        if job.task_log is not None:
            job.task_log.assign(c, attempt, worker.link.name)
        self._send_code(worker, job)
        fields: dict[str, Any] = {"phase": c.phase, "slot": c.slot, "partitions": job.partitions}
        if c.phase == "map":
            attempt.batch, attempt.lo, attempt.hi, attempt.part = c.batch, c.lo, c.hi, c.part
            fields.update(lo=c.lo, hi=c.hi, skip=list(c.skip) or None)
            if c.part != ALL:
                fields["part"] = list(c.part)
            attempt.send_batch(worker.link, fields)
        else:
            attempt.partitions = c.partitions
            attempt.send_partitions(worker.link, fields)

    @staticmethod
    def _send_code(worker: WorkerRecord, job: HostedJob) -> None:
        """Send a worker the code of a job, unless it has the code."""
        if job.number not in worker.jobs:
            worker.jobs.add(job.number)
            job.send_code(worker.link, with_context=worker.is_local)

    def _recall(self, c: commands.Recall) -> None:
        attempt = self._attempts[c.attempt]
        self._workers[c.worker].link.send(control("recall", *attempt.lane))

    def _revoke(self, c: commands.Revoke) -> None:
        worker = self._workers[c.worker]
        lane = (c.job, c.task, c.attempt)
        worker.link.drop_lane(lane)
        worker.link.send(control("revoke", *lane))
        worker.standing.excuse_returns()  # those behind it in its executor

    def _commit(self, c: commands.Commit) -> None:
        attempt = self._attempts.end(c.attempt)
        job = attempt.job
        counters = {} if attempt.done is None else attempt.done.get("counters", {})
        seconds = None if attempt.done is None else attempt.done["seconds"]
        job.history.tracks.end(attempt.track, c.attempt, "done", seconds, time.monotonic())
        if attempt.done is not None:
            job.figures.add(attempt.done, is_map=c.phase == "map")
            if "largest" in attempt.done:
                job.history.shape.note_keys(attempt.done["largest"], self._workers.name_of(attempt.worker))
        if job.task_log is not None:
            job.task_log.end(attempt, is_committed=True)
        if c.phase == "map":
            job.signals.counters.add(counters)
            output = job.store.commit_map(c.attempt, c.batch, c.lo, c.part)
            if attempt.done is not None and "skipped" in attempt.done:
                worker = self._workers.name_of(attempt.worker)
                _note_set_aside(job, output.count(job.partitions), attempt.done, worker)
                job.delivery.add_set_aside(c.task, job.partitions, output, c.batch, worker)
        elif job.kept is not None:
            job.signals.counters.add(counters)
            job.kept.add(c.task, job.store.commit_reduce(c.attempt))
        else:
            keys = 0 if attempt.done is None else attempt.done["groups"]
            job.delivery.add(c.task, attempt.partitions, job.store.commit_reduce(c.attempt), keys, counters)

    def _discard(self, c: commands.Discard) -> None:
        attempt = self._attempts.end(c.attempt)
        attempt.job.history.tracks.end(
            attempt.track,
            c.attempt,
            attempt.outcome or ("" if attempt.done is None else "duplicate"),
            None if attempt.done is None else attempt.done["seconds"],
            time.monotonic(),
            attempt.error,
        )
        if attempt.job.task_log is not None:
            attempt.job.task_log.end(attempt, is_committed=False)
        attempt.job.store.discard(c.attempt)
        worker = self._workers.get(attempt.worker)
        if worker is not None:
            worker.link.drop_lane(attempt.lane)

    # input

    def _release_batch(self, c: commands.ReleaseBatch) -> None:
        self._jobs[c.job].input.release(c.batch)

    def _need_content(self, c: commands.NeedContent) -> None:
        self._jobs[c.job].send("need_content", task=c.batch)

    def allow(self, c: commands.Allow) -> None:
        """Let the driver of a job send more batches, and say how fast the job is."""
        job = self._jobs[c.job]
        job.input.allowed = c.batches
        job.send(
            "allow",
            batches=c.batches,
            items=job.input.items_done,
            seconds=job.input.seconds_done,
            weight=job.input.weight_done,
            slots=self._workers.slot_count,
        )

    def _enough_input(self, c: commands.EnoughInput) -> None:
        self._jobs[c.job].send("enough")

    # the end of jobs, and messages about them

    def _finish_job(self, c: commands.FinishJob) -> None:
        job = self._jobs[c.job]
        job.is_scheduled = False
        job.figures.end(self._workers.slot_count, time.monotonic())
        job.end_progress()
        job.input.end()
        job.store.free_committed()
        job.delivery.end()
        self._end_at_workers(job)

    def fail_job(self, c: commands.FailJob) -> None:
        """End a job with a failure; a job that is over stays as it is."""
        job = self._jobs.get(c.job)
        if job is not None:
            job.tell_task_ends(is_last=True)
            job.signals.prints.end()
            job.figures.end(self._workers.slot_count, time.monotonic())
            job.send("job_failed", failure=c.failure, code=c.code, stats=job.stats())
            error = str(c.failure.get("error", c.code))
            job.history.note_outcome("cancelled" if c.code == "cancelled" else "failed", error)
            log.info("job failed: %s: %s", job.id, error)
            self.drop_job(job)

    def _item_skipped(self, c: commands.ItemSkipped) -> None:
        job = self._jobs[c.job]
        job.history.note_error(c.failure, count=0, set_aside=1)
        job.send("skipped", failure=c.failure, batch=c.batch, item=c.item)

    def _notice(self, c: commands.Notice) -> None:
        self._jobs[c.job].send("notice", text=c.text)

    def deliver(self, job: HostedJob) -> None:
        """Send the driver all results of a job, then forget the job (blocks).

        A job whose results are kept stays until another takes them, or its driver cancels it.
        """
        job.send_results()
        log.info("job done: %s", job.id)
        job.history.note_outcome("done")
        if job.kept is None:
            self.drop_job(job)

    def drop_job(self, job: HostedJob) -> None:
        """Forget a job, here and at workers; a job that is over stays as it is."""
        if job in self._jobs:
            self._end_at_workers(job)
            self._jobs.remove(job)

    def _end_at_workers(self, job: HostedJob) -> None:
        for worker in self._workers:
            if job.number in worker.jobs:
                worker.jobs.discard(job.number)
                worker.link.drop_lane((job.number, 0, 0))
                worker.link.send(control("job_end", job.number))


def _note_set_aside(job: HostedJob, count: int, done: dict[str, Any], worker: str) -> None:
    """Remember the items that a committed attempt set aside, for those who look."""
    for items, failure in split_by_cause(done, count):
        job.history.note_error({**failure, "worker": worker}, count=items, set_aside=items)
