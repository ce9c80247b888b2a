"""Links over sockets, plain or TLS.

This is the only place of an engine that reads and writes sockets of links. Both happen in callbacks
of the hub, in bursts of limited length, so that no link holds up the others.
"""

from __future__ import annotations

import socket as plain_socket
import time
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from mmgevent.engine.greenlets import spawn
from mmgevent.engine.net import heartbeats as beats
from mmgevent.engine.net.link import BURST_COUNT, Link
from mmgevent.errors import ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import HEARTBEAT, Decoder, Frame, Payload

log = get_log(__name__)

#: First read of a burst, bytes. Most are not filled; after one that is, larger reads follow.
_SMALL_READ_BYTES = 32 * 1024

#: Further reads of a burst, bytes.
_LARGE_READ_BYTES = 256 * 1024

#: Bytes read without a pause for other links and greenlets.
_BURST_BYTES = 256 * 1024

#: Time for the frames of one burst, seconds. Those that are left wait until the other links had
#: their turn: thousands of short frames fit in one read, and some cost their receiver 0.2 ms.
_BURST_S = 0.001

#: Most that one read of TLS returns, bytes: a record.
_TLS_RECORD_BYTES = 16 * 1024

#: Most frames of one system call. They are up to 128 buffers, far below IOV_MAX.
_GATHER_FRAMES = 64

#: Bytes of frames for one system call.
_GATHER_BYTES = 1024 * 1024

#: The same for TLS, which copies them, and whose wire is mostly slower.
_GATHER_TLS_BYTES = 256 * 1024

#: Largest payload that is joined to its header, bytes: copying it costs less than one more buffer.
_JOIN_BYTES = 4096

#: Events of libev: EV_READ and EV_WRITE.
_READABLE, _WRITABLE = 1, 2

#: Time after a failed write to read what the peer said before it closed, seconds.
_LAST_WORDS_S = 1.0


