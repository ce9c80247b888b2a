"""The worker password: it lets its holder lend a worker, and nothing else.

It holds a secret and a public key. Both are derived from K (`handshake.derive_key`), so every
server knows them, and nobody finds K from them except by trying passwords at the cost of scrypt.
A worker proves the secret. A shared secret cannot prove the server, since every lender has it and
could play the server to the others. So the server signs with the private key, which only the main
password gives.

The text is one line without blanks, for files and variables alike. Its beginning tells it from a
main password, and its checksum finds characters that were lost.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from typing import NamedTuple

from mmgevent.access.password import WORKER_PREFIX, is_worker_password
from mmgevent.errors import PasswordError

#: Version of the text that this mmgevent writes and reads.
TEXT_VERSION = "1"

#: Sizes of the secret, the public key and a signature, bytes: those of SHA-256 and of Ed25519.
SECRET_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64

#: Bytes of the text's checksum. One damaged text in 2**32 would pass, and then be refused.
CHECKSUM_BYTES = 4

#: The alphabet for URLs to the usual one. A text in the usual one is no worker password, either.
_PLAIN_BASE64 = str.maketrans("-_", "+/")

_SECRET_LABEL = b"mmgevent/2 worker secret"
_SEED_LABEL = b"mmgevent/2 worker signing key"
_ONLY_LENDS = "a worker password can only lend workers; everything else takes the main password"
_MAKE_ANOTHER = "copy it again: `mmg-server worker-password` prints it where the main password is"


class WorkerKey(NamedTuple):
    """What a worker password holds."""

    #: proves a lender to a server
    secret: bytes
    #: Ed25519; checks the signature that proves a server to a lender
    public: bytes

    def __repr__(self) -> str:
        return "WorkerKey(...)"  # without the secret

    def encode(self) -> str:
        """Return the text of the worker password."""
        import base64

        body = self.secret + self.public
        return f"{WORKER_PREFIX}{TEXT_VERSION}-{base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip('=')}"

    @classmethod
    def decode(cls, text: str) -> WorkerKey:
        """Return the key in the text of a worker password.

        Raises PasswordError, which does not show the text, for any other text.
        """
        import base64

        if not is_worker_password(text):
            raise PasswordError("this is no worker password: it does not begin with " + WORKER_PREFIX)
        version, _, encoded = text.removeprefix(WORKER_PREFIX).partition("-")
        if version != TEXT_VERSION:
            raise PasswordError(
                f"the worker password is not of version {TEXT_VERSION}: install the same mmgevent on both sides"
            )
        try:
            padded = encoded.translate(_PLAIN_BASE64) + "=" * (-len(encoded) % 4)
            data = base64.b64decode(padded, validate=True)
        except ValueError:
            data = b""
        key = cls(data[:SECRET_BYTES], data[SECRET_BYTES : SECRET_BYTES + PUBLIC_BYTES])
        if len(key.public) < PUBLIC_BYTES or key.encode() != text:
            raise PasswordError(f"the worker password is damaged; {_MAKE_ANOTHER}")
        return key

    def is_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether this is the signature of the message by who knows the main password.

        The first call takes some 20 ms, to import cryptography.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class ServerKey:
    """What a server knows about lenders, from K: the private half, and what lenders have."""

    def __init__(self, key: bytes) -> None:
        """`key`: K. Takes some 20 ms the first time, to import cryptography."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._private = Ed25519PrivateKey.from_private_bytes(hmac.digest(key, _SEED_LABEL, "sha256"))
        #: what a worker password of this K holds
        self.worker_key = WorkerKey(
            hmac.digest(key, _SECRET_LABEL, "sha256"), self._private.public_key().public_bytes_raw()
        )

    def sign(self, message: bytes) -> bytes:
        """Return the signature that proves this server to a lender."""
        return self._private.sign(message)


@functools.lru_cache(maxsize=16)
def server_key(key: bytes) -> ServerKey:
    """Return the ServerKey of K: made once in a process."""
    return ServerKey(key)


def main_key(key: bytes | WorkerKey) -> bytes:
    """Return the key as K. Raises PasswordError for that of a worker password."""
    if isinstance(key, WorkerKey):
        raise PasswordError(_ONLY_LENDS)
    return key


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(TEXT_VERSION.encode() + body).digest()[:CHECKSUM_BYTES]
