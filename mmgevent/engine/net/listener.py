"""Listen on a port, and pass on connections whose peers have proved the password.

Before the proof a peer costs one socket and one greenlet, for at most HANDSHAKE_S. There are at
most MAX_UNPROVED such connections: one more pushes out the oldest. At most MAX_HANDSHAKES of them
are in the handshake, which a peer enters with its first byte. A peer that waits to enter pushes out
the one that has been in it longest. So strangers cannot keep workers out, neither by silence nor by
stopping in the middle. Guesses of passwords are slowed down by address (`access.guesses`).
"""

from __future__ import annotations

import errno
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from mmgevent.access.addresses import format_address
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.access.guesses import Guesses
from mmgevent.access.worker_key import server_key
from mmgevent.engine.greenlets import spawn
from mmgevent.engine.net import listening, tls
from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.engine.net.tls import HANDSHAKE_S
from mmgevent.errors import ConnectError, MmgeventError
from mmgevent.machine.logs import get_log
from mmgevent.wire.hello import dill_version

log = get_log(__name__)

#: Most connections whose peers have not proved the password. Each costs a socket and a greenlet.
MAX_UNPROVED = 512

#: Shortest time that a connection has before it is pushed out, seconds.
MIN_SILENCE_S = 0.25

#: Most handshakes at once. More would only make each of them slower.
MAX_HANDSHAKES = 64

#: Shortest time that a handshake has before it is pushed out, seconds. An honest one takes 3 ms.
MIN_HANDSHAKE_S = 1.0

#: Pause when the system has no descriptors left, seconds.
ACCEPT_PAUSE_S = 0.1

#: Errors of `accept` that mean: the listening socket itself is closed.
_CLOSED = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}


def open_listener(host: str, port: int) -> Any:
    """Bind and listen with a gevent socket, see `listening.open_listener`."""
    return listening.open_listener(host, port, socket)


class Listener:
    """Accepts connections on a listening socket and passes proved ones to `attach(link, role)`."""

    def __init__(
        self,
        sock: Any,
        key: bytes,
        attach: Callable[[SocketLink, str], None],
        on_lost: Callable[[str], None] | None = None,
        certificates: Certificates = NO_CERTIFICATES,
    ):
        """`sock`: owned from now on, but not if this raises. `key`: from `derive_key`.

        `on_lost(reason)` is called when it can no longer accept connections, though `close` was not
        called.

        Raises OSError if the certificate cannot be made, because there is no folder for temporary
        files or no descriptor. Raises AuthenticationError if the one in `certificates` cannot be
        used.
        """
        self._sock = sock
        self._key = key
        self._attach = attach
        self._on_lost = on_lost
        #: `digest`: SHA-256 of the certificate of this server
        self._context, self.digest = tls.server_context(certificates)
        server_key(key)  # imports what lenders need; the same reason as below
        dill_version()  # every hello needs it, and later there may be no descriptor to read it
        #: greenlet of a connection in the handshake -> when it entered, oldest first
        self._proving: OrderedDict[gevent.Greenlet, float] = OrderedDict()
        self._guesses = Guesses()
        #: set when a connection has left the handshake
        self._left = Event()
        #: greenlet of an unproved connection -> when it was accepted, oldest first
        self._unproved: OrderedDict[gevent.Greenlet, float] = OrderedDict()
        self.address: tuple[str, int] = sock.getsockname()[:2]
        self._acceptor = spawn(self._on_fault, self._accept)

    def close(self) -> None:
        """Stop listening and close connections whose peers have not proved the password.

        Idempotent.
        """
        self._acceptor.kill()
        self._sock.close()
        gevent.killall(list(self._unproved))

    def _accept(self) -> None:
        while True:
            try:
                sock, address = self._sock.accept()
            except OSError as error:
                if error.errno in _CLOSED:
                    raise
                log.warning("cannot accept now: %s", error.strerror)
                gevent.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._unproved) >= MAX_UNPROVED:
                self._push_out()
            greenlet = spawn(self._on_unproved_fault, self._prove, sock, address)
            self._unproved[greenlet] = time.monotonic()

    def _on_fault(self, acceptor: gevent.Greenlet) -> None:
        error = acceptor.exception
        reason = f"the server accepts no connections any more: {type(error).__name__}: {error}"
        log.error("%s", reason)
        if self._on_lost is not None:
            self._on_lost(reason)

    def _on_unproved_fault(self, greenlet: gevent.Greenlet) -> None:
        """Note a fault in a handshake. `_prove` has closed its connection."""
        log.error("connection closed by a fault of our own", exc_info=greenlet.exc_info)

    def _push_out(self) -> None:
        greenlet, since = next(iter(self._unproved.items()))
        gevent.sleep(max(0.0, since + MIN_SILENCE_S - time.monotonic()))
        greenlet.kill()

    def _prove(self, sock: Any, address: tuple[Any, ...]) -> None:
        host, name = address[0], format_address(address[:2])
        late = ConnectError(f"the client did not finish the handshake in {HANDSHAKE_S:g} s")
        try:
            with gevent.Timeout(HANDSHAKE_S, late):
                socket.wait_read(sock.fileno())
                if _has_left(sock):
                    log.info("connection closed before its first byte: %s", name)  # a health check
                    return
                self._enter_handshake()
                tls_sock, role, leftover = tls.accept(
                    sock,
                    self._context,
                    self.digest,
                    self._key,
                    before_proof=lambda: self._judge_in_turn(host),
                )
            self._guesses.forgive(host, time.monotonic())
            self._attach(SocketLink(tls_sock, name, leftover), role)
        except MmgeventError as error:
            log.warning("connection refused: %s: %s", name, error)
        finally:
            sock.close()
            self._unproved.pop(gevent.getcurrent(), None)
            self._leave_handshake()

    def _judge_in_turn(self, host: str) -> None:
        """Wait (blocks) until a proof from this address may be checked.

        Others may enter the handshake meanwhile.
        """
        wait_s = self._guesses.admit(host, time.monotonic())
        if wait_s:
            self._leave_handshake()
            gevent.sleep(wait_s)

    def _leave_handshake(self) -> None:
        self._proving.pop(gevent.getcurrent(), None)
        self._left.set()

    def _enter_handshake(self) -> None:
        """Wait (blocks) for a place in the handshake.

        After MIN_HANDSHAKE_S the oldest one is pushed out.
        """
        while len(self._proving) >= MAX_HANDSHAKES:
            oldest, since = next(iter(self._proving.items()))
            wait_s = since + MIN_HANDSHAKE_S - time.monotonic()
            if wait_s <= 0:
                oldest.kill()
            else:
                self._left.clear()
                self._left.wait(wait_s)
        self._proving[gevent.getcurrent()] = time.monotonic()


def _has_left(sock: Any) -> bool:
    """Return whether the peer of a readable socket has closed it without sending anything."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except ConnectionResetError:
        return True
