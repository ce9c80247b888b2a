"""What a Server and a Client have in common: events that wait for whoever calls `process`.

The engine's threads only note what happened; the methods a user may override, and the
schedule, run in the thread that calls `process`, one after another.  Endpoints that are
given the same `map` (a dict) are processed together; those given none share `socket_map`.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from mmgevent.mincemeat.schedule import Schedule, timer, trigger

log = logging.getLogger(__name__)

#: endpoints that were given no map
socket_map: dict[Any, Any] = {}

#: a schedule is a plain deque, which tells nobody what is put into it: seconds between two looks
LOOK_S = 0.1
#: for an endpoint to end its engine, when another one failed
CLOSE_S = 10.0

#: of commands that wait for `process`; who sends more is not waited for
MAX_WAITING_BYTES = 64 * 1024 * 1024

Map = dict[Any, Any]


class Endpoint(ABC):
    """A Server or a Client."""

    def __init__(
        self, map: Map | None = None, schedule: Schedule | None = None, shuttout: float | None = None
    ):
        """Make an endpoint that is connected to nothing yet.

        `map`: endpoints that one `process` serves together.  `schedule`: see `schedule.py`.
        `shuttout` is kept and means nothing: engines close their links tidily, within their own deadlines.
        """
        self._map: Map = socket_map if map is None else map
        self.schedule: Schedule = deque() if schedule is None else schedule
        self.shuttout = shuttout
        #: it is closing, or was told to
        self.shutdown = False
        #: its engine has ended
        self.closed = False
        self._changed = threading.Condition()
        self._events: deque[Callable[[], object]] = deque()
        self._waiting_bytes = 0
        self._loops: set[threading.Event] = set()
        self._closer: threading.Thread | None = None

    @abstractmethod
    def name(self) -> str:
        """Return what logs call it: what it is, and an address."""

    @abstractmethod
    def conn(self, *, asynchronous: bool = False, **credentials: Any) -> None:
        """Connect, or listen; unless `asynchronous`, process until closed."""

    @abstractmethod
    def ping(
        self, message: Any = None, payload: Any = None, now: Any = None, backchannel: Any = False
    ) -> None:
        """Send a "ping" to every peer."""

    @abstractmethod
    def finished(self, timeout: float = 0.0) -> bool:
        """Is the work of this endpoint done?"""

    @abstractmethod
    def authenticated(self, timeout: float = 0.0) -> bool:
        """Has the other side proved the password?"""

    @abstractmethod
    def _shut_down(self) -> None:
        """End the engine (blocks)."""

    def process(self, timeout: float | None = None) -> bool:
        """Serve this endpoint, and all that share its map, for `timeout` seconds or until they are closed.

        True while there may be more to come.  See `process` of this module.
        """
        return process(timeout=timeout, map=self._map, schedule=self.schedule)

    # what a daemon calls; to be overridden

    def starting(self, interval: float | None = None, **_: Any) -> None:
        """Begin the work of a daemon: with `interval`, ping every so many seconds."""
        if interval:
            self.schedule.append((timer() + interval, self.ping, interval))

    def timeout(self) -> float | None:
        """Look after things now and then; return in how many seconds to be called again at the latest, or None."""
        return self.health()

    def health(self) -> float | None:
        """Check the peers; return as `timeout`."""
        return None

    def stopping(self) -> None:  # noqa: B027 - nothing to do unless overridden
        """Be told that processing has ended."""

    def handle_close(self) -> None:
        """Close, without waiting for it; may be called from any thread, and again."""
        with self._changed:
            if self.shutdown:
                return
            self.shutdown = True
            self._closer = threading.Thread(
                target=self._close, name=f"mincemeat-close-{self.name()}", daemon=True
            )
            self._closer.start()
        self._wake()

    # for subclasses

    def _open(self) -> None:
        """Take part in the map from now on."""
        self._wait_closed(CLOSE_S)  # the end of an earlier connection
        self.shutdown = self.closed = False
        self._map[id(self)] = self

    def _is_open(self) -> bool:
        return id(self) in self._map and not self.shutdown

    def _close(self) -> None:
        try:
            self._shut_down()
        finally:
            self.closed = True  # first: whoever finds the map empty finds it closed
            self._map.pop(id(self), None)
            self._wake()

    def _put(self, event: Callable[[], object]) -> None:
        """Have `event()` called by whoever processes this endpoint."""
        self._events.append(event)
        self._wake()

    def _put_message(self, data: bytes, receive: Callable[[bytes], object]) -> bool:
        """Have `receive(data)` called as `_put` does; False if too much waits already."""

        def handle() -> None:
            with self._changed:
                self._waiting_bytes -= len(data)
            receive(data)

        with self._changed:
            if self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
                return False
            self._waiting_bytes += len(data)
        self._put(handle)
        return True

    def _wake(self) -> None:
        """Let those look again who wait for a change of this endpoint."""
        with self._changed:
            self._changed.notify_all()
            for loop in self._loops:
                loop.set()

    def _wait_for(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(predicate, timeout)

    def _wait_closed(self, timeout: float) -> bool:
        """Wait for the end of what `handle_close` began."""
        if self._closer is not None and self._closer is not threading.current_thread():
            self._closer.join(timeout)
        return self.closed

    def _attend(self, loop: threading.Event) -> None:
        """Handle what happened since the last time; `loop` is set when there is more."""
        with self._changed:
            self._loops.add(loop)
        while self._events:
            self._events.popleft()()
        self._advance()

    def _advance(self) -> None:  # noqa: B027 - nothing follows for some
        """Do what follows from what happened."""

    def _forget(self, loop: threading.Event) -> None:
        with self._changed:
            self._loops.discard(loop)


def process(timeout: float | None = None, map: Map | None = None, schedule: Schedule | None = None) -> bool:
    """Serve all endpoints of `map` (None: those that were given none) and fire the events of `schedule`.

    For `timeout` seconds, with 0 once round, or until all are closed; True while one is open.  What an
    endpoint raises (a job that failed, an exception of resultfn) closes all of them and is raised here.
    """
    members = socket_map if map is None else map
    until = None if timeout is None else timer() + timeout
    loop = threading.Event()
    served: set[Endpoint] = set()
    try:
        while members:
            loop.clear()
            following = trigger(schedule)
            for endpoint in list(members.values()):
                served.add(endpoint)
                endpoint._attend(loop)
            now = timer()
            if until is not None and now >= until:
                break
            if members:
                loop.wait(max(0.0, min(t for t in (following, until, now + LOOK_S) if t is not None) - now))
    except Exception:
        _close_all(list(members.values()))
        raise
    finally:
        for endpoint in served:
            endpoint._forget(loop)
    return bool(members)


def _close_all(endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        endpoint.handle_close()
    until = timer() + CLOSE_S
    for endpoint in endpoints:
        if not endpoint._wait_closed(max(0.0, until - timer())):
            log.warning("%s did not close in %g s", endpoint.name(), CLOSE_S)
