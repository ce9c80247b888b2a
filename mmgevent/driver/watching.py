"""Watching: a program sees workers join and leave, and exchanges messages with them.

A `Watch` gives each worker a number of its own and never uses one twice.  So a message to a worker
that left does not reach another worker that has the same number on another server.  The callbacks
run in the thread that reads from the engine.

When the server or the engine is lost, every worker has left.  A thread of the watch then waits for
the next server and watches there.  It sleeps unless something is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from mmgevent.driver.callbacks import call_back
from mmgevent.driver.engine_link import EngineProcess
from mmgevent.errors import MmgeventError, ProtocolError, UsageError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread
from mmgevent.shown_text import MAX_NAME_CHARS, shown
from mmgevent.wire.failures import shorten
from mmgevent.wire.frames import Frame
from mmgevent.wire.messages import control
from mmgevent.wire.user_messages import Reassembler, tell_frames

log = get_log(__name__)

#: Time to wait for an engine, or for a node's server, before the watch looks for another engine,
#: seconds.
ENGINE_S = 60.0
#: Pause before another engine is tried, if one could not start, seconds.
PAUSE_S = 1.0
#: Longest reason of a dismissal, bytes.  Longer ones are shortened.
MAX_REASON_BYTES = 500


class PeerInfo(NamedTuple):
    """A worker that is present, as `watch` describes it."""

    number: int  #: this cluster's number of it, never used again
    name: str  #: "host/pid", or the name it was given
    address: str  #: "HOST:PORT" it connects from; "local" for the worker in the server's own engine
    slots: int
    offers: tuple[str, ...]  #: the names of the functions that its process offers


OnJoined = Callable[[PeerInfo], None]
OnLeft = Callable[[int, str], None]
OnTell = Callable[[int, bytes], None]


class Watch:
    """The workers of a cluster's server, and their messages."""

    def __init__(
        self,
        get_engine: Callable[[str | None], EngineProcess],
        on_joined: OnJoined,
        on_left: OnLeft,
        on_tell: OnTell,
    ):
        """`get_engine` is the cluster's; an error that it raises ends the watch."""
        self._get_engine = get_engine
        self._on_joined = on_joined
        self._on_left = on_left
        self._on_tell = on_tell
        self._handlers = {"joined": self._take_joined, "left": self._take_left, "tell": self._take_tell}
        self._lock = threading.Lock()  # guards the four below
        self._engine: EngineProcess | None = None  # the engine that is watched
        self._peers: dict[int, int] = {}  # the server's number of each worker -> ours
        self._numbers: dict[int, int] = {}  # our number -> the server's
        self._next_number = 1
        self._reassembler = Reassembler()
        self._closing = threading.Event()
        self._wanted = threading.Event()
        self._wanted.set()
        self._thread = threading.Thread(target=self._keep, name="mmgevent-watch", daemon=True)
        start_thread(self._thread)

    def tell(self, number: int, data: Any) -> None:
        """Send bytes to a worker's program.

        Nothing happens if it left. Raises UsageError if they cannot be sent.
        """
        engine, peer = self._find(number)
        frames = tell_frames(data, peer)
        if engine is not None:
            engine.send(*frames)

    def dismiss(self, number: int, reason: str) -> None:
        """Have the server say goodbye to a worker; nothing happens if it left."""
        engine, peer = self._find(number)
        if engine is not None:
            engine.send(control("dismiss", task=peer, reason=shorten(reason, MAX_REASON_BYTES)))

    def lose(self, reason: str) -> None:
        """Note that the server was lost or replaced: every worker has left."""
        with self._lock:
            self._engine = None
            lost, self._peers, self._numbers = list(self._numbers), {}, {}
            self._reassembler = Reassembler()
        self._wanted.set()
        for number in lost:
            self._call(self._on_left, number, reason)

    def close(self) -> None:
        """Begin no more callbacks; `join` waits for the thread."""
        self._closing.set()
        self._wanted.set()

    def join(self, timeout: float) -> None:
        """Wait for the thread after `close`."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # What runs in the engine's reading thread.

    def on_message(self, engine: EngineProcess, frame: Frame, message: dict[str, Any]) -> None:
        """Handle a message about no job; one of an engine that is no longer watched is ignored."""
        handler = self._handlers.get(message["type"])
        if handler is not None and engine is self._engine:
            handler(engine, frame, message)

    def _take_joined(self, engine: EngineProcess, frame: Frame, message: dict[str, Any]) -> None:
        peer = frame.task
        self._reassembler.forget(frame.lane)  # it is known if the server was asked twice
        with self._lock:
            if engine is not self._engine or peer in self._peers:
                return
            number = self._peers[peer] = self._next_number
            self._numbers[number] = peer
            self._next_number += 1
        name, address = (shown(message[f], max_line_chars=MAX_NAME_CHARS) for f in ("name", "address"))
        info = PeerInfo(number, name, address, message["slots"], tuple(message["offers"]))
        self._call(self._on_joined, info)

    def _take_left(self, engine: EngineProcess, frame: Frame, message: dict[str, Any]) -> None:
        self._reassembler.forget(frame.lane)
        with self._lock:
            number = self._peers.pop(frame.task, None)
            if number is None:
                return
            del self._numbers[number]
        self._call(self._on_left, number, shown(message["reason"]))

    def _take_tell(self, engine: EngineProcess, frame: Frame, message: dict[str, Any]) -> None:
        number = self._peers.get(frame.task)
        if number is None:
            return
        try:
            data = self._reassembler.take(frame, message)
        except ProtocolError as error:
            log.warning("worker %d dismissed: %s", number, error)
            self.dismiss(number, str(error))
            return
        if data is not None:
            self._call(self._on_tell, number, data)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        if not self._closing.is_set():
            call_back("a callback of watch", callback, *args)

    def _find(self, number: int) -> tuple[EngineProcess | None, int]:
        """Return the engine of a worker and the server's number of it; (None, 0) if it has left."""
        if type(number) is not int:
            raise UsageError(f"a worker is named by its number, as on_joined got it, not by {number!r}")
        with self._lock:
            peer = self._numbers.get(number)
            return (None, 0) if peer is None else (self._engine, peer)

    # What runs in the thread of the watch.

    def _keep(self) -> None:
        """Watch one engine after another, until the cluster closes or has no engine."""
        failed: EngineProcess | None = None
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing.is_set():
                return
            try:
                engine = self._get_engine(None)
            except MmgeventError as error:
                if not self._closing.is_set():
                    log.warning("workers are no longer watched: %s", error)
                return
            fault = self._subscribe(engine)
            if fault is None:
                continue
            if engine is failed:  # the cluster has no other engine, and this one never worked
                log.warning("no workers are watched: %s", fault)
                return
            if not isinstance(fault, TimeoutError):
                failed = engine
                self._closing.wait(PAUSE_S)
            self._wanted.set()

    def _subscribe(self, engine: EngineProcess) -> MmgeventError | TimeoutError | None:
        """Watch the workers of this engine's server; return what prevents it, or None."""
        try:
            engine.wait_ready(ENGINE_S)
            with self._lock:
                self._engine = engine
            # Job 0 is about no job.  It is lost with the engine, or, at a node, with the server.
            engine.add_job(0, _ignore, self.lose)
            engine.wait_ready(0)  # it may have been lost just before
        except (MmgeventError, TimeoutError) as fault:
            return fault
        engine.send(control("watch"))
        return None


def _ignore(frame: Frame) -> None:
    """Do nothing: there are no frames of job 0."""
