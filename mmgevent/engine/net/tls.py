"""TLS: an authenticated connection from a plain one, at either end.

No PKI is needed.  Unless it is given a certificate the server makes a self-signed one at
each start and forgets it with the process; TLS 1.3 keeps the connection private, and the
handshake of `access.handshake` then proves the password over that very certificate, which is
what tells a server from an impostor.  Nothing is resumed: no tickets, no early data.
Certificates of the user's own (`certificates`) are checked besides, not instead.

Both functions give a connection on which the peer has proved the password, or close
the socket and raise one of mmgevent's errors, within one deadline for all of it.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket, ssl

from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.access.handshake import ClientHandshake, ServerHandshake
from mmgevent.engine.net.tls_socket import TLSSocket
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    MmgeventError,
    NotAServerError,
    ProtocolError,
)
from mmgevent.machine.resources import create_nameless_file

ALPN = "mmgevent/1"

#: seconds for TLS and password proof together
HANDSHAKE_S = 10.0

#: bytes that may wait unsent in the kernel: a control frame waits behind no more than this
_UNSENT_BYTES = 256 * 1024

#: seconds for a refused peer to take notice of it and close; one of ours takes a round trip
_NOTICE_S = 1.0
#: reads of 4 KiB for the same: a peer sends a certificate, a few hellos and no more
_NOTICE_READS = 16


def server_context(certificates: Certificates = NO_CERTIFICATES) -> tuple[Any, bytes]:
    """Make or load a key and a certificate; return (SSLContext, SHA-256 of the certificate in DER).

    Takes some 60 ms for importing cryptography, so call it only when a port is opened.
    AuthenticationError for certificates that will not do.
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
    """Load a key and its certificate; OpenSSL reads them from files only, and this one is gone right after."""
    try:
        with tempfile.NamedTemporaryFile(prefix="mmgevent-") as file:  # mode 0600
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
    except FileNotFoundError:  # there is no folder that can be written to
        with open(create_nameless_file("mmgevent-certificate"), "r+b") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(f"/dev/fd/{file.fileno()}")


def client_context(certificates: Certificates = NO_CERTIFICATES) -> Any:
    """Return the SSLContext of a client: unless it has authorities any certificate will do, the password proves it.

    AuthenticationError for certificates that will not do.
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


#: the files are read once a process: what happens to them later hurts nobody who has connected before
_context_of = functools.lru_cache(maxsize=16)(client_context)


def accept(
    sock: Any,
    context: Any,
    digest: bytes,
    key: bytes,
    deadline_s: float = HANDSHAKE_S,
    before_proof: Callable[[], None] = lambda: None,
) -> tuple[Any, str, bytes]:
    """Make an accepted gevent socket a proved one: (TLS socket, role, leftover).

    `context` and `digest` come from `server_context`, `key` from `derive_key`; role is
    "worker" or "driver"; leftover is what was read beyond the handshake.  On any error
    `before_proof()` is called when the client's proof has come and was not looked at yet; it may block.  On any error
    the socket is closed: ProtocolError for a stranger, AuthenticationError for another
    password, VersionMismatchError, ConnectError when the peer left or was too slow.
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
        except _LOST as error:
            raise ConnectError(f"the client left during the handshake: {_describe(error)}") from error
        except ssl.SSLError as error:
            if error.reason in _NO_GOOD_CERTIFICATE:
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
    key: bytes,
    role: str,
    timeout: float = HANDSHAKE_S,
    certificates: Certificates = NO_CERTIFICATES,
) -> Any:
    """Connect to a server, prove the password, verify that it knows it; return the TLS socket.

    `role` is "worker" or "driver".  Errors, each naming the address:

    - ConnectError from the OSError where there is one (ConnectionRefusedError: nobody
      listens), without one when the server accepts but does not answer.
    - NotAServerError: what answers is no mmgevent server; AuthenticationError: it has another password, or
      a certificate was refused, by this side or by the other.
    - VersionMismatchError.
    """
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


def format_address(address: tuple[Any, ...]) -> str:
    """Return HOST:PORT as people write it, IPv6 in brackets."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# What OpenSSL and the kernel say when a peer is gone, not wrong.
_LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)

#: what OpenSSL says when it refuses the certificate of a client
_NO_GOOD_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "PEER_DID_NOT_RETURN_A_CERTIFICATE")


def _is_about_certificate(error: Any) -> bool:
    """Did the peer say that it refuses our certificate?"""
    reason = error.reason or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _let_notice(sock: Any) -> None:
    """Read what a refused peer still says: closed with that unread, it might hear of a reset, not of the reason."""
    with contextlib.suppress(OSError), gevent.Timeout(_NOTICE_S, False):
        sock.shutdown(socket.SHUT_WR)
        for _ in range(_NOTICE_READS):
            if not sock.recv(4096):
                return


def _connect_plain(address: tuple[str, int], where: str) -> Any:
    try:
        sock = socket.create_connection(address)
    except (OSError, UnicodeError) as error:  # the latter for what no name can look like
        raise ConnectError(f"cannot connect to {where}: {_describe(error)}") from error
    # In the range of ephemeral ports a socket can come to connect to itself, and would block the real bind;
    # so would the minute of TIME_WAIT after an orderly close, so it is reset.
    if sock.getsockname() == sock.getpeername():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        refused = ConnectionRefusedError("nobody listens")
        raise ConnectError(f"cannot connect to {where}: {refused}") from refused
    return sock


def _prove_as_client(held: _Held, where: str, key: bytes, role: str, context: Any) -> Any:
    stranger = f"something answers at {where} but it is not an mmgevent server"
    try:
        tls = _wrap(held, context, server_side=False)
        if tls.selected_alpn_protocol() != ALPN:
            raise NotAServerError(f"{stranger}: it speaks TLS, for something else")
        digest = peer_digest(tls)
        machine = ClientHandshake(key, digest, role)
        _converse(tls, machine, machine.start())
        return tls
    except _LOST as error:
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


def _converse(
    tls: Any,
    machine: ClientHandshake | ServerHandshake,
    opening: bytes,
    before_proof: Callable[[], None] = lambda: None,
) -> None:
    """Carry the handshake's bytes; raise its error.  Reads not one byte beyond it."""
    answer = opening
    lost: OSError | None = None
    while True:
        if answer:
            try:
                tls.sendall(answer)
            except _LOST as error:
                lost = error  # why the peer closed may still be unread
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
    """The socket as it is now: plain, or the TLS one that took it over."""

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
    """Do the TLS handshake on the socket that is held."""
    sock = held.sock
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # Without it the handshake takes 88 ms, with it 3.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    held.sock = context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)
    held.sock.do_handshake()
    return held.sock


def _make_certificate() -> tuple[bytes, bytes, bytes]:
    """Return a new P-256 private key and its self-signed certificate: key PEM, certificate PEM and DER."""
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
