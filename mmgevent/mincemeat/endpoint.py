"""What a Server and a Client have in common: events that wait for whoever calls `process`.

The engine's threads only note what happened; the methods a user may override, and the
schedule, run in the thread that calls `process`, one after another.  Endpoints that are
given the same `map` (a dict) are processed together; those given none share `socket_map`.

Several threads may process one map, as where a Server and a Client run in a thread each.  An endpoint is
then served by one of them at a time, whichever comes, and what it fails with is raised by its own
`process` or `conn`, in the thread that called that, whoever came upon it.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
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

#: of memory, that one of them takes beside its data, at most: many that are tiny count, too
MESSAGE_BYTES = 1024

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
        #: what ended it or kept it from beginning, None if nothing did; also raised, see `process`
        self.error: Exception | None = None
        self._failure: Exception | None = None  # what is to be raised still
        self._keeper = (
            threading.current_thread()
        )  # who called `conn` or `process` last: what is raised, is there
        self._own_calls = 0  # of `process` that go on
        self._processing = threading.RLock()  # held by who handles its events
        self._is_advancing = False
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
        self._keeper = threading.current_thread()
        with self._changed:
            self._own_calls += 1
        try:
            return _process(timeout, self._map, self.schedule, self)
        finally:
            with self._changed:
                self._own_calls -= 1

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
        self.error = self._failure = None
        self._keeper = threading.current_thread()
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

        n_bytes = MESSAGE_BYTES + len(data)

        def handle() -> None:
            with self._changed:
                self._waiting_bytes -= n_bytes
            receive(data)

        with self._changed:
            if self._waiting_bytes + n_bytes > MAX_WAITING_BYTES:
                return False
            self._waiting_bytes += n_bytes
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
        if not self._processing.acquire(blocking=False):
            return  # another thread is at it, and goes on until nothing is left
        try:
            while self._events:
                self._events.popleft()()
            if not self._is_advancing:  # else by a handler that processes in turn
                self._is_advancing = True
                try:
                    self._advance()
                finally:
                    self._is_advancing = False
        finally:
            self._processing.release()

    def _advance(self) -> None:  # noqa: B027 - nothing follows for some
        """Do what follows from what happened."""

    def _fail(self, error: Exception) -> None:
        """Keep what a handler raised until whom it concerns asks."""
        with self._changed:
            if self.error is None:
                self.error = error
            if self._failure is None:
                self._failure = error

    def _concerns(self, caller: Endpoint | None) -> bool:
        """Is a failure of this endpoint raised in this thread, which is in the `process` of `caller` or of the module?"""
        keeper = self._keeper
        if caller is self or keeper is threading.current_thread() or not keeper.is_alive():
            return True
        return caller is None and not self._own_calls

    def _take_failure(self) -> Exception | None:
        with self._changed:
            failure, self._failure = self._failure, None
        return failure

    def _forget(self, loop: threading.Event) -> None:
        with self._changed:
            self._loops.discard(loop)


def process(timeout: float | None = None, map: Map | None = None, schedule: Schedule | None = None) -> bool:
    """Serve all endpoints of `map` (None: those that were given none) and fire the events of `schedule`.

    For `timeout` seconds, with 0 once round, or until all are closed; True while one is open.  What an
    endpoint raises (a job that failed, an exception of resultfn) closes all of them.  It is raised here,
    unless a thread is in the `process` of that endpoint: then there.  See also `error` of the endpoint.
    """
    return _process(timeout, socket_map if map is None else map, schedule, None)


def _process(timeout: float | None, members: Map, schedule: Schedule | None, caller: Endpoint | None) -> bool:
    """Do as `process`, called by way of `caller`, if any."""
    until = None if timeout is None else timer() + timeout
    loop = threading.Event()
    served: dict[Endpoint, None] = {} if caller is None else {caller: None}
    try:
        while members:
            loop.clear()
            following = trigger(schedule)
            if not _attend_all(members, served, loop):
                break
            now = timer()
            if until is not None and now >= until:
                break
            if members:
                loop.wait(max(0.0, min(t for t in (following, until, now + LOOK_S) if t is not None) - now))
    finally:
        for endpoint in served:
            endpoint._forget(loop)
    _raise_failure(served, caller)
    return bool(members)


def _attend_all(members: Map, served: dict[Endpoint, None], loop: threading.Event) -> bool:
    """Attend to all once; False if one has failed, and all are closed therefore."""
    for endpoint in list(members.values()):
        served[endpoint] = None
        try:
            endpoint._attend(loop)
        except Exception as error:  # raised by `_raise_failure`
            endpoint._fail(error)
        if endpoint._failure is not None:
            _close_all(list(members.values()))
            return False
    return True


def _raise_failure(served: Iterable[Endpoint], caller: Endpoint | None) -> None:
    """Raise what one of these failed with, if that concerns the caller; what does not is kept."""
    for endpoint in served:
        failure = endpoint._failure
        if failure is None:
            continue
        if not endpoint._concerns(caller):
            log.error("%s failed: %s: raised by its own process", endpoint.name(), failure)
        elif endpoint._take_failure() is not None:
            raise failure


def _close_all(endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        endpoint.handle_close()
    until = timer() + CLOSE_S
    for endpoint in endpoints:
        if not endpoint._wait_closed(max(0.0, until - timer())):
            log.warning("%s did not close in %g s", endpoint.name(), CLOSE_S)
