"""The driver's end of its engine: exchange frames with it, and see it end.

This is plain Python with blocking sockets and native threads: it runs in the user's process, which
may be anything.  One thread reads.  Any thread may send, under a lock.  The engine always reads, so
sending does not block for long.

After a fork the child's copies of the socket are closed at once, or the engine would not see its
driver end.  The objects raise `ForkedError` there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from mmgevent import errors
from mmgevent.access.addresses import format_address
from mmgevent.driver.engine_child import explain_end, make_start_error, wait_for_end
from mmgevent.errors import (
    ConnectError,
    EngineError,
    ForkedError,
    MmgeventError,
    ProtocolError,
    StartError,
    VersionMismatchError,
)
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import SIGNAL_LOOK_S, start_thread
from mmgevent.shown_text import shown
from mmgevent.wire.frames import CONTROL, GRANT, Decoder, Frame
from mmgevent.wire.hello import dill_version, hello, user_name
from mmgevent.wire.lanes import Outbox, granted_bytes
from mmgevent.wire.listings import ANSWERS, check_answer
from mmgevent.wire.messages import control, decode_message

if TYPE_CHECKING:
    from mmgevent.engine.configuration import Configuration
    from mmgevent.engine.start import EngineStart
    from mmgevent.executor.offered import OfferedFunctions

log = get_log(__name__)

#: Time for the engine to end by itself when its driver's socket is closed, seconds.
END_S = 5.0
#: Most bytes that one call reads.
_READ_BYTES = 256 * 1024
#: Most frames that one call writes, two buffers each.
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
        """Take over an engine that was started, and send it its configuration; see `wait_ready`.

        `functions`: what `configuration.offers` names; they run in a thread of this process.
        `on_message(self, frame, message)` gets messages about no job; it must not block.
        `on_end(self, reason)` is called after the engine's end, unless this side closed it.
        The reading thread calls both.
        """
        self._process, self._sock = started.process, started.sock
        self._offered: OfferedFunctions | None = None
        if started.offered_sock is not None:
            self._serve_offers(started.offered_sock, functions)
        self._on_message = on_message
        self._on_end = on_end
        self._pid = os.getpid()
        self._outbox = Outbox()
        self._lock = threading.Lock()  # guards the outbox and writing
        self._jobs: dict[int, tuple[OnFrame, Callable[[str], None]]] = {}
        self._ready = threading.Event()
        # The engine has a server to submit to.  Only a node's engine may have none for a while.
        self._placed = threading.Event()
        self._unplaced_reason = ""
        self._waits_for = "the engine starts"
        #: what errors call the server
        self.server = _name_server(configuration)
        if configuration.join is not None:
            self._waits_for = f"no server answers at {format_address(configuration.join)}"
        if configuration.elect is None:
            self._placed.set()
        self._facts: dict[str, Any] = {}
        self._error: MmgeventError | None = None
        self._ended = threading.Event()
        self._reason = ""
        #: why the server refuses this driver; None if it does not
        self.refusal: MmgeventError | None = None
        self._answers: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._asking = threading.Lock()
        #: Hold it from taking a job's number until its `submit` is sent: the server expects rising
        #: numbers.
        self.submitting = threading.Lock()
        _alive.add(self)
        hello = _hello(is_local=configuration.join is None and configuration.elect is None)
        try:
            self._sock.sendall(Frame(CONTROL, configuration.encode()).encode() + hello.encode())
        except OSError as error:
            log.debug("engine ended at once: %s", error)  # the reader sees its end
        self._reader = threading.Thread(target=self._read, name="mmgevent-engine-reader", daemon=True)
        try:
            start_thread(self._reader)
        except StartError:
            self._abandon()
            raise

    def _serve_offers(self, sock: socket.socket, functions: Mapping[str, Callable[..., Any]]) -> None:
        from mmgevent.executor.offered import OfferedFunctions

        try:
            self._offered = OfferedFunctions(sock, functions)
        except StartError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """End an engine that no thread can read from."""
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
        """Return whether it has started its roles."""
        return self._ready.is_set() and self._error is None

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended its process. That says nothing of the next engine."""
        return self.has_ended and (self._process.poll() or 0) < 0

    def wait_ready(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until the engine has started its roles; return its facts.

        Raises the error that prevented it (ListenError, ConnectError, AuthenticationError, ...), or
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
        """Note that the engine of a node has lost its server, and its jobs with it."""
        self._unplaced_reason = reason
        if not self._ended.is_set():
            self._placed.clear()
        with self._lock:
            jobs, self._jobs = list(self._jobs.values()), {}
        self._give_no_answer()
        for _, on_lost in jobs:
            on_lost(reason)

    def close_node(self, error: MmgeventError) -> None:
        """Note that this node will have no server again: who waits for one gets `error`."""
        self._error = error
        self._placed.set()

    def add_job(self, number: int, on_frame: OnFrame, on_lost: Callable[[str], None]) -> None:
        """Pass frames about this job to `on_frame`.

        Call `on_lost(reason)` if the engine ends before it.

        The reading thread calls both.  They must not block.
        """
        with self._lock:
            self._jobs[number] = (on_frame, on_lost)
        if self.has_ended and self._jobs.pop(number, None) is not None:
            on_lost(self._reason)

    def remove_job(self, number: int) -> None:
        """Forget a job, with what waits to be sent for it; idempotent."""
        self._jobs.pop(number, None)
        with self._lock:
            self._outbox.drop_job(number)

    def send(self, *frames: Frame) -> None:
        """Send frames before every lane; nothing happens once the engine has ended."""
        self._check_process()
        with self._lock:
            for frame in frames:
                self._outbox.put(frame)
            self._flush()

    def put_in_lane(self, frames: list[Frame], window_bytes: int) -> None:
        """Open a lane, put frames into it, and close it; the next `flush` or `send` sends them."""
        self._check_process()
        lane = frames[0].lane
        with self._lock:
            self._outbox.open_lane(lane, window_bytes)
            for frame in frames:
                self._outbox.put_in_lane(frame)
            self._outbox.close_lane(lane)

    def flush(self) -> None:
        """Write what may be sent now; the rest is sent when the receiver grants credit."""
        self.send()

    def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a question about no job and return the answer.

        Raises EngineError if the engine ends first.
        """
        with self._asking:
            while not self._answers.empty():  # left over from a server that was lost
                self._answers.get()
            if self.has_ended:
                raise EngineError(f"no answer: {self._reason}")
            self.send(control(type, **fields))
            answer = self._answers.get()
        if answer is None:
            raise EngineError(f"no answer: {self._reason or self._unplaced_reason}")
        return answer

    def _give_no_answer(self) -> None:
        if self._asking.locked():
            self._answers.put(None)

    @property
    def is_reading_thread(self) -> bool:
        """Return whether the reading thread calls this, in a callback."""
        return threading.current_thread() is self._reader

    def close(self) -> None:
        """End the engine; wait until it and the last callback have ended; idempotent.

        A callback that still runs after END_S is left behind, with a warning.
        """
        if os.getpid() != self._pid:
            return
        self.end_process()
        if not self.is_reading_thread:
            # It may be in a callback of the user's, which may wait for this very thread.
            self._reader.join(END_S)
            if self._reader.is_alive():
                from mmgevent.driver.left_behind import describe_place

                log.warning("%s is left behind: %s", self._reader.name, describe_place(self._reader))
        self._sock.close()
        if self._offered is not None:
            self._offered.close()
        _alive.discard(self)

    def end_process(self) -> None:
        """End the engine's process and wait for its end, which frees its port; idempotent."""
        is_starting = not self._ready.is_set()
        self._end("closed by this side")
        if is_starting:
            self._process.terminate()  # it may be connecting to a server, and not read its socket
        try:
            wait_for_end(self._process, END_S)
        except subprocess.TimeoutExpired:
            log.warning("engine killed: %s did not end in %s s", self.pid, END_S)
            self._process.kill()
            self._process.wait()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise forked_error()

    def _flush(self) -> None:
        """Write what may be sent now; the caller holds the lock."""
        try:
            while self._outbox and not self._ended.is_set():
                buffers: list[Any] = []
                while len(buffers) < _GATHER_FRAMES and (frame := self._outbox.next_frame()) is not None:
                    buffers += (frame.encode_header(), frame.payload)
                _send_all(self._sock, buffers)
        except OSError as error:
            log.debug("engine unreachable: %s", error)  # the reader sees its end and reports it
        except BaseException:  # KeyboardInterrupt after half a frame: nothing can follow it
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
        except OSError as error:
            reason = f"the engine is lost: {error}"
        except ProtocolError as error:
            reason = f"{self.server} broke the protocol: {error}"
        except BaseException as error:  # all jobs wait to be told of the end
            log.exception("engine given up: a fault of our own")
            reason = f"internal error: {type(error).__name__}: {error}"
        is_news = not self._ended.is_set()
        self._end(self._explain_end(reason) if is_news else reason)
        if (is_news or self.refusal is not None) and self._on_end is not None:
            self._on_end(self, reason)

    def _explain_end(self, reason: str) -> str:
        try:
            return explain_end(self._process, reason)
        except Exception:  # all jobs wait to be told of the end
            log.exception("the end of an engine cannot be explained: a fault of our own")
            return reason

    def _take_first(self, frame: Frame) -> None:
        answer = json.loads(bytes(frame.payload))
        if "failed" in answer:
            failed = answer["failed"]
            self._error = getattr(errors, failed["error"], EngineError)(failed["text"])
            if failed.get("errno"):  # an OSError was the cause in the engine, so it is here
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
            if job is not None:  # else the job is over
                job[0](frame)
        elif frame.kind == CONTROL:
            self._take_message(frame, decode_message(frame.payload))

    def _take_message(self, frame: Frame, message: dict[str, Any]) -> None:
        if message["type"] == "refused":
            reason = shown(message["error"])
            self.refusal = _REFUSALS.get(message["code"], ConnectError)(reason)
            self._end(reason)
        elif message["type"] == "goodbye":
            self._end(shown(message["reason"]))
        elif message["type"] in ANSWERS:
            check_answer(message)
            if self._asking.locked():  # else nobody has asked
                self._answers.put(message)
        elif message["type"] != "hello" and self._on_message is not None:
            self._on_message(self, frame, message)

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("engine socket already closed: %s", error)

    def _end(self, reason: str) -> None:
        """Report the end, once."""
        self._shut_down()  # first: a thread may hold the lock in a write that nobody reads
        with self._lock:
            if self._ended.is_set():
                return
            self._reason = reason
            self._ended.set()
            self._placed.set()  # nobody waits for a server now
            jobs, self._jobs = list(self._jobs.values()), {}
        if not self._ready.is_set():
            self._error = make_start_error(self._process, reason)
            self._ready.set()
        self._give_no_answer()
        for _, on_lost in jobs:
            on_lost(reason)


def _wait(event: threading.Event, timeout: float | None) -> bool:
    """Wait until the event is set; return False after `timeout` seconds.

    It waits in pieces, for signals.  gevent bug: `wait()` on a set event can hang if another waiter
    times out at the same moment.  So `is_set()` is checked first.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while not event.is_set():
        left = SIGNAL_LOOK_S if until is None else min(SIGNAL_LOOK_S, until - time.monotonic())
        if left <= 0:
            return False
        event.wait(left)
    return True


def forked_error() -> ForkedError:
    """Return the error of a child process that uses a cluster of its parent."""
    return ForkedError(
        "this cluster was made in the parent of this process: make it after the fork, in the process that uses it"
    )


def _name_server(configuration: Configuration) -> str:
    if configuration.join is not None:
        return f"the server at {format_address(configuration.join)}"
    if configuration.elect is not None:
        return f"the server of {', '.join(map(format_address, configuration.elect))}"
    return "the server in the engine of this program"


def _hello(is_local: bool) -> Frame:
    dill = "local" if is_local else dill_version()  # an engine of our own has the same
    return hello("driver", dill=dill, user=None if is_local else user_name())


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
    """Close the sockets of this process's engines, in a child of it."""
    for engine in list(_alive):
        engine._sock.close()
        if engine._offered is not None:
            engine._offered.abandon()


os.register_at_fork(after_in_child=_close_in_child)
