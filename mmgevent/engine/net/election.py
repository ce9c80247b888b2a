"""Who is the server: connect to it, or else bind its address and be it.

`bind_or_connect` is the one primitive behind election, failover and re-election.  The
operating system decides: of all that try to listen on an address, one succeeds, and it
is elected when `listen` has returned; everybody else finds the address in use and
connects.  Nothing is agreed on by messages, and nobody has to know how many there are.

An address is taken as written, and of a name that has several all take the same one: two
nodes of which one tries 127.0.0.1 and the other ::1 would elect a server each.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import gevent
from gevent import socket, ssl

from mmgevent.access.addresses import Address, format_address, is_loopback
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.engine.net import tls
from mmgevent.engine.net.listener import open_listener
from mmgevent.engine.net.listening import choose_address
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    ListenError,
    MmgeventError,
    NotAServerError,
    ProtocolError,
    VersionMismatchError,
)
from mmgevent.wire.frames import CONTROL, HEADER_BYTES, Decoder, Frame
from mmgevent.wire.hello import dill_version, hello
from mmgevent.wire.messages import decode_message

log = logging.getLogger(__name__)

#: how long an address may be neither to be had nor to be reached: whoever won it is about to listen, or
#: ended right after; longer, and it is held by somebody who does not mean to answer
CONTEST_S = 3.0
#: pause before the next look at such an address, and up to as much again at random
CONTEST_PAUSE_S = 0.01


# what the kernel and OpenSSL say of a peer that is gone, not wrong
_LOST = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Joined(NamedTuple):
    """There is a server, and this is a proved TLS connection to it."""

    sock: Any
    address: Address  #: as the caller wrote it


class Elected(NamedTuple):
    """There was none: this socket listens on the address, and whoever has it is the server."""

    sock: Any
    address: Address  #: as the caller wrote it


class NoPlaceError(ConnectError):
    """No address has a server, and on none can this process be it; the text says why of each."""

    def __init__(self, reasons: Sequence[str], is_occupied: bool):
        super().__init__("; ".join(reasons))
        #: some address is held by something that is no server, or by one that hangs
        self.is_occupied = is_occupied


class LostServerError(ConnectError):
    """The server was there, and was lost before it had said hello: it may be there again, or be succeeded."""


class _Retry(Exception):
    """The address is being contested: look again in a moment."""


class _Pass(Exception):
    """Nothing can be done with this address now."""

    def __init__(self, reason: str, is_occupied: bool):
        super().__init__(reason)
        self.is_occupied = is_occupied


def bind_or_connect(
    addresses: Sequence[Address],
    key: bytes,
    role: str,
    *,
    may_serve: bool,
    timeout: float,
    certificates: Certificates = NO_CERTIFICATES,
) -> Joined | Elected:
    """Find a place at the first address where there is one (blocks).

    Of each address in order: connect and finish the handshake as `role`; if nobody listens and it is this
    machine's, listen (with `may_serve`).  NoPlaceError when all were tried.  AuthenticationError when every
    address refused the password, VersionMismatchError when no other than one that speaks another protocol
    has a server: trying again would hardly help.
    """
    reasons: list[str] = []
    is_occupied = False
    refusals: list[MmgeventError] = []
    for address in addresses:
        try:
            return _try_address(address, key, role, may_serve, timeout, certificates)
        except (AuthenticationError, VersionMismatchError) as error:
            reasons.append(str(error))
            is_occupied = True
            if not isinstance(error, NotAServerError):
                refusals.append(error)
        except _Pass as passed:
            reasons.append(str(passed))
            is_occupied |= passed.is_occupied
    for refusal in refusals:
        if isinstance(refusal, VersionMismatchError):
            raise VersionMismatchError("; ".join(reasons)) from refusal
    if refusals and len(refusals) == len(addresses):
        raise refusals[0]
    raise NoPlaceError(reasons, is_occupied)


def _try_address(
    address: Address, key: bytes, role: str, may_serve: bool, timeout: float, certificates: Certificates
) -> Joined | Elected:
    until = time.monotonic() + CONTEST_S
    while True:
        try:
            try:
                found = canonical(address)
                return Joined(tls.connect(found, key, role, timeout, certificates), address)
            except ConnectError as error:
                _judge(error)
                if not may_serve:
                    raise _Pass(str(error), False) from error
                return Elected(_listen(found, address), address)
        except _Retry as again:
            if time.monotonic() >= until:
                raise _Pass(str(again), True) from again
        gevent.sleep(CONTEST_PAUSE_S * (1 + random.random()))


def _judge(error: ConnectError) -> None:
    """Return if nobody listens there; raise _Retry or _Pass for every other reason not to be connected."""
    cause = error.__cause__
    if isinstance(cause, ConnectionRefusedError):
        return
    if isinstance(cause, _LOST):
        raise _Retry(str(error)) from error  # it was there a moment ago
    raise _Pass(str(error), cause is None) from error


def _listen(found: Address, address: Address) -> Any:
    try:
        return open_listener(*found)
    except ListenError as error:
        number = getattr(error.__cause__, "errno", None)
        if number == errno.EADDRINUSE:
            where = format_address(address)
            raise _Retry(f"something holds {where} and does not listen there") from error
        if number == errno.EADDRNOTAVAIL:
            raise _Pass(
                f"no server at {format_address(address)}, which is another machine's", False
            ) from error
        raise _Pass(str(error), False) from error


def canonical(address: Address) -> Address:
    """Return the one numeric address that everybody takes a name for (see `choose_address`).

    ConnectError for a name that cannot be found.
    """
    host, port = address
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        pass  # a name
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for what no name can look like
        raise ConnectError(f"cannot find {host}: {getattr(error, 'strerror', None) or error}") from error
    return choose_address(host, found)[4][0], port


def find_reach(place: Elected) -> str | None:
    """Return what to say when others know the address of a server by a name that only this machine can reach."""
    name, bound = place.address[0], place.sock.getsockname()[0]
    if is_loopback(name) or not ipaddress.ip_address(bound).is_loopback:
        return None
    return f"{name} is {bound} here, which only this machine can reach; write its address instead"


def is_reached(
    address: Address,
    key: bytes,
    digest: bytes,
    timeout: float,
    certificates: Certificates = NO_CERTIFICATES,
) -> bool:
    """Whether whoever connects to this address comes to the server with this certificate."""
    try:
        sock = tls.connect(canonical(address), key, "driver", timeout, certificates)
    except MmgeventError as error:
        log.warning("elected, but not to be reached: %s", error)
        return False
    try:
        return tls.peer_digest(sock) == digest
    finally:
        sock.close()


def find_server(
    addresses: Sequence[Address],
    key: bytes,
    digest: bytes,
    timeout: float,
    certificates: Certificates = NO_CERTIFICATES,
) -> Address | None:
    """Return the first of these addresses at which a server answers now that would have us, other than the one
    with this certificate; None if none does.
    """
    for address in addresses:
        try:
            sock = tls.connect(canonical(address), key, "driver", timeout, certificates)
            with contextlib.closing(sock):
                if tls.peer_digest(sock) == digest:
                    continue
                greet(sock, address, timeout)
        except MmgeventError as error:
            log.debug("no server found: %s", error)
            continue
        return address
    return None


def driver_hello() -> Frame:
    """Return the hello of a driver in this process, for a server anywhere."""
    return hello("driver", dill=dill_version())


def greet(sock: Any, address: Address, timeout: float) -> None:
    """Say hello as a driver over a connection from `tls.connect`, and hear that the server takes us (blocks).

    VersionMismatchError when our versions do not fit the server's, LostServerError when it leaves first, ConnectError
    when it has other reasons, or says nothing sensible. Nothing is read beyond its hello; the socket stays the caller's.
    """
    where = format_address(address)
    late = ConnectError(f"{where} accepts but does not answer: no hello in {timeout:g} s")
    try:
        with gevent.Timeout(timeout, late):
            with contextlib.suppress(*_LOST):  # why the server closed may still be unread
                sock.sendall(driver_hello().encode())
            while not _is_hello(_receive_frame(sock, where), where):
                pass
    except OSError as error:
        raise LostServerError(f"lost {where} before its hello: {error.strerror or error}") from error
    except ProtocolError as error:
        raise ConnectError(f"{where}: {error}") from error


def _is_hello(frame: Frame, where: str) -> bool:
    """Whether this frame says that the server takes us; raise why it does not."""
    if frame.kind != CONTROL:
        return False
    message = decode_message(frame.payload)
    if message["type"] == "refused":
        refusal = VersionMismatchError if message["code"] == "version" else ConnectError
        raise refusal(f"{where}: {message['error']}")
    if message["type"] == "goodbye":
        raise LostServerError(f"{where} said goodbye: {message['reason']}")
    return bool(message["type"] == "hello")


def _receive_frame(sock: Any, where: str) -> Frame:
    """Read exactly one frame, so that what follows is left to the link."""
    decoder = Decoder()
    header = _receive_exactly(sock, HEADER_BYTES, where)
    decoder.feed(header)
    frame = decoder.next_frame()  # checks the length
    if frame is None:
        decoder.feed(_receive_exactly(sock, int.from_bytes(header[4:8], "little"), where))
        frame = decoder.next_frame()
    assert frame is not None
    return frame


def _receive_exactly(sock: Any, n_bytes: int, where: str) -> bytes:
    data = b""
    while len(data) < n_bytes:
        more = sock.recv(n_bytes - len(data))
        if not more:
            raise LostServerError(f"{where} closed the connection before its hello")
        data += more
    return data
