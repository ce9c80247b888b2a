"""What the driver of one job is told of attempts that ended, for its job log.

A job without a log has none of this. Rows wait until the next progress message goes out, a quarter
of a second at most, so thousands of short tasks a second cost few messages. `wire.task_ends` lists
the fields.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from typing import Any, Protocol

from mmgevent.engine.net.link import Link
from mmgevent.engine.scheduler.commands import Assign
from mmgevent.wire.failures import shorten
from mmgevent.wire.messages import control
from mmgevent.wire.task_ends import MAX_TEXT_CHARS, MAX_WORKER_CHARS, clean_lists

#: Rows that wait to be sent. A server ends some thousand tasks a second; more than that in the time
#: between two messages are counted only.
MAX_WAITING = 10_000

#: Size of the rows of one message, bytes: a quarter of what a frame may have.
MESSAGE_BYTES = 64 * 1024

#: Control frames that wait for a driver, bytes, above which rows wait, too. Its link would be closed
#: at several times as many.
MAX_UNREAD_BYTES = 256 * 1024

#: Microseconds in a second.
US = 1_000_000

_STRINGS = ("function", "key", "kind", "error")

#: An attempt that lives: its slot, the name of its worker, when it was assigned, and whether its
#: task had another one.
Live = tuple[tuple[int, int], str, float, bool]


class Ended(Protocol):
    """A `HostedAttempt`, as far as its row needs it."""

    number: int
    task: int
    batch: int
    lo: int
    hi: int
    partitions: tuple[int, ...]
    done: dict[str, Any] | None

    @property
    def is_map(self) -> bool: ...

    @property
    def job(self) -> Any: ...


class TaskLog:
    """The attempts of one job that live, and the rows of those that ended."""

    def __init__(self) -> None:
        self._live: dict[int, Live] = {}
        self._tasks: Counter[int] = Counter()  # live attempts by task
        self._freed_s: dict[tuple[int, int], float] = {}  # when a slot ended its last attempt
        self._queues: dict[tuple[int, int], dict[int, None]] = {}  # live attempts by slot, in order
        self._whys: dict[int, tuple[str, dict[str, Any]]] = {}  # how attempts end that live yet
        self._rows: deque[dict[str, Any]] = deque()
        self._lost = 0

    def assign(self, c: Assign, worker: str) -> None:
        """Note an attempt that is assigned to the worker of this name."""
        slot = (c.worker, c.slot)
        self._live[c.attempt] = slot, worker, time.monotonic(), self._tasks[c.task] > 0
        self._tasks[c.task] += 1
        self._queues.setdefault(slot, {})[c.attempt] = None

    def note(self, attempt: int, outcome: str, failure: dict[str, Any], item: int | None = None) -> None:
        """Note how a live attempt is about to end."""
        row = {name: shorten(failure[name], MAX_TEXT_CHARS) for name in _STRINGS if _has_text(failure, name)}
        self._whys[attempt] = outcome, row if item is None else {**row, "item": item}

    def end(self, attempt: Ended, *, is_committed: bool) -> None:
        """Add the row of an attempt that is committed or discarded, unless it never ran."""
        live = self._live.pop(attempt.number, None)
        if live is None:
            return
        slot, worker, assigned_s, is_duplicate = live
        self._tasks[attempt.task] -= 1
        if not self._tasks[attempt.task]:
            del self._tasks[attempt.task]
        queue = self._queues[slot]
        has_run = next(iter(queue)) == attempt.number or attempt.done is not None
        del queue[attempt.number]
        if not queue:
            del self._queues[slot]
        outcome, fields = self._whys.pop(attempt.number, ("", {}))
        if outcome == "returned" or not (has_run or outcome):
            return
        now = time.monotonic()
        began_s = max(assigned_s, self._freed_s.get(slot, 0.0))
        self._freed_s[slot] = now
        done = attempt.done
        if done is not None:
            outcome = "done" if is_committed else "duplicate"
            began_s = max(now - done["seconds"], began_s)
        row: dict[str, Any] = {
            "phase": "map" if attempt.is_map else "reduce",
            "task": attempt.task,
            "attempt": attempt.number,
            "worker": worker[:MAX_WORKER_CHARS],
            "slot": slot[1],
            "outcome": outcome or "revoked",
            "ago_us": began_s,
            "us": round((now - began_s if done is None else done["seconds"]) * US),
            **_size_of(attempt),
            **fields,
        }
        if is_duplicate:
            row["duplicate"] = 1
        if done is not None:
            row.update(
                items=done["items"], records=done["records"], keys=done["groups"], bytes_out=done["size"]
            )
            if "skipped" in done:
                row["skipped"] = done["skipped"]
            row.update(clean_lists(done))
        self._add(row)

    def flush(self, link: Link, driver_job: int, *, is_last: bool = False) -> None:
        """Send the rows, as long as the driver reads: the others wait, or are lost if `is_last`."""
        while (self._rows or self._lost) and link.control_bytes < MAX_UNREAD_BYTES:
            rows = self._take_some()
            lost, self._lost = self._lost, 0
            link.send(control("task_ends", driver_job, rows=rows, lost=lost or None))
        if is_last:
            self._lost += len(self._rows)
            self._rows.clear()
            if self._lost:
                link.send(control("task_ends", driver_job, rows=[], lost=self._lost))

    def _take_some(self) -> list[dict[str, Any]]:
        """Remove and return the rows of one message."""
        now = time.monotonic()
        chunk: list[dict[str, Any]] = []
        size = 0
        while self._rows and size < MESSAGE_BYTES:
            row = self._rows.popleft()
            row["ago_us"] = max(0, round((now - row["ago_us"]) * US))
            chunk.append(row)
            size += len(json.dumps(row))
        return chunk

    def _add(self, row: dict[str, Any]) -> None:
        if len(self._rows) < MAX_WAITING:
            self._rows.append(row)
        else:
            self._lost += 1


def _has_text(failure: dict[str, Any], name: str) -> bool:
    return type(failure.get(name)) is str


def _size_of(attempt: Ended) -> dict[str, int]:
    """Return what the attempt got, as fields of a row."""
    job = attempt.job
    if not attempt.is_map:
        n_bytes = sum(job.sizes.get(partition, 0) for partition in attempt.partitions)
        return {"bytes_in": n_bytes, "partitions": len(attempt.partitions)}
    entries = attempt.hi - attempt.lo
    batch = job.input.batches.get(attempt.batch)
    fields = {"batch": attempt.batch, "entries": entries}
    if batch is not None and batch.items:
        fields["bytes_in"] = batch.size * entries // batch.items
    return fields
