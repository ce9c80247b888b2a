"""Handshake: both sides of a TLS connection prove that they know the password.

It has four messages of fixed size. Nothing else is sent before it is done:

    client hello   magic, version, role, nonce      42 bytes
    server hello   magic, version, nonce            41 bytes
    client proof   HMAC                             32 bytes
    server proof   HMAC, or REFUSAL                 32 bytes; to a lender a signature, 64 bytes

A proof is an HMAC-SHA256 under K = scrypt(password). It covers three things: a label that differs
by side, the hash of every byte before it, and the hash of the server's certificate as this side
sees it. So nobody can

- reflect a proof: the labels differ;
- replay it: the nonces differ;
- use it on another connection as a man in the middle: the certificates differ;
- change a byte of a hello: the hash covers it.

A *lender* is a worker that has the worker password only (`worker_key`). Its proof is an HMAC under
the worker secret. Every lender has that secret, so the server proves itself to a lender by a
signature, which takes the main password. The role in the client hello only says which proof
follows. Each role is verified with its own key, so the proof decides what the client may do: who
has the worker password only cannot become a driver, whatever role it names.

The client sends nothing more until it has verified the server. An impostor gets one proof of a
client, on which it can try passwords. scrypt makes each try cost 16 MiB and some 50 ms.

The classes take bytes and return bytes to send. They do not raise errors: they set `error`, since
a refusal must still be sent. After that they need no more bytes.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import struct
import unicodedata
from collections.abc import Callable

from mmgevent.access.password import is_worker_password
from mmgevent.access.worker_key import SIGNATURE_BYTES, WorkerKey, server_key
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    MmgeventError,
    PasswordError,
    ProtocolError,
    VersionMismatchError,
)

MAGIC = b"MMGEVENT"

#: Version of this handshake and of frames. Later versions keep the place and size of the hellos.
VERSION = 2
NONCE_BYTES = 32
PROOF_BYTES = 32
#: Roles of clients. A lender is a worker that proves the worker password instead of the main one.
ROLES = {"worker": 1, "driver": 2, "lender": 3}

_CLIENT_HELLO = struct.Struct("<8sBB32s")
_SERVER_HELLO = struct.Struct("<8sB32s")
CLIENT_HELLO_BYTES = _CLIENT_HELLO.size
SERVER_HELLO_BYTES = _SERVER_HELLO.size

#: What a server sends instead of its proof, so that a wrong password does not look like a lost
#: connection.
REFUSAL = b"MMGEVENT: proof refused".ljust(PROOF_BYTES, b".")
LENDER_REFUSAL = REFUSAL.ljust(SIGNATURE_BYTES, b".")

_CLIENT_LABEL = b"mmgevent/2 client"
_SERVER_LABEL = b"mmgevent/2 server"
_LENDER_LABEL = b"mmgevent/2 lender"
_SIGNATURE_LABEL = b"mmgevent/2 server to lender"
_SALT = b"mmgevent/1"
_ROLE_NAMES = {number: name for name, number in ROLES.items()}
_CHECK_PASSWORD = (
    "both sides need the same password: look at -p, --password-file, MMG_PASSWORD and "
    "~/.config/mmgevent/password on both (`mmg-server password` prints it)"
)
_CHECK_WORKER_PASSWORD = (
    "it belongs to one main password, and changes with it: `mmg-server worker-password` prints the present "
    "one where the server runs"
)


@functools.lru_cache(maxsize=16)
def derive_key(password: str, cluster: str = "") -> bytes:
    """Return K, 32 bytes, for a password. Takes some 50 ms, once in a process for each password.

    Raises PasswordError for an empty password, for one that cannot be encoded, and for a worker
    password.
    """
    if is_worker_password(password):
        raise PasswordError("this takes the main password; a worker password can only lend workers")
    if not password:
        raise PasswordError("the password is empty; give one, or leave it out to use the one of this user")
    try:
        # In the environment, bytes that are not UTF-8 become surrogates. This makes them bytes
        # again.
        secret = unicodedata.normalize("NFC", password).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PasswordError("the password holds characters that have no UTF-8") from None
    salt = _SALT + unicodedata.normalize("NFC", cluster).encode("utf-8")
    return hashlib.scrypt(secret, salt=salt, n=2**14, r=8, p=1, maxmem=64 * 1024 * 1024, dklen=32)


def client_key(password: str) -> bytes | WorkerKey:
    """Return what a worker proves, for a main or a worker password.

    Raises PasswordError as `derive_key` and `WorkerKey.decode`.
    """
    return WorkerKey.decode(password) if is_worker_password(password) else derive_key(password)


class _Handshake:
    """What both sides have in common: collect a message of known size, act on it, repeat."""

    def __init__(self, certificate_sha256: bytes, nonce: bytes | None = None) -> None:
        self._certificate_sha256 = certificate_sha256
        self._nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
        self._transcript = b""
        self._buffer = b""
        #: size of the next message
        self._size = 0
        #: whether that is a proof
        self._awaits_proof = False
        self._act: Callable[[bytes], bytes] = self._ignore
        #: why this side gave up; None if it did not
        self.error: MmgeventError | None = None
        #: whether the peer has proved that it knows the password
        self.done = False

    @property
    def needed(self) -> int:
        """Bytes that are missing before the next step; 0 at the end. Read no more than these."""
        return max(0, self._size - len(self._buffer))

    @property
    def leftover(self) -> bytes:
        """Bytes that were fed beyond the handshake: the first frames, once it is done."""
        return self._buffer if self.done else b""

    def feed(self, data: bytes) -> bytes:
        """Take what was received, of any length. Return what to send now, perhaps nothing."""
        self._buffer += data
        answer = b""
        while self._size:
            if not self._is_mmgevent():
                self._fail(ProtocolError(f"not an mmgevent handshake: {_guess(self._buffer)}"))
            elif len(self._buffer) < self._size:
                break
            else:
                message, self._buffer = self._buffer[: self._size], self._buffer[self._size :]
                self._size = 0
                answer += self._act(message)
        return answer

    def completes_proof(self, data: bytes) -> bool:
        """Return whether this data would complete the proof of the peer, right or wrong."""
        return self._awaits_proof and 0 < self.needed <= len(data)

    def ended(self) -> MmgeventError:
        """Return the error for a connection that has ended before the handshake was done."""
        return self.error or ConnectError("the connection ended during the handshake")

    def _await(self, size: int, act: Callable[[bytes], bytes], *, is_proof: bool = False) -> None:
        self._size, self._act, self._awaits_proof = size, act, is_proof

    def _is_mmgevent(self) -> bool:
        """Return whether these may be the first bytes of a hello, and not of another protocol."""
        return self._awaits_proof or MAGIC.startswith(self._buffer[: len(MAGIC)])

    def _fail(self, error: MmgeventError) -> bytes:
        self.error = error
        self._size = 0
        return b""

    def _ignore(self, message: bytes) -> bytes:
        return b""

    def _statement(self, label: bytes) -> bytes:
        """Return what a proof with this label is about."""
        transcript = hashlib.sha256(self._transcript).digest()
        return label + transcript + self._certificate_sha256


class ClientHandshake(_Handshake):
    """The side that connects, with the main password. `role`: "worker" or "driver"."""

    def __init__(self, key: bytes, certificate_sha256: bytes, role: str, nonce: bytes | None = None) -> None:
        super().__init__(certificate_sha256, nonce)
        self._key = key
        self._role = ROLES[role]

    def start(self) -> bytes:
        """Return the client hello, the first bytes of the connection."""
        self._transcript = _CLIENT_HELLO.pack(MAGIC, VERSION, self._role, self._nonce)
        self._await(SERVER_HELLO_BYTES, self._on_server_hello)
        return self._transcript

    def _on_server_hello(self, message: bytes) -> bytes:
        _, version, _ = _SERVER_HELLO.unpack(message)
        if version != VERSION:
            return self._fail(_version_mismatch("the server", version))
        self._transcript += message
        proof = self._prove()
        self._transcript += proof
        self._await(self._server_proof_bytes, self._on_server_proof, is_proof=True)
        return proof

    def _on_server_proof(self, message: bytes) -> bytes:
        if self._is_proved_by(message):
            self.done = True
            return b""
        if message == self._refusal:
            return self._fail(AuthenticationError(self._refused))
        return self._fail(AuthenticationError(self._unproved))

    # what differs for a lender

    _server_proof_bytes = PROOF_BYTES
    _refusal = REFUSAL
    _refused = f"the password was refused; {_CHECK_PASSWORD}"
    _unproved = (
        f"the server did not prove that it knows the password, so nothing was sent to it; {_CHECK_PASSWORD}"
    )

    def _prove(self) -> bytes:
        return hmac.digest(self._key, self._statement(_CLIENT_LABEL), "sha256")

    def _is_proved_by(self, message: bytes) -> bool:
        expected = hmac.digest(self._key, self._statement(_SERVER_LABEL), "sha256")
        return hmac.compare_digest(message, expected)


class LenderHandshake(ClientHandshake):
    """The side that connects, a worker with the worker password only."""

    def __init__(self, key: WorkerKey, certificate_sha256: bytes, nonce: bytes | None = None) -> None:
        super().__init__(key.secret, certificate_sha256, "lender", nonce)
        self._worker_key = key

    _server_proof_bytes = SIGNATURE_BYTES
    _refusal = LENDER_REFUSAL
    _refused = f"the worker password was refused; {_CHECK_WORKER_PASSWORD}"
    _unproved = (
        "the server did not prove that it knows the main password of this worker password, so nothing was "
        f"sent to it; {_CHECK_WORKER_PASSWORD}"
    )

    def _prove(self) -> bytes:
        return hmac.digest(self._key, self._statement(_LENDER_LABEL), "sha256")

    def _is_proved_by(self, message: bytes) -> bool:
        return self._worker_key.is_signed(self._statement(_SIGNATURE_LABEL), message)


class ServerHandshake(_Handshake):
    """The side that listens. It knows the main password, and so the worker password."""

    def __init__(self, key: bytes, certificate_sha256: bytes, nonce: bytes | None = None) -> None:
        super().__init__(certificate_sha256, nonce)
        self._key = key
        #: "worker", "driver" or "lender", as the client says; proved once `done`
        self.role = ""
        self._await(CLIENT_HELLO_BYTES, self._on_client_hello)

    def _on_client_hello(self, message: bytes) -> bytes:
        _, version, role, _ = _CLIENT_HELLO.unpack(message)
        hello = _SERVER_HELLO.pack(MAGIC, VERSION, self._nonce)
        if version != VERSION:
            self._fail(_version_mismatch("the client", version))
            return hello  # so that the client knows our version
        if role not in _ROLE_NAMES:
            return self._fail(ProtocolError(f"a client came with the unknown role {role}"))
        self.role = _ROLE_NAMES[role]
        self._transcript = message + hello
        act = self._on_lender_proof if self.role == "lender" else self._on_client_proof
        self._await(PROOF_BYTES, act, is_proof=True)
        return hello

    def _on_client_proof(self, message: bytes) -> bytes:
        expected = hmac.digest(self._key, self._statement(_CLIENT_LABEL), "sha256")
        if not hmac.compare_digest(message, expected):
            self._fail(AuthenticationError(f"a {self.role} came with another password; {_CHECK_PASSWORD}"))
            return REFUSAL
        self._transcript += message
        self.done = True
        return hmac.digest(self._key, self._statement(_SERVER_LABEL), "sha256")

    def _on_lender_proof(self, message: bytes) -> bytes:
        ours = server_key(self._key)
        expected = hmac.digest(ours.worker_key.secret, self._statement(_LENDER_LABEL), "sha256")
        if not hmac.compare_digest(message, expected):
            error = f"a worker came with another worker password; {_CHECK_WORKER_PASSWORD}"
            self._fail(AuthenticationError(error))
            return LENDER_REFUSAL
        self._transcript += message
        self.done = True
        return ours.sign(self._statement(_SIGNATURE_LABEL))


def _version_mismatch(who: str, version: int) -> VersionMismatchError:
    return VersionMismatchError(
        f"{who} speaks version {version} of the protocol, this side version {VERSION}: "
        "install the same mmgevent on both"
    )


def _guess(start: bytes) -> str:
    """Return what the first bytes of a stranger look like."""
    if start[:4] in (b"GET ", b"POST", b"PUT ", b"HEAD", b"HTTP", b"OPTI", b"CONN"):
        return "this is HTTP"
    if start.startswith(b"SSH-"):
        return "this is SSH"
    if start[:2] == b"\x16\x03":
        return "this is TLS within TLS"
    return f"it begins with {start[:8]!r}"
