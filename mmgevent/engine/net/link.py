"""Links: frames between two processes, or between two roles of one process.

A link knows lanes and windows, and not what frames mean. Its carrier moves the frames: sockets in
`engine.net.socket_link`, or nothing but memory in `engine.net.local_link`.

This holds for every link:

- A link never stops reading, so `on_frame` must not block. The hub calls it, never `send`. An open
  link has no greenlets, and a frame costs no switch between them.
- Whatever the peer sends, it can close this link and nothing else. `on_close(reason)` is called
  once, from a greenlet of the link, after the last `on_frame`. No other greenlet of the link is
  left by then.
- Sending never blocks and never fails. Frames for a link that is closing are dropped, and
  `on_close` follows. If the peer does not read, windows limit what waits in lanes. The link closes
  when more than MAX_CONTROL_BYTES wait before them.

Everything here belongs to one gevent hub: use links from the engine's main thread only.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.event import Event

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.errors import LinkClosed, ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import GRANT, HEARTBEAT, Frame, Lane
from mmgevent.wire.lanes import Outbox, granted_bytes

log = get_log(__name__)

#: Most bytes that wait before every lane of one link: 100,000 messages and more.
MAX_CONTROL_BYTES = 16 * 1024 * 1024

#: Bytes of control frames that wait when others that may be left out, such as prints, are. A peer
#: that reads never lets so many wait.
MAX_SPARE_BYTES = 1024 * 1024

#: Reads, or frames delivered, of one link without a pause for other links and greenlets.
BURST_COUNT = 16

OnFrame = Callable[[Frame], None]
OnClose = Callable[[str], None]


class Link:
    """Frames in both directions, in order.

    This class is the part that does not depend on the carrier.
    """

    def __init__(self, name: str) -> None:
        #: who is at the other end, for logs
        self.name = name
        #: whether it closes since nothing came from the peer for too long
        self.is_silent = False
        self._outbox = Outbox()
        #: lane -> events of the greenlets that wait until it has drained
        self._room: dict[Lane, set[Event]] = {}
        #: set when nothing is left that may be sent
        self._drained = Event()
        self._on_frame: OnFrame | None = None
        self._on_close: OnClose | None = None
        self._closing = False
        self._reason = ""
        self._closer: gevent.Greenlet | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the link is closed or closing. Nothing that is sent from now on arrives."""
        return self._closing

    def start(self, on_frame: OnFrame, on_close: OnClose) -> None:
        """Begin to receive and to send. Frames that were sent before follow now."""
        self._on_frame = on_frame
        self._on_close = on_close
        if not self._closing:
            self._start()
        elif self._closer is not None and self._closer.dead:
            spawn(end_process, on_close, self._reason)  # it closed before anybody listened

    def send(self, frame: Frame) -> None:
        """Send a frame before every lane."""
        if self._closing:
            return
        self._outbox.put(frame)
        if self._outbox.control_bytes > MAX_CONTROL_BYTES:
            self._begin_close(f"does not read: {self._outbox.control_bytes} bytes wait")
        else:
            self._wake()

    def send_if_room(self, frame: Frame) -> bool:
        """Send a frame that may be left out, unless MAX_SPARE_BYTES wait. Return whether it is sent."""
        if self._outbox.control_bytes > MAX_SPARE_BYTES:
            return False
        self.send(frame)
        return True

    def send_in_lane(self, frame: Frame) -> None:
        """Send a frame behind the others of its lane."""
        if not self._closing:
            self._outbox.put_in_lane(frame)
            self._wake()

    def open_lane(self, lane: Lane, window_bytes: int) -> None:
        """Make data frames of this lane wait for grants.

        The link then uses those itself (see `Outbox`).
        """
        self._outbox.open_lane(lane, window_bytes)
        self._wake()

    def close_lane(self, lane: Lane) -> None:
        """Say that nothing more will be sent in this lane."""
        self._outbox.close_lane(lane)

    def drop_lane(self, lane: Lane) -> int:
        """Drop what waits in this lane. Return its bytes."""
        n_bytes = self._outbox.drop_lane(lane)
        self._tell_room(lane)
        return n_bytes

    def queued_bytes(self, lane: Lane) -> int:
        """Return the payload bytes of this lane that the carrier has not taken yet."""
        return self._outbox.queued_bytes(lane)

    def queued_frames(self, lane: Lane) -> int:
        """Return how many frames of this lane the carrier has not taken yet."""
        return self._outbox.queued_frames(lane)

    @property
    def control_bytes(self) -> int:
        """Return the bytes of frames in no lane that the carrier has not taken yet."""
        return self._outbox.control_bytes

    def wait_for_room(self, lane: Lane, limit_bytes: int, timeout: float | None = None) -> None:
        """Wait (blocks) until at most `limit_bytes` are queued in the lane.

        Raises LinkClosed if the link closes first, TimeoutError after `timeout` seconds.
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
        """Wait (blocks) until nothing is left that may be sent, or for so long."""
        with gevent.Timeout(timeout_s, False):
            while self._has_more() and not self._closing:
                self._drained.clear()
                self._drained.wait()

    def close(self, reason: str = "", flush_s: float = 0.0) -> None:
        """Close the link, and wait until it is closed. Idempotent: the first reason counts.

        `flush_s`: seconds for queued frames to reach the peer, without those that wait for credit.
        Frames that arrive meanwhile are dropped. With 0, queued frames are lost, and so may be the
        last ones sent.

        In `on_frame`, which must not block, and in `on_close`, it returns at once. The link closes
        right after.
        """
        self._begin_close(reason, flush_s)
        closer = self._closer
        if closer is not None and gevent.getcurrent() not in (closer, gevent.get_hub()):
            closer.join()

    def close_soon(self, reason: str = "", flush_s: float = 0.0) -> None:
        """Close the link as `close` does, without waiting."""
        self._begin_close(reason, flush_s)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' closed' if self._closing else ''}>"

    # -- what a carrier provides

    def _start(self) -> None:
        """Begin to carry frames."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Send soon: something may have become ready."""
        raise NotImplementedError

    def _has_more(self) -> bool:
        """Return whether there is something that may be sent now."""
        return bool(self._outbox)

    def _finish(self, flush_s: float) -> None:
        """Flush for at most so long, then release the carrier."""
        raise NotImplementedError

    # -- what a carrier uses

    def _next_frame(self) -> Frame | None:
        frame = self._outbox.next_frame()
        if frame is None:
            self._drained.set()
        elif self._room:
            self._tell_room(frame.lane)
        return frame

    def _deliver(self, frame: Frame) -> None:
        """Act on a frame that arrived. An exception closes the link and is not raised."""
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
            # If `on_close` fails, nobody knows what of the peer is left undone.
            self._closer = spawn(end_process, self._end, flush_s)

    def _end(self, flush_s: float) -> None:
        try:
            self._finish(flush_s)
        except Exception:
            log.exception("link not closed in order by a fault of our own: %s", self.name)
        finally:
            self._outbox = Outbox()
            log.debug("link closed: %s: %s", self.name, self._reason or "by this side")
            if self._on_close is not None:
                self._on_close(self._reason)

    def _tell_room(self, lane: Lane) -> None:
        for room in self._room.get(lane, ()):
            room.set()
