"""The driver's end of its engine: speak frames with it, see it end.

Plain Python with blocking sockets and native threads: this runs in the user's process,
which may be anything.  One thread reads; whoever has something to send sends it, under
a lock.  The engine always reads, so sending does not block for long.

After a fork the child's copies of the socket are closed at once, or the engine would
not see its driver end; the objects there raise `ForkedError`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from mmgevent import errors
from mmgevent.access.addresses import format_address
from mmgevent.errors import (
    EngineError,
    ForkedError,
    MmgeventError,
    ProtocolError,
    StartError,
    VersionMismatchError,
)
from mmgevent.machine.python_path import VARIABLE
from mmgevent.machine.resources import SIGNAL_LOOK_S, find_control_groups, start_thread
from mmgevent.wire.frames import CONTROL, GRANT, Decoder, Frame
from mmgevent.wire.hello import PYTHON_VERSION, dill_version, hello
from mmgevent.wire.lanes import Outbox, granted_bytes
from mmgevent.wire.messages import control, decode_message

if TYPE_CHECKING:
    from mmgevent.engine.configuration import Configuration
    from mmgevent.engine.start import EngineStart
    from mmgevent.executor.offered import OfferedFunctions

log = logging.getLogger(__name__)

#: for the engine to end by itself once its driver's socket is closed
END_S = 5.0
#: For an engine that closed its link unasked to end, so that its end can be explained, seconds.
EXPLAIN_S = 0.2
_READ_BYTES = 256 * 1024
_GATHER_FRAMES = 32
_REFUSALS: dict[str, type[MmgeventError]] = {"version": VersionMismatchError, "start": StartError}
_NO_FUNCTIONS: Mapping[str, Callable[..., Any]] = {}

OnFrame = Callable[[Frame], None]
OnMessage = Callable[["EngineProcess", Frame, dict[str, Any]], None]
OnEnd = Callable[["EngineProcess", str], None]

_alive: weakref.WeakSet[EngineProcess] = weakref.WeakSet()


class EngineProcess:
    """One engine of this process."""

    def __init__(
        self,
        started: EngineStart,
        configuration: Configuration,
        *,
        functions: Mapping[str, Callable[..., Any]] = _NO_FUNCTIONS,
        on_message: OnMessage | None = None,
        on_end: OnEnd | None = None,
    ):
        """Take over an engine that was started, and tell it what to be; `wait_ready` tells whether it could.

        `functions`: what `configuration.offers` names; they run in a thread of this process.
        `on_message(self, frame, message)` gets what comes about no job; it must not block.  `on_end(self, reason)`
        is called after the engine's end, unless this side closed it.  Both come from the reading thread.
        """
        self._process, self._sock = started.process, started.sock
        self._offered: OfferedFunctions | None = None
        if started.offered_sock is not None:
            from mmgevent.executor.offered import OfferedFunctions

            try:
                self._offered = OfferedFunctions(started.offered_sock, functions)
            except StartError:
                self._abandon()
                raise
        self._on_message = on_message
        self._on_end = on_end
        self._pid = os.getpid()
        self._outbox = Outbox()
        self._lock = threading.Lock()  # of the outbox and of writing
        self._jobs: dict[int, tuple[OnFrame, Callable[[str], None]]] = {}
        self._ready = threading.Event()
        #: it has a server to hand jobs to; only a node's engine may be without, now and then
        self._placed = threading.Event()
        self._unplaced_reason = ""
        self._waits_for = "the engine starts"
        if configuration.join is not None:
            self._waits_for = f"no server answers at {format_address(configuration.join)}"
        if configuration.elect is None:
            self._placed.set()
        self._facts: dict[str, Any] = {}
        self._error: MmgeventError | None = None
        self._ended = threading.Event()
        self._reason = ""
        #: why the server will not have this driver, if it said so
        self.refusal: MmgeventError | None = None
        self._answers: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._asking = threading.Lock()
        #: hold it from taking a job's number until its `submit` is sent: numbers reach the server in rising order
        self.submitting = threading.Lock()
        _alive.add(self)
        hello = _hello(is_local=configuration.join is None and configuration.elect is None)
        try:
            self._sock.sendall(Frame(CONTROL, configuration.encode()).encode() + hello.encode())
        except OSError as error:
            log.debug("engine ended at once: %s", error)  # the reader finds its end, and tells
        self._reader = threading.Thread(target=self._read, name="mmgevent-engine-reader", daemon=True)
        try:
            start_thread(self._reader)
        except StartError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """End an engine that nobody can listen to."""
        self._process.kill()
        self._process.wait()
        self._sock.close()
        if self._offered is not None:
            self._offered.abandon()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    @property
    def was_ready(self) -> bool:
        """Did it start its roles?"""
        return self._ready.is_set() and self._error is None

    def wait_ready(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until the engine has started its roles; return its facts.

        Raises what kept it from doing so (ListenError, ConnectError, AuthenticationError, ...),
        TimeoutError after `timeout` seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        if not _wait(self._ready, timeout):
            raise TimeoutError(self._waits_for)
        if self._error is not None:
            raise self._error
        if not _wait(self._placed, None if until is None else max(0.0, until - time.monotonic())):
            raise TimeoutError(self._unplaced_reason or "looking for a server")
        if self._error is not None:
            raise self._error
        return self._facts

    def place(self) -> None:
        """Note that the engine of a node has a server again."""
        self._placed.set()

    def displace(self, reason: str) -> None:
        """Note that the engine of a node has no server now: its jobs are lost there."""
        self._unplaced_reason = reason
        if not self._ended.is_set():
            self._placed.clear()
        with self._lock:
            jobs, self._jobs = list(self._jobs.values()), {}
        self._give_no_answer()
        for _, on_lost in jobs:
            on_lost(reason)

    def close_node(self, error: MmgeventError) -> None:
        """Note that this node will have no server any more: whoever waits for one gets `error`."""
        self._error = error
        self._placed.set()

    def add_job(self, number: int, on_frame: OnFrame, on_lost: Callable[[str], None]) -> None:
        """Give frames about this job to `on_frame`; call `on_lost(reason)` if the engine ends before.

        Both are called from the reading thread and must not block.
        """
        with self._lock:
            self._jobs[number] = (on_frame, on_lost)
        if self.has_ended and self._jobs.pop(number, None) is not None:
            on_lost(self._reason)

    def remove_job(self, number: int) -> None:
        self._jobs.pop(number, None)
        with self._lock:
            self._outbox.drop_job(number)  # what waits for credit that will not come

    def send(self, *frames: Frame) -> None:
        """Send frames before every lane; nothing happens once the engine has ended."""
        self._check_process()
        with self._lock:
            for frame in frames:
                self._outbox.put(frame)
            self._flush()

    def put_in_lane(self, frames: list[Frame], window_bytes: int) -> None:
        """Open a lane, put frames into it, and close it; they go with the next `flush` or `send`."""
        self._check_process()
        lane = frames[0].lane
        with self._lock:
            self._outbox.open_lane(lane, window_bytes)
            for frame in frames:
                self._outbox.put_in_lane(frame)
            self._outbox.close_lane(lane)

    def flush(self) -> None:
        """Write what may go now; what has no credit yet goes when it is granted."""
        self.send()

    def ask(self, type: str) -> dict[str, Any]:
        """Send a question about no job; return the answer.  EngineError if the engine ends first."""
        with self._asking:
            while not self._answers.empty():  # of a server that was lost before it was asked
                self._answers.get()
            if self.has_ended:
                raise EngineError(f"no answer: {self._reason}")
            self.send(control(type))
            answer = self._answers.get()
        if answer is None:
            raise EngineError(f"no answer: {self._reason or self._unplaced_reason}")
        return answer

    def _give_no_answer(self) -> None:
        if self._asking.locked():
            self._answers.put(None)

    @property
    def is_reading_thread(self) -> bool:
        """Whether this is called from a callback of the reading thread."""
        return threading.current_thread() is self._reader

    def close(self) -> None:
        """End the engine and wait until it has, and the last callback with it; idempotent."""
        if os.getpid() != self._pid:
            return
        self.end_process()
        if not self.is_reading_thread:
            self._reader.join(
                END_S
            )  # it may be in a callback of the user's, which may wait for this very thread
        self._sock.close()
        if self._offered is not None:
            self._offered.close()
        _alive.discard(self)

    def end_process(self) -> None:
        """End the engine's process and wait until it has: then its port is free; idempotent."""
        is_starting = not self._ready.is_set()
        self._end("closed by this side")
        if is_starting:
            self._process.terminate()  # it may be trying to reach a server, and look at nothing else
        try:
            _wait_for_end(self._process, END_S)
        except subprocess.TimeoutExpired:
            log.warning("engine killed: %s did not end in %s s", self.pid, END_S)
            self._process.kill()
            self._process.wait()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                "this cluster was made in the parent of this process: make it after the fork, in the process that uses it"
            )

    def _flush(self) -> None:
        """Write what may go now; the caller holds the lock."""
        try:
            while self._outbox and not self._ended.is_set():
                buffers: list[Any] = []
                while len(buffers) < _GATHER_FRAMES and (frame := self._outbox.next_frame()) is not None:
                    buffers += (frame.encode_header(), frame.payload)
                _send_all(self._sock, buffers)
        except OSError as error:
            log.debug("engine unreachable: %s", error)  # the reader sees its end and tells everybody
        except BaseException:  # KeyboardInterrupt, with half a frame written: nothing can follow it
            self._shut_down()
            raise

    def _read(self) -> None:
        decoder = Decoder()
        reason = "the engine process ended"
        try:
            while data := self._sock.recv(_READ_BYTES):
                decoder.feed(data)
                while (frame := decoder.next_frame()) is not None:
                    if self._ready.is_set():
                        self._take(frame)
                    else:
                        self._take_first(frame)
        except (OSError, ProtocolError) as error:
            reason = f"the engine is lost: {error}"
        except Exception as error:
            log.exception("engine given up: a fault of our own")
            reason = f"internal error: {type(error).__name__}: {error}"
        is_news = not self._ended.is_set()
        self._end(self._explain_end(reason) if is_news else reason)
        if (is_news or self.refusal is not None) and self._on_end is not None:
            self._on_end(self, reason)

    def _take_first(self, frame: Frame) -> None:
        answer = json.loads(bytes(frame.payload))
        if "failed" in answer:
            failed = answer["failed"]
            self._error = getattr(errors, failed["error"], EngineError)(failed["text"])
            if failed.get("errno"):  # as in the engine: an OSError is the cause
                self._error.__cause__ = OSError(failed["errno"], failed["text"])
        else:
            self._facts = answer["ready"]
        self._ready.set()

    def _take(self, frame: Frame) -> None:
        if frame.kind == GRANT:
            with self._lock:
                self._outbox.grant(frame.lane, granted_bytes(frame))
                self._flush()
        elif frame.job:
            job = self._jobs.get(frame.job)
            if job is not None:  # else it is over, and this is late
                job[0](frame)
        elif frame.kind == CONTROL:
            self._take_message(frame, decode_message(frame.payload))

    def _take_message(self, frame: Frame, message: dict[str, Any]) -> None:
        if message["type"] == "refused":
            error_class = _REFUSALS.get(message["code"], EngineError)
            self.refusal = error_class(message["error"])
            self._end(message["error"])
        elif message["type"] == "goodbye":
            self._end(message["reason"])
        elif message["type"] == "workers":
            self._answers.put(message)
        elif message["type"] != "hello" and self._on_message is not None:
            self._on_message(self, frame, message)

    def _explain_end(self, reason: str) -> str:
        """Return why the engine ended, with what the kernel has to do with it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXPLAIN_S)
        if self._process.returncode != -signal.SIGKILL:
            return reason
        groups = find_control_groups()
        limit = groups.limits.memory_bytes
        if limit is None or not groups.count_memory_kills():
            return reason
        return f"{reason}: the kernel killed it at the memory limit of its container (control group), {limit >> 20} MiB"

    def _make_start_error(self, reason: str) -> EngineError:
        python = str(self._process.args[0])  # type: ignore[index] # a list, by `engine.start`
        if python == sys.executable:
            return EngineError(f"the engine could not start: {reason}")
        return StartError(
            f"the engine could not start: {reason}; it was started with {python}, which must be a Python "
            f"{PYTHON_VERSION} that has mmgevent: set {VARIABLE} to the path of one"
        )

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("engine socket already closed: %s", error)

    def _end(self, reason: str) -> None:
        """Make the end known, once."""
        self._shut_down()  # first: it frees whoever holds the lock in a write that nobody reads
        with self._lock:
            if self._ended.is_set():
                return
            self._reason = reason
            self._ended.set()
            self._placed.set()  # nobody waits for a server any more
            jobs, self._jobs = list(self._jobs.values()), {}
        if not self._ready.is_set():
            self._error = self._make_start_error(reason)
            self._ready.set()
        self._give_no_answer()
        for _, on_lost in jobs:
            on_lost(reason)


def _wait(event: threading.Event, timeout: float | None) -> bool:
    """Wait until the event is set; False after `timeout` seconds.

    In pieces, for signals. And under gevent, `wait` on an
    event that was set just now may never return when others' waits for it time out at that moment (they cancel the
    wake-up that it relies on), so it is not called on one that is set.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while not event.is_set():
        left = SIGNAL_LOOK_S if until is None else min(SIGNAL_LOOK_S, until - time.monotonic())
        if left <= 0:
            return False
        event.wait(left)
    return True


