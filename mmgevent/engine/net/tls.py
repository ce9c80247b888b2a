"""TLS: an authenticated connection from a plain one, at either end.

No PKI is needed. A server makes a self-signed certificate at each start, unless it is given one.
TLS 1.3 keeps the connection private. Then both sides prove the password over that certificate, by
the handshake of `access.handshake`: so an impostor is found. Nothing is resumed: there are no
tickets and no early data. The user's own certificates (`access.certificates`) are checked in
addition to the password.

`accept` and `connect` return a connection whose peer has proved the password. Else they close the
socket and raise one of mmgevent's errors. One deadline covers all of it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket, ssl

from mmgevent.access.addresses import format_address
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.access.handshake import ClientHandshake, LenderHandshake, ServerHandshake
from mmgevent.access.worker_key import WorkerKey, main_key
from mmgevent.engine.net.tls_socket import TLSSocket
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    MmgeventError,
    NotAServerError,
    ProtocolError,
)
from mmgevent.machine.resources import create_nameless_file

#: Name of our protocol in the TLS handshake.
ALPN = "mmgevent/1"

#: Time for TLS and password proof together, seconds.
HANDSHAKE_S = 10.0

#: Most bytes that wait unsent in the kernel. A control frame waits behind no more than these.
_UNSENT_BYTES = 256 * 1024

#: Time for a refused peer to read why and to close, seconds. Peers of ours need a round trip.
_NOTICE_S = 1.0

#: Reads of _NOTICE_BYTES from a refused peer. It sends a certificate, a few hellos and no more.
_NOTICE_READS = 16

#: Size of one such read, bytes.
_NOTICE_BYTES = 4096

#: Errors of the kernel and of OpenSSL that mean: the peer has left, and did nothing wrong.
LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)

#: Reasons of OpenSSL for refusing the certificate of a client.
_BAD_CLIENT_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "PEER_DID_NOT_RETURN_A_CERTIFICATE")


def server_context(certificates: Certificates = NO_CERTIFICATES) -> tuple[Any, bytes]:
    """Make or load a key and a certificate. Return (SSLContext, SHA-256 of the certificate in DER).

    Takes some 60 ms, to import cryptography, so call it only when a port is opened.

    Raises AuthenticationError for certificates that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    context.sslsocket_class = TLSSocket
    context.num_tickets = 0
    certificates.load_authorities(context)
    digest = certificates.load_own(context)
    if digest is not None:
        return context, digest
    private_pem, certificate_pem, certificate_der = _make_certificate()
    _load_from_file(context, private_pem + certificate_pem)
    return context, hashlib.sha256(certificate_der).digest()


def _load_from_file(context: Any, pem: bytes) -> None:
    """Load a key and its certificate by way of a file without a name: OpenSSL reads files only.

    A killed process would leave a key on the disk under a name.
    """
    with open(create_nameless_file("mmgevent-certificate"), "r+b") as file:
        file.write(pem)
        file.seek(0)  # where a path of a descriptor is a copy of it
        if os.path.exists(f"/dev/fd/{file.fileno()}"):
            context.load_cert_chain(f"/dev/fd/{file.fileno()}")
            return
    with tempfile.NamedTemporaryFile(prefix="mmgevent-") as named:  # mode 0600
        named.write(pem)
        named.flush()
        context.load_cert_chain(named.name)


