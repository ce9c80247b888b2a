"""What can be looked at of a server: one row for each worker and job, and one for the server.

This module only describes. It keeps nothing, and no row is made while nobody looks. Times are
absolute (seconds since 1970), so a row stays the same as long as nothing happens, and `mark_of_*`
says cheaply whether anything has.

Texts are cut here, since an answer must fit a frame. Whoever shows them escapes them.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from mmgevent.engine.scheduler.rules import JobStatus
from mmgevent.engine.server.batches import JobInput
from mmgevent.engine.server.history.history import JobHistory, Line
from mmgevent.engine.server.history.tracks import Bar, Track
from mmgevent.engine.server.hosted import HostedJob
from mmgevent.engine.server.jobs import Jobs
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.wire.hello import VERSION
from mmgevent.wire.listings import MAX_RUNNING, cut_text

#: Seconds between `time.time` and `time.monotonic` when this module was loaded.
_EPOCH_S = time.time() - time.monotonic()

#: Share of a phase below which no time left is computed: it would be mostly start-up.
MIN_SHARE = 0.02


class Submitter(NamedTuple):
    """Who is at the other end of a link, as the other end says."""

    user: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (pid {self.pid})"


#: A driver of which nothing is known.
NOBODY = Submitter("?", "?", 0)


def epoch_s(monotonic_s: float) -> float:
    """Return a time of `time.monotonic` as seconds since 1970, to the hundredth."""
    return round(_EPOCH_S + monotonic_s, 2)


def describe_server(
    jobs: Jobs, workers: Workers, left: Iterable[tuple[float, str, str]], began_s: float
) -> dict[str, Any]:
    """Return the row of the server. `left`: when which worker left, and why."""
    return {
        "host": cut_text(os.uname().nodename),
        "pid": os.getpid(),
        "version": VERSION,
        "since": epoch_s(began_s),
        "workers": len(workers),
        "slots": workers.slot_count,
        "jobs": len(jobs),
        "ended": jobs.histories.ended_count,
        "segment_bytes": jobs.memory.used_bytes,
        "batch_bytes": jobs.intake.held_bytes,
        "left": [
            {"at": epoch_s(at_s), "name": cut_text(name), "why": cut_text(why)} for at_s, name, why in left
        ],
    }


def mark_of_worker(worker: WorkerRecord, busy: int) -> tuple[Any, ...]:
    """Return what changes whenever the row of a worker does."""
    standing = worker.standing
    return busy, worker.is_leaving, worker.is_drained, standing.reason, worker.death_count, worker.load


def describe_worker(worker: WorkerRecord, busy: int) -> dict[str, Any]:
    """Return the row of a worker, of whose slots `busy` run something."""
    row: dict[str, Any] = {
        "number": worker.number,
        "name": cut_text(worker.link.name),
        "address": cut_text(worker.address),
        "slots": worker.slots,
        "busy": busy,
        "version": cut_text(worker.version),
        "since": epoch_s(worker.joined_s),
        "state": _state_of(worker),
        "deaths": worker.death_count,
    }
    if worker.standing.reason:
        row["why"] = cut_text(worker.standing.reason)
    if worker.last_death is not None:
        died_s, why = worker.last_death
        row["last_death"], row["last_death_at"] = cut_text(why), epoch_s(died_s)
    if worker.load is not None:
        row["cores"], row["memory_bytes"] = worker.load
    return row


def _state_of(worker: WorkerRecord) -> str:
    if worker.is_drained:
        return "drained"
    if worker.is_leaving:
        return "leaving"
    return "set aside" if worker.standing.reason else "ready"


def describe_ended(history: JobHistory) -> dict[str, Any]:
    """Return the row of a job that is over. Its texts are cut already."""
    row = {
        "number": history.number,
        "id": cut_text(history.id),
        "name": history.name,
        "submitter": cut_text(history.submitter),
        "since": round(history.began_s, 2),
        "ended": round(history.ended_s, 2),
        "outcome": history.outcome,
    }
    return {**row, "error": history.error} if history.error else row


def describe_line(line: Line) -> dict[str, Any]:
    """Return the row of a printed line, whose texts have limits of their own."""
    row: dict[str, Any] = {"at": round(line.at_s, 2), "text": line.text}
    row.update((name, value) for name, value in (("worker", line.worker), ("item", line.item)) if value)
    return {**row, "dropped": line.dropped} if line.dropped else row


def describe_bar(bar: Bar) -> dict[str, Any]:
    """Return the row of what a slot did for a while."""
    row: dict[str, Any] = {
        "worker": cut_text(bar.worker),
        "slot": bar.slot,
        "phase": bar.phase,
        "outcome": bar.outcome,
        "start": epoch_s(bar.start_s),
        "seconds": round(bar.end_s - bar.start_s, 4),
        "busy": round(bar.busy_s, 4),
        "tasks": bar.tasks,
        "task": bar.task,
    }
    return {**row, "error": cut_text(bar.error)} if bar.error else row


def describe_running(running: Iterable[tuple[Track, int, str, float]]) -> list[dict[str, Any]]:
    """Return a row of each slot that runs an attempt, the longest running first."""
    longest = heapq.nsmallest(MAX_RUNNING, running, key=lambda each: each[3])
    return [
        {
            "worker": cut_text(track.worker),
            "slot": track.slot,
            "phase": phase,
            "task": task,
            "start": epoch_s(since_s),
        }
        for track, task, phase, since_s in longest
    ]


def mark_of_job(job: HostedJob, status: JobStatus | None) -> tuple[Any, ...]:
    """Return what changes whenever the row of a job does."""
    return (status, job.store.spilled_bytes, phase_of(job, status))


def phase_of(job: HostedJob, status: JobStatus | None) -> str:
    """Return the phase of a job in a word.

    `status` is None if the scheduler does not know the job.
    """
    if status is not None:
        return status.phase
    if not job.partitions:
        return "submitting"  # its code is on the way
    if job.kept is not None and job.kept.is_whole:
        return "kept"  # the next stage takes its results
    return "delivering"


def _share_done(given: JobInput, status: JobStatus) -> tuple[int | None, float | None]:
    """Return what `status.done` is done of, and the share of the phase that is done; None: unknown.

    While the driver still reads its datasource they are as large as it has said.
    """
    total = status.total if status.total is not None else given.known_items or given.expected_items
    if total and total >= status.done:
        return total, status.done / total
    if status.total is None and given.expected_weight:
        return None, min(1.0, given.weight_done / given.expected_weight)
    return None, None


def describe_job(job: HostedJob, who: Submitter, status: JobStatus | None, now: float) -> dict[str, Any]:
    """Return the row of a job. `status` is None if the scheduler does not know it (any longer)."""
    row: dict[str, Any] = {
        "number": job.number,
        "id": cut_text(job.id),
        "name": cut_text(job.name),
        "user": cut_text(who.user),
        "host": cut_text(who.host),
        "pid": who.pid,
        "since": epoch_s(job.figures.started_s),
        "phase": phase_of(job, status),
        "spilled_bytes": job.store.spilled_bytes,
        "skipped": 0,
    }
    if status is None:
        return row
    row["done"], row["waiting"], row["running"] = status.done, status.waiting, status.running
    row["skipped"] = status.skipped
    total, share = _share_done(job.input, status)
    if total:
        row["total"] = total
    if share is not None:
        row["percent"] = round(100 * share, 1)
        phase_began_s = job.figures.reduce_began_s or job.figures.started_s
        if MIN_SHARE <= share < 1:
            row["left_s"] = round((now - phase_began_s) * (1 - share) / share, 1)
    return row
