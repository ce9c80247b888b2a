"""Links over sockets, plain or TLS, and the heartbeats of all of them."""

from __future__ import annotations

import logging
import socket as plain_socket
import time
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from mmgevent.engine.net.link import BURST_COUNT, Link
from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import HEARTBEAT, Decoder, Frame, Payload

log = logging.getLogger(__name__)

HEARTBEAT_S = 7.0  #: a link that sent nothing for so long sends a heartbeat: two in each SILENCE_S
SILENCE_S = 15.0  #: a peer that sent nothing for so long is dead
SCAN_S = 0.5  #: between two looks at all links; how late the two above may be noticed

_SMALL_READ_BYTES = 32 * 1024  # a read that fills this is followed by large ones
_LARGE_READ_BYTES = 256 * 1024
_BURST_BYTES = 256 * 1024  # read without a pause for the other links and greenlets
_TLS_RECORD_BYTES = 16 * 1024  # what one read of TLS gives at most
_GATHER_FRAMES = 64  # per system call; 128 buffers, far below IOV_MAX
_GATHER_BYTES = 1024 * 1024
_GATHER_TLS_BYTES = 256 * 1024  # is copied, and mostly goes to a slower wire
_JOIN_BYTES = 4096  # payloads up to this are joined to their header: cheaper than a buffer more
_READABLE, _WRITABLE = 1, 2  # libev's EV_READ and EV_WRITE
_LAST_WORDS_S = 1.0  # after a failed write: what the peer said before it closed may be unread


