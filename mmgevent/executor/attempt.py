"""Run attempts of tasks over a channel: assignment and input in, output and outcome out.

The functions are an argument of `TaskRunner.run`. An executor passes those that were shipped to it. A
process that offers functions passes its own (`executor.offered`).

Memory is limited. The input of a map task is one batch. The input of a reduce task is read segment
by segment. Output waits for credit before more of it is made.
"""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from mmgevent.errors import LinkClosed, MmgeventError, ProtocolError
from mmgevent.executor.channel import Channel
from mmgevent.executor.prints import flush_prints
from mmgevent.executor.record_memory import record_memory_bytes
from mmgevent.executor.status_page import StatusPage
from mmgevent.executor.used import Used
from mmgevent.job.functions import Functions
from mmgevent.job.inputs.refs import ContentNeeded
from mmgevent.tasks import records
from mmgevent.tasks.blame import TaskFailure, blame_exception
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.given import add_item, with_input
from mmgevent.tasks.items import Mark
from mmgevent.tasks.map_task import TaskStats
from mmgevent.tasks.mapping import MapItems
from mmgevent.tasks.results import ResultWriter
from mmgevent.tasks.run import read_batch, run_map, run_reduce
from mmgevent.tasks.skipping import Skipping
from mmgevent.wire import failures
from mmgevent.wire.frames import CONTROL, INPUT, OUTPUT, Frame, Lane, Payload, split_payload
from mmgevent.wire.lanes import (
    INPUT_WINDOW,
    OUTPUT_WINDOW,
    RUNNING_INPUT_WINDOW,
    ReceiveWindow,
    grant_frame,
)
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.positions import ALL
from mmgevent.wire.shapes import MAX_INLINE_BYTES

if TYPE_CHECKING:
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.tasks.item_clock import ItemClock
    from mmgevent.tasks.plain_rules import PlainRules
    from mmgevent.tasks.results import MakeWriter

#: Time between two collections of the youngest garbage, seconds. Python counts objects, but a few
#: objects in cycles may hold megabytes.
COLLECT_S = 0.05


class AttemptRevoked(MmgeventError):
    """The outcome of the attempt no longer matters."""


