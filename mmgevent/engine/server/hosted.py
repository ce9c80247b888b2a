"""One job on the server: its code, its batches, its segments, and the way its results go out.

A hosted job knows its driver's link and its own store, and nothing of workers or of
scheduling.  Bytes pass through unread: batches are chunks with a count, code is
chunks, results are segments.

Input and output flow one way: `receive_batch` fills batches until `release_batch`;
`deliver` queues the output of a reduce task, and one greenlet sends the queue to the
driver, one lane at a time, as fast as the driver grants.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
from gevent.event import Event

from mmgevent.engine.net.link import Link
from mmgevent.engine.scheduler.scheduler import JobRules
from mmgevent.engine.server.intake import Intake, append_chunk
from mmgevent.engine.server.store import JobStore, Output
from mmgevent.errors import MmgeventError, OptionError, ProtocolError
from mmgevent.job.options import JobOptions
from mmgevent.wire.frames import CODE, INPUT, MAX_PAYLOAD, RESULT, Frame, Payload
from mmgevent.wire.limits import MAX_BATCH_BYTES, MAX_CODE_BYTES, MAX_CONTEXT_BYTES
from mmgevent.wire.messages import MAX_INLINE_BYTES, control
from mmgevent.wire.positions import ALL, Part
from mmgevent.wire.streams import (
    BATCH_WINDOW,
    CODE_WINDOW,
    FIRST_BATCH_WINDOW,
    INPUT_WINDOW,
    OUTPUT_WINDOW,
    RESULT_WINDOW,
    ReceiveWindow,
    grant_frame,
)

log = logging.getLogger(__name__)

#: a batch claims no more weight, an attempt no more time than this, so that sums stay numbers
MAX_WEIGHT = 2**40
MAX_SECONDS = 1e7

#: seconds between two progress messages of a job
PROGRESS_S = 0.25


class Batch:
    """Some items of a job, as opaque chunks."""

    __slots__ = (
        "chunks",
        "counted",
        "has_refs",
        "is_content",
        "items",
        "owed_bytes",
        "received",
        "size",
        "weight",
        "window",
    )

    def __init__(self, items: int, weight: int, size: int, is_content: bool, has_refs: bool):
        self.items = items  #: entries
        self.has_refs = has_refs  #: each of which may stand for any number of items
        self.weight = weight
        self.size = size
        self.is_content = is_content
        self.chunks: list[bytes] = []
        self.received = 0
        #: bytes that the intake counts: all that may come by now
        self.counted = 0
        #: a grant that is withheld while too much is held
        self.owed_bytes = 0
        self.window = ReceiveWindow(FIRST_BATCH_WINDOW)

    @property
    def is_whole(self) -> bool:
        return self.received == self.size


class Attempt:
    """What the server remembers of an attempt between its Assign and its Commit or Discard."""

    __slots__ = (
        "batch",
        "done",
        "feeder",
        "has_noticed",
        "has_noticed_once",
        "hi",
        "is_over",
        "job",
        "lo",
        "number",
        "part",
        "partitions",
        "pending_bytes",
        "task",
        "window",
        "worker",
    )

    def __init__(self, number: int, job: HostedJob, worker: int, task: int):
        self.number = number
        self.job = job
        self.worker = worker
        self.task = task
        self.batch = self.lo = self.hi = 0
        self.part: Part = ALL
        self.partitions: tuple[int, ...] = ()
        self.window = ReceiveWindow(OUTPUT_WINDOW)
        self.feeder: gevent.Greenlet | None = None
        #: committed or discarded: what its feeder reads may be given back already
        self.is_over = False
        #: bytes of its output that wait to be written to the spill file
        self.pending_bytes = 0
        #: its worker had its say about it
        self.has_noticed = False
        self.has_noticed_once = False  #: with what is shown once a job
        #: its `done`, held until nothing of its output is pending
        self.done: dict[str, Any] | None = None

    @property
    def lane(self) -> tuple[int, int, int]:
        return (self.job.number, self.task, self.number)

    @property
    def is_map(self) -> bool:
        return self.batch != 0

    def may_put_out(self, partitions: set[int]) -> bool:
        """Are these partitions that it may have segments of? Else a key could be reduced twice, or never.

        The one above those of the job is for what a map attempt has set aside.
        """
        if self.is_map:
            return max(partitions, default=0) <= self.job.partitions
        return partitions.issubset(self.partitions)


class HostedJob:
    """One job that a driver handed in."""

    def __init__(
        self,
        number: int,
        id: str,
        link: Link,
        driver_job: int,
        submit: dict[str, Any],
        store: JobStore,
        intake: Intake,
    ):
        """`submit`: the driver's message.  MmgeventError if it announces more than a job may have."""
        _check_limit("code", submit["code_bytes"], MAX_CODE_BYTES)
        _check_limit("surroundings", submit.get("context_bytes", 0), MAX_CONTEXT_BYTES)
        self.number = number
        self.id = id
        self.name: str = submit["name"]
        self.options: dict[str, Any] = submit["options"]
        self.fingerprint: str = submit["fingerprint"]
        self.is_oneshot = self.options.get("allocation") == "oneshot"
        self.delivered = frozenset(submit.get("skip", ()))  #: partitions a former server delivered
        self.rules = JobRules()
        self.link = link
        self.driver_job = driver_job
        self.store = store
        self._intake = intake
        #: the scheduler knows it: its code is here, and it is neither done nor failed
        self.is_scheduled = False
        self.partitions = 0  #: 0 before the job was started
        #: {partition: bytes} of what is to be reduced, once the map phase is over
        self.sizes: dict[int, int] = {}
        self.code_bytes: int = submit["code_bytes"]
        self.code: list[bytes] = []
        #: surroundings of the driver, for executors of its own machine; they come before the code
        self.context_bytes: int = submit.get("context_bytes", 0)
        self.context: list[bytes] = []
        self._code_window = ReceiveWindow(CODE_WINDOW)
        self._code_received = 0
        self.batches: dict[int, Batch] = {}  #: whole ones
        self._arriving: dict[int, Batch] = {}
        self.allowed = 0  #: batches that the driver may have sent so far
        self.batch_count = 0  #: whole batches so far
        self.input_total: int | None = None  #: batches in all, once the driver has said it
        #: what has been mapped, for the driver's guess at batch sizes
        self.items_done = self.weight_done = 0
        self.seconds_done = 0.0
        self.result_tasks = 0
        self.records_out = 0
        self.started_s = time.monotonic()
        self.last_progress: tuple[Any, ...] = ()
        self._outputs: deque[tuple[int, tuple[int, ...], Output, dict[str, Any]]] = deque()
        self._outputs_ready = Event()
        self._last_output_came = False
        self._sending: tuple[int, int, int] | None = None  # the lane of the output that is going out
        self.greenlets: set[gevent.Greenlet] = set()
        self.spilling: gevent.Greenlet | None = None

    # code

    def receive_code(self, data: bytes) -> bool:
        """Take the context, then the code; True once they are whole."""
        self._code_window.received(len(data))
        missing = max(0, self.context_bytes - self._code_received)
        self._code_received += len(data)
        if self._code_received > self.lane_bytes:
            raise ProtocolError(f"more than the announced {self.lane_bytes} bytes of code came")
        if missing:
            append_chunk(self.context, data[:missing])
        if len(data) > missing:
            append_chunk(self.code, data[missing:])
        self._grant((self.driver_job, 0, 0), self._code_window.consumed(len(data)))
        return self.has_code

    @property
    def lane_bytes(self) -> int:
        """Bytes of context and code together."""
        return self.context_bytes + self.code_bytes

    @property
    def has_code(self) -> bool:
        return self._code_received == self.lane_bytes

    def send_code(self, link: Link, *, with_context: bool) -> None:
        """Tell a worker of this job, and send it the code, with the context if that is meant for it."""
        lane = (self.number, 0, 0)
        link.send(self.announce(with_context=with_context))
        link.open_lane(lane, CODE_WINDOW)
        for chunk in (*self.context, *self.code) if with_context else self.code:
            link.send_in_lane(Frame(CODE, chunk, *lane))
        link.close_lane(lane)

    # input

    def announce_batch(self, number: int, message: dict[str, Any]) -> Batch:
        """Begin a batch, or begin it again with its contents, which may be here at once.

        ProtocolError if it cannot be, MmgeventError if it is too large.
        """
        known = self.batches.get(number)
        items, size = message["items"], message["size"]
        is_again = known is not None and message.get("content", False) and known.items == items
        if (known is not None and not is_again) or number in self._arriving:
            raise ProtocolError(f"batch {number} came twice")
        if known is None and number > self.allowed:
            raise ProtocolError(f"batch {number} came, but only {self.allowed} were allowed")
        if not 1 <= items <= size or (self.is_oneshot and items != 1):
            raise ProtocolError(f"a batch of {items} items and {size} bytes came")
        _check_limit(f"batch {number}", size, MAX_BATCH_BYTES)
        has_refs = message.get("refs", False)
        batch = Batch(items, min(message["weight"], MAX_WEIGHT), size, is_again, has_refs)
        inline = message.get("inline")
        if inline is None:
            self._arriving[number] = batch
            self._count(batch, FIRST_BATCH_WINDOW)
            if size > FIRST_BATCH_WINDOW:
                batch.owed_bytes = batch.window.widen(BATCH_WINDOW)
                self._grant_owed(number, batch)
            return batch
        if len(inline) != size:
            raise ProtocolError(f"{len(inline)} bytes came with the announcement of a batch of {size}")
        batch.chunks.append(inline)
        batch.received = size
        self._count(batch, size)
        self._keep_batch(number, batch)
        return batch

    def receive_batch(self, number: int, data: bytes) -> Batch:
        """Take bytes of a batch; once it is whole it takes the place of what was there."""
        batch = self._arriving.get(number)
        if batch is None or batch.received + len(data) > batch.size:
            raise ProtocolError(f"{len(data)} bytes came that belong to no announced batch")
        batch.window.received(len(data))
        append_chunk(batch.chunks, data)
        batch.received += len(data)
        batch.owed_bytes += batch.window.consumed(len(data))
        if batch.is_whole:
            self._keep_batch(number, self._arriving.pop(number))
        else:
            self._grant_owed(number, batch)
        return batch

    def _keep_batch(self, number: int, batch: Batch) -> None:
        known = self.batches.get(number)
        self.batches[number] = batch
        if known is not None:
            self._intake.give_back(known.size)

    def release_batch(self, number: int) -> None:
        """Forget a batch that is mapped, or no longer wanted."""
        batch = self.batches.pop(number)
        self._intake.give_back(batch.size)

    def _count(self, batch: Batch, n_bytes: int) -> None:
        """Count bytes that may come of a batch, of those it has."""
        n_bytes = min(n_bytes, batch.size - batch.counted)
        batch.counted += n_bytes
        self._intake.take(n_bytes)

    def _grant_owed(self, number: int, batch: Batch) -> None:
        if batch.owed_bytes and self._intake.is_full:
            self._grant_batches()
        elif batch.owed_bytes:
            self._grant_batch(number, batch)

    def _grant_batches(self) -> None:
        """Let batches come on; while too much is held only the oldest of a job that has none, and contents.

        Contents of a batch that is here already may be what its tasks wait for.
        """
        needs_one = not self.batches
        for number, batch in self._arriving.items():
            if batch.owed_bytes and self._intake.is_full and not (needs_one or batch.is_content):
                self._intake.wait(self._grant_batches)
            elif batch.owed_bytes:
                self._grant_batch(number, batch)
            needs_one = False

    def _grant_batch(self, number: int, batch: Batch) -> None:
        self._grant((self.driver_job, number, 0), batch.owed_bytes)
        self._count(batch, batch.owed_bytes)
        batch.owed_bytes = 0

    def count_mapped(self, attempt: Attempt, message: dict[str, Any]) -> None:
        """Account for a finished map attempt."""
        batch = self.batches.get(attempt.batch)
        if batch is not None:
            self.items_done += attempt.hi - attempt.lo
            self.weight_done += batch.weight * (attempt.hi - attempt.lo) // batch.items
            self.seconds_done += min(message["seconds"], MAX_SECONDS)

    # feeding attempts

    def feed_map(self, link: Link, attempt: Attempt, fields: dict[str, Any]) -> None:
        """Assign a map attempt, with its batch: in the message if that is small, else behind it, and not copied."""
        lane, batch = attempt.lane, self.batches[attempt.batch]
        if batch.size <= MAX_INLINE_BYTES:
            inline = batch.chunks[0] if len(batch.chunks) == 1 else b"".join(batch.chunks)
            link.send_in_lane(control("assign", *lane, size=batch.size, inline=inline, **fields))
            return
        is_within_window = batch.size <= INPUT_WINDOW  # then it needs no credit, and no books of it
        if not is_within_window:
            link.open_lane(lane, INPUT_WINDOW)
        link.send_in_lane(control("assign", *lane, size=batch.size, **fields))
        for chunk in batch.chunks:
            link.send_in_lane(Frame(INPUT, chunk, *lane))
        if not is_within_window:
            link.close_lane(lane)

    def feed_reduce(self, link: Link, attempt: Attempt) -> None:
        """Send an opened reduce attempt's segments, reading on as they go out (blocks).  LinkClosed, StoreError."""
        lane = attempt.lane
        for partition in attempt.partitions:
            for data in _coalesce(self.store.read_partition(partition)):
                if attempt.is_over:
                    return
                link.send_in_lane(Frame(INPUT, data, *lane))
                link.wait_for_room(lane, INPUT_WINDOW)
                if attempt.is_over:
                    return
        link.close_lane(lane)

    # results

    def deliver(self, task: int, partitions: tuple[int, ...], output: Output) -> None:
        """Queue a reduce task's output for the driver."""
        self.result_tasks += 1
        self.records_out += sum(output.flushes.records)
        self._outputs.append((task, partitions, output, {}))
        self._outputs_ready.set()

    def deliver_set_aside(self, attempt: Attempt, output: Output, worker: str) -> None:
        """Queue what a committed map attempt has set aside, if anything, for the driver."""
        if output.count(self.partitions):
            self.store.lend(output)
            self.result_tasks += 1
            about = {"batch": attempt.batch, "worker": worker}
            self._outputs.append((attempt.task, (self.partitions,), output, about))
            self._outputs_ready.set()

    def end_results(self) -> None:
        """Every reduce task is delivered or queued."""
        self._last_output_came = True
        self._outputs_ready.set()

    def send_results(self) -> None:
        """Send what is queued until the end of the results (blocks).  LinkClosed, StoreError."""
        while True:
            while self._outputs:
                task, partitions, output, about = self._outputs.popleft()
                self._send_output(task, partitions, output, about)
                if about:
                    self.store.give_back(output)
                else:
                    self.store.free(output)
            if self._last_output_came:
                return
            self._outputs_ready.clear()
            self._outputs_ready.wait()

    def _send_output(
        self, task: int, partitions: tuple[int, ...], output: Output, about: dict[str, Any]
    ) -> None:
        lane = (self.driver_job, task, 0)
        rows: dict[int, list[int]] = {partition: [partition, 0, 0] for partition in partitions}
        flushes = output.flushes
        for partition, n_bytes, records in zip(
            flushes.partitions, flushes.lengths, flushes.records, strict=True
        ):
            if partition in rows:
                row = rows[partition]
                row[1] += n_bytes
                row[2] += records
        parts = list(rows.values())
        self._sending = lane
        self.link.open_lane(lane, RESULT_WINDOW)
        self.link.send_in_lane(
            control("results", *lane, parts=parts, size=sum(row[1] for row in parts), **about)
        )
        for partition in rows:
            for data in _coalesce(self.store.read_output(output, partition)):
                self.link.send_in_lane(Frame(RESULT, data, *lane))
                self.link.wait_for_room(lane, RESULT_WINDOW)
        self.link.wait_for_room(lane, 0)
        self.link.close_lane(lane)

    # telling workers and the driver

    def announce(self, *, with_context: bool) -> Frame:
        """Return the message that tells a worker of this job; OptionError if it does not fit a frame."""
        try:
            return control(
                "job",
                self.number,
                options=self.options,
                code_bytes=self.code_bytes,
                fingerprint=self.fingerprint,
                context_bytes=self.context_bytes if with_context and self.context_bytes else None,
            )
        except ValueError as error:
            raise OptionError(f"the job's options are too large: {error}") from error

    def tell(self, type: str, task: int = 0, **fields: Any) -> None:
        """Send the driver a message about this job."""
        self.link.send(control(type, self.driver_job, task, **fields))

    def tell_progress(self, phase: str, **numbers: Any) -> None:
        """Send progress if it is not what was sent last."""
        progress = (phase, *numbers.values())
        if progress != self.last_progress:
            self.last_progress = progress
            self.tell("progress", phase=phase, **numbers)

    def _grant(self, lane: tuple[int, int, int], n_bytes: int) -> None:
        if n_bytes:
            self.link.send(grant_frame(lane, n_bytes))

    def close(self) -> None:
        """Release everything: greenlets, memory, disk."""
        current = gevent.getcurrent()
        gevent.killall([g for g in self.greenlets if g is not current], block=False)
        self.greenlets.clear()
        if self._sending is not None:
            self.link.drop_lane(self._sending)
        held = sum(batch.counted for batch in (*self.batches.values(), *self._arriving.values()))
        self.batches.clear()
        self._arriving.clear()
        self._intake.forget(self._grant_batches)
        self._intake.give_back(held)
        self.code.clear()
        self.context.clear()
        self._outputs.clear()
        self.store.close()


