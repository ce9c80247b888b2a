"""What the driver of one job is told of attempts that ended, for its job log.

A job without a log has none of this. Rows wait until the next progress message goes out, a quarter
of a second at most, so thousands of short tasks a second cost few messages. `wire.task_ends` lists
the fields.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any, Protocol

from mmgevent.engine.net.link import Link
from mmgevent.engine.scheduler.commands import Assign
from mmgevent.wire.failures import shorten
from mmgevent.wire.messages import control
from mmgevent.wire.task_ends import MAX_SLOW, MAX_TEXT_CHARS, MAX_WORKER_CHARS, clean_lists

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

#: Time below which a map task is short, seconds. A slot ends at most 20 tasks a second that are not.
SHORT_S = 0.05

#: Short tasks that have rows of their own between two messages, a quarter of a second. A row takes
#: 50 us of server and driver. Further ones have one row a slot.
MAX_SHORT = 20


class Ended(Protocol):
    """A `HostedAttempt`, as far as its row needs it."""

    number: int
    task: int
    batch: int
    lo: int
    hi: int
    partitions: tuple[int, ...]
    done: dict[str, Any] | None
    logged: Any

    @property
    def is_map(self) -> bool: ...

    @property
    def job(self) -> Any: ...


class _Slot:
    """One slot of a worker: its live attempts in order, and the sum of its short tasks."""

    __slots__ = ("attempts", "freed_s", "number", "sum", "worker")

    def __init__(self, worker: str, number: int):
        self.worker = worker
        self.number = number
        self.attempts: dict[int, None] = {}
        self.freed_s = 0.0  #: when it ended its last attempt
        self.sum: _ShortTasks | None = None


class _ShortTasks:
    """Short map tasks of a slot that have one row together."""

    __slots__ = ("attempt", "began_s", "busy_s", "bytes_out", "count", "items", "keys", "records",
                 "slow", "task", "until_s")  # fmt: skip

    def __init__(self, attempt: Ended, began_s: float):
        self.task, self.attempt = attempt.task, attempt.number  # the first ones
        self.began_s = self.until_s = began_s
        self.busy_s = 0.0
        self.count = self.items = self.records = self.keys = self.bytes_out = 0
        self.slow: list[list[Any]] = []

    def add(self, done: dict[str, Any], now: float) -> None:
        """Add a task that is done."""
        self.until_s = now
        self.count += 1
        self.busy_s += done["seconds"]
        self.items += done["items"]
        self.records += done["records"]
        self.keys += done["groups"]
        self.bytes_out += done["size"]
        if "slow" in done:
            slow = self.slow + clean_lists(done).get("slow", [])
            self.slow = sorted(slow, key=_first, reverse=True)[:MAX_SLOW]

    def row(self, slot: _Slot) -> dict[str, Any]:
        """Return the row of all of them."""
        row: dict[str, Any] = {
            "phase": "map",
            "task": self.task,
            "attempt": self.attempt,
            "worker": slot.worker,
            "slot": slot.number,
            "outcome": "done",
            "ago_us": self.began_s,
            "us": round(self.busy_s * US),
            "count": self.count,
            "span_us": round((self.until_s - self.began_s) * US),
            "items": self.items,
            "records": self.records,
            "keys": self.keys,
            "bytes_out": self.bytes_out,
        }
        if self.slow:
            row["slow"] = self.slow
        return row


class TaskLog:
    """The slots of one job, and the rows of attempts that ended."""

    def __init__(self) -> None:
        self._slots: dict[tuple[int, int], _Slot] = {}
        self._tasks: dict[int, int] = {}  # live attempts by task
        self._whys: dict[int, tuple[str, dict[str, Any]]] = {}  # how attempts end that live yet
        self._rows: deque[dict[str, Any]] = deque()
        self._summed: list[_Slot] = []  # those with a sum
        self._room = MAX_SHORT  # short tasks that may have rows of their own until the next message
        self._lost = 0

    def assign(self, c: Assign, attempt: Ended, worker: str) -> None:
        """Note an attempt that is assigned to the worker of this name."""
        slot = self._slots.get((c.worker, c.slot))
        if slot is None:
            slot = self._slots[c.worker, c.slot] = _Slot(worker[:MAX_WORKER_CHARS], c.slot)
        slot.attempts[c.attempt] = None
        others = self._tasks.get(c.task, 0)
        self._tasks[c.task] = others + 1
        attempt.logged = slot, time.monotonic(), others

    def note(self, attempt: int, outcome: str, failure: dict[str, Any], item: int | None = None) -> None:
        """Note how a live attempt is about to end."""
        row = {name: shorten(failure[name], MAX_TEXT_CHARS) for name in _STRINGS if _has_text(failure, name)}
        self._whys[attempt] = outcome, row if item is None else {**row, "item": item}

    def end(self, attempt: Ended, *, is_committed: bool) -> None:
        """Add the row of an attempt that is committed or discarded, unless it never ran.

        This is called for each of up to 12,000 tasks a second: short ones take the first way out.
        """
        slot, assigned_s, others = attempt.logged
        task = attempt.task
        left = self._tasks.pop(task) - 1
        if left:
            self._tasks[task] = left
        now = time.monotonic()
        done = attempt.done
        if is_committed and done is not None and attempt.batch and done["seconds"] < SHORT_S:
            if self._room > 0:
                self._room -= 1
            elif not (others or "skipped" in done):
                del slot.attempts[attempt.number]
                slot.freed_s = now
                summed = slot.sum
                if summed is None:
                    summed = slot.sum = _ShortTasks(attempt, now - done["seconds"])
                    self._summed.append(slot)
                summed.add(done, now)
                return
        self._end_singly(attempt, slot, assigned_s, now, is_committed=is_committed, is_duplicate=others > 0)

    def _end_singly(
        self,
        attempt: Ended,
        slot: _Slot,
        assigned_s: float,
        now: float,
        *,
        is_committed: bool,
        is_duplicate: bool,
    ) -> None:
        done = attempt.done
        has_run = next(iter(slot.attempts)) == attempt.number or done is not None
        del slot.attempts[attempt.number]
        outcome, fields = self._whys.pop(attempt.number, ("", {}))
        if outcome == "returned" or not (has_run or outcome):
            return
        began_s = max(assigned_s, slot.freed_s)
        slot.freed_s = now
        if done is not None:
            outcome = "done" if is_committed else "duplicate"
            began_s = max(now - done["seconds"], began_s)
        row: dict[str, Any] = {
            "phase": "map" if attempt.is_map else "reduce",
            "task": attempt.task,
            "attempt": attempt.number,
            "worker": slot.worker,
            "slot": slot.number,
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
        self._room = MAX_SHORT
        for slot in self._summed:
            if slot.sum is not None:
                self._add(slot.sum.row(slot))
                slot.sum = None
        self._summed.clear()
        while (self._rows or self._lost) and link.control_bytes < MAX_UNREAD_BYTES:
            rows = self._take_some()
            lost, self._lost = self._lost, 0
            link.send(control("task_ends", driver_job, rows=rows, lost=lost or None))
        if is_last:
            self._lost += sum(row.get("count", 1) for row in self._rows)
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
            self._lost += row.get("count", 1)


def _first(row: list[Any]) -> Any:
    return row[0]


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
