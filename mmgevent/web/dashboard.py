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
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from mmgevent.access.addresses import Address, format_address
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.engine.looking import looking_at
from mmgevent.engine.net.threads import start_thread_pool
from mmgevent.errors import ListenError
from mmgevent.machine.logs import get_log
from mmgevent.web.board import Board
from mmgevent.web.gate import Gate
from mmgevent.web.observer import Observer
from mmgevent.web.site import Site

log = get_log(__name__)

#: Where the page is served. The page has no password but a token in its address.
HOST = "127.0.0.1"

#: Connections of browsers at one time.
MAX_CONNECTIONS = 256

#: Time for a request to come, and for an answer to be taken, seconds.
SILENCE_S = 30.0

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
    pages = WSGIServer(
        sock,
        Site(Gate(token), observer),
        log=None,
        error_log=log,
        handler_class=_Handler,
        spawn=Pool(MAX_CONNECTIONS),
    )
    pages.start()
    try:
        on_ready(f"http://{HOST}:{sock.getsockname()[1]}/?token={token}")
        stopped.wait()
    finally:
        observer.stop()
        pages.stop(timeout=0)
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
    """A connection of a browser, which is closed if it says or takes nothing for SILENCE_S."""

    def handle(self) -> None:
        self.socket.settimeout(SILENCE_S)
        with contextlib.suppress(TimeoutError):
            super().handle()

    def log_request(self) -> None:
        """Log nothing: addresses hold the token."""
