"""Links: frames between two processes, or between two roles of one process.

A link joins a `Decoder` and an `Outbox` to something that carries bytes.  It knows
windows and heartbeats and nothing of what frames mean.  `SocketLink` is the only
place of the engine that reads and writes sockets; `local_pair` gives two ends in one
process with the same behaviour and no bytes at all.

What holds for every link:

- The reading side never stops reading, so `on_frame` must not block.  It is always
  called from the hub itself, never from within `send`: an open link has no greenlets,
  and a frame costs no switch of them.
- Whatever the peer sends can at worst close this link.  `on_close(reason)` is called
  once, from a greenlet of the link, after the last `on_frame`; when it is called no
  other greenlet of the link is left.
- Sending never blocks and never fails: what is sent on a link that is closing is
  dropped, and `on_close` tells.  What a peer that does not read may pile up is bounded by
  the windows in lanes, and by MAX_CONTROL_BYTES before them, beyond which it is closed.

Everything here belongs to one gevent hub: use links from the engine's main thread only.
"""

from __future__ import annotations

import logging
import socket as plain_socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from mmgevent.errors import LinkClosed, ProtocolError
from mmgevent.wire.frames import GRANT, HEARTBEAT, Decoder, Frame, Lane, Payload
from mmgevent.wire.streams import Outbox, granted_bytes

log = logging.getLogger(__name__)

HEARTBEAT_S = 7.0  #: a link that sent nothing for so long sends a heartbeat: two in each SILENCE_S
SILENCE_S = 15.0  #: a peer that sent nothing for so long is dead
SCAN_S = 0.5  #: between two looks at all links; how late the two above may be noticed

#: bytes that may wait before every lane of one link; 100,000 messages and more
MAX_CONTROL_BYTES = 16 * 1024 * 1024

_SMALL_READ_BYTES = 32 * 1024  # a read that fills this is followed by large ones
_LARGE_READ_BYTES = 256 * 1024
_BURST_BYTES = 256 * 1024  # read without a pause for the other links and greenlets
_BURST_COUNT = 16  # reads, or frames handed over, without a pause
_TLS_RECORD_BYTES = 16 * 1024  # what one read of TLS gives at most
_GATHER_FRAMES = 64  # per system call; 128 buffers, far below IOV_MAX
_GATHER_BYTES = 1024 * 1024
_GATHER_TLS_BYTES = 256 * 1024  # is copied, and mostly goes to a slower wire
_JOIN_BYTES = 4096  # payloads up to this are joined to their header: cheaper than a buffer more
_READABLE, _WRITABLE = 1, 2  # libev's EV_READ and EV_WRITE
_LAST_WORDS_S = 1.0  # after a failed write: what the peer said before it closed may be unread

OnFrame = Callable[[Frame], None]
OnClose = Callable[[str], None]