def _check_limit(what: str, n_bytes: int, limit_bytes: int) -> None:
    if n_bytes > limit_bytes:
        raise MmgeventError(
            f"{what} of the job: {n_bytes:,} bytes were announced, {n_bytes - limit_bytes:,} more than a server takes "
            f"({limit_bytes:,})"
        )


def _coalesce(pieces: Iterable[Payload]) -> Iterator[Payload]:
    """Join small pieces and cut nothing: frames of up to MAX_PAYLOAD bytes."""
    held: list[Payload] = []
    held_bytes = 0
    for piece in pieces:
        if held and held_bytes + len(piece) > MAX_PAYLOAD:
            yield held[0] if len(held) == 1 else b"".join(held)
            held, held_bytes = [], 0
        held.append(piece)
        held_bytes += len(piece)
    if held:
        yield held[0] if len(held) == 1 else b"".join(held)


def read_rules(options: dict[str, Any]) -> JobRules:
    """Take from a job's options what the server goes by.  OptionError if any of them makes no sense."""
    wire = dict(options)
    needs = wire.pop("needs", [])
    if not (isinstance(needs, list) and all(isinstance(name, str) for name in needs)):
        raise OptionError(f"needs must be a list of names, got {type(needs).__name__}")
    for name in ("offered", "flags"):  # for the workers, who check them
        wire.pop(name, None)
    checked = JobOptions.from_wire(wire)
    return JobRules(
        retries=checked.retries,
        retransmit=checked.retransmit,
        allocation=checked.allocation,
        max_skipped=checked.max_skipped,
        needs=frozenset(needs),
    )
