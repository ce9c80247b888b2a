"""The connections of browsers to the dashboard: so many, and those that have proved nothing go first.

Other users of this machine can connect, too. Without the token they can only hold connections. So a
connection counts as unproved until a request with the token came over it. It has some seconds for
each request, and when all places are taken, the oldest that is unproved gives its place to a new
one.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import gevent

from mmgevent.engine.greenlets import Greenlets
from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Connections of browsers at one time.
MAX_CONNECTIONS = 256


class Crowd:
    """The connections that are open."""

    def __init__(self, most: int = MAX_CONNECTIONS):
        self._most = most
        self._greenlets = Greenlets(_on_fault)
        self._unproved: dict[gevent.Greenlet, Any] = {}  # {greenlet: its socket}, the oldest first
        self._proved: set[gevent.Greenlet] = set()

    def spawn(self, serve: Callable[..., None], handle: Any, close: Any, args: tuple[Any, ...]) -> None:
        """Serve a connection, as `gevent.baseserver` asks for it, or close it: all places are taken."""
        if len(self._unproved) + len(self._proved) >= self._most:
            if not self._unproved:
                log.warning("a connection is closed: %d pages are open", self._most)
                close(*args)
                return
            oldest = next(iter(self._unproved))
            sock = self._unproved.pop(oldest)
            with contextlib.suppress(OSError):  # it has just closed
                sock.shutdown(socket.SHUT_RDWR)  # whoever reads from it gets the end
        greenlet = self._greenlets.spawn(serve, handle, close, args)
        self._unproved[greenlet] = args[0]
        greenlet.link(self._forget)

    def prove(self) -> None:
        """Note that the connection that is served here sent a request with the token."""
        greenlet = gevent.getcurrent()
        if self._unproved.pop(greenlet, None) is not None:
            self._proved.add(greenlet)

    def kill(self) -> None:
        """End all connections (blocks)."""
        self._greenlets.kill()

    def _forget(self, greenlet: gevent.Greenlet) -> None:
        self._unproved.pop(greenlet, None)
        self._proved.discard(greenlet)


def _on_fault(greenlet: gevent.Greenlet) -> None:
    """Log a fault of our own: it has closed its connection, and the other pages stay."""
    log.error("a request failed by a fault of our own", exc_info=greenlet.exc_info)