class SocketLink(Link):
    """A link over a connected gevent socket."""

    def __init__(self, sock: Any, name: str, leftover: bytes = b"", heartbeats: bool = True) -> None:
        """`sock`: plain or TLS, owned from now on. `leftover`: bytes that were read from it before.

        `heartbeats`: send them, and close when the peer is silent. False for peers that run user
        code in the thread that would have to answer.
        """
        super().__init__(name)
        self._sock = sock
        # Not by isinstance: importing ssl takes 20 ms, which jobs without TLS need not pay.
        self._is_tls = hasattr(sock, "do_handshake")
        self._decoder = Decoder()
        self._decoder.feed(leftover)
        self._heartbeats = heartbeats
        #: the hub's loop, once the link has started
        self._loop: Any = None
        self._read_watcher: Any = None
        self._write_watcher: Any = None
        #: errors that mean: nothing to read right now, or no room to write
        self._blocked: tuple[type[BaseException], ...] = (BlockingIOError,)
        if self._is_tls:
            from gevent import ssl

            self._blocked = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
        #: buffers taken off the outbox; the first one may be the rest of a buffer
        self._unsent: list[Payload] = []
        self._is_flush_due = False
        #: a callback will go on with reading: frames are left, or bytes that the hub does not see
        self._is_read_due = False
        #: False while the kernel has no room
        self._is_writable = True
        #: set when the link closes and nothing more can be sent
        self._flushed = Event()
        #: set when nothing more will be read
        self._deaf = Event()
        self._last_words: gevent.Greenlet | None = None
        #: whether anything was received, or sent, since the monitor looked last
        self._heard = self._spoke = False
        #: seconds without anything received, or sent
        self._silent_s = self._idle_s = 0.0

    def _start(self) -> None:
        self._loop = gevent.get_hub().loop
        self._sock.settimeout(0.0)
        self._read_watcher = self._loop.io(self._sock.fileno(), _READABLE)
        self._write_watcher = self._loop.io(self._sock.fileno(), _WRITABLE)
        self._read_watcher.start(self._on_readable)
        self._read_again()  # bytes may be left over from before
        self._wake()
        if self._heartbeats:
            beats.monitor.add(self)

    def _wake(self) -> None:
        if self._loop is not None and not self._is_flush_due and self._is_writable:
            self._is_flush_due = True
            self._loop.run_callback(self._flush)

    def _has_more(self) -> bool:
        return bool(self._unsent) or bool(self._outbox)

    def _finish(self, flush_s: float) -> None:
        beats.monitor.discard(self)
        if self._loop is not None:
            if flush_s > 0:
                with gevent.Timeout(flush_s, False):
                    self._wake()
                    self._flushed.wait()
                    self._half_close()
                    # A close with input unread resets the connection. The peer would lose what it
                    # did not read.
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
        # SSLSocket.shutdown would drop the TLS state, so that nothing more could be read.
        try:
            socket.socket.shutdown(self._sock, plain_socket.SHUT_WR)
        except OSError as error:
            log.debug("already disconnected: %s: %s", self.name, error)

    # -- reading: callbacks of the hub

    def _on_readable(self) -> None:
        if not self._is_read_due:  # else the link had its turn, and would get two
            self._read()

    def _read_again(self) -> None:
        """Go on with reading, after other links.

        The hub runs ten callbacks or so before it looks at sockets again. So links with frames left
        delay all others by some milliseconds, however many they are.
        """
        if not self._is_read_due:
            self._is_read_due = True
            self._loop.run_callback(self._go_on)

    def _go_on(self) -> None:
        self._is_read_due = False
        self._read()

    def _read(self) -> None:
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
        """Deliver what there is, up to a limit.

        Return why the link ends, or None if it does not.
        """
        until = time.monotonic() + _BURST_S
        if not self._deliver_frames(until):
            return None
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
                if not self._deliver_frames(until):
                    return None
            left -= len(data)
            if left <= 0 or self._deaf.is_set():
                break
            if len(data) < (_TLS_RECORD_BYTES if self._is_tls else size):
                break  # that was probably all, else the hub calls again
            size = _LARGE_READ_BYTES
        if self._is_tls and not self._deaf.is_set() and self._sock.pending():
            self._read_again()  # the hub does not see what TLS holds
        return None

    def _deliver_frames(self, until: float) -> bool:
        """Deliver what was read. Return False if the time was up, and frames may be left."""
        while not self._closing:
            frame = self._decoder.next_frame()
            if frame is None:
                break
            self._deliver(frame)
            if time.monotonic() >= until:
                self._read_again()
                return False
        return True

    # -- writing: callbacks of the hub

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
        """Write what may be sent, up to a limit.

        The hub calls again when there is room for the rest.
        """
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
        """Write no more.

        The peer may have said why before it closed, so reading goes on for a moment.
        """
        self._is_writable = False
        self._unsent = []
        self._flushed.set()
        if self._last_words is None:
            # Its fault closes the link as its end does.
            self._last_words = spawn(
                lambda greenlet: self._begin_close(reason), self._hear_last_words, reason
            )

    def _hear_last_words(self, reason: str) -> None:
        self._deaf.wait(_LAST_WORDS_S)
        self._begin_close(reason)

    def _gather(self) -> list[Payload]:
        """Take as many frames off the outbox as one system call should carry."""
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
        """Send as much of `_unsent` as the kernel takes. Return the number of bytes."""
        buffers = self._unsent
        if self._is_tls and len(buffers) > 1:
            buffers = self._unsent = [b"".join(buffers)]  # OpenSSL wants the same bytes in a retry
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

    # -- for the monitor

    def check_heartbeat(self, elapsed_s: float) -> None:
        """Close if the peer was silent for too long. Send a heartbeat if nothing else was sent."""
        # A link that waits for its turn has not looked at its socket since.
        has_heard = self._heard or self._is_read_due
        self._silent_s = 0.0 if has_heard else self._silent_s + elapsed_s
        self._idle_s = 0.0 if self._spoke else self._idle_s + elapsed_s
        self._heard = self._spoke = False
        if self._silent_s >= beats.SILENCE_S:
            self.is_silent = True
            self._begin_close(f"silent for {beats.SILENCE_S:g} s")
        elif self._idle_s >= beats.HEARTBEAT_S and not self._outbox:
            self._idle_s = 0.0
            self.send(Frame(HEARTBEAT))


def _describe(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
