"""One job in its driver: hand it in, feed it, take its results, see it through.

`JobDriver.records` is a generator that does the work of the whole job in the thread that
pulls it: it sends batches as far as the server allows, waits for what the engine's
reading thread puts into its inbox, and gives the records of each partition once the
partition is whole.  Who does not pull is not given more: the windows close.

When the engine, or the server behind it, ends before the job does, the job is handed in
again; partitions that were given out already are named to the new server and not given
twice.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple

from mmgevent.driver.batching import Speed
from mmgevent.driver.engine_link import EngineProcess
from mmgevent.driver.feeding import EncodedBatch, Feeder
from mmgevent.driver.set_aside import SetAside
from mmgevent.engine.start import start_error
from mmgevent.errors import (
    ConnectError,
    EngineError,
    JobCancelled,
    JobError,
    ProtocolError,
    StartError,
    TooLargeError,
    TooManySkippedError,
    UsageError,
    VersionMismatchError,
)
from mmgevent.job.job import Job
from mmgevent.job.shipping import pack as shipping
from mmgevent.machine import environment, interpreter
from mmgevent.tasks.blame import short_repr
from mmgevent.tasks.records import SegmentError, decode_segment, encode_value
from mmgevent.tasks.skipping import MAX_NAMED, MAX_VALUE_BYTES
from mmgevent.wire.deaths import MAX_REMEMBERED, describe_death
from mmgevent.wire.failures import name_skipped
from mmgevent.wire.frames import BATCH, CODE, CONTROL, RESULT, Frame, split_payload
from mmgevent.wire.lanes import CODE_WINDOW, FIRST_BATCH_WINDOW, RESULT_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.limits import MAX_CONTEXT_BYTES
from mmgevent.wire.messages import MAX_INLINE_BYTES, control, decode_message
from mmgevent.wire.positions import entry_of

log = logging.getLogger(__name__)

#: engines or servers that may end under one job before it is given up
MAX_RESUBMITS = 5
#: for an engine to start, and to connect again where a server was lost
START_S = 120.0
#: a wait for the engine or a server is mentioned after so long
SILENCE_S = 2.0
#: batches that come in less than this are sent together
GATHER_S = 0.001
#: between two looks at whether the job was cancelled meanwhile
LOOK_S = 0.25


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    phase: str = (
        "starting"  #: "starting", "map", "plan", "reduce"; in the end "done", "failed" or "cancelled"
    )
    done: int = 0  #: items in the map phase, tasks in the reduce phase
    total: int | None = None  #: of the same, once known
    waiting: int = 0
    running: int = 0
    workers: int = 0
    slots: int = 0
    bytes: int = 0  #: of input mapped so far
    skipped: int = 0  #: items set aside


class Part(NamedTuple):
    """The results of one partition, whole."""

    partition: int
    data: bytes


class EngineLost(Exception):
    """The engine or its server ended before the job did."""


class JobDriver:
    """The driver's side of one job.  Its generator runs in one thread; `cancel` may come from any."""

    def __init__(
        self,
        job: Job,
        get_engine: Callable[[str | None], EngineProcess],
        next_number: Callable[[], int],
        *,
        is_local: bool,
        stays_here: bool = False,
        max_resubmits: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """Pack the job's functions and claim its datasource; UsageError for what is wrong with it.

        `stays_here`: no worker of another machine can join.
        `get_engine(reason)` returns a live engine; `reason` says why the last one is not any more.
        """
        job.check()
        functions = job.functions()
        self.job = job
        #: results of one call of an iterator-form reducefn belong together, whatever partition they came under;
        #: the form of an offered one is not known here
        self.takes_whole_tasks = functions.reduce_form == "iterator" or isinstance(functions.reducefn, str)
        self._fault: UsageError | None = None  # the job ends with it before anything is sent
        left: list[str] = []
        try:
            self.code = shipping.pack(
                functions,
                by_value=job.by_value,
                py_files=job.options.py_files,
                argv=job.argv,
                stays_here=stays_here,
                on_left=left.append,
            )
        except TooLargeError as error:  # the result tells, as of all that is too large: jobs beside it go on
            self._fault, self.code = error, b""
        self.options = {**job.options.to_wire(), "needs": sorted(functions.offered_names)}
        if functions.setupfn is None:
            del self.options["setup_timeout"]
        if flags := interpreter.own_flags():
            self.options["flags"] = flags
        if (offered := functions.describe_offered()) is not None:
            self.options["offered"] = offered
        #: what executors of this machine take over from this process, as JSON; empty where there are none
        self.context = _make_context() if is_local else b""
        self.feeder = Feeder(job, on_notice=self.notice)
        self.id: str | None = None
        self.progress = Progress()
        self.stats: dict[str, Any] = {}
        self.delivered: set[int] = set()  #: partitions whose records were all given out
        self.partitions: int | None = job.options.partitions
        #: the items that were set aside
        self.set_aside = SetAside()
        self._named = 0  # of them
        #: of executors and workers, see `deaths`
        self.deaths: deque[dict[str, Any]] = deque(maxlen=MAX_REMEMBERED)
        self.inbox: SimpleQueue[Frame | str | None] = SimpleQueue()  # None: cancelled; str: engine lost
        self.is_cancelled = False
        #: called when the job's thread is about to wait for the engine
        self.before_wait: Callable[[], None] = _do_nothing
        self._get_engine = get_engine
        self.next_number = next_number
        self._max_resubmits = MAX_RESUBMITS if max_resubmits is None else max_resubmits
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._noticed: set[str] = set()
        for text in left:
            self.notice(text)
        #: last, since whoever has this object ends it: by `records`
        self._check: shipping.Check | None = None
        if self._fault is None:
            try:
                self._check = shipping.start_check(self.code)
            except OSError as error:
                raise start_error("the process that tries to load the job's code", error) from error

    def records(self) -> Generator[tuple[Any, Any], None, None]:
        """Run the job; give its records before finishfn.  JobError, JobCancelled, ConnectError and others."""
        lost: str | None = None
        try:
            if self._fault is not None:
                raise self._fault
            for _ in range(1 + self._max_resubmits):
                if lost is not None:
                    self.notice(f"{lost}; the job is handed in again")
                    self.feeder.restart()
                    self.set_aside.clear()
                    self._named = 0
                engine = self._get_engine(lost)
                try:
                    self._wait_ready(engine)
                except EngineError as error:
                    if lost is None or isinstance(error, StartError) or not engine.has_ended:
                        raise
                    lost = str(error)  # it ended as the one before it did
                    continue
                try:
                    yield from _Submission(self, engine).records()
                    self._end_progress("done")
                    if self.set_aside.count > MAX_NAMED:
                        self.notice(f"{self.set_aside.count} items were set aside in all")
                    return
                except EngineLost as error:
                    lost = str(error)
            raise JobError(f"given up: {lost}, {self._max_resubmits + 1} times", {"kind": "lost"})
        except (JobCancelled, GeneratorExit):
            self._end_progress("cancelled")
            raise
        except BaseException:
            self._end_progress("failed")
            raise
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End what belongs to a job that is over, or never began."""
        self.feeder.close()
        if self._check is not None:
            self._check.cancel()

    def wait_for_check(self) -> None:
        """Wait until the code has loaded in a process of its own; ShippingError if it does not, JobCancelled."""
        check = self._check
        if check is None:
            return
        while not check.is_over(LOOK_S):
            if self.is_cancelled:
                raise JobCancelled(f"job {self.job.name} was cancelled")
        self._check = None
        check.result()

    def _wait_ready(self, engine: EngineProcess) -> None:
        """Wait for an engine, or for `cancel`; raise what keeps the engine from starting."""
        self.before_wait()
        why = ""
        for look in range(round(START_S / LOOK_S)):
            try:
                engine.wait_ready(LOOK_S)
                return
            except TimeoutError as late:
                if self.is_cancelled:
                    raise JobCancelled(f"job {self.job.name} was cancelled") from None
                if look * LOOK_S >= SILENCE_S and str(late) != why:
                    why = str(late)
                    self.notice(f"waits up to {START_S:g} s: {why}")
        error_class = ConnectError if engine.was_ready else EngineError
        raise error_class(f"the job could not be handed in for {START_S:g} s: {why}")

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon; idempotent."""
        self.is_cancelled = True
        self.inbox.put(None)

    def notice(self, text: str, once: str | None = None) -> None:
        """Show a text to the user; of those with the same `once` only the first."""
        if once is not None and once in self._noticed:
            return
        if once is not None and len(self._noticed) < MAX_REMEMBERED:
            self._noticed.add(once)
        if self._on_notice is None:
            log.warning("%s: %s", self.job.name, text)
        else:
            self._on_notice(text)

    @property
    def unnamed(self) -> int:
        """How many more items that were set aside may be named."""
        return max(0, MAX_NAMED - self._named)

    def notice_skipped(self, name: str, failure: dict[str, Any]) -> None:
        """Name an item that was set aside, unless many were named already."""
        if self.unnamed:
            self._named += 1
            self.notice(name_skipped(name, failure))

    def skipped_items(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) of the items that were set aside so far."""
        return self.set_aside.items(self.feeder.read_again)

    def _end_progress(self, phase: str) -> None:
        self.progress = replace(
            self.progress, phase=phase, waiting=0, running=0, skipped=self.set_aside.count
        )

    def report(self, progress: Progress) -> None:
        self.progress = progress
        if self._on_progress is not None:
            self._on_progress(progress)


class _Submission:
    """A job on one engine, from submit to its end there."""

    def __init__(self, driver: JobDriver, engine: EngineProcess):
        self._driver = driver
        self._engine = engine
        self._number = 0  # until it is handed in
        self._speed = Speed()
        self._allowed = 0  # batches the server will take, in all
        self._sent = 0
        self._input_ended = False
        self._incoming: dict[int, _Incoming] = {}  # by reduce task
        self._received_tasks = 0
        self._parts: deque[Part] = deque()
        self._result_tasks: int | None = None  # how many there are, once the job is done
        self._handlers: dict[str, Callable[[Frame, dict[str, Any]], None]] = {
            "accepted": self._on_accepted,
            "rejected": self._on_rejected,
            "refused": self._on_refused,
            "allow": self._on_allow,
            "enough": self._on_enough,
            "need_content": self._on_need_content,
            "results": self._on_results,
            "progress": self._on_progress,
            "notice": lambda frame, message: driver.notice(message["text"], message.get("once")),
            "skipped": self._on_skipped,
            "died": self._on_died,
            "job_done": self._on_done,
            "job_failed": self._on_failed,
            "moved": self._on_moved,
            "node": self._on_node,
        }

    def records(self) -> Iterator[tuple[Any, Any]]:
        is_over = False
        with self._engine.submitting:
            self._number = self._driver.next_number()
            self._engine.add_job(self._number, self._driver.inbox.put, self._driver.inbox.put)
            self._announce()
        try:
            self._send_code()
            self._driver.wait_for_check()  # while the code is on its way; no item is
            while not self._is_complete():
                if self._parts:
                    yield from self._take_part()
                elif self._may_send():
                    self._send_batches()
                    self._handle_waiting()
                else:
                    self._driver.before_wait()
                    self._handle(self._driver.inbox.get())
            is_over = True
        finally:
            self._engine.remove_job(self._number)
            if (
                not is_over
            ):  # the datasource may have failed; what the server has ended already it takes for late
                self._engine.send(control("cancel", self._number, reason="the driver gave up"))

    def _is_complete(self) -> bool:
        return self._received_tasks == self._result_tasks and not self._parts

    def _announce(self) -> None:
        driver = self._driver
        options = driver.options
        if driver.partitions is not None:
            options = {**options, "partitions": driver.partitions}  # those of the first server
        self._engine.send(
            control(
                "submit",
                self._number,
                name=driver.job.name,
                options=options,
                code_bytes=len(driver.code),
                fingerprint=shipping.fingerprint(driver.code),
                skip=sorted(driver.delivered) or None,
                context_bytes=len(driver.context) or None,
            )
        )

    def _send_code(self) -> None:
        parts = (self._driver.context, self._driver.code)
        frames = [frame for part in parts for frame in split_payload(CODE, part, self._number)]
        self._engine.put_in_lane(frames, CODE_WINDOW)
        self._engine.flush()

    # input

    def _may_send(self) -> bool:
        return not self._input_ended and self._sent < self._allowed

    def _send_batches(self) -> None:
        """Send a batch; where the next ones need not be waited for, with those that are made in a moment."""
        feeder = self._driver.feeder
        until_s = monotonic() + (GATHER_S if feeder.never_waits else 0.0)
        try:
            while self._may_send():
                numbered = feeder.next_batch(self._speed)
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
        )
        frames = [announcement]
        if not is_small:
            frames += split_payload(BATCH, batch.data, self._number, number)
        self._engine.put_in_lane(frames, FIRST_BATCH_WINDOW)

    def _end_input(self) -> None:
        self._input_ended = True
        self._engine.send(control("input_end", self._number, batches=self._sent))

    # what comes in

    def _handle_waiting(self) -> None:
        try:
            while True:
                self._handle(self._driver.inbox.get_nowait())
        except Empty:
            return

    def _handle(self, event: Frame | str | None) -> None:
        if self._driver.is_cancelled:
            raise JobCancelled(f"job {self._driver.job.name} was cancelled")
        if event is None:
            return
        if isinstance(event, str):
            raise EngineLost(event)
        if event.job != self._number:
            return  # of a submission before this one
        if event.kind == RESULT:
            self._on_result_data(event)
        elif event.kind == CONTROL:
            message = decode_message(event.payload)
            handler = self._handlers.get(message["type"])
            if handler is None:
                raise ProtocolError(f"a server does not send {message['type']!r} to a driver")
            handler(event, message)

    def _on_accepted(self, frame: Frame, message: dict[str, Any]) -> None:
        self._driver.id = message["id"]
        self._driver.partitions = message["partitions"]
        self._speed.slots = message["slots"]
        self._allowed = message["batches"]

    def _on_rejected(self, frame: Frame, message: dict[str, Any]) -> None:
        raise JobError(message["error"], {"kind": "rejected"})

    def _on_refused(self, frame: Frame, message: dict[str, Any]) -> None:
        raise VersionMismatchError(message["error"])

    def _on_allow(self, frame: Frame, message: dict[str, Any]) -> None:
        self._allowed = message["batches"]
        self._speed = Speed(message["items"], message["weight"], message["seconds"], message["slots"])

    def _on_enough(self, frame: Frame, message: dict[str, Any]) -> None:
        if not self._input_ended:
            self._end_input()

    def _on_need_content(self, frame: Frame, message: dict[str, Any]) -> None:
        self._put(frame.task, self._driver.feeder.content_of(frame.task), content=True)
        self._engine.flush()

    def _on_results(self, frame: Frame, message: dict[str, Any]) -> None:
        incoming = self._incoming[frame.task] = _Incoming(
            message["parts"], message.get("batch"), message.get("worker", "")
        )
        self._collect(frame.task, incoming)

    def _on_result_data(self, frame: Frame) -> None:
        incoming = self._incoming.get(frame.task)
        if incoming is None:
            raise ProtocolError(f"results came that were not announced: {frame!r}")
        granted = incoming.add(frame.payload)
        if granted:
            self._engine.send(grant_frame(frame.lane, granted))
        self._collect(frame.task, incoming)

    def _collect(self, task: int, incoming: _Incoming) -> None:
        if incoming.batch is not None:
            self._take_set_aside(incoming)
        elif incoming.is_complete or not self._driver.takes_whole_tasks:
            self._parts.extend(incoming.take_whole())
        if incoming.is_complete:
            del self._incoming[task]
            self._received_tasks += 1

    def _take_set_aside(self, incoming: _Incoming) -> None:
        assert incoming.batch is not None
        for part in incoming.take_whole():
            failures = self._driver.set_aside.add_rows(incoming.batch, incoming.worker, part.data)
            for failure in islice(failures, self._driver.unnamed):
                self._driver.notice_skipped(failure["key"], failure)

    def _take_part(self) -> Iterator[tuple[Any, Any]]:
        part = self._parts[0]
        offset = 0
        while offset < len(part.data):
            try:
                segment = decode_segment(part.data, offset)
            except SegmentError as error:
                raise JobError(f"results cannot be read here: {error}", {"kind": "record"}) from error
            yield from zip(segment.keys, segment.values)  # noqa: B905 - a segment's columns are equally long
            offset = segment.end
        self._parts.popleft()
        self._driver.delivered.add(part.partition)

    def _on_progress(self, frame: Frame, message: dict[str, Any]) -> None:
        del message["type"]
        self._driver.report(Progress(**message, skipped=self._driver.set_aside.count))

    def _on_skipped(self, frame: Frame, message: dict[str, Any]) -> None:
        """An item that the server has set aside: it killed the executors that mapped it."""
        failure, batch, position = message["failure"], message["batch"], message["item"]
        item = None
        if self._driver.feeder.reads_again_quickly:
            for _, (key, value) in self._driver.feeder.read_again([(batch, position)]):
                item = key, encode_value(value, MAX_VALUE_BYTES)
                failure = {
                    **failure,
                    "key": short_repr(key),
                }  # of which the executor may have told the type only
        self._driver.set_aside.add_item(batch, position, failure, item)
        name = failure.get("key")
        if name is None:  # it died of being read
            name = f"item {entry_of(position)} of batch {batch}"
        self._driver.notice_skipped(name, failure)

    def _on_died(self, frame: Frame, message: dict[str, Any]) -> None:
        self._driver.deaths.append(message["failure"])
        text = describe_death(message["failure"])
        if text is not None:
            self._driver.notice(text)

    def _on_done(self, frame: Frame, message: dict[str, Any]) -> None:
        self._driver.stats = message["stats"]
        self._result_tasks = message["stats"]["results"]

    def _on_moved(self, frame: Frame, message: dict[str, Any]) -> None:
        self._driver.notice(
            f"the server takes no more jobs; handing in to {message['address']} when it closes"
        )

    def _on_node(self, frame: Frame, message: dict[str, Any]) -> None:
        raise EngineLost(message["reason"] or "the server is gone")

    def _on_failed(self, frame: Frame, message: dict[str, Any]) -> None:
        failure = message["failure"]
        if message.get("code") == "skipped":
            raise TooManySkippedError.from_failure(failure)
        if message.get("code") == "cancelled":
            raise JobError(failure.get("error") or "the server cancelled the job", {"kind": "cancelled"})
        raise JobError.from_failure(failure)


class _Incoming:
    """The results of one reduce task on their way in, partition by partition."""

    def __init__(self, parts: list[list[int]], batch: int | None, worker: str):
        """`batch`: these are no results, but what a task of this batch has set aside."""
        self.batch = batch
        self.worker = worker
        self._parts = deque((partition, n_bytes) for partition, n_bytes, _ in parts)
        self._missing = sum(n_bytes for _, n_bytes, _ in parts)
        self._buffer = bytearray()
        self._window = ReceiveWindow(RESULT_WINDOW)

    def add(self, data: Any) -> int:
        """Take bytes; return how many to grant."""
        self._window.received(len(data))
        self._buffer += data
        self._missing -= len(data)
        return self._window.consumed(len(data))

    def take_whole(self) -> list[Part]:
        """Remove and return the partitions that are whole."""
        whole = []
        while self._parts and len(self._buffer) >= self._parts[0][1]:
            partition, n_bytes = self._parts.popleft()
            whole.append(Part(partition, bytes(self._buffer[:n_bytes])))
            del self._buffer[:n_bytes]
        return whole

    @property
    def is_complete(self) -> bool:
        return not self._missing


def _do_nothing() -> None:
    pass


def _make_context() -> bytes:
    """Return the surroundings of this process as JSON; UsageError naming what is too large in them."""
    surroundings = shipping.context()
    fault = environment.find_fault(surroundings["environ"])
    if fault is not None:
        raise UsageError(f"executors cannot be given the environment of this process: {fault}")
    context = json.dumps(surroundings).encode("ascii")
    if len(context) > MAX_CONTEXT_BYTES:
        sizes = {name: len(json.dumps(part)) for name, part in surroundings.items()}
        largest = max(sizes, key=sizes.__getitem__)
        raise UsageError(
            f"executors cannot be given the surroundings of this process: as JSON they have {len(context):,} bytes, at "
            f"most {MAX_CONTEXT_BYTES:,} can be sent; the largest part is {largest} with {sizes[largest]:,}"
        )
    return context