class Link:
    """An ordered sequence of frames each way; the part that does not depend on the carrier."""

    def __init__(self, name: str) -> None:
        #: who is at the other end, for logs
        self.name = name
        self._outbox = Outbox()
        self._room: dict[Lane, set[Event]] = {}  # who waits for which lane to drain
        self._drained = Event()  # there was nothing more that might go
        self._on_frame: OnFrame | None = None
        self._on_close: OnClose | None = None
        self._closing = False
        self._reason = ""
        self._closer: gevent.Greenlet | None = None

    @property
    def is_closed(self) -> bool:
        """Is the link closed or closing?  Nothing sent from now on arrives."""
        return self._closing

    def start(self, on_frame: OnFrame, on_close: OnClose) -> None:
        """Begin to receive and send; what was sent before waits until now."""
        self._on_frame = on_frame
        self._on_close = on_close
        if not self._closing:
            self._start()
        elif self._closer is not None and self._closer.dead:
            gevent.spawn(on_close, self._reason)  # it ended before anybody could be told

    def send(self, frame: Frame) -> None:
        """Send a frame before every lane."""
        if self._closing:
            return
        self._outbox.put(frame)
        if self._outbox.control_bytes > MAX_CONTROL_BYTES:
            self._begin_close(f"does not read: {self._outbox.control_bytes} bytes wait")
        else:
            self._wake()

    def send_in_lane(self, frame: Frame) -> None:
        """Send a frame behind the others of its lane."""
        if not self._closing:
            self._outbox.put_in_lane(frame)
            self._wake()

    def open_lane(self, lane: Lane, window_bytes: int) -> None:
        """Make data frames of this lane wait for grants, which the link then takes (see Outbox)."""
        self._outbox.open_lane(lane, window_bytes)
        self._wake()

    def close_lane(self, lane: Lane) -> None:
        """Nothing more will be sent in this lane."""
        self._outbox.close_lane(lane)

    def drop_lane(self, lane: Lane) -> int:
        """Forget what waits in this lane; return the bytes dropped.  Sent frames stay sent."""
        n_bytes = self._outbox.drop_lane(lane)
        self._tell_room(lane)
        return n_bytes

    def queued_bytes(self, lane: Lane) -> int:
        """Payload bytes of this lane that were not yet handed to the system."""
        return self._outbox.queued_bytes(lane)

    def queued_frames(self, lane: Lane) -> int:
        """Frames of this lane that were not yet handed to the system."""
        return self._outbox.queued_frames(lane)

    def wait_for_room(self, lane: Lane, limit_bytes: int, timeout: float | None = None) -> None:
        """Block this greenlet until at most `limit_bytes` are queued in the lane.

        LinkClosed when the link closes first, TimeoutError after `timeout` seconds.
        """
        room = Event()
        self._room.setdefault(lane, set()).add(room)
        late = TimeoutError(f"{self.name}: lane {lane} did not drain in {timeout} s")
        try:
            with gevent.Timeout(timeout, late):
                while not self._closing and self._outbox.queued_bytes(lane) > limit_bytes:
                    room.clear()
                    room.wait()
        finally:
            waiting = self._room[lane]
            waiting.discard(room)
            if not waiting:
                del self._room[lane]
        if self._closing:
            raise LinkClosed(f"{self.name}: link closed: {self._reason or 'by this side'}")

    def drain(self, timeout_s: float) -> None:
        """Wait (blocks) until all that may go now was handed to the system, or for so long, or for the link's end."""
        with gevent.Timeout(timeout_s, False):
            while self._has_more() and not self._closing:
                self._drained.clear()
                self._drained.wait()

    def close(self, reason: str = "", flush_s: float = 0.0) -> None:
        """Close the link and wait until it is; idempotent, the first reason counts.

        With `flush_s` what may go now (frames without credit may not) gets so many
        seconds to reach the peer; what comes in meanwhile is dropped.  Without it,
        what waits is lost, and so may be what was sent last.  Called where nothing may
        block (`on_frame`) or where it is under way (`on_close`), it returns at once and
        the link closes right after.
        """
        self._begin_close(reason, flush_s)
        closer = self._closer
        if closer is not None and gevent.getcurrent() not in (closer, gevent.get_hub()):
            closer.join()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' closed' if self._closing else ''}>"

    # what a carrier provides

    def _start(self) -> None:
        """Begin to carry frames."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Something may have become ready to go."""
        raise NotImplementedError

    def _has_more(self) -> bool:
        """Is there something that may go now?"""
        return bool(self._outbox)

    def _finish(self, flush_s: float) -> None:
        """Flush for so long, then release the carrier."""
        raise NotImplementedError

    # what a carrier uses

    def _next_frame(self) -> Frame | None:
        frame = self._outbox.next_frame()
        if frame is None:
            self._drained.set()
        elif self._room:
            self._tell_room(frame.lane)
        return frame

    def _deliver(self, frame: Frame) -> None:
        """Act on a frame that came.  Faults close the link, they do not propagate."""
        try:
            if frame.kind == GRANT and self._outbox.has_window(frame.lane):
                self._outbox.grant(frame.lane, granted_bytes(frame))
                self._wake()
            elif frame.kind != HEARTBEAT and self._on_frame is not None:
                self._on_frame(frame)
        except ProtocolError as error:
            self._begin_close(str(error))
        except Exception as error:
            self._begin_close(self._own_fault(error, frame))

    def _own_fault(self, error: Exception, at: object) -> str:
        log.exception("link closed by a fault of our own: %s, at %s", self.name, at)
        return f"internal error: {type(error).__name__}: {error}"

    def _begin_close(self, reason: str, flush_s: float = 0.0) -> None:
        if not self._closing:
            self._closing = True
            self._reason = reason
            self._drained.set()
            for lane in list(self._room):
                self._tell_room(lane)
            self._closer = gevent.spawn(self._end, flush_s)

    def _end(self, flush_s: float) -> None:
        try:
            self._finish(flush_s)
        finally:
            self._outbox = Outbox()
            log.debug("link closed: %s: %s", self.name, self._reason or "by this side")
            if self._on_close is not None:
                self._on_close(self._reason)

    def _tell_room(self, lane: Lane) -> None:
        for room in self._room.get(lane, ()):
            room.set()


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
        for _ in range(_BURST_COUNT):
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


class LocalLink(Link):
    """One end of a link within this process; made by `local_pair`."""

    _peer: LocalLink

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._loop: Any = None  # of the hub, once it has started
        self._is_carry_due = False
        self._deaf = Event()  # it will take nothing more

    def _start(self) -> None:
        self._loop = gevent.get_hub().loop
        self._listen()

    def _wake(self) -> None:
        self._peer._listen()

    def _listen(self) -> None:
        """The peer may have something for us."""
        if self._loop is not None and not self._is_carry_due:
            self._is_carry_due = True
            self._loop.run_callback(self._carry)

    def _carry(self) -> None:
        """Deliver what the peer sends, frame by frame; a callback of the hub."""
        self._is_carry_due = False
        for _ in range(_BURST_COUNT):
            if self._closing:
                self._deaf.set()  # the peer may be closing, too, and wait for this
                return
            frame = self._peer._next_frame()
            if frame is None:
                if self._peer._closing:
                    self._deaf.set()
                    self._begin_close("the other end closed the link")
                return
            self._deliver(_own(frame))
        self._listen()

    def _finish(self, flush_s: float) -> None:
        peer = self._peer
        if flush_s > 0 and peer._loop is not None:
            self._wake()
            peer._deaf.wait(flush_s)
        self._deaf.set()
        peer._begin_close("the other end closed the link")


def local_pair(name: str) -> tuple[Link, Link]:
    """Return the two ends of a link within this process; what one sends the other gets."""
    one, other = LocalLink(name), LocalLink(name)
    one._peer, other._peer = other, one
    return one, other


def _own(frame: Frame) -> Frame:
    """Give a frame that borrows its payload its own bytes, as one that came over a socket has."""
    if isinstance(frame.payload, bytes):
        return frame
    return Frame(frame.kind, bytes(frame.payload), *frame.lane)


def _describe(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
