"""What the dashboard knows of one job that somebody looks into: lanes, partitions, errors, lines.

The arithmetic of the lanes is that of the report of a finished job. Each part has a version, so a
page is sent what it lacks: lines one by one, the other parts whole. All have limits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

from mmgevent.engine.looking import Events
from mmgevent.errors import ProtocolError
from mmgevent.report.bars import Lanes
from mmgevent.wire.failures import Cause
from mmgevent.wire.listings import (
    KEY_FIELDS,
    MAX_LARGEST_ROWS,
    MAX_RUNNING,
    PARTITION_FIELDS,
    RUNNING_FIELDS,
    SHAPE_FIELDS,
    clean_row,
)
from mmgevent.wire.prints import find_record
from mmgevent.wire.task_ends import OUTCOMES

#: Lanes that are drawn. More do not fit a page that somebody reads.
MAX_LANES = 200

#: Lines that are kept of a job, and drawn: some pages of a terminal.
MAX_LINES = 1000

#: Groups of errors that are kept: more than a server has.
MAX_GROUPS = 100

Row = dict[str, Any]


class JobView:
    """One job, as far as it was asked for."""

    def __init__(self, job: str):
        #: its id or name
        self.job = job
        #: why nothing is known of it, "" if something is
        self.error = ""
        self.is_over = False
        #: {what: the number up to which everything is known}
        self.seen: dict[str, int] = {}
        self._complete: set[str] = set()  # what nothing is added to
        self.version = 0
        self._parts: dict[str, tuple[Any, int]] = {}  # {name: (value, version)}
        self._lines: deque[tuple[int, Row]] = deque(maxlen=MAX_LINES)  # (version, line)
        self._lost_lines = self._lost_bars = 0
        self._errors: dict[int, Row] = {}
        self._replays: dict[Cause, str] = {}
        self._lanes = Lanes(MAX_LANES)

    @property
    def is_known(self) -> bool:
        """Return whether the server has answered all questions about it."""
        return bool(self.error) or len(self.seen) == len(_TAKERS)

    @property
    def is_complete(self) -> bool:
        """Return whether nothing more will come: all answers say that the job is over."""
        return bool(self.error) or len(self._complete) == len(_TAKERS)

    def take(self, what: str, events: Events) -> None:
        """Take an answer of the server. Raises ProtocolError for what makes no sense."""
        _TAKERS[what](self, events)
        self.seen[what] = events.next
        if events.is_over and not events.has_more:
            self._complete.add(what)
        if events.is_over != self.is_over:
            self.is_over = events.is_over
            self._put("over", events.is_over)

    @property
    def has_errors(self) -> bool:
        """Return whether there are errors that nobody knows how to replay yet."""
        return len(self._replays) < len(self._errors)

    def fail(self, why: str) -> None:
        """Note why nothing more is known of it."""
        self.error = why
        self._put("error", why)

    def changes(self, seen: int) -> Row:
        """Return what a page that has seen version `seen` lacks."""
        whole = seen == 0 or seen > self.version
        if whole:
            seen = 0
        told: Row = {"job": self.job, "version": self.version, "whole": whole}
        told.update((name, value) for name, (value, version) in self._parts.items() if version > seen)
        lines = [line for version, line in self._lines if version > seen]
        if lines or whole:
            told["lines"] = lines
        return told

    def whole(self) -> Row:
        """Return all of it, as JSON has it."""
        names = (
            "over",
            "error",
            "errors",
            "work",
            "running",
            "shape",
            "lost_lines",
            "unseen_tasks",
            "lost_bars",
        )
        told = {name: self._parts[name][0] for name in names if name in self._parts}
        return {"job": self.job, "over": False, **told, "lines": [line for _, line in self._lines]}

    def _put(self, name: str, value: Any) -> None:
        if self._parts.get(name, (None, 0))[0] != value:
            self.version += 1
            self._parts[name] = value, self.version

    def _take_lines(self, events: Events) -> None:
        dropped = events.lost
        for row in events.rows:
            dropped += max(0, row.get("dropped", 0))
            if row["text"]:
                level, logger = find_record(row["text"])
                self.version += 1
                known = {"level": level, "logger": logger} if level else {}
                self._lines.append((self.version, {**row, **known}))
        if dropped:
            self._lost_lines += dropped
            self._put("lost_lines", self._lost_lines)

    def _take_errors(self, events: Events) -> None:
        for row in events.rows:
            if row["number"] in self._errors or len(self._errors) < MAX_GROUPS:
                self._errors[row["number"]] = row
        self._put_errors()

    def note_replays(self, commands: Mapping[Cause, str]) -> None:
        """Note the commands that replay errors of these causes."""
        self._replays.update(commands)
        self._put_errors()

    def _put_errors(self) -> None:
        rows = []
        for row in sorted(self._errors.values(), key=lambda row: (-row["count"], row["number"])):
            command = self._replays.get((row.get("function"), row["error_type"], row.get("line")))
            rows.append(row if command is None else {**row, "replay": command})
        self._put("errors", rows)

    def _take_tasks(self, events: Events) -> None:
        for row in events.rows:
            is_possible = row["tasks"] == 1 or (row["tasks"] > 1 and row["outcome"] == "done")
            if row["outcome"] not in OUTCOMES or row["seconds"] < 0 or not is_possible:
                raise ProtocolError("the server lists a task that cannot have been")
            if row["tasks"] > 1:
                self._lanes.add_sum({**row, "span": row["seconds"], "seconds": row["busy"]})
            else:
                self._lanes.add(row)
        if events.rows or "work" not in self._parts:
            self._put("work", self._lanes.data(0.0))
        given = events.found.get("running")
        rows = [row for row in islice(given if type(given) is list else (), MAX_RUNNING) if type(row) is dict]
        self._put("running", [clean_row(row, RUNNING_FIELDS, *RUNNING_FIELDS) for row in rows])
        unseen = events.found.get("unseen")
        if type(unseen) is int and unseen >= 0:
            self._put("unseen_tasks", unseen)
        if events.lost:
            self._lost_bars += events.lost
            self._put("lost_bars", self._lost_bars)

    def _take_shape(self, events: Events) -> None:
        given = events.found["rows"][0] if events.rows else {}
        shape = clean_row(given, SHAPE_FIELDS)
        shape["largest"] = _clean_list(given.get("largest"), PARTITION_FIELDS)
        shape["keys"] = _clean_list(given.get("keys"), KEY_FIELDS)
        self._put("shape", shape)


_TAKERS = {
    "tasks": JobView._take_tasks,
    "shape": JobView._take_shape,
    "errors": JobView._take_errors,
    "logs": JobView._take_lines,
}

#: What is asked of a job.
ASKED = tuple(_TAKERS)


def _clean_list(given: Any, fields: dict[str, tuple[type, ...]]) -> list[Row]:
    rows = given[:MAX_LARGEST_ROWS] if type(given) is list else []
    return [clean_row(row, fields, *fields) for row in rows if type(row) is dict]