def _wait_for_end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Be `process.wait(timeout_s)`, but return when the process ends where the system can tell.

    That looks after 0.5, 1.5, 3.5, 7.5 ms and so on, and an engine takes about 4 ms to end.
    """
    until = time.monotonic() + timeout_s
    if process.poll() is None and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # the kernel is too old, or somebody else reaped it
            fd = os.pidfd_open(process.pid)
            try:
                waiting = select.poll()
                waiting.register(fd, select.POLLIN)
                waiting.poll(timeout_s * 1000)
            finally:
                os.close(fd)
    process.wait(max(0.0, until - time.monotonic()))


def _hello(is_local: bool) -> Frame:
    dill = "local" if is_local else dill_version()  # one's own engine has the same
    return hello("driver", dill=dill)


def _send_all(sock: socket.socket, buffers: list[Any]) -> None:
    first = 0
    while first < len(buffers):
        sent = sock.sendmsg(buffers[first:])
        while first < len(buffers) and sent >= len(buffers[first]):
            sent -= len(buffers[first])
            first += 1
        if sent:
            buffers[first] = memoryview(buffers[first])[sent:]


def _close_in_child() -> None:
    for engine in list(_alive):
        engine._sock.close()
        if engine._offered is not None:
            engine._offered.abandon()


os.register_at_fork(after_in_child=_close_in_child)
