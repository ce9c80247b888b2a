"""The end of a link at whoever runs attempts: frames over a blocking socket, one thread.

Nothing is read while user code runs: what comes meanwhile waits in the socket. Frames that come
while it waits for something else wait in `_backlog`, lane by lane; windows bound both.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable

from mmgevent.errors import LinkClosed
from mmgevent.wire.frames import GRANT, Decoder, Frame, Lane, Payload
from mmgevent.wire.lanes import Outbox, granted_bytes

#: bytes of one read; a whole frame of the largest kind needs two
READ_BYTES = 256 * 1024
#: buffers of one write, far below IOV_MAX
WRITE_BUFFERS = 64


class Channel:
    """Frames in and out. Every method raises LinkClosed when the other end is gone."""

    def __init__(self, sock: socket.socket):
        """`sock`: a connected stream, which the channel owns from now on."""
        self._sock = sock
        self._sock.setblocking(True)
        self._decoder = Decoder()
        self._outbox = Outbox()
        self._backlog: dict[Lane, deque[Frame]] = {}  # by lane, in the order in which those came
        self._buffer = memoryview(bytearray(READ_BYTES))

    def send(self, *frames: Frame) -> None:
        """Send frames, each in its lane behind what that holds."""
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
        """Forget what waits in this lane, and its window."""
        self._outbox.drop_lane(lane)

    def queued_bytes(self, lane: Lane) -> int:
        """Bytes of this lane that wait for credit."""
        return self._outbox.queued_bytes(lane)

    def next_frame(self) -> Frame:
        """The oldest frame nobody took, of the oldest lane; waits for one. Grants never come out."""
        while not self._backlog:
            self.wait(lambda frame: False)
        lane, frames = next(iter(self._backlog.items()))
        frame = frames.popleft()
        if not frames:
            del self._backlog[lane]
        return frame

    def take_waiting(self, lane: Lane, wanted: Callable[[Frame], bool]) -> None:
        """Offer `wanted` every frame of a lane that already came; those it answers with True are taken."""
        frames = self._backlog.get(lane)
        if frames is not None:
            left = deque(frame for frame in frames if not wanted(frame))
            if left:
                self._backlog[lane] = left
            else:
                del self._backlog[lane]

    def wait(self, wanted: Callable[[Frame], bool]) -> None:
        """Read from the socket once; credit counts, frames go to `wanted` first, else they wait."""
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
        """Find out whether the descriptor is still there: user code may have closed it."""
        try:
            self._sock.getsockname()
        except OSError as error:
            raise LinkClosed(f"the link to the worker is gone: {error}") from error

    def shut_down(self) -> None:
        """End the link; whoever waits in a method gets LinkClosed. From any thread, idempotent."""
        with contextlib.suppress(OSError):  # it has ended already
            self._sock.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """Close the descriptor: a process that user code forked must neither read nor write here."""
        self._sock.close()

    def flush(self) -> None:
        """Write what may go now."""
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
