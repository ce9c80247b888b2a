"""Links: frames between two processes, or between two roles of one process.

A link joins a `Decoder` and an `Outbox` to something that carries bytes.  It knows
windows and heartbeats and nothing of what frames mean.  `SocketLink` is the only
place of the engine that reads and writes sockets; `local_pair` gives two ends in one
process with the same behaviour and no bytes at all.

What holds for every link:

- The reading side never stops reading, so `on_frame` must not block.  It is always
  called from one greenlet of the link, never from within `send`.
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
_BURST_BYTES = 256 * 1024  # read without a pause for the other greenlets
_BURST_COUNT = 16  # reads, or frames handed over, without a pause
_GATHER_FRAMES = 64  # per system call; 128 buffers, far below IOV_MAX
_GATHER_BYTES = 1024 * 1024
_GATHER_TLS_BYTES = 256 * 1024  # is copied, and mostly goes to a slower wire
_JOIN_BYTES = 4096  # payloads up to this are joined to their header: cheaper than a buffer more
_DRAIN_LOOK_S = 0.005  # between two looks at whether everything went
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
            while self._outbox and not self._closing:
                gevent.sleep(_DRAIN_LOOK_S)

    def close(self, reason: str = "", flush_s: float = 0.0) -> None:
        """Close the link and wait until it is; idempotent, the first reason counts.

        With `flush_s` what may go now (frames without credit may not) gets so many
        seconds to reach the peer; what comes in meanwhile is dropped.  Without it,
        what waits is lost, and so may be what was sent last.  Called from a greenlet
        of this link (`on_frame`, `on_close`), it returns at once and the link closes
        right after.
        """
        self._begin_close(reason, flush_s)
        closer = self._closer
        if closer is not None and gevent.getcurrent() not in (closer, *self._greenlets()):
            closer.join()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' closed' if self._closing else ''}>"

    # what a carrier provides

    def _start(self) -> None:
        """Spawn the greenlets that carry frames."""
        raise NotImplementedError

    def _greenlets(self) -> tuple[gevent.Greenlet, ...]:
        """Return the greenlets that carry frames."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Something may have become ready to go."""
        raise NotImplementedError

    def _finish(self, flush_s: float) -> None:
        """Flush for so long, end every greenlet but this one, release the carrier."""
        raise NotImplementedError

    # what a carrier uses

    def _next_frame(self) -> Frame | None:
        frame = self._outbox.next_frame()
        if frame is not None and self._room:
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
        self._ready = Event()  # the writer has something to look at
        self._reader: gevent.Greenlet | None = None
        self._writer: gevent.Greenlet | None = None
        # For the monitor: what happened since its last look, and what it has counted so far.
        self._heard = self._spoke = False
        self._silent_s = self._idle_s = 0.0

    def _start(self) -> None:
        self._reader = gevent.spawn(self._read)
        self._writer = gevent.spawn(self._write)
        if self._heartbeats:
            _monitor.add(self)

    def _greenlets(self) -> tuple[gevent.Greenlet, ...]:
        return tuple(g for g in (self._reader, self._writer) if g is not None)

    def _wake(self) -> None:
        self._ready.set()

    def _finish(self, flush_s: float) -> None:
        _monitor.discard(self)
        if flush_s > 0 and self._writer is not None and self._reader is not None:
            with gevent.Timeout(flush_s, False):
                self._ready.set()
                self._writer.join()
                self._half_close()
                # Closing with input unread would reset the connection, and the peer lose what it did not read.
                self._reader.join()
        gevent.killall(list(self._greenlets()))
        self._sock.close()

    def _half_close(self) -> None:
        # SSLSocket.shutdown would drop the TLS state, and with it the reader.
        try:
            socket.socket.shutdown(self._sock, plain_socket.SHUT_WR)
        except OSError as error:
            log.debug("already disconnected: %s: %s", self.name, error)

    def _read(self) -> None:
        try:
            reason = self._read_until_end()
        except ProtocolError as error:
            reason = str(error)
        except OSError as error:
            reason = _describe(error)
        except Exception as error:
            reason = self._own_fault(error, "reading")
        self._begin_close(reason)

    def _read_until_end(self) -> str:
        """Deliver frames until the link ends; return why it did."""
        self._deliver_frames()
        size = _SMALL_READ_BYTES
        burst_bytes = burst_count = 0
        while True:
            data = self._sock.recv(size)
            if not data:
                cut = self._decoder.pending_bytes
                return "the peer closed the connection" + (" in the middle of a frame" if cut else "")
            self._heard = True
            size = _LARGE_READ_BYTES if len(data) >= _SMALL_READ_BYTES else _SMALL_READ_BYTES
            if not self._closing:
                self._decoder.feed(data)
                self._deliver_frames()
            burst_bytes += len(data)
            burst_count += 1
            if burst_bytes >= _BURST_BYTES or burst_count >= _BURST_COUNT:
                burst_bytes = burst_count = 0
                gevent.sleep(0)

    def _deliver_frames(self) -> None:
        while not self._closing:
            frame = self._decoder.next_frame()
            if frame is None:
                return
            self._deliver(frame)

    def _write(self) -> None:
        try:
            self._write_until_end()
        except OSError as error:
            # The peer may have said why before it closed: let the reader find that, and the end.
            if self._reader is not None:
                self._reader.join(_LAST_WORDS_S)
            self._begin_close(_describe(error))
        except Exception as error:
            self._begin_close(self._own_fault(error, "writing"))

    def _write_until_end(self) -> None:
        while True:
            buffers = self._gather()
            if buffers:
                if self._is_tls:
                    self._sock.sendall(b"".join(buffers))
                    self._spoke = True
                else:
                    self._send_vector(buffers)
                gevent.sleep(0)
            elif self._closing:
                return
            else:
                self._ready.clear()
                self._ready.wait()

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

    def _send_vector(self, buffers: list[Payload]) -> None:
        first = 0
        while first < len(buffers):
            sent = self._sock.sendmsg(buffers[first:] if first else buffers)
            self._spoke = True
            while first < len(buffers) and sent >= len(buffers[first]):
                sent -= len(buffers[first])
                first += 1
            if sent:
                buffers[first] = memoryview(buffers[first])[sent:]

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
        self._incoming = Event()  # the peer may have something for us
        self._pump: gevent.Greenlet | None = None

    def _start(self) -> None:
        self._pump = gevent.spawn(self._carry)

    def _greenlets(self) -> tuple[gevent.Greenlet, ...]:
        return () if self._pump is None else (self._pump,)

    def _wake(self) -> None:
        self._peer._incoming.set()

    def _carry(self) -> None:
        """Deliver what the peer sends, frame by frame."""
        burst = 0
        while not self._closing:
            frame = self._peer._next_frame()
            if frame is not None:
                self._deliver(_own(frame))
                burst += 1
                if burst >= _BURST_COUNT:
                    burst = 0
                    gevent.sleep(0)
            elif self._peer._closing:
                self._begin_close("the other end closed the link")
            else:
                self._incoming.clear()
                self._incoming.wait()

    def _finish(self, flush_s: float) -> None:
        pump = self._peer._pump
        if flush_s > 0 and pump is not None:
            self._wake()
            pump.join(flush_s)
        gevent.killall(list(self._greenlets()))
        self._peer._begin_close("the other end closed the link")


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
