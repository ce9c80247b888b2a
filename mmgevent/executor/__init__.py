"""The executor: a process that runs the user's functions of one job, in its main thread.

It is forked by the template with nothing of the user's in it, gets one job and its code, and then
attempts of that job's tasks, one at a time, until its link ends; the end of an executor is always
the end of its process. It decides nothing: what to run comes from the server, who is to blame for a
death is read from its page by the worker.

What it holds of an attempt is bounded: the input of a map is one batch, that of a reduce is pulled
from the link segment by segment, output waits for credit before more of it is made.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import sys
import tempfile
import types
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from mmgevent import failures, records, shipping, tasks
from mmgevent.errors import LinkClosed, ProtocolError, ShippingError
from mmgevent.executor.channel import Channel
from mmgevent.machine import count_cores, total_memory_bytes
from mmgevent.page import Page
from mmgevent.refs import ContentNeeded
from mmgevent.tasks.blame import blame_exception
from mmgevent.wire.frames import CODE, CONTROL, INPUT, OUTPUT, Frame, Lane, split_payload
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.streams import (
    CODE_WINDOW,
    INPUT_WINDOW,
    OUTPUT_WINDOW,
    RUNNING_INPUT_WINDOW,
    ReceiveWindow,
    grant_frame,
)

#: share of an executor's memory that the records of a task may take before they are flushed; the rest
#: is for the encoded copy of them, the input, the user's own objects, and the error of the estimate
RECORD_SHARE = 0.25


def main(link_fd: int, page_fd: int, scratch_dir: str | None, *, greenlets: bool) -> None:
    """Run until the link closes. Called once, in a fresh child of the template.

    With `greenlets` the process is monkey-patched and may run several items at once.
    """
    _open_streams()
    faulthandler.enable()  # a crash in C leaves the Python stack as last words
    sys.argv = ["mmg-executor"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    channel = Channel(link_fd)
    page = Page(page_fd)
    os.close(page_fd)
    os.register_at_fork(after_in_child=channel.abandon)
    with contextlib.suppress(LinkClosed):  # the job is over, or the worker
        Executor(channel, page, scratch_dir or tempfile.gettempdir(), greenlets).serve()


def _open_streams() -> None:
    """Make Python's standard streams anew: those of the template were made for what it had at 0, 1, 2."""
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc] # noqa: SIM115
    for name, fd in (("stdout", 1), ("stderr", 2)):
        # By lines: what stays in a buffer is lost when the process dies.
        stream = open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


class Executor:
    """Takes frames from the channel and carries them out."""

    def __init__(self, channel: Channel, page: Page, scratch_dir: str, greenlets: bool):
        self._channel = channel
        self._page = page
        self._scratch_dir = scratch_dir
        self._is_patched = greenlets
        self._functions: tasks.Functions | None = None
        self._load_failure: dict[str, Any] | None = None
        self._memory_bytes = record_memory_bytes(None)
        self._map_items: Any = None

    def serve(self) -> None:
        """Carry out frames for ever; LinkClosed ends it, ProtocolError is a fault of ours."""
        while True:
            frame = self._channel.next_frame()
            if frame.kind == INPUT:
                continue  # of an attempt that failed before it had read everything
            if frame.kind != CONTROL:
                raise ProtocolError(f"an executor got {frame!r}")
            message = decode_message(frame.payload)
            if message["type"] == "job":
                self._take_job(frame, message)
            elif message["type"] == "assign":
                self._run(frame.lane, message)
            else:
                raise ProtocolError(f"an executor got the message {message['type']!r}")

    # -- the job

    def _take_job(self, frame: Frame, message: dict[str, Any]) -> None:
        options = message["options"]
        limit_bytes = options.get("memory_limit")
        code = self._receive_code(frame.lane, message["code_bytes"])
        try:
            if "context" in message:
                shipping.enter(message["context"])
            if limit_bytes is not None:
                _, hard = resource.getrlimit(resource.RLIMIT_DATA)
                resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, hard))
            self._memory_bytes = record_memory_bytes(limit_bytes)
            if self._is_patched and options.get("greenlets", 0) > 1:
                from mmgevent.executor.pool import ItemPool

                self._map_items = ItemPool(options["greenlets"], self._page).map_items
            self._functions = shipping.load(code)
        except BaseException as error:  # SystemExit too: it comes from a module of the user's
            self._load_failure = _describe_load(error)

    def _receive_code(self, lane: Lane, size: int) -> bytes:
        window = ReceiveWindow(CODE_WINDOW)
        code = bytearray()

        def wanted(frame: Frame) -> bool:
            if frame.kind != CODE:
                return False
            window.received(len(frame.payload))
            code.extend(frame.payload)
            grant = window.consumed(len(frame.payload))
            if grant and len(code) < size:
                self._channel.send_first(grant_frame(lane, grant))
            return True

        self._channel.take_waiting(wanted)
        while len(code) < size:
            self._channel.wait(wanted)
        return bytes(code)

    # -- attempts

    def _run(self, lane: Lane, message: dict[str, Any]) -> None:
        channel = self._channel
        if self._functions is None:
            failure = self._load_failure or {"kind": "import", "error": "no job came before its tasks"}
            channel.send(control("failed", *lane, failure=failure))
            return
        self._page.begin(lane[2])
        channel.send(control("started", *lane))
        channel.open_lane(lane, OUTPUT_WINDOW)
        attempt = Attempt(channel, self._page, lane, message["size"])
        attempt.stops_clock = self._map_items is None
        began_s = monotonic()
        try:
            stats = self._run_task(attempt, message)
            outcome = control(
                "done",
                *lane,
                size=attempt.output_bytes,
                records=stats.records,
                items=stats.items,
                groups=stats.groups,
                seconds=max(0.0, monotonic() - began_s - attempt.waited_s),
            )
        except (LinkClosed, ProtocolError):
            raise  # not the job's fault: this process ends
        except ContentNeeded:
            outcome = control("content", *lane)
        except tasks.TaskFailure as error:
            outcome = control("failed", *lane, failure=failures.bound(error.failure), item=error.item)
        except BaseException as error:
            outcome = control("failed", *lane, failure=blame_exception(error, None).failure)
        finally:
            self._page.end()
        channel.drop_lane(lane)
        channel.send(outcome)

    def _run_task(self, attempt: Attempt, message: dict[str, Any]) -> Any:
        assert self._functions is not None
        if message["phase"] == "reduce":
            return tasks.run_reduce(
                self._functions,
                attempt.read_parts(message["parts"]),
                partitions=message["partitions"],
                memory_bytes=self._memory_bytes,
                emit=attempt.emit,
                mark=self._page.mark,
                scratch_dir=self._scratch_dir,
            )
        items = tasks.read_batch(attempt.read_all())
        lo, hi = message["lo"], message["hi"]
        return tasks.run_map(
            self._functions,
            items[lo:hi],
            partitions=message["partitions"],
            memory_bytes=self._memory_bytes,
            emit=attempt.emit,
            mark=self._page.mark if self._map_items is None else _ignore_mark,  # the pool knows better
            first_index=lo,
            skip=message.get("skip", ()),
            map_items=self._map_items,
        )