def client_context(certificates: Certificates = NO_CERTIFICATES) -> Any:
    """Return the SSLContext of a client.

    Without authorities it accepts any certificate, since the password proves who the server is.

    Raises AuthenticationError for certificates that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    context.sslsocket_class = TLSSocket
    certificates.load_authorities(context)
    certificates.load_own(context)
    return context


#: Reads the files once in a process, so that later changes of them do no harm.
_context_of = functools.lru_cache(maxsize=16)(client_context)


def accept(
    sock: Any,
    context: Any,
    digest: bytes,
    key: bytes,
    deadline_s: float = HANDSHAKE_S,
    before_proof: Callable[[], None] = lambda: None,
) -> tuple[Any, str, bytes]:
    """Make a proved connection of an accepted gevent socket. Return (TLS socket, role, leftover).

    `context` and `digest` are from `server_context`, `key` from `derive_key`. The role is "worker",
    "driver" or "lender", the leftover what was read beyond the handshake. `before_proof()` is called when
    the client's proof has arrived and was not checked yet; it may block.

    On any error the socket is closed. Raises ProtocolError for a stranger, AuthenticationError for
    another password, VersionMismatchError, and ConnectError if the peer left or was too slow.
    """
    late = ConnectError(f"the client did not finish the handshake in {deadline_s:g} s")
    with _closing_on_error(sock) as held, gevent.Timeout(deadline_s, late):
        try:
            tls = _wrap(held, context, server_side=True)
            if tls.selected_alpn_protocol() != ALPN:
                raise ProtocolError("the client speaks TLS but not mmgevent")
            machine = ServerHandshake(key, digest)
            _converse(tls, machine, b"", before_proof)
            return tls, machine.role, machine.leftover
        except LOST as error:
            raise ConnectError(f"the client left during the handshake: {_describe(error)}") from error
        except ssl.SSLError as error:
            if error.reason in _BAD_CLIENT_CERTIFICATE:
                _let_notice(held.sock)
                raise ProtocolError(f"the client's certificate was refused: {_describe(error)}") from error
            if _is_about_certificate(error):
                raise ProtocolError(
                    f"the client refused the certificate of this server: {_describe(error)}"
                ) from error
            raise ProtocolError(f"the client does not speak TLS 1.3: {_describe(error)}") from error
        except OSError as error:
            raise ConnectError(f"the client was lost during the handshake: {_describe(error)}") from error


def connect(
    address: tuple[str, int],
    key: bytes | WorkerKey,
    role: str,
    timeout: float = HANDSHAKE_S,
    certificates: Certificates = NO_CERTIFICATES,
) -> Any:
    """Connect to a server, and prove the password to one another. Return the TLS socket.

    `role` is "worker" or "driver". With a WorkerKey it is "worker", and the server
    accepts nothing but work from it. All errors name the address:

    - ConnectError, from the OSError if there is one (ConnectionRefusedError: nobody listens). There
      is none if the server accepts but does not answer.
    - NotAServerError: what answers is no mmgevent server.
    - AuthenticationError: the server has another password, or one side refused the other's
      certificate.
    - VersionMismatchError: the server speaks another version of the protocol.

    PasswordError: a driver has a WorkerKey.
    """
    if role != "worker":
        key = main_key(key)
    where = format_address(address)
    context = _context_of(certificates)
    sock = None
    timer = gevent.Timeout.start_new(timeout)
    try:
        sock = _connect_plain(address, where)
        with _closing_on_error(sock) as held:
            return _prove_as_client(held, where, key, role, context)
    except gevent.Timeout as late:
        if late is not timer:
            raise
        if sock is None:
            slow = TimeoutError(f"no connection in {timeout:g} s")
            raise ConnectError(f"cannot connect to {where}: {slow}") from slow
        raise ConnectError(f"{where} accepts but does not answer: nothing in {timeout:g} s") from None
    finally:
        timer.close()


def peer_digest(sock: Any) -> bytes:
    """Return the SHA-256 of the certificate at the other end of a connected TLS socket."""
    return hashlib.sha256(sock.getpeercert(True)).digest()


def _is_about_certificate(error: Any) -> bool:
    """Return whether the peer says that it refuses our certificate."""
    reason = error.reason or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _let_notice(sock: Any) -> None:
    """Read what a refused peer still sends.

    If we closed with unread input, the connection could be reset, and the reason would be lost.
    """
    with contextlib.suppress(OSError), gevent.Timeout(_NOTICE_S, False):
        sock.shutdown(socket.SHUT_WR)
        for _ in range(_NOTICE_READS):
            if not sock.recv(_NOTICE_BYTES):
                return


def _connect_plain(address: tuple[str, int], where: str) -> Any:
    try:
        sock = socket.create_connection(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name looks like that
        raise ConnectError(f"cannot connect to {where}: {_describe(error)}") from error
    # In the range of ephemeral ports a socket may connect to itself. It would keep a server from
    # binding, and so would the minute of TIME_WAIT after an orderly close. So the connection is
    # reset.
    try:
        is_own = sock.getsockname() == _peer_of(sock)
    except ConnectionResetError as lost:
        sock.close()
        raise ConnectError(f"cannot connect to {where}: {_describe(lost)}") from lost
    if is_own:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        refused = ConnectionRefusedError("nobody listens")
        raise ConnectError(f"cannot connect to {where}: {refused}") from refused
    return sock


def _peer_of(sock: Any) -> Any:
    """Return the address of the peer. Raise ConnectionResetError if it has reset the connection."""
    try:
        return sock.getpeername()
    except OSError as error:  # such as a server that was killed just now
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


def _prove_as_client(held: _Held, where: str, key: bytes | WorkerKey, role: str, context: Any) -> Any:
    stranger = f"something answers at {where} but it is not an mmgevent server"
    try:
        tls = _wrap(held, context, server_side=False)
        if tls.selected_alpn_protocol() != ALPN:
            raise NotAServerError(f"{stranger}: it speaks TLS, for something else")
        digest = peer_digest(tls)
        machine = _client_machine(key, digest, role)
        _converse(tls, machine, machine.start())
        return tls
    except LOST as error:
        text = f"{where} closed the connection during the handshake: {_describe(error)}"
        raise ConnectError(text) from error
    except ssl.SSLCertVerificationError as error:
        _let_notice(held.sock)
        text = f"{where}: the certificate of the server was refused: {error.verify_message}; look at --tls-ca"
        raise AuthenticationError(text) from error
    except ssl.SSLError as error:
        if _is_about_certificate(error):
            text = f"{where} refused the certificate of this side ({_describe(error)}); look at --tls-cert"
            raise AuthenticationError(text) from error
        raise NotAServerError(f"{stranger}: {_describe(error)}") from error
    except OSError as error:
        raise ConnectError(f"lost {where} during the handshake: {_describe(error)}") from error
    except ProtocolError as error:
        raise NotAServerError(f"{stranger}: {error}") from error
    except MmgeventError as error:
        if where in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error.__cause__


def _client_machine(key: bytes | WorkerKey, digest: bytes, role: str) -> ClientHandshake:
    if isinstance(key, WorkerKey):
        return LenderHandshake(key, digest)
    return ClientHandshake(key, digest, role)


def _converse(
    tls: Any,
    machine: ClientHandshake | ServerHandshake,
    opening: bytes,
    before_proof: Callable[[], None] = lambda: None,
) -> None:
    """Exchange the bytes of the handshake. Reads not one byte beyond it. Raises its error."""
    answer = opening
    lost: OSError | None = None
    while True:
        if answer:
            try:
                tls.sendall(answer)
            except LOST as error:
                lost = error  # the peer's reason may still be unread
        if machine.error is not None:
            if answer:
                _let_notice(tls)
            raise machine.error
        if not machine.needed:
            if lost is not None:
                raise lost
            return
        data = tls.recv(machine.needed)
        if not data:
            raise lost or machine.ended()
        if machine.completes_proof(data):
            before_proof()
        answer = machine.feed(data)


class _Held:
    """The socket of a new connection: plain at first, then the TLS socket that owns that."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock


@contextmanager
def _closing_on_error(sock: Any) -> Iterator[_Held]:
    held = _Held(sock)
    try:
        yield held
    except BaseException:
        held.sock.close()
        raise


def _wrap(held: _Held, context: Any, *, server_side: bool) -> Any:
    """Do the TLS handshake. The TLS socket replaces the plain one in `held`."""
    sock = held.sock
    _peer_of(sock)  # of a connection that is lost already, CPython would leave the socket open
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # Without this the handshake takes 88 ms, with it 3.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    held.sock = context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)
    held.sock.do_handshake()
    return held.sock


def _make_certificate() -> tuple[bytes, bytes, bytes]:
    """Return a new P-256 key, and its self-signed certificate: key PEM, certificate PEM and DER."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mmgevent")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))  # nobody checks: clocks of workers differ
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
        .sign(private, hashes.SHA256())
    )
    private_pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (
        private_pem,
        certificate.public_bytes(serialization.Encoding.PEM),
        certificate.public_bytes(serialization.Encoding.DER),
    )


def _describe(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return str(error)
    return getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
