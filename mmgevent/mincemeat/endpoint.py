"""What a Server and a Client have in common: events that wait until a thread calls `process`.

The engine's threads only queue events.  The methods that a user may override, and the schedule, run
one after another in the thread that calls `process`.  Endpoints with the same `map` (a dict) are
processed together; those that were given none share `socket_map`.

Several threads may process one map, for example if a Server and a Client each run in a thread.
Then one thread at a time serves an endpoint.  An error of an endpoint is raised by its own
`process` or `conn`, in the thread that called it, whichever thread met the error.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from mmgevent.machine.logs import get_log
from mmgevent.mincemeat.schedule import Schedule, timer, trigger

log = get_log(__name__)

#: The endpoints that were given no map.
socket_map: dict[Any, Any] = {}

#: Time between two looks at a schedule, seconds.  It is a plain deque, which signals no new event.
LOOK_S = 0.1
#: Time for an endpoint to end its engine after another one failed, seconds.
CLOSE_S = 10.0

#: Largest total of the commands that wait for `process`, bytes.  A peer that sends more is
#: disconnected.
MAX_UNPROCESSED_BYTES = 64 * 1024 * 1024

#: Memory that a waiting command is taken to use beside its data, bytes, so that many tiny ones
#: count.
MESSAGE_BYTES = 1024

Map = dict[Any, Any]


class Endpoint(ABC):
    """A Server or a Client."""

    def __init__(
        self, map: Map | None = None, schedule: Schedule | None = None, shuttout: float | None = None
    ):
        """Make an endpoint that is not connected yet.

        `map`: the endpoints that one `process` serves together.  `schedule`: see `schedule.py`.
        `shuttout` has no effect: engines close their links tidily, within their own deadlines.
        """
        self._map: Map = socket_map if map is None else map
        self.schedule: Schedule = deque() if schedule is None else schedule
        self.shuttout = shuttout
        #: whether it is closing or closed
        self.shutdown = False
        #: whether its engine has ended
        self.closed = False
        #: the error that ended it or kept it from starting, or None; `process` raises it
        self.error: Exception | None = None
        self._failure: Exception | None = None  # an error that was not raised yet
        # The thread that called `conn` or `process` last: errors are raised there.
        self._keeper = threading.current_thread()
        self._own_calls = 0  # calls of its `process` that have not returned
        self._processing = threading.RLock()  # held by the thread that handles its events
        self._is_advancing = False
        self._changed = threading.Condition()
        self._events: deque[Callable[[], object]] = deque()
        self._waiting_bytes = 0
        self._loops: set[threading.Event] = set()
        self._closer: threading.Thread | None = None

    @abstractmethod
    def name(self) -> str:
        """Return its name for logs: what it is, and an address."""

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
        """Return whether the work of this endpoint is done."""

    @abstractmethod
    def authenticated(self, timeout: float = 0.0) -> bool:
        """Return whether the other side has proved the password."""

    @abstractmethod
    def _shut_down(self) -> None:
        """End the engine (blocks)."""

    def process(self, timeout: float | None = None) -> bool:
        """Serve this endpoint and all that share its map.

        It takes `timeout` seconds (with 0, one round), or until all of them are closed.
        Return whether one is still open.  See `process` of this module.
        """
        self._keeper = threading.current_thread()
        with self._changed:
            self._own_calls += 1
        try:
            return _process(timeout, self._map, self.schedule, self)
        finally:
            with self._changed:
                self._own_calls -= 1

    # What a daemon calls.  Subclasses may override it.

    def starting(self, interval: float | None = None, **_: Any) -> None:
        """Begin the work of a daemon: with `interval`, ping every so many seconds."""
        if interval:
            self.schedule.append((timer() + interval, self.ping, interval))

    def timeout(self) -> float | None:
        """Do regular checks.

        Return the most seconds until the next call, or None if it does not matter.
        """
        return self.health()

    def health(self) -> float | None:
        """Check the peers; return as `timeout` does."""
        return None

    def stopping(self) -> None:  # noqa: B027 - nothing to do unless overridden
        """Note that processing has ended."""

    def handle_close(self) -> None:
        """Begin to close; from any thread; idempotent."""
        with self._changed:
            if self.shutdown:
                return
            self.shutdown = True
            self._closer = threading.Thread(
                target=self._close, name=f"mincemeat-close-{self.name()}", daemon=True
            )
            self._closer.start()
        self._wake()

    # What subclasses use.

    def _open(self) -> None:
        """Join the map."""
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
            self.closed = True  # first: a thread that finds the map empty must find this closed
            self._map.pop(id(self), None)
            self._wake()

    def _put(self, event: Callable[[], object]) -> None:
        """Have `event()` called by the thread that processes this endpoint."""
        self._events.append(event)
        self._wake()

    def _put_message(self, data: bytes, receive: Callable[[bytes], object]) -> bool:
        """Have `receive(data)` called as `_put` does.

        Return False, and do nothing, if too much waits.
        """

        n_bytes = MESSAGE_BYTES + len(data)

        def handle() -> None:
            with self._changed:
                self._waiting_bytes -= n_bytes
            receive(data)

        with self._changed:
            if self._waiting_bytes + n_bytes > MAX_UNPROCESSED_BYTES:
                return False
            self._waiting_bytes += n_bytes
        self._put(handle)
        return True

    def _wake(self) -> None:
        """Wake the threads that wait for a change of this endpoint."""
        with self._changed:
            self._changed.notify_all()
            for loop in self._loops:
                loop.set()

    def _wait_for(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(predicate, timeout)

    def _wait_closed(self, timeout: float) -> bool:
        """Wait until it is closed, after `handle_close`; return whether it is."""
        if self._closer is not None and self._closer is not threading.current_thread():
            self._closer.join(timeout)
        return self.closed

    def _attend(self, loop: threading.Event) -> None:
        """Handle the events since the last call; `loop` is set when there are more."""
        with self._changed:
            self._loops.add(loop)
        if not self._processing.acquire(blocking=False):
            return  # another thread handles them, and goes on until none is left
        try:
            while self._events:
                self._events.popleft()()
            if not self._is_advancing:  # else a handler has called `process`
                self._is_advancing = True
                try:
                    self._advance()
                finally:
                    self._is_advancing = False
        finally:
            self._processing.release()

    def _advance(self) -> None:  # noqa: B027 - nothing follows for some
        """Do what follows from the events."""

    def _fail(self, error: Exception) -> None:
        """Keep the error of a handler until the right thread can raise it."""
        with self._changed:
            if self.error is None:
                self.error = error
            if self._failure is None:
                self._failure = error

    def _concerns(self, caller: Endpoint | None) -> bool:
        """Return whether this thread raises a failure of this endpoint.

        It is in the `process` of `caller` or, with None, of the module.
        """
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
    """Serve all endpoints of `map`, or those without a map, and fire the events of `schedule`.

    It takes `timeout` seconds (with 0, one round), or until all endpoints are closed.  Return
    whether one is still open.  An error of an endpoint (a job that failed, an exception of
    resultfn) closes all of them.  It is raised here, or, if a thread is in the `process` of that
    endpoint, there.  See also `error` of the endpoint.
    """
    return _process(timeout, socket_map if map is None else map, schedule, None)


def _process(timeout: float | None, members: Map, schedule: Schedule | None, caller: Endpoint | None) -> bool:
    """Do as `process`; `caller` is the endpoint whose `process` was called, or None."""
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
    """Attend to all once.  If one has failed, close all and return False."""
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
    """Raise the failure of one of these, if it concerns the caller; keep the others."""
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
