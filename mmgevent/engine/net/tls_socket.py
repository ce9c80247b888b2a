"""A TLS socket whose errors stay its own.

OpenSSL keeps errors in a queue for each thread, and asks that queue why an operation did not succeed.
CPython empties the queue when it raises an SSLError.  When OpenSSL (3.4 and later) reports an error of
the system (broken pipe, connection reset), CPython raises that OSError and leaves the queue as it is
(python/cpython#148594).  The next socket of the thread that has nothing to read, or no room to write,
then fails with the same error, and so does the one after it.  All connections of an engine live in one
thread, so each lost peer could cost the healthy ones their connections.
"""

from __future__ import annotations

from typing import Any

from gevent import ssl


class TLSSocket(ssl.SSLSocket):
    """gevent's, but an OSError of one socket is no error of the next."""

    def read(self, *args: Any, **named: Any) -> Any:
        """Read; `recv` and `recv_into` come here."""
        try:
            return super().read(*args, **named)
        except OSError as error:
            self._forget(error)
            raise

    def send(self, *args: Any, **named: Any) -> Any:
        """Send some; `sendall` comes here."""
        try:
            return super().send(*args, **named)
        except OSError as error:
            self._forget(error)
            raise

    def do_handshake(self) -> None:
        """Shake hands."""
        try:
            super().do_handshake()
        except OSError as error:
            self._forget(error)
            raise

    def _forget(self, error: OSError) -> None:
        """Empty OpenSSL's queue of this thread, as making a connection does, unless CPython has done so."""
        if not isinstance(error, ssl.SSLError):
            self.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=self.server_side)
