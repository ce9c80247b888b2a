"""A TLS socket whose errors stay its own.

OpenSSL keeps errors in a queue for each thread. It looks there to say why an operation did not
succeed. CPython empties the queue when it raises an SSLError. When OpenSSL (3.4 and later) reports
an error of the system (broken pipe, connection reset), CPython raises that OSError and leaves the
queue as it is (python/cpython#148594). Then the next sockets of the thread that have nothing to
read, or no room to write, fail with the same error. All connections of an engine are in one thread,
so each lost peer could end healthy connections.
"""

from __future__ import annotations

from typing import Any

from gevent import ssl


class TLSSocket(ssl.SSLSocket):
    """gevent's TLS socket, but an OSError of one socket is no error of the next."""

    def read(self, *args: Any, **named: Any) -> Any:
        """Read. `recv` and `recv_into` call this."""
        try:
            return super().read(*args, **named)
        except OSError as error:
            self._forget(error)
            raise

    def send(self, *args: Any, **named: Any) -> Any:
        """Send some bytes. `sendall` calls this."""
        try:
            return super().send(*args, **named)
        except OSError as error:
            self._forget(error)
            raise

    def do_handshake(self) -> None:
        """Do the TLS handshake."""
        try:
            super().do_handshake()
        except OSError as error:
            self._forget(error)
            raise

    def _forget(self, error: OSError) -> None:
        """Empty this thread's queue of OpenSSL, as a new connection does, if CPython has not."""
        if not isinstance(error, ssl.SSLError):
            self.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=self.server_side)
