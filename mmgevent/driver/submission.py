"""A job on one engine, from `submit` to its end there.

A submission sends batches as far as the server allows. It handles the frames that the engine's
reading thread puts into the inbox. When a whole partition has arrived, it yields the records of
that partition. While the program takes no records, it sends nothing and grants no credit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from queue import Empty
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.driver.engine_link import EngineProcess
from mmgevent.driver.input.batching import Speed
from mmgevent.driver.input.encoding import EncodedBatch
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.job_state import JobState
from mmgevent.driver.packing import PackedJob
from mmgevent.driver.progress.server_figures import read_progress, read_stats
from mmgevent.driver.runners.decoding import decode_segments, find_receipt
from mmgevent.errors import (
    JobError,
    MmgeventError,
    ProtocolError,
    TooManySkippedError,
    VersionMismatchError,
)
from mmgevent.job.shipping.trial import fingerprint
from mmgevent.machine.logs import get_log
from mmgevent.shown_text import MAX_NAME_CHARS, shown
from mmgevent.tasks.blame import short_repr
from mmgevent.tasks.records import encode_value
from mmgevent.tasks.skipping import MAX_VALUE_BYTES
from mmgevent.wire.failures import bound
from mmgevent.wire.frames import BATCH, CODE, CONTROL, RESULT, Frame, split_payload
from mmgevent.wire.lanes import CODE_WINDOW, FIRST_BATCH_WINDOW, RESULT_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.partition_sets import encode_partitions
from mmgevent.wire.positions import entry_of
from mmgevent.wire.prints import is_printed
from mmgevent.wire.shapes import MAX_INLINE_BYTES

if TYPE_CHECKING:
    from mmgevent.job.outputs.parts_plan import PartsPlan

#: Time to gather batches before they are sent, seconds. Otherwise each tiny batch would cost a
#: system call.
GATHER_S = 0.001


log = get_log(__name__)


class Part(NamedTuple):
    """The results of one partition, whole."""

    partition: int
    data: bytes
    #: the partitions whose results have all been received with this part
    ends: tuple[int, ...] = ()
    #: all partitions of the task
    of_task: tuple[int, ...] = ()
    #: what the task counted, with its last part
    counters: Mapping[str, int] = MappingProxyType({})
    #: how many keys were reduced for it, or for all parts of its task that end with it
    keys: int = 0


class EngineLost(Exception):
    """The engine or its server ended before the job did."""


class Submission:
    """One job on one engine."""

    def __init__(
        self,
        state: JobState,
        packed: PackedJob,
        feeder: Feeder,
        engine: EngineProcess,
        *,
        keeps: bool = False,
        source: int | None = None,
        plan: PartsPlan | None = None,
    ):
        """`keeps`: the results stay on the server. `source`: number of a job whose results are the input.

        `plan`: where executors write parts of the results, if they do.
        """
        self._plan = plan
        self._state = state
        self._packed = packed
        self._feeder = feeder
        self._engine = engine
        self._number = 0  # this cluster's number of it; 0 before `open`
        self._is_open = False  # the server may have it
        self._is_over = False  # all results were given
        self._is_reading = False  # the job's thread is in the datasource
        self._is_left = False  # the job has ended without its thread
        self._speed = Speed()
        self._allowed = 0  # batches that the server accepts, in all
        self._sent = 0
        self._said_size: tuple[int | None, int | None] = None, None  # of the whole input, to the server
        self._keeps = keeps
        self._source = source
        self._input_ended = source is not None
        self._incoming: dict[int, _Incoming] = {}  # by reduce task
        self._received_tasks = 0
        self._parts: deque[Part] = deque()
        self._result_tasks: int | None = None  # None until the job is done
        self._handlers: dict[str, Callable[[Frame, dict[str, Any]], None]] = {
            "accepted": self._on_accepted,
            "rejected": self._on_rejected,
            "refused": self._on_refused,
            "allow": self._on_allow,
            "enough": self._on_enough,
            "need_content": self._on_need_content,
            "results": self._on_results,
            "progress": self._on_progress,
            "notice": self._on_notice,
            "skipped": self._on_skipped,
            "died": self._on_died,
            "task_ends": self._on_task_ends,
            "tasks_done": self._on_task_ends,
            "stage_done" if keeps else "job_done": self._on_done,
            "job_failed": self._on_failed,
            "moved": self._on_moved,
            "node": self._on_node,
        }

    def open(self, next_number: Callable[[], int]) -> None:
        """Submit the job under the next number of its cluster, and begin to send its code."""
        with self._engine.submitting:
            self._number = next_number()
            self._engine.add_job(self._number, self._receive, self._on_lost)
            self._announce()
            self._is_open = True
        parts = (self._packed.context, self._packed.code)
        frames = [frame for part in parts for frame in split_payload(CODE, part, self._number)]
        self._engine.put_in_lane(frames, CODE_WINDOW)
        self._engine.flush()

    @property
    def number(self) -> int:
        """Return the number of the job in its cluster, 0 before it is open."""
        return self._number

    def records(self) -> Iterator[tuple[Any, Any]]:
        """Send the input and yield the results.

        Raises EngineLost, JobError, JobCancelled and others.
        """
        while not self._is_complete():
            if self._parts:
                yield from self._take_part()
            elif self._may_send():
                self._send_batches()
                self._handle_waiting()
            else:
                self._state.before_wait()
                self._handle(self._state.inbox.get())
        self._is_over = True

    def close(self) -> None:
        """Leave the engine, and cancel the job on the server unless it is over.

        Any thread may call this. Idempotent.
        """
        if self._number:
            self._engine.remove_job(self._number)
        is_open, self._is_open = self._is_open, False
        if is_open and not self._is_over:  # a server that has ended the job ignores this
            self._engine.send(control("cancel", self._number, reason="the driver gave up"))

    def leave(self) -> None:
        """Close this from another thread, while the job's thread waits in the user's code."""
        self._is_left = True
        try:
            while not self._state.is_cancelled:  # deaths, and items set aside, that led to the failure
                self._dispatch(self._state.inbox.get_nowait())
        except (Empty, EngineLost, MmgeventError) as ended:
            log.debug("%s: %s", self._packed.name, ended)  # `state.failure` is what counts
        self._state.inbox.put(None)  # the thread may wait for it next
        self.close()

    def _check_ended(self) -> None:
        """Raise JobCancelled, or the error of a job that ended while its thread waited, if any."""
        self._state.check_cancelled()
        if self._is_left:
            raise self._state.ending_error()

    def _is_complete(self) -> bool:
        return self._received_tasks == self._result_tasks and not self._parts

    def _announce(self) -> None:
        state, packed = self._state, self._packed
        options = state.options_for(packed.options)
        if state.partitions is not None:
            options = {**options, "partitions": state.partitions}  # chosen by the first server
        if state.delivered:
            options = {**options, "unwanted": encode_partitions(state.delivered)}
        self._engine.send(
            control(
                "submit",
                self._number,
                name=packed.name,
                options=options,
                code_bytes=len(packed.code),
                fingerprint=fingerprint(packed.code),
                skip=sorted(state.delivered) or None,
                context_bytes=len(packed.context) or None,
                keep=self._keeps or None,
                source=self._source,
            )
        )

    # What is sent.

    def _may_send(self) -> bool:
        return not self._input_ended and self._sent < self._allowed

    def _send_batches(self) -> None:
        """Send a batch. If the datasource never waits, send all that are ready in GATHER_S."""
        until_s = monotonic() + (GATHER_S if self._feeder.never_waits else 0.0)
        try:
            while self._may_send():
                self._is_reading = True
                numbered = self._feeder.next_batch(self._speed)
                self._is_reading = False
                self._check_ended()
                if numbered is None:
                    self._end_input()
                    return
                self._sent += 1
                self._put(numbered[0], numbered[1])
                if monotonic() >= until_s:
                    return
        finally:
            self._engine.flush()

    def _put(self, number: int, batch: EncodedBatch, content: bool | None = None) -> None:
        is_small = len(batch.data) <= MAX_INLINE_BYTES
        announcement = control(
            "batch",
            self._number,
            number,
            items=batch.items,
            weight=batch.weight,
            size=len(batch.data),
            content=content,
            refs=batch.has_refs or None,
            inline=batch.data if is_small else None,
            **self._news_of_size(),
        )
        frames = [announcement]
        if not is_small:
            frames += split_payload(BATCH, batch.data, self._number, number)
        self._engine.put_in_lane(frames, FIRST_BATCH_WINDOW)

    def _news_of_size(self) -> dict[str, Any]:
        """Return the fields of the size of the whole input, if it is known and the server does not know it."""
        size = self._feeder.total.entries_and_weight
        if size == self._said_size:
            return {}
        self._said_size = size
        return {"of_items": size[0], "of_weight": size[1]}

    def _end_input(self) -> None:
        self._input_ended = True
        self._engine.send(control("input_end", self._number, batches=self._sent))

    # What is received.

    def _check_batch(self, number: int) -> None:
        """Raise ProtocolError for a batch that the server cannot have."""
        if self._source is not None:
            return  # the server has made it of results
        if not 1 <= number <= self._sent:
            raise ProtocolError(f"batch {number} was never sent to this server")

    def _on_lost(self, reason: str) -> None:
        """Note that the engine has ended (in its reading thread)."""
        self._state.inbox.put(reason)
        self._feeder.end_batch()  # the next item is enough to go on with
        if self._is_reading and not self._state.is_cancelled:
            log.warning(
                "job %s: %s; it is resubmitted once its datasource, which waits, gives an item",
                self._state.name,
                reason,
            )

    def _receive(self, frame: Frame) -> None:
        """Queue a frame for the job's thread (in the engine's reading thread)."""
        if is_printed(frame):  # not in the inbox, which grows while the job's thread is busy
            self._take_printed(frame)
            return
        if self._state.job_log is not None and self._state.job_log.take(frame):
            return
        self._state.inbox.put(frame)
        if frame.kind != CONTROL or b"job_failed" not in bytes(frame.payload):
            return
        try:
            message = decode_message(frame.payload)
        except ProtocolError:  # the job's thread raises it
            return
        if message["type"] == "job_failed":
            self._state.failure = _error_of(message)
            self._feeder.end_batch()
            self._state.on_failure()

    def _take_printed(self, frame: Frame) -> None:
        try:
            if self._state.signals.logs.take_frame(frame):
                self._state.inbox.put(None)
        except ProtocolError as error:
            log.warning("%s: %s broke the protocol: %s", self._state.name, self._engine.server, error)

    def _handle_waiting(self) -> None:
        try:
            while True:
                self._handle(self._state.inbox.get_nowait())
        except Empty:
            return

    def _handle(self, event: Frame | str | None) -> None:
        self._check_ended()
        self._dispatch(event)

    def _dispatch(self, event: Frame | str | None) -> None:
        """Handle what was received. Raises JobError, which names the server, for what none may say."""
        if event is None:
            self._state.signals.logs.deliver()
            return
        if isinstance(event, str):
            raise EngineLost(event)
        if event.job != self._number:
            return  # it belongs to an earlier submission
        try:
            self._handle_frame(event)
        except ProtocolError as error:
            raise JobError(f"{self._engine.server} broke the protocol: {error}", {"kind": "lost"}) from error

    def _handle_frame(self, event: Frame) -> None:
        if event.kind == RESULT:
            self._on_result_data(event)
        elif event.kind == CONTROL:
            message = decode_message(event.payload)
            handler = self._handlers.get(message["type"])
            if handler is None:
                raise ProtocolError(f"a server does not send {message['type']!r} to a driver")
            handler(event, message)

    def _on_accepted(self, frame: Frame, message: dict[str, Any]) -> None:
        self._state.id = shown(message["id"], max_line_chars=MAX_NAME_CHARS)
        self._state.partitions = message["partitions"]
        self._speed.slots = message["slots"]
        self._allowed = message["batches"]

    def _on_rejected(self, frame: Frame, message: dict[str, Any]) -> None:
        if message.get("again") and self._source is not None:
            raise EngineLost(shown(message["error"]))
        raise JobError(shown(message["error"]), {"kind": "rejected"})

    def _on_refused(self, frame: Frame, message: dict[str, Any]) -> None:
        raise VersionMismatchError(shown(message["error"]))

    def _on_allow(self, frame: Frame, message: dict[str, Any]) -> None:
        self._allowed = message["batches"]
        self._speed = Speed(message["items"], message["weight"], message["seconds"], message["slots"])

    def _on_enough(self, frame: Frame, message: dict[str, Any]) -> None:
        if not self._input_ended:
            self._end_input()

    def _on_need_content(self, frame: Frame, message: dict[str, Any]) -> None:
        self._check_batch(frame.task)
        self._put(frame.task, self._feeder.content_of(frame.task), content=True)
        self._engine.flush()

    def _on_results(self, frame: Frame, message: dict[str, Any]) -> None:
        parts, batch = message["parts"], message.get("batch")
        if frame.task in self._incoming or sum(n_bytes for _, n_bytes, _ in parts) != message["size"]:
            raise ProtocolError(f"results of task {frame.task} are announced twice, or with a wrong size")
        if batch is not None:
            self._check_batch(batch)
        counters = message.get("counters", {})
        incoming = self._incoming[frame.task] = _Incoming(
            parts, batch, message.get("worker", ""), counters, message.get("keys", 0)
        )
        self._collect(frame.task, incoming)

    def _on_result_data(self, frame: Frame) -> None:
        incoming = self._incoming.get(frame.task)
        if incoming is None:
            raise ProtocolError(f"received results that were not announced: {frame!r}")
        granted = incoming.add(frame.payload)
        if granted:
            self._engine.send(grant_frame(frame.lane, granted))
        self._collect(frame.task, incoming)

    def _collect(self, task: int, incoming: _Incoming) -> None:
        if incoming.batch is not None:
            self._take_set_aside(incoming)
        elif not (self._packed.takes_whole_tasks or incoming.counters):
            self._parts.extend(part._replace(ends=(part.partition,)) for part in incoming.take_whole())
        elif incoming.is_complete and (parts := incoming.take_whole()):
            ends = tuple(part.partition for part in parts)
            parts = [part._replace(keys=0) for part in parts]
            parts[-1] = parts[-1]._replace(ends=ends, counters=incoming.counters, keys=incoming.keys)
            self._parts.extend(parts)
        if incoming.is_complete:
            del self._incoming[task]
            self._received_tasks += 1

    def _take_set_aside(self, incoming: _Incoming) -> None:
        assert incoming.batch is not None
        for part in incoming.take_whole():
            failures = self._state.set_aside.add_rows(incoming.batch, incoming.worker, part.data)
            failures = self._state.note_skipped(failures, incoming.batch, incoming.worker)
            for failure in islice(failures, self._state.unnamed_count):
                self._state.notice_skipped(failure.get("key"), failure)

    def _take_part(self) -> Iterator[tuple[Any, Any]]:
        part, receipt = self._parts[0], None
        if self._plan is not None:
            receipt = find_receipt(part.data, self._plan, part.of_task, self._state.partitions or 0)
        if receipt is None:
            yield from decode_segments(part.data, self._packed.plain)
        else:
            yield receipt, None
            self._state.delivered.update(part.of_task)
        self._parts.popleft()
        self._state.delivered.add(part.partition)
        self._state.signals.counters.add(part.counters)
        self._state.given_keys += part.keys
        self._state.end_partitions(part.ends)

    def _on_notice(self, frame: Frame, message: dict[str, Any]) -> None:
        once = message.get("once")
        self._state.notice_of_others(
            shown(message["text"]), once and shown(once, max_line_chars=MAX_NAME_CHARS)
        )

    def _on_died(self, frame: Frame, message: dict[str, Any]) -> None:
        self._state.add_death(bound(message["failure"]))

    def _on_task_ends(self, frame: Frame, message: dict[str, Any]) -> None:
        if self._state.job_log is not None:
            self._state.job_log.take_message(message)

    def _on_progress(self, frame: Frame, message: dict[str, Any]) -> None:
        self._state.signals.counters.take_server(message.get("counters"))
        self._state.report(read_progress(message, self._state.set_aside.count, self._state.input_total))

    def _on_skipped(self, frame: Frame, message: dict[str, Any]) -> None:
        """Note an item that the server has set aside: it killed the executors that mapped it."""
        failure, batch, position = bound(message["failure"]), message["batch"], message["item"]
        self._check_batch(batch)
        item = None
        if self._feeder.reads_again_quickly:
            for _, (key, value) in self._feeder.read_again([(batch, position)]):
                item = key, encode_value(value, MAX_VALUE_BYTES)
                # The executor may have named only the type of the key.
                failure = {**failure, "key": short_repr(key)}
        self._state.set_aside.add_item(batch, position, failure, item)
        self._state.note_skipped(iter([failure]), batch, failure.get("worker"))
        name = failure.get("key")
        if name is None:  # the executor died while it read the item
            name = f"item {entry_of(position)} of batch {batch}"
        self._state.notice_skipped(name, failure)

    def _on_done(self, frame: Frame, message: dict[str, Any]) -> None:
        count = message["stats"].get("results")
        if type(count) is not int or count < 0 or count < self._received_tasks + len(self._incoming):
            raise ProtocolError("a job is done with another number of results than were announced")
        self._state.signals.counters.take_figures(message["stats"])
        self._state.stats = read_stats(message["stats"])
        self._result_tasks = count

    def _on_moved(self, frame: Frame, message: dict[str, Any]) -> None:
        self._state.notice(
            f"the server accepts no more jobs; the job is resubmitted to {shown(message['address'])} when it closes"
        )

    def _on_node(self, frame: Frame, message: dict[str, Any]) -> None:
        raise EngineLost(shown(message["reason"]) or "the server was lost")

    def _on_failed(self, frame: Frame, message: dict[str, Any]) -> None:
        self._state.stats = read_stats(message.get("stats", {}))
        raise _error_of(message)


def _error_of(message: dict[str, Any]) -> JobError:
    """Return the error of a `job_failed` message."""
    failure = bound(message["failure"])
    if message.get("code") == "skipped":
        return TooManySkippedError.from_failure(failure)
    if message.get("code") == "cancelled":
        return JobError(failure.get("error") or "the server cancelled the job", {"kind": "cancelled"})
    return JobError.from_failure(failure)


class _Incoming:
    """The results of one reduce task while they arrive, partition by partition."""

    def __init__(
        self, parts: list[list[int]], batch: int | None, worker: str, counters: dict[str, int], keys: int
    ):
        """If `batch` is given, these are items of it that were set aside, not results."""
        self.keys = keys
        self.batch = batch
        self.counters = counters
        self.worker = worker
        self._parts = deque(parts)
        self._partitions = tuple(partition for partition, _, _ in parts)
        self._missing = sum(n_bytes for _, n_bytes, _ in parts)
        self._buffer = bytearray()
        self._window = ReceiveWindow(RESULT_WINDOW)

    def add(self, data: Any) -> int:
        """Add received bytes; return how many to grant."""
        self._window.received(len(data))
        if len(data) > self._missing:
            raise ProtocolError("received more results than were announced")
        self._buffer += data
        self._missing -= len(data)
        return self._window.consumed(len(data))

    def take_whole(self) -> list[Part]:
        """Remove and return the partitions that are whole."""
        whole = []
        while self._parts and len(self._buffer) >= self._parts[0][1]:
            partition, n_bytes, records = self._parts.popleft()
            whole.append(Part(partition, bytes(self._buffer[:n_bytes]), (), self._partitions, keys=records))
            del self._buffer[:n_bytes]
        return whole

    @property
    def is_complete(self) -> bool:
        """Return whether all bytes have arrived."""
        return not self._missing
