"""The process of mmg-dashboard: a client of a server, and a page on loopback.

The cluster opens no port for it. Whatever a browser sends ends here: connections are few, silent
ones are closed, and the page of a slow reader costs one answer.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIHandler, WSGIServer

from mmgevent.access.addresses import Address, format_address
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.engine.looking import looking_at
from mmgevent.engine.net.threads import start_thread_pool
from mmgevent.errors import ListenError
from mmgevent.machine.logs import get_log
from mmgevent.web.board import Board
from mmgevent.web.crowd import MAX_CONNECTIONS, Crowd
from mmgevent.web.gate import Gate
from mmgevent.web.observer import Observer
from mmgevent.web.site import SOCKET, Site

log = get_log(__name__)

#: Where the page is served. The page has no password but a token in its address.
HOST = "127.0.0.1"

#: Time for an answer to be taken, seconds.
SILENCE_S = 30.0

#: Time for a request line and all headers to come, seconds, and for a silent connection to stay. A
#: browser that reuses a connection later opens another.
HEADERS_S = 10.0

#: Bytes of a token, before it is written as text.
TOKEN_BYTES = 24


def run_dashboard(
    server: Address,
    password: str,
    certificates: Certificates = NO_CERTIFICATES,
    *,
    port: int = 0,
    token: str | None = None,
    on_ready: Callable[[str], None],
    stopped: Event | None = None,
) -> None:
    """Serve the dashboard of a server until a signal, or until `stopped` is set.

    `on_ready(url)` is called once the page can be opened; 0 is a free port. The server is connected
    once before that, so that a wrong password is told at once.

    Raises what `looking_at` does, and ListenError if the port cannot be had.
    """
    start_thread_pool()
    token = secrets.token_urlsafe(TOKEN_BYTES) if token is None else token
    with looking_at(server, password, certificates) as looker:
        looker.find("server")
    sock = _listen(port)
    stopped = Event() if stopped is None else stopped
    faults: list[BaseException] = []

    def on_fault(greenlet: gevent.Greenlet) -> None:
        faults.append(greenlet.exception)
        stopped.set()

    board = Board(format_address(server))
    observer = Observer(board, lambda: looking_at(server, password, certificates), on_fault)
    crowd = Crowd()
    site = Site(Gate(token), observer, crowd.prove)
    pages = WSGIServer(
        sock, site, log=None, error_log=log, handler_class=_Handler, spawn=lambda *args: crowd.spawn(*args)
    )
    pages.start()
    try:
        on_ready(f"http://{HOST}:{sock.getsockname()[1]}/?token={token}")
        stopped.wait()
    finally:
        observer.stop()
        pages.stop(timeout=0)
        crowd.kill()
    if faults:
        raise faults[0]


def _listen(port: int) -> Any:
    sock = gevent.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        with contextlib.closing(sock):
            raise ListenError(f"cannot serve the page at {HOST}:{port}: {error.strerror}") from error
    return sock


class _Handler(WSGIHandler):
    """A connection of a browser. It has HEADERS_S for each request, and SILENCE_S to take an answer."""

    def handle(self) -> None:
        self.socket.settimeout(SILENCE_S)
        with contextlib.suppress(OSError):  # the browser has gone, or reads nothing
            super().handle()

    def handle_one_request(self) -> Any:
        late = gevent.Timeout.start_new(HEADERS_S)
        self._deadline = late
        try:
            return super().handle_one_request()
        except gevent.Timeout as timeout:
            if timeout is not late:
                raise
            return None  # close it
        finally:
            late.close()

    def _handle_client_error(self, ex: Exception) -> Any:
        """Answer what is no HTTP. Of a connection that has just ended there is nothing to say."""
        return None if isinstance(ex, OSError) else super()._handle_client_error(ex)

    def get_environ(self) -> dict[str, Any]:
        """Return the environment of a request, whose headers are complete."""
        self._deadline.close()
        environ: dict[str, Any] = super().get_environ()
        environ[SOCKET] = self.socket
        return environ

    def log_request(self) -> None:
        """Log nothing: addresses hold the token."""
