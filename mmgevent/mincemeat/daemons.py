"""Servers and Clients in threads of their own, and variants that check their peers."""

from __future__ import annotations

import threading
from typing import Any

from mmgevent.machine.logs import get_log
from mmgevent.mincemeat.channel import ServerChannel
from mmgevent.mincemeat.client import Client
from mmgevent.mincemeat.endpoint import Endpoint, Map
from mmgevent.mincemeat.schedule import Schedule, timer
from mmgevent.mincemeat.server import Server

log = get_log(__name__)


class _Name(str):
    """A thread's name for threading and logging.

    Mincemeat scripts call it; then it returns itself.
    """

    def __call__(self) -> str:
        return str(self)


class Mincemeat_daemon(threading.Thread):
    """Process an endpoint in a thread.

    The constructor makes the endpoint and calls its `conn`, and raises the errors of that.  It does
    not wait for the endpoint's engine.
    """

    def __init__(
        self,
        credentials: dict[str, Any],
        cls: type[Endpoint] | None = None,
        map: Map | None = None,
        schedule: Schedule | None = None,
        shuttout: float | None = 0.5,
        **kwargs: Any,
    ):
        """Make a `cls(map, schedule, shuttout)` and its `conn(**credentials)`.

        `map`: None for a map of its own.
        `timeout`: longest time between two calls of the method `timeout`, seconds; None never
        calls it.
        Other keywords go to the endpoint's `starting`: `interval` (ping every so many seconds) and
        `allowed` (seconds without an answer).
        """
        if cls is None:
            raise TypeError(
                "a Mincemeat_daemon needs cls=, a Server or Client class; or take a Server_daemon"
            )
        super().__init__(daemon=True)
        self._kwargs = kwargs
        self._state = "idle"
        self.endpoint: Any = cls(map={} if map is None else map, schedule=schedule, shuttout=shuttout)
        self.endpoint.conn(**{**credentials, "asynchronous": True})

    @property
    def name(self) -> _Name:  # type: ignore[override]
        """The endpoint's name; calling the name returns it, too."""
        endpoint = self.__dict__.get("endpoint")
        return _Name(self._name if endpoint is None else endpoint.name())  # type: ignore[attr-defined]

    def state(self) -> str:
        """Return "idle", "processing", "authenticated", "success" or "failed: ..."."""
        if self._state == "processing" and self.endpoint.authenticated():
            return "authenticated"
        return self._state

    def run(self) -> None:
        self._state = "processing"
        try:
            self.process(**self._kwargs)
        except BaseException as error:  # also sys.exit of a handler, which would end just this thread
            log.exception("%s failed", self.name)
            self._state = f"failed: {error}"
            return
        if self.endpoint.finished() and self.endpoint.authenticated():
            self._state = "success"
        else:
            self._state = f"failed: {getattr(self.endpoint, 'error', None) or 'incomplete'}"
        log.info("%s: %s", self.name, self._state)

    def process(self, **kwargs: Any) -> None:
        """Serve the endpoint until it is closed; the thread does this."""
        self.endpoint.starting(**kwargs)
        longest = kwargs.get("timeout")
        pause = None if longest is None else 0.0
        while self.endpoint.process(timeout=pause):
            pause = _shortest(longest, self.timeout())
        self.endpoint.stopping()

    def timeout(self) -> float | None:
        """Do the work of every `timeout` seconds.

        A returned number of seconds shortens the next pause.

        This method calls the endpoint's `timeout`, which checks its health.
        """
        pause: float | None = self.endpoint.timeout()
        return pause

    def stop(self, timeout: float | None = 5.0) -> None:
        """Close the endpoint and wait up to `timeout` seconds for the thread to end.

        May be called again.
        """
        self.endpoint.handle_close()
        if self.ident is None:
            self.endpoint._wait_closed(timeout)
            return
        if self is not threading.current_thread():
            self.join(timeout)
        if self.is_alive():
            log.warning(
                "%s did not stop in %s s: one of its methods, or a datasource, does not return",
                self.name,
                timeout,
            )


