"""What the driver of one job is told of attempts that ended, for its job log.

A job without a log has none of this. Rows wait until the next progress message goes out, a quarter
of a second at most, so thousands of short tasks a second cost few messages. Plain tasks that are
done are tuples of numbers (`wire.done_tasks`), all others are objects (`wire.task_ends`).
"""

from __future__ import annotations

import json
import struct
from collections import deque
from time import monotonic
from typing import Any, Protocol

from mmgevent.engine.net.link import Link
from mmgevent.engine.scheduler.commands import Assign
from mmgevent.wire.done_tasks import MAX_ROWS, ROW_BYTES, US, pack_row, places_in
from mmgevent.wire.failures import shorten
from mmgevent.wire.messages import control
from mmgevent.wire.shapes import MAX_INT
from mmgevent.wire.task_ends import MAX_TEXT_CHARS, MAX_WORKER_CHARS, clean_lists

#: Rows that wait to be sent. A server ends some thousand tasks a second; more than that in the time
#: between two messages are counted only.
MAX_WAITING = 10_000

#: Size of the objects of one message, bytes: a quarter of what a frame may have.
MESSAGE_BYTES = 64 * 1024

#: Control frames that may wait for a driver, bytes. If more wait, rows wait, too. Several times as many
#: close the link of a driver.
MAX_UNREAD_BYTES = 256 * 1024

#: Milliseconds in a second.
MS = 1000

_STRINGS = ("function", "key", "kind", "error")


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
    """One slot of a worker, and its live attempts in order."""

    __slots__ = ("attempts", "free_s", "name_bytes", "place", "slot", "worker")

    def __init__(self, place: int, worker: str, slot: int):
        self.place = place  #: its number in this log
        self.worker = worker
        self.name_bytes = len(json.dumps(worker))
        self.slot = slot
        self.attempts: dict[int, bool] = {}  #: {number: whether it is a duplicate}
        self.free_s = 0.0  #: since when the first of them may run


class TaskLog:
    """The slots of one job, and the rows of attempts that ended."""

    def __init__(self) -> None:
        self._began_s = monotonic()
        self._slots: dict[tuple[int, int], _Slot] = {}
        self._places: list[_Slot] = []
        self._whys: dict[int, tuple[str, dict[str, Any]]] = {}  # how attempts end that live yet
        # Rows of `wire.done_tasks`: bytes, since thousands of tuples would make the garbage collector run.
        self._plain = bytearray()
        self._rows: deque[dict[str, Any]] = deque()
        self._lost = 0

    def assign(self, c: Assign, attempt: Ended, worker: str) -> None:
        """Note an attempt that is assigned to the worker of this name."""
        slot = self._slots.get((c.worker, c.slot))
        if slot is None:
            slot = _Slot(len(self._places), worker[:MAX_WORKER_CHARS], c.slot)
            self._slots[c.worker, c.slot] = slot
            self._places.append(slot)
        if not slot.attempts:
            slot.free_s = monotonic()
        slot.attempts[attempt.number] = c.is_duplicate
        attempt.logged = slot

    def note(self, attempt: int, outcome: str, failure: dict[str, Any], item: int | None = None) -> None:
        """Note how a live attempt is about to end."""
        row = {name: shorten(failure[name], MAX_TEXT_CHARS) for name in _STRINGS if _has_text(failure, name)}
        self._whys[attempt] = outcome, row if item is None else {**row, "item": item}

    def end(self, attempt: Ended, *, is_committed: bool) -> None:
        """Add the row of an attempt that is committed or discarded, unless it never ran.

        This is called for each of up to 12,000 tasks a second: most take the first way out.
        """
        slot, done, number = attempt.logged, attempt.done, attempt.number
        now = monotonic()
        if is_committed and done is not None and not slot.attempts[number]:
            row = self._plain_row(attempt, done, slot, now)
            if row is not None:
                del slot.attempts[number]
                slot.free_s = now
                if len(self._plain) < MAX_WAITING * ROW_BYTES:
                    self._plain += row
                else:
                    self._lost += 1
                return
        self._end_singly(attempt, slot, now, is_committed=is_committed)

    def _plain_row(self, attempt: Ended, done: dict[str, Any], slot: _Slot, now: float) -> bytes | None:
        """Return the row of a map task that is done, or None if it needs an object."""
        number, seconds = attempt.batch, done["seconds"]
        batch = attempt.job.input.batches.get(number)
        if batch is None or not batch.items or seconds >= 1 or "slow" in done or "skipped" in done:
            return None
        began_s = now - seconds
        if began_s < slot.free_s:
            began_s = slot.free_s
        entries = attempt.hi - attempt.lo
        try:
            return pack_row(
                slot.place, attempt.task, attempt.number, number, entries, done["items"], done["records"], done["groups"],
                batch.size * entries // batch.items, done["size"], int((began_s - self._began_s) * MS),
                int(seconds * US),
            )  # fmt: skip
        except struct.error:  # a number that does not fit
            return None

    def _end_singly(self, attempt: Ended, slot: _Slot, now: float, *, is_committed: bool) -> None:
        done = attempt.done
        has_run = next(iter(slot.attempts)) == attempt.number or done is not None
        is_duplicate = slot.attempts.pop(attempt.number)
        outcome, fields = self._whys.pop(attempt.number, ("", {}))
        if outcome == "returned" or not (has_run or outcome):
            return
        began_s, slot.free_s = slot.free_s, now
        if done is not None:
            outcome = "done" if is_committed else "duplicate"
            began_s = max(now - done["seconds"], began_s)
        row: dict[str, Any] = {
            "phase": "map" if attempt.is_map else "reduce",
            "task": attempt.task,
            "attempt": attempt.number,
            "worker": slot.worker,
            "slot": slot.slot,
            "outcome": outcome or "revoked",
            "ago_us": began_s,
            "us": min(round(max(0.0, now - began_s if done is None else done["seconds"]) * US), MAX_INT),
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
        while self._plain and link.control_bytes < MAX_UNREAD_BYTES:
            self._send_plain(link, driver_job)
        while (self._rows or self._lost) and link.control_bytes < MAX_UNREAD_BYTES:
            rows = self._take_some()
            lost, self._lost = self._lost, 0
            link.send(control("task_ends", driver_job, rows=rows, lost=lost or None))
        if is_last:
            self._lost += len(self._rows) + len(self._plain) // ROW_BYTES
            self._rows.clear()
            self._plain.clear()
            if self._lost:
                link.send(control("task_ends", driver_job, rows=[], lost=self._lost))

    def _send_plain(self, link: Link, driver_job: int) -> None:
        """Send and forget the first rows, as many as one message may have."""
        count = MAX_ROWS
        while True:
            rows = bytes(self._plain[: count * ROW_BYTES])
            places = [self._places[place] for place in places_in(rows)]
            if sum(each.name_bytes for each in places) <= MESSAGE_BYTES:
                break
            count //= 2
        del self._plain[: len(rows)]
        link.send(
            control(
                "tasks_done",
                driver_job,
                places=[[each.place, each.worker, each.slot] for each in places],
                at_ms=int((monotonic() - self._began_s) * MS),
                inline=rows,
            )
        )

    def _take_some(self) -> list[dict[str, Any]]:
        """Remove and return the rows of one message."""
        now = monotonic()
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