class TaskRunner:
    """Runs the attempts of one channel, one at a time."""

    def __init__(
        self,
        channel: Channel,
        page: StatusPage | None,
        scratch_dir: str | None,
        *,
        executors: int = 1,
        tunes_gc: bool = True,
    ):
        """`page`: where the worker reads which item runs; None if it does not look.

        `executors`: how many its worker has, including this one. `tunes_gc`: whether the garbage
        collector of this process may be held back while a task runs.
        """
        self._channel = channel
        self._page = page
        self._scratch_dir = scratch_dir
        self._tunes_gc = tunes_gc
        self._collect_due_s = 0.0
        #: most bytes of records that a task holds at once
        self.memory_bytes = record_memory_bytes(None, executors)
        #: maps several items at once, see `tasks.run_map`; None if items are mapped one by one
        self.map_items: MapItems | None = None
        #: options of the job: how often an item is tried again, how many may be set aside
        self.retries = 0
        self.max_skipped: int | float = 0
        #: how mapfn gets many items at once; None if it gets one
        self.calls: CallRules | None = None
        #: the rules of the job for its records, if they must be plain data
        self.plain: PlainRules | None = None
        #: partitions of the job whose records a map task drops
        self.unwanted: frozenset[int] = frozenset()
        #: where and how reduce tasks write their results themselves; None if they do not
        self.parts: PartsPlan | None = None
        #: times the items of a task; None unless the job keeps a log
        self.clock: ItemClock | None = None

    def run(self, functions: Functions, lane: Lane, message: dict[str, Any]) -> None:
        """Run the attempt that `message` assigns, and send its outcome.

        The outcome is "returned" for an attempt that was revoked. An exception of the functions is
        an outcome, too. Raises LinkClosed and ProtocolError, which end the channel.
        """
        channel = self._channel
        if self._page is not None:
            self._page.begin(lane[2])
        attempt = AttemptRun(channel, self._page if self.map_items is None else None, lane, message)
        began_s = monotonic()
        used = None if self._page is None else Used()  # otherwise this process is the user's own
        try:
            skipping = Skipping(self.retries, self.max_skipped, plain=self.plain)
            try:
                stats = self._run_task(functions, attempt, message, skipping)
            finally:
                has_printed = self._page is not None and flush_prints()
            seconds = max(0.0, monotonic() - began_s - attempt.waited_s)
            told: dict[str, Any] = {} if used is None else used.fields()
            if has_printed:  # the worker has not read all of it
                told["printed"] = True
            if self.clock is not None:
                told |= self.clock.found()
            attempt.finish(stats, seconds, skipping, told)
            outcome = None
        except (LinkClosed, ProtocolError):
            raise  # it is no fault of the job, and this channel ends
        except AttemptRevoked:
            outcome = control("returned", *lane)
        except ContentNeeded:
            outcome = control("content", *lane)
        except TaskFailure as error:
            outcome = control(
                "failed",
                *lane,
                failure=failures.bound(with_input(error.failure, error.given, self.plain)),
                item=error.item,
                spent=error.is_spent or None,
                divisible=error.is_divisible or None,
                skipped=error.skipped or None,
            )
        except BaseException as error:
            outcome = control("failed", *lane, failure=blame_exception(error, None).failure)
        if outcome is not None:
            channel.drop_lane(lane)
            channel.send(outcome)
        if self._page is not None:  # last: the item may have closed the link
            self._page.end()
        if self._tunes_gc and monotonic() >= self._collect_due_s and gc.isenabled():
            gc.collect(0)
            self._collect_due_s = monotonic() + COLLECT_S

    def _run_task(
        self, functions: Functions, attempt: AttemptRun, message: dict[str, Any], skipping: Skipping
    ) -> Any:
        mark: Mark = _ignore_mark if self._page is None else self._page.mark
        if message["phase"] == "reduce":
            return run_reduce(
                functions,
                attempt.read_parts(message["parts"]),
                partitions=message["partitions"],
                memory_bytes=self.memory_bytes,
                emit=attempt.emit,
                mark=mark,
                scratch_dir=self._scratch_dir,
                tunes_gc=self._tunes_gc,
                plain=self.plain,
                make_writer=self._choose_writer(attempt),
                clock=self.clock,
            )
        data = attempt.read_all()
        is_results = message.get("results", False)
        items = read_batch(data, is_results=is_results, plain=self.plain)
        lo, hi = message["lo"], message["hi"]

        def decode() -> list[tuple[Any, Any]]:
            return read_batch(data, is_results=is_results, plain=self.plain)[lo:hi]

        try:
            return run_map(
                functions,
                items[lo:hi],
                partitions=message["partitions"],
                memory_bytes=self.memory_bytes,
                emit=attempt.emit,
                mark=mark if self.map_items is None else _ignore_mark,  # the pool marks items itself
                first_index=lo,
                skip=message.get("skip", ()),
                part=tuple(message.get("part", ALL)),
                skipping=skipping,
                decode=decode if skipping.is_needed or self.calls else None,
                map_items=self.map_items,
                mark_flush=None if self._page is None or self.map_items is not None else self._page.set_item,
                tunes_gc=self._tunes_gc,
                plain=self.plain,
                unwanted=self.unwanted,
                calls=self.calls,
                clock=self.clock,
            )
        except TaskFailure as failure:
            add_item(failure, decode, lo)
            raise

    def _choose_writer(self, attempt: AttemptRun) -> MakeWriter:
        if self.parts is None:
            return ResultWriter
        from mmgevent.tasks.part_writer import write_parts  # few jobs write folders

        return write_parts(self.parts, attempt.note, attempt.pausing)