class Server_daemon(Mincemeat_daemon):
    """A Server in a thread."""

    def __init__(self, credentials: dict[str, Any], cls: type[Endpoint] = Server, **kwargs: Any):
        super().__init__(credentials, cls=cls, **kwargs)


class Client_daemon(Mincemeat_daemon):
    """A Client in a thread."""

    def __init__(self, credentials: dict[str, Any], cls: type[Endpoint] = Client, **kwargs: Any):
        super().__init__(credentials, cls=cls, **kwargs)


class Server_HB(Server):
    """A Server that closes channels of Clients that have not answered a ping for `allowed` seconds.

    Workers that are no mincemeat Clients answer no pings.  The engine's own heartbeats watch them.
    """

    allowed: float | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._pong_seen: dict[ServerChannel, float] = {}

    def starting(self, interval: float | None = None, allowed: float | None = None, **kwargs: Any) -> None:
        self.allowed = allowed
        super().starting(interval=interval, **kwargs)

    def health(self) -> float | None:
        """Close channels that were silent too long.

        Return the seconds until the next one may be.
        """
        if self.allowed is None:
            return None
        now = timer()
        clients = [channel for channel in self.taskmanager.channels if channel.is_client]
        self._pong_seen = {channel: self._pong_seen.get(channel, now) for channel in clients}
        pause = self.allowed
        for channel, seen in self._pong_seen.items():
            left = seen + self.allowed - now
            if left > 0:
                pause = min(pause, left)
            elif not channel.shutdown:
                log.warning("%s: no answer to a ping for %.1f s: closing", channel.name(), now - seen)
                channel.handle_close()
        return pause

    def pong(self, chan: ServerChannel, command: str, data: Any, txn: Any) -> None:
        self._pong_seen[chan] = timer()
        super().pong(chan, command, data, txn)


class Client_HB(Client):
    """A Client that closes if its Server has not answered a ping for `allowed` seconds."""

    allowed: float | None = None
    _pong_seen: float | None = None

    def starting(self, interval: float | None = None, allowed: float | None = None, **kwargs: Any) -> None:
        self.allowed = allowed
        self._pong_seen = timer()
        super().starting(interval=interval, **kwargs)

    def _note_authenticated(self) -> None:
        self._pong_seen = timer()  # the Server could not answer before
        super()._note_authenticated()

    def health(self) -> float | None:
        """Close if the Server was silent too long; return the seconds until it may be."""
        if self.allowed is None or self._pong_seen is None:
            return None
        if self.auth is None:
            return self.allowed
        silent = timer() - self._pong_seen
        if silent < self.allowed:
            return self.allowed - silent
        log.warning("%s: no answer to a ping for %.1f s: closing", self.name(), silent)
        self.handle_close()
        return None

    def pong(self, command: str, data: Any, txn: Any) -> None:
        self._pong_seen = timer()
        super().pong(command, data, txn)


class Server_HB_daemon(Server_daemon):
    """A Server_HB in a thread: a ping every 7 s, and 15 s for an answer."""

    def __init__(
        self,
        credentials: dict[str, Any],
        cls: type[Endpoint] = Server_HB,
        interval: float = 7.0,
        allowed: float = 15.0,
        timeout: float = 999.0,
        **kwargs: Any,
    ):
        super().__init__(credentials, cls=cls, interval=interval, allowed=allowed, timeout=timeout, **kwargs)


class Client_HB_daemon(Client_daemon):
    """A Client_HB in a thread: a ping every 27 s, and 60 s for an answer."""

    def __init__(
        self,
        credentials: dict[str, Any],
        cls: type[Endpoint] = Client_HB,
        interval: float = 27.0,
        allowed: float = 60.0,
        timeout: float = 999.0,
        **kwargs: Any,
    ):
        super().__init__(credentials, cls=cls, interval=interval, allowed=allowed, timeout=timeout, **kwargs)


def _shortest(*durations: float | None) -> float | None:
    return min((d for d in durations if d is not None), default=None)
