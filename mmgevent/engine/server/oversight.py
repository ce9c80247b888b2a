"""Oversight of the workers of one server: whose word is doubted, and who is set aside.

What is counted, and the limits, are in `standing`.  This module knows who did which task: a failure
counts against a worker if others get on with the same job, and more if another did the same task.

A worker that has never done a task is not believed when it says that a task failed or killed its
executor, if other workers here have done tasks: another one tries that task first.  So a worker
that fails everything ends no job, and a new machine that lacks what a job needs does not either.
"""

from __future__ import annotations

from mmgevent.engine.server.attempts import HostedAttempt
from mmgevent.engine.server.standing import MAX_DOUBTS
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.machine.logs import get_log

log = get_log(__name__)


class Oversight:
    """What the workers of one server have done of late, together."""

    def __init__(self, workers: Workers):
        self._workers = workers
        self._vouched: set[int] = set()  # workers present that have done a task
        self._aside: dict[int, WorkerRecord] = {}

    def forget(self, worker: WorkerRecord) -> None:
        """Forget a worker that left."""
        self._vouched.discard(worker.number)
        self._aside.pop(worker.number, None)

    def note_done(self, worker: WorkerRecord, attempt: HostedAttempt) -> WorkerRecord | None:
        """Note that a worker did a task; return a worker that had said that it fails, or None."""
        standing, job = worker.standing, attempt.job
        if not standing.has_worked:
            self._vouched.add(worker.number)
        standing.note_done()
        job.note_done_by(worker.number)
        if not job.doubts:
            return None
        doubted = self._workers.get(job.doubts.pop(attempt.task, 0))
        if doubted is None or doubted is worker:
            return None
        doubted.standing.contradictions += 1
        return doubted

    def note_failure(self, worker: WorkerRecord, attempt: HostedAttempt) -> bool:
        """Note that a worker says that a task failed; return whether that is doubted."""
        job = attempt.job
        if any(number != worker.number for number in job.done_by):
            worker.standing.note_failure((job.number, attempt.task))
        is_doubted = self.doubts(worker)
        if is_doubted and len(job.doubts) < MAX_DOUBTS:
            job.doubts[attempt.task] = worker.number
        return is_doubted

    def doubts(self, worker: WorkerRecord) -> bool:
        """Return whether nobody vouches for what a worker says of tasks, while others have done some."""
        return bool(self._vouched) and not worker.standing.has_worked and not worker.is_local

    def find_fault(self, worker: WorkerRecord) -> str | None:
        """Return why a worker is to be set aside now, or None."""
        if worker.is_local or worker.is_leaving or worker.standing.reason:
            return None
        return worker.standing.find_fault()

    def set_aside(self, worker: WorkerRecord, reason: str, now: float) -> float:
        """Set a worker aside; return for how many seconds."""
        self._aside[worker.number] = worker
        seconds = self._workers.set_aside(worker, reason, now)
        log.warning("worker set aside for %.0f s: %s: %s", seconds, worker.link.name, reason)
        return seconds

    def readmit_due(self, now: float) -> list[WorkerRecord]:
        """Readmit the workers whose time is over; return them."""
        is_alone = not self._workers.slot_count
        due = [w for w in self._aside.values() if w.standing.is_due(now, is_alone=is_alone)]
        for worker in due:
            del self._aside[worker.number]
            self._workers.readmit(worker)
            log.info("worker gets tasks again: %s", worker.link.name)
        return [worker for worker in due if not worker.is_leaving]
