"""The end of a link in the process that runs attempts: frames over a blocking socket.

One thread uses it. Nothing is read while user code runs: frames wait in the socket meanwhile.
Frames that arrive while it waits for others are kept in `_backlog`, by lane. Windows limit both.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable

from mmgevent.errors import LinkClosed
from mmgevent.wire.frames import GRANT, Decoder, Frame, Lane, Payload
from mmgevent.wire.lanes import Outbox, granted_bytes

#: Size of one read, bytes. A frame of the largest size needs two.
READ_BYTES = 256 * 1024

#: Most buffers of one write, far below IOV_MAX.
WRITE_BUFFERS = 64


class Channel:
    """Frames in and out. Every method raises LinkClosed when the other end has closed."""

    def __init__(self, sock: socket.socket):
        """`sock`: a connected stream, owned from now on."""
        self._sock = sock
        self._sock.setblocking(True)
        self._decoder = Decoder()
        self._outbox = Outbox()
        #: lane -> its frames that nobody has taken, oldest lane first
        self._backlog: dict[Lane, deque[Frame]] = {}
        self._buffer = memoryview(bytearray(READ_BYTES))

    def send(self, *frames: Frame) -> None:
        """Send frames, each behind the others of its lane."""
        for frame in frames:
            self._outbox.put_in_lane(frame)
        self.flush()

    def send_first(self, frame: Frame) -> None:
        """Send a frame before every lane."""
        self._outbox.put(frame)
        self.flush()

    def open_lane(self, lane: Lane, window_bytes: int) -> None:
        """Make the data frames of this lane wait for credit."""
        self._outbox.open_lane(lane, window_bytes)

    def close_lane(self, lane: Lane) -> None:
        """Say that nothing more will be sent in this lane."""
        self._outbox.close_lane(lane)

    def drop_lane(self, lane: Lane) -> None:
        """Drop what waits in this lane, and its window."""
        self._outbox.drop_lane(lane)

    def queued_bytes(self, lane: Lane) -> int:
        """Return the bytes of this lane that wait for credit."""
        return self._outbox.queued_bytes(lane)

    def next_frame(self) -> Frame:
        """Return the oldest frame of the oldest lane (blocks). Grants are never returned."""
        while not self._backlog:
            self.wait(lambda frame: False)
        lane, frames = next(iter(self._backlog.items()))
        frame = frames.popleft()
        if not frames:
            del self._backlog[lane]
        return frame

    def take_waiting(self, lane: Lane, wanted: Callable[[Frame], bool]) -> None:
        """Offer `wanted` every frame of a lane that has arrived.

        Frames for which it returns True are taken.
        """
        frames = self._backlog.get(lane)
        if frames is not None:
            left = deque(frame for frame in frames if not wanted(frame))
            if left:
                self._backlog[lane] = left
            else:
                del self._backlog[lane]

    def wait(self, wanted: Callable[[Frame], bool]) -> None:
        """Read from the socket once (blocks).

        Credit counts. Frames are offered to `wanted`, or kept.
        """
        try:
            n_bytes = self._sock.recv_into(self._buffer)
        except OSError as error:
            raise LinkClosed(f"cannot read from the worker: {error}") from error
        if n_bytes == 0:
            raise LinkClosed("the worker closed the link")
        self._decoder.feed(self._buffer[:n_bytes])
        while (frame := self._decoder.next_frame()) is not None:
            if frame.kind == GRANT:
                self._outbox.grant(frame.lane, granted_bytes(frame))
            elif not wanted(frame):
                self._backlog.setdefault(frame.lane, deque()).append(frame)
        self.flush()

    def check_open(self) -> None:
        """Raise LinkClosed if the descriptor was closed: user code may have done so."""
        try:
            self._sock.getsockname()
        except OSError as error:
            raise LinkClosed(f"the link to the worker is closed: {error}") from error

    def shut_down(self) -> None:
        """End the link. Methods that wait raise LinkClosed.

        May be called from any thread. Idempotent.
        """
        with contextlib.suppress(OSError):  # it has ended already
            self._sock.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """Close the descriptor, in a process that user code has forked.

        That must neither read nor write here.
        """
        self._sock.close()

    def flush(self) -> None:
        """Write what may be sent now."""
        while self._outbox:
            buffers: list[Payload] = []
            while len(buffers) < WRITE_BUFFERS and (frame := self._outbox.next_frame()) is not None:
                buffers += (frame.encode_header(), frame.payload)
            self._write(buffers)

    def _write(self, buffers: list[Payload]) -> None:
        try:
            sent = self._sock.sendmsg(buffers)
            for buffer in buffers:
                if sent < len(buffer):
                    self._sock.sendall(memoryview(buffer)[sent:])
                sent = max(0, sent - len(buffer))
        except OSError as error:
            raise LinkClosed(f"cannot write to the worker: {error}") from error
