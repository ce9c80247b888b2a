"""Orders of people to a server: cancel a job, drain a worker; and how jobs and workers are named.

Everybody with the main password may give them. Whoever loses a job by one learns who did it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mmgevent.engine.server.hosted import HostedJob
from mmgevent.engine.server.jobs import Jobs
from mmgevent.engine.server.looking.snapshot import Submitter
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.errors import UsageError
from mmgevent.machine.logs import get_log
from mmgevent.shown_text import MAX_NAME_CHARS, shown
from mmgevent.wire.messages import control

log = get_log(__name__)

Named = TypeVar("Named")

#: Names in an error that lists what there is.
MAX_NAMED = 10


class Orders:
    """What people may have done on one server."""

    def __init__(
        self,
        jobs: Jobs,
        workers: Workers,
        cancel: Callable[[HostedJob, str], None],
        drain: Callable[[WorkerRecord], None],
    ):
        """`cancel(job, why)` ends a job, `drain(worker)` gives a worker no more attempts."""
        self._jobs, self._workers = jobs, workers
        self._cancel, self._drain = cancel, drain

    def cancel(self, name: str, who: Submitter) -> dict[str, Any]:
        """Cancel the job of this name. Raises UsageError if there is no such job, or several."""
        job = self.find_job(name)
        if job.kept is not None and job.kept.is_whole:
            raise UsageError(f"{job.id} is done, and a later stage uses its results: cancel that one")
        log.warning("job cancelled by %s: %s %s", who, job.id, job.name)
        row = {"id": job.id, "name": job.name[:MAX_NAME_CHARS]}
        self._cancel(job, f"cancelled by {who}, with mmg-server cancel")
        return row

    def drain(self, name: str, who: Submitter) -> dict[str, Any]:
        """Let the worker of this name leave once its tasks are done.

        Raises UsageError if there is no such worker, or several, or if it is the server's own.
        """
        worker = self.find_worker(name)
        if worker.is_local:
            raise UsageError(f"{worker.link.name} belongs to the server itself, and stays as long as it does")
        running = len(worker.attempts)
        if not worker.is_drained:
            log.warning("worker drained by %s: %s", who, worker.link.name)
            worker.is_drained = True
            self._drain(worker)
            worker.link.send(control("drain", reason=f"drained by {who}"))
        return {"name": worker.link.name, "attempts": running}

    def find_job(self, name: str) -> HostedJob:
        """Return the job of this id or name. Raises UsageError if there is none, or several."""
        jobs = list(self._jobs)
        found = [job for job in jobs if job.id == name] or [job for job in jobs if job.name == name]
        named = [describe_name(job.id, job.name) for job in jobs]
        return only_one(found, name, "job", "its id", named, [job.id for job in found])

    def find_numbered_worker(self, number: str) -> WorkerRecord:
        """Return the worker of this number, whatever others are called; else as `find_worker`."""
        for worker in self._workers:
            if str(worker.number) == number:
                return worker
        return self.find_worker(number)

    def find_worker(self, name: str) -> WorkerRecord:
        """Return the worker of this name or number. Raises UsageError if there is none, or several."""
        workers = list(self._workers)
        found = [worker for worker in workers if worker.link.name == name]
        found = found or [worker for worker in workers if str(worker.number) == name]
        named = [_short(worker.link.name) for worker in workers]
        return only_one(found, name, "worker", "its number", named, [str(worker.number) for worker in found])


def only_one(
    found: list[Named], name: str, kind: str, unique: str, named: list[str], numbers: Iterable[str]
) -> Named:
    """Return what was found by a name. Raises UsageError unless that is one.

    `named` is all there is, and `numbers` tells apart those that were found; `unique` says how.
    """
    if len(found) == 1:
        return found[0]
    shown_name = shown(repr(name), max_line_chars=MAX_NAME_CHARS)
    if found:
        raise UsageError(
            f"{len(found)} {kind}s are called {shown_name}: give {unique}, {_listed(list(numbers))}"
        )
    there = f"there {'is' if len(named) == 1 else 'are'} {_listed(named)}" if named else f"there is no {kind}"
    raise UsageError(f"no {kind} is called {shown_name}: {there}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def describe_name(id: str, name: str) -> str:
    """Return how a job is named in an error that lists what there is."""
    return f"{id} ({_short(name)})"


def _short(name: str) -> str:
    return shown(name, max_line_chars=MAX_NAME_CHARS // 4)