class AttemptRun:
    """The bytes of one attempt that runs: its input and its output.

    Methods that read or emit raise AttemptRevoked once a `revoke` has arrived. Only processes that
    cannot be killed get this message. They notice it after the function that runs.
    """

    def __init__(self, channel: Channel, clock: StatusPage | None, lane: Lane, message: dict[str, Any]):
        """`message` assigns the attempt.

        `clock`: the status page whose clock stops while this waits for the worker; None if several
        items run at once.
        """
        self._channel = channel
        self._clock = clock
        self._lane = lane
        self._size: int = message["size"]
        self._received = 0
        self._granted = INPUT_WINDOW
        self._window = ReceiveWindow(INPUT_WINDOW)
        self._chunks: deque[memoryview] = deque()
        #: bytes given to `emit` so far
        self.output_bytes = 0
        #: flushes that are small enough to go with the outcome; None once output is sent by itself
        self._held: list[bytes] | None = []
        self._is_revoked = False
        #: seconds spent waiting for the worker
        self.waited_s = 0.0
        channel.take_waiting(lane, self._take_input)
        if "inline" in message:
            self._receive(message["inline"])
        else:
            self._grant(self._window.widen(RUNNING_INPUT_WINDOW))

    def emit(self, flush: bytes) -> None:
        """Send a flush, or keep it while there is little output.

        Blocks until there was credit for every byte sent.
        """
        self._check_revoked()
        self.output_bytes += len(flush)
        if self._held is None:
            self._send(flush)
            return
        self._held.append(flush)
        if self.output_bytes > MAX_INLINE_BYTES:
            held, self._held = self._held, None
            self._channel.open_lane(self._lane, OUTPUT_WINDOW)
            for each in held:
                self._send(each)

    def finish(self, stats: TaskStats, seconds: float, skipping: Skipping, told: dict[str, Any]) -> None:
        """Send the outcome behind the output, or together with it.

        `told`: more fields of `done`, such as those of `Used.fields` and `ItemClock.found`.
        """
        self._check_revoked()
        self._channel.send(
            control(
                "done",
                *self._lane,
                size=self.output_bytes,
                records=stats.records,
                items=stats.items - skipping.count,
                skipped=skipping.count or None,
                failure=skipping.last_failure,
                groups=stats.groups,
                seconds=seconds,
                counters=stats.counters or None,
                inline=b"".join(self._held) if self._held else None,
                retries=skipping.retried or None,
                **told,
            )
        )
        self._channel.close_lane(self._lane)

    def read_all(self) -> bytes:
        """Return the whole input."""
        return self._read(self._size)

    def read_parts(self, parts: list[list[int]]) -> Iterator[tuple[int, int, Iterator[bytes]]]:
        """Yield (partition, bytes, iterator of its segments) of each part, in order.

        When the next part is asked for, the rest of this one is skipped.
        """
        for partition, n_bytes in parts:
            segments = self._read_segments(n_bytes)
            yield partition, n_bytes, segments
            deque(segments, maxlen=0)

    def note(self, text: str) -> None:
        """Send a sentence to the user, who gets it once."""
        self._channel.send(control("notice", *self._lane, text=text, once=text))

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Stop the clock of the item meanwhile, which is not at fault."""
        stopped = None if self._clock is None else self._clock.stop_clock()
        try:
            yield
        finally:
            if self._clock is not None and stopped is not None:
                self._clock.start_clock(stopped)

    def _send(self, flush: bytes) -> None:
        self._channel.send(*split_payload(OUTPUT, flush, *self._lane))
        if self._channel.queued_bytes(self._lane):
            self._wait_until(lambda: self._channel.queued_bytes(self._lane) == 0)

    def _read_segments(self, n_bytes: int) -> Iterator[bytes]:
        while n_bytes > 0:
            header = self._read(records.SEGMENT_HEADER_BYTES)
            size = records.segment_size(header)
            if size > n_bytes:
                raise ProtocolError(f"a segment of {size} bytes in the last {n_bytes} of its partition")
            yield self._read(size - len(header), header)
            n_bytes -= size

    def _read(self, n_bytes: int, head: bytes = b"") -> bytes:
        """Return `head` and exactly so many bytes of the input.

        Waits for them, and grants credit for what it takes.
        """
        self._check_revoked()
        taken: list[bytes | memoryview] = [head]
        while n_bytes:
            if not self._chunks:
                if self._received >= self._size:
                    raise ProtocolError(f"the input of an attempt ended after {self._size} bytes")
                self._wait_until(lambda: bool(self._chunks))
            chunk = self._chunks.popleft()
            if len(chunk) > n_bytes:
                self._chunks.appendleft(chunk[n_bytes:])
                chunk = chunk[:n_bytes]
            n_bytes -= len(chunk)
            taken.append(chunk)
            self._grant(self._window.consumed(len(chunk)))
        return b"".join(taken)

    def _grant(self, n_bytes: int) -> None:
        """Grant credit, unless the rest of the input has it already."""
        if n_bytes and self._granted < self._size:
            self._granted += n_bytes
            self._channel.send_first(grant_frame(self._lane, n_bytes))

    def _take_input(self, frame: Frame) -> bool:
        if frame.lane != self._lane:
            return False
        if frame.kind == CONTROL and decode_message(frame.payload)["type"] == "revoke":
            self._is_revoked = True
            return True
        if frame.kind != INPUT:
            return False
        self._receive(frame.payload)
        return True

    def _receive(self, data: Payload) -> None:
        self._window.received(len(data))
        self._received += len(data)
        if self._received > self._size:
            raise ProtocolError(f"more input came than the {self._size} bytes announced")
        self._chunks.append(memoryview(data))

    def _wait_until(self, satisfied: Callable[[], bool]) -> None:
        """Read frames until `satisfied()`. The clock of the item, which is not at fault, stops."""
        began_s = monotonic()
        with self.pausing():
            while not satisfied():
                self._check_revoked()
                self._channel.wait(self._take_input)
        self.waited_s += monotonic() - began_s

    def _check_revoked(self) -> None:
        if self._is_revoked:
            raise AttemptRevoked


def _ignore_mark(index: int, key: Any) -> None:
    pass
