"""Connect to the server of an address, or become that server.

Every election and failover is a call of `bind_or_connect`. The operating system decides: of all
processes that try to listen on an address, one succeeds. It is elected when `listen` has returned.
All others find the address in use, and connect. They exchange no messages about it, and none has to
know how many there are.

An address is used as written. If a name has several addresses, all processes choose the same one.
Otherwise there could be two servers, at 127.0.0.1 and at ::1.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import gevent
from gevent import socket

from mmgevent.access.addresses import Address, format_address, is_loopback
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.access.worker_key import WorkerKey
from mmgevent.engine.net import tls
from mmgevent.engine.net.listener import open_listener
from mmgevent.engine.net.listening import choose_address
from mmgevent.engine.net.receiving import receive_frame
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    ListenError,
    MmgeventError,
    NotAServerError,
    ProtocolError,
    VersionMismatchError,
)
from mmgevent.machine.logs import get_log
from mmgevent.shown_text import shown
from mmgevent.wire.frames import CONTROL, Frame
from mmgevent.wire.hello import dill_version, hello, user_name
from mmgevent.wire.messages import decode_message

log = get_log(__name__)

#: Time to try an address that can be neither bound nor connected to, seconds. Its owner is about to
#: listen, or has just ended. After this time the address counts as occupied.
CONTEST_S = 3.0

#: Pause before the next try of such an address, seconds. Up to as much again is added at random.
CONTEST_PAUSE_S = 0.01


class Joined(NamedTuple):
    """There is a server. This is a proved TLS connection to it."""

    sock: Any
    address: Address  #: as the caller wrote it


class Elected(NamedTuple):
    """There was no server. This socket listens on the address, so its owner is the server."""

    sock: Any
    address: Address  #: as the caller wrote it


class NoPlaceError(ConnectError):
    """No address has a server that accepts this process, and it cannot be the server at any.

    The text has a reason for each address.
    """

    def __init__(self, reasons: Sequence[str], is_occupied: bool):
        super().__init__("; ".join(reasons))
        #: whether an address is held by something that is no server, or by a server that hangs
        self.is_occupied = is_occupied


class LostServerError(ConnectError):
    """The server was lost before its hello. It, or its successor, may be there in a moment."""


class _Retry(Exception):
    """Others try to listen on the address right now: try again in a moment."""


class _Pass(Exception):
    """This address is of no use now: try the next one."""

    def __init__(self, reason: str, is_occupied: bool):
        super().__init__(reason)
        self.is_occupied = is_occupied


def bind_or_connect(
    addresses: Sequence[Address],
    key: bytes | WorkerKey,
    role: str,
    *,
    may_serve: bool,
    timeout: float,
    certificates: Certificates = NO_CERTIFICATES,
) -> Joined | Elected:
    """Find a place at the first address that has one (blocks).

    At each address in order: connect, and finish the handshake as `role`. If nobody listens there,
    and it is an address of this machine, listen (with `may_serve`, and never with a WorkerKey).

    Raises NoPlaceError when all addresses were tried. Raises AuthenticationError if all of them
    refused the password, and VersionMismatchError if the only server speaks another protocol. Then
    it is of no use to try again.
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
    address: Address,
    key: bytes | WorkerKey,
    role: str,
    may_serve: bool,
    timeout: float,
    certificates: Certificates,
) -> Joined | Elected:
    until = time.monotonic() + CONTEST_S
    while True:
        try:
            try:
                found = canonical(address)
                return Joined(tls.connect(found, key, role, timeout, certificates), address)
            except ConnectError as error:
                _judge(error)
                if not may_serve or isinstance(key, WorkerKey):
                    raise _Pass(str(error), False) from error
                return Elected(_listen(found, address), address)
        except _Retry as again:
            if time.monotonic() >= until:
                raise _Pass(str(again), True) from again
        gevent.sleep(CONTEST_PAUSE_S * (1 + random.random()))


def _judge(error: ConnectError) -> None:
    """Return if the reason is that nobody listens. Raise _Retry or _Pass for every other one."""
    cause = error.__cause__
    if isinstance(cause, ConnectionRefusedError):
        return
    if isinstance(cause, tls.LOST):
        raise _Retry(str(error)) from error  # there was a server a moment ago
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
    """Return the numeric address that all processes use for a name (see `choose_address`).

    Raises ConnectError for a name that cannot be found.
    """
    host, port = address
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        pass  # a name
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name looks like that
        raise ConnectError(f"cannot find {host}: {getattr(error, 'strerror', None) or error}") from error
    return choose_address(host, found)[4][0], port


def find_reach(place: Elected) -> str | None:
    """Return a warning if others know the address by a name that only works here, else None."""
    name, bound = place.address[0], place.sock.getsockname()[0]
    if is_loopback(name) or not ipaddress.ip_address(bound).is_loopback:
        return None
    return f"{name} is {bound} here, which only this machine can reach; write its address instead"


def is_reached(
    address: Address,
    key: bytes | WorkerKey,
    digest: bytes,
    timeout: float,
    certificates: Certificates = NO_CERTIFICATES,
) -> bool:
    """Return whether connections to this address arrive at the server with this certificate."""
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
    key: bytes | WorkerKey,
    digest: bytes,
    timeout: float,
    certificates: Certificates = NO_CERTIFICATES,
) -> Address | None:
    """Return the first of these addresses at which a server accepts us, or None if none does.

    The server with this certificate, which is our own, does not count.
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
    """Return the hello of a driver in this process, for any server."""
    return hello("driver", dill=dill_version(), user=user_name())


def greet(sock: Any, address: Address, timeout: float) -> None:
    """Say hello as a driver over a connection from `tls.connect`, and wait for the answer (blocks).

    Nothing is read beyond the server's hello. The caller still owns the socket.

    Raises:

    - VersionMismatchError if the versions do not fit;
    - LostServerError if the server is lost before its hello;
    - ConnectError if it refuses for another reason, or sends something else.
    """
    where = format_address(address)
    late = ConnectError(f"{where} accepts but does not answer: no hello in {timeout:g} s")
    try:
        with gevent.Timeout(timeout, late):
            with contextlib.suppress(*tls.LOST):  # the server's reason may still be unread
                sock.sendall(driver_hello().encode())
            while not _is_hello(receive_frame(sock), where):
                pass
    except EOFError:
        raise LostServerError(f"{where} closed the connection before its hello") from None
    except OSError as error:
        raise LostServerError(f"lost {where} before its hello: {error.strerror or error}") from error
    except ProtocolError as error:
        raise ConnectError(f"{where}: {error}") from error


def _is_hello(frame: Frame, where: str) -> bool:
    """Return whether this frame is the server's hello. Raise its reason if it refuses us."""
    if frame.kind != CONTROL:
        return False
    message = decode_message(frame.payload)
    if message["type"] == "refused":
        refusal = VersionMismatchError if message["code"] == "version" else ConnectError
        raise refusal(f"{where}: {shown(message['error'])}")
    if message["type"] == "goodbye":
        raise LostServerError(f"{where} said goodbye: {message['reason']}")
    return bool(message["type"] == "hello")