class SocketLink(Link):
    """A link over a connected gevent socket, plain or TLS, which it owns from now on.

    `leftover`: bytes that were read from the socket before the link got it.
    `heartbeats`: send them, and close when the peer is silent; False for peers that
    run user code in the thread that would have to answer.
    """

    def __init__(self, sock: Any, name: str, leftover: bytes = b"", heartbeats: bool = True) -> None:
        super().__init__(name)
        self._sock = sock
        self._is_tls = hasattr(
            sock, "do_handshake"
        )  # without importing ssl, 20 ms that an embedded job need not pay
        self._decoder = Decoder()
        self._decoder.feed(leftover)
        self._heartbeats = heartbeats
        self._loop: Any = None  # of the hub, once it has started
        self._read_watcher: Any = None
        self._write_watcher: Any = None
        #: nothing to read right now, or no room to write
        self._blocked: tuple[type[BaseException], ...] = (BlockingIOError,)
        if self._is_tls:
            from gevent import ssl

            self._blocked = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._unsent: list[Payload] = []  # taken off the outbox; the first may be the rest of one
        self._is_flush_due = False
        self._is_writable = True  # as far as is known
        self._flushed = Event()  # closing, and nothing more can or may go
        self._deaf = Event()  # nothing more will be read
        self._last_words: gevent.Greenlet | None = None
        # For the monitor: what happened since its last look, and what it has counted so far.
        self._heard = self._spoke = False
        self._silent_s = self._idle_s = 0.0

    def _start(self) -> None:
        self._loop = gevent.get_hub().loop
        self._sock.settimeout(0.0)
        self._read_watcher = self._loop.io(self._sock.fileno(), _READABLE)
        self._write_watcher = self._loop.io(self._sock.fileno(), _WRITABLE)
        self._read_watcher.start(self._on_readable)
        self._loop.run_callback(self._on_readable)  # what was read before, here or by TLS
        self._wake()
        if self._heartbeats:
            _monitor.add(self)

    def _wake(self) -> None:
        if self._loop is not None and not self._is_flush_due and self._is_writable:
            self._is_flush_due = True
            self._loop.run_callback(self._flush)

    def _has_more(self) -> bool:
        return bool(self._unsent) or bool(self._outbox)

    def _finish(self, flush_s: float) -> None:
        _monitor.discard(self)
        if self._loop is not None:
            if flush_s > 0:
                with gevent.Timeout(flush_s, False):
                    self._wake()
                    self._flushed.wait()
                    self._half_close()
                    # Closing with input unread would reset the connection, and the peer lose what it did not read.
                    self._deaf.wait()
            for watcher in (self._read_watcher, self._write_watcher):
                watcher.stop()
                watcher.close()
            self._deaf.set()
            self._is_writable = False
            if self._last_words is not None:
                self._last_words.join()
        self._sock.close()

    def _half_close(self) -> None:
        # SSLSocket.shutdown would drop the TLS state, and with it the reader.
        try:
            socket.socket.shutdown(self._sock, plain_socket.SHUT_WR)
        except OSError as error:
            log.debug("already disconnected: %s: %s", self.name, error)

    # reading: callbacks of the hub

    def _on_readable(self) -> None:
        if self._deaf.is_set():
            return
        try:
            reason = self._read_burst()
        except ProtocolError as error:
            reason = str(error)
        except OSError as error:
            reason = _describe(error)
        except Exception as error:
            reason = self._own_fault(error, "reading")
        if reason is not None:
            self._read_watcher.stop()
            self._deaf.set()
            self._begin_close(reason)

    def _read_burst(self) -> str | None:
        """Deliver what there is, up to a bound; return why the link ends, if it does."""
        self._deliver_frames()
        size, left = _SMALL_READ_BYTES, _BURST_BYTES
        for _ in range(BURST_COUNT):
            try:
                data = self._sock.recv(size)
            except self._blocked:
                return None
            if not data:
                cut = self._decoder.pending_bytes
                return "the peer closed the connection" + (" in the middle of a frame" if cut else "")
            self._heard = True
            if not self._closing:
                self._decoder.feed(data)
                self._deliver_frames()
            left -= len(data)
            if left <= 0 or self._deaf.is_set():
                break
            if len(data) < (_TLS_RECORD_BYTES if self._is_tls else size):
                break  # that was probably all; if not, the hub calls again
            size = _LARGE_READ_BYTES
        if self._is_tls and not self._deaf.is_set() and self._sock.pending():
            self._loop.run_callback(self._on_readable)  # the hub sees the socket, not what TLS holds
        return None

    def _deliver_frames(self) -> None:
        while not self._closing:
            frame = self._decoder.next_frame()
            if frame is None:
                return
            self._deliver(frame)

    # writing: callbacks of the hub

    def _flush(self) -> None:
        self._is_flush_due = False
        try:
            if self._is_writable:
                self._write_burst()
        except OSError as error:
            self._stop_writing(_describe(error))
        except Exception as error:
            self._stop_writing(self._own_fault(error, "writing"))

    def _write_burst(self) -> None:
        """Write what may go, up to a bound; come back when there is room for the rest."""
        left = _GATHER_BYTES
        while left > 0:
            if not self._unsent:
                self._unsent = self._gather()
            if not self._unsent:
                if self._closing:
                    self._flushed.set()
                return
            sent = self._send_some()
            if not sent:
                self._is_writable = False
                self._write_watcher.start(self._on_writable)
                return
            self._spoke = True
            left -= sent
        self._wake()

    def _on_writable(self) -> None:
        self._write_watcher.stop()
        self._is_writable = True
        self._flush()

    def _stop_writing(self, reason: str) -> None:
        """Give up writing. The peer may have said why before it closed: that is still to be read."""
        self._is_writable = False
        self._unsent = []
        self._flushed.set()
        if self._last_words is None:
            self._last_words = gevent.spawn(self._hear_last_words, reason)

    def _hear_last_words(self, reason: str) -> None:
        self._deaf.wait(_LAST_WORDS_S)
        self._begin_close(reason)

    def _gather(self) -> list[Payload]:
        """Take frames off the outbox, as many as one system call should carry."""
        buffers: list[Payload] = []
        room = _GATHER_TLS_BYTES if self._is_tls else _GATHER_BYTES
        for _ in range(_GATHER_FRAMES):
            frame = self._next_frame()
            if frame is None:
                break
            header, payload = frame.encode_header(), frame.payload
            if len(payload) <= _JOIN_BYTES:
                buffers.append(header + payload)
            else:
                buffers += (header, payload)
            room -= len(header) + len(payload)
            if room <= 0:
                break
        return buffers

    def _send_some(self) -> int:
        """Send of `_unsent` what goes at once; return how many bytes that were."""
        buffers = self._unsent
        if self._is_tls and len(buffers) > 1:
            buffers = self._unsent = [b"".join(buffers)]  # to be offered again just so
        try:
            sent: int = self._sock.send(buffers[0]) if len(buffers) == 1 else self._sock.sendmsg(buffers)
        except self._blocked:
            return 0
        left, first = sent, 0
        while first < len(buffers) and left >= len(buffers[first]):
            left -= len(buffers[first])
            first += 1
        del buffers[:first]
        if left:
            buffers[0] = memoryview(buffers[0])[left:]
        return sent

    def _look(self, elapsed_s: float) -> None:
        """Count silence and idleness; called by the monitor every SCAN_S or so."""
        self._silent_s = 0.0 if self._heard else self._silent_s + elapsed_s
        self._idle_s = 0.0 if self._spoke else self._idle_s + elapsed_s
        self._heard = self._spoke = False
        if self._silent_s >= SILENCE_S:
            self._begin_close(f"silent for {SILENCE_S:g} s")
        elif self._idle_s >= HEARTBEAT_S and not self._outbox:
            self._idle_s = 0.0
            self.send(Frame(HEARTBEAT))


class _Monitor:
    """One greenlet that looks at every link with heartbeats; it lives while there are any."""

    def __init__(self) -> None:
        self._links: set[SocketLink] = set()
        self._greenlet: gevent.Greenlet | None = None

    def add(self, link: SocketLink) -> None:
        self._links.add(link)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def discard(self, link: SocketLink) -> None:
        self._links.discard(link)
        if not self._links and self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def _run(self) -> None:
        seen = time.monotonic()
        while True:
            gevent.sleep(SCAN_S)
            now = time.monotonic()
            # When this loop was held up, so were the readers: that was not the peers' silence.
            elapsed_s = min(now - seen, 2 * SCAN_S)
            seen = now
            for link in list(self._links):
                link._look(elapsed_s)


_monitor = _Monitor()


def _describe(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
