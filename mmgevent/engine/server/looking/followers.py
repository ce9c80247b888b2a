"""What those who look may read of one job, a page at a time: lines, errors, tasks, the shape of reduce.

A question names the job and says up to which event it has seen everything. The answer has what came
since, oldest first, and the number to ask with next. So nothing waits for a slow reader: it learns
how many events it missed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from mmgevent.engine.server.history.history import JobHistory
from mmgevent.engine.server.jobs import Jobs
from mmgevent.engine.server.looking.orders import describe_name, only_one
from mmgevent.engine.server.looking.snapshot import (
    describe_bar,
    describe_ended,
    describe_line,
    describe_running,
)
from mmgevent.wire.listings import PAGE_BYTES


class Followers:
    """Answers questions about what happened in jobs, of those that run and of those that are over."""

    def __init__(self, jobs: Jobs):
        self._jobs = jobs
        self._readers: dict[str, Callable[[JobHistory, int], dict[str, Any]]] = {
            "logs": _read_lines,
            "errors": _read_errors,
            "tasks": _read_tasks,
            "shape": self._read_shape,
        }

    def read(self, what: str, history: JobHistory, after: int) -> dict[str, Any]:
        """Return the fields of an `answer`: what came after event number `after`.

        `what` is a word of `wire.listings.FOLLOWED`.
        """
        fields = self._readers[what](history, after)
        return {**fields, "over": history.is_over or None}

    def _read_shape(self, history: JobHistory, after: int) -> dict[str, Any]:
        job = self._jobs.get(history.number)
        sizes = None
        if job is not None and job.history is history:
            sizes = job.store.partition_sizes()
            sizes.pop(job.partitions, None)  # items that were set aside
        return {"found": {"rows": [history.shape.row(sizes)]}}

    def ended(self) -> list[dict[str, Any]]:
        """Return a row of each job that is over and remembered, the last one first."""
        return [describe_ended(history) for history in self._jobs.histories.ended()]

    def samples(self) -> list[dict[str, Any]]:
        """Return how many slots were busy lately, oldest first, as one row: a list for each column."""
        rows = list(self._jobs.histories.samples)
        columns = {
            "at": [round(row.at_s, 1) for row in rows],
            "busy": [row.busy for row in rows],
            "slots": [row.slots for row in rows],
        }
        return [columns]

    def find(self, name: str) -> JobHistory:
        """Return the history of a job: of an id; else of the job of this name that runs, or ran last.

        Raises UsageError if there is none, or if several of the name run.
        """
        running = [job.history for job in self._jobs]
        ended = list(self._jobs.histories.ended())
        found = [each for each in (*running, *ended) if each.id == name]
        found = found or [each for each in running if each.name == name]
        found = found or [each for each in ended if each.name == name][:1]
        if len(found) == 1:  # the usual case, at each question of each looker
            return found[0]
        named = [describe_name(each.id, each.name) for each in (*running, *ended)]
        return only_one(found, name, "job", "its id", named, [each.id for each in found])


def _read_lines(history: JobHistory, after: int) -> dict[str, Any]:
    last, lost, lines = history.lines.since(after)
    rows, is_cut = _fill_page(map(describe_line, lines))
    return {
        "found": {"rows": rows},
        "next": last + len(rows),
        "lost": lost or None,
        "more": is_cut or None,
    }


def _read_tasks(history: JobHistory, after: int) -> dict[str, Any]:
    tracks = history.tracks
    tracks.settle(time.monotonic())
    last, lost, bars = tracks.bars.since(after)
    rows, is_cut = _fill_page(map(describe_bar, bars))
    found = {"rows": rows, "running": describe_running(tracks.running()), "unseen": tracks.unseen}
    return {"found": found, "next": last + len(rows), "lost": lost or None, "more": is_cut or None}


def _read_errors(history: JobHistory, after: int) -> dict[str, Any]:
    rows, version = history.errors.since(after), history.errors.version
    return {"found": {"rows": rows}, "next": version}


def _fill_page(rows: Iterator[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """Return rows that fit one answer, and whether there are more."""
    page: list[dict[str, Any]] = []
    n_bytes = 0
    for row in rows:
        n_bytes += len(json.dumps(row))
        if page and n_bytes > PAGE_BYTES:
            return page, True
        page.append(row)
    return page, False