class Attempt:
    """The bytes of one attempt: its input as it comes, its output as there is credit for it."""

    def __init__(self, channel: Channel, page: Page, lane: Lane, size: int):
        self._channel = channel
        self._page = page
        self._lane = lane
        self._size = size
        self._received = 0
        self._granted = INPUT_WINDOW
        self._window = ReceiveWindow(INPUT_WINDOW)
        self._chunks: deque[memoryview] = deque()
        #: bytes given to `emit` so far
        self.output_bytes = 0
        #: whether waiting for the worker holds up the item on the page; not where several run at once
        self.stops_clock = True
        #: seconds spent waiting for the worker
        self.waited_s = 0.0
        channel.take_waiting(self._take_input)
        self._grant(self._window.widen(RUNNING_INPUT_WINDOW))

    def emit(self, flush: bytes) -> None:
        """Send a flush; returns when the last byte of it had credit."""
        self.output_bytes += len(flush)
        for frame in split_payload(OUTPUT, flush, *self._lane):
            self._channel.send(frame)
        if self._channel.queued_bytes(self._lane):
            self._wait_until(lambda: self._channel.queued_bytes(self._lane) == 0)

    def read_all(self) -> bytes:
        """The whole input."""
        return self._read(self._size)

    def read_parts(self, parts: list[list[int]]) -> Iterator[tuple[int, int, Iterator[bytes]]]:
        """(partition, bytes, iterator of its segments) of each part, to be read in this order.

        What is left of a part when the next one is asked for is read over.
        """
        for partition, n_bytes in parts:
            segments = self._read_segments(n_bytes)
            yield partition, n_bytes, segments
            deque(segments, maxlen=0)

    def _read_segments(self, n_bytes: int) -> Iterator[bytes]:
        while n_bytes > 0:
            header = self._read(records.SEGMENT_HEADER_BYTES)
            size = records.segment_size(header)
            if size > n_bytes:
                raise ProtocolError(f"a segment of {size} bytes in the last {n_bytes} of its partition")
            yield header + self._read(size - len(header))
            n_bytes -= size

    def _read(self, n_bytes: int) -> bytes:
        """Exactly so many bytes of the input; waits for them, grants as it takes them."""
        taken: list[memoryview] = []
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
        """Grant, unless what was granted already covers the rest of the input."""
        if n_bytes and self._granted < self._size:
            self._granted += n_bytes
            self._channel.send_first(grant_frame(self._lane, n_bytes))

    def _take_input(self, frame: Frame) -> bool:
        if frame.kind != INPUT or frame.lane != self._lane:
            return False
        self._window.received(len(frame.payload))
        self._received += len(frame.payload)
        if self._received > self._size:
            raise ProtocolError(f"more input came than the {self._size} bytes announced")
        self._chunks.append(memoryview(frame.payload))
        return True

    def _wait_until(self, satisfied: Callable[[], bool]) -> None:
        """Read frames until it is so; the clock of the item stands still, for it is not at fault."""
        began_s = monotonic()
        stopped = self._page.stop_clock() if self.stops_clock else None
        while not satisfied():
            self._channel.wait(self._take_input)
        if stopped is not None:
            self._page.start_clock(stopped)
        self.waited_s += monotonic() - began_s


def _ignore_mark(index: int, key: Any) -> None:
    pass


def _describe_load(error: BaseException) -> dict[str, Any]:
    """Return the failure record of a job whose functions did not load."""
    failure = blame_exception(error, None).failure
    failure["kind"] = "import" if isinstance(error, ImportError) else "shipping"
    if isinstance(error, (ImportError, ShippingError)):
        failure["error"] = str(error)  # made to be read, with the advice in it
        failure.pop("advice", None)
    return failures.bound(failure)


def record_memory_bytes(limit_bytes: int | None) -> int:
    """Bytes of records that a task may hold at once, of a limit or else of a core's share of the RAM."""
    if limit_bytes is None:
        limit_bytes = total_memory_bytes() // count_cores()
    return int(limit_bytes * RECORD_SHARE)
