"""The end of a link in a plain thread: frames over a socket that never blocks this side.

The executor at the other end may write its output while this end writes its input.  If both
blocked, neither would read.  So nothing here waits: the owner of the link looks when its socket is
ready, and calls `receive` and `flush`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from mmgevent.wire.frames import GRANT, Decoder, Frame, Lane, Payload
from mmgevent.wire.lanes import Outbox, granted_bytes

#: Size of one read, bytes. A frame of the largest size needs two.
READ_BYTES = 256 * 1024

#: Most reads of what a dead process has left. A socket holds less than one, by default.
MAX_REST_READS = 16

#: Most buffers of one write, far below IOV_MAX.
WRITE_BUFFERS = 64


class FramesLink:
    """Frames in and out.  One thread uses it."""

    def __init__(self, sock: socket.socket):
        """`sock`: a connected stream, owned from now on."""
        sock.setblocking(False)
        self._sock = sock
        self._decoder = Decoder()
        self._outbox = Outbox()
        #: buffers that were begun, or come before the frames of the outbox
        self._buffers: list[Payload] = []
        #: whether the other end has closed, or the link is broken
        self.has_ended = False

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._sock.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether `flush` has something to send now."""
        return not self.has_ended and bool(self._buffers or self._outbox)

    def send_first(self, frame: Frame) -> None:
        """Queue a frame before every lane."""
        self._outbox.put(frame)

    def send_in_lane(self, frame: Frame) -> None:
        """Queue a frame behind the others of its lane."""
        self._outbox.put_in_lane(frame)

    def open_lane(self, lane: Lane, window_bytes: int) -> None:
        """Make the data frames of a lane wait for credit."""
        self._outbox.open_lane(lane, window_bytes)

    def drop_lane(self, lane: Lane) -> None:
        """Drop what waits in a lane, and its window."""
        self._outbox.drop_lane(lane)

    def flush(self) -> None:
        """Write as much as the socket takes."""
        while not self.has_ended:
            while len(self._buffers) < WRITE_BUFFERS and (frame := self._outbox.next_frame()) is not None:
                self._buffers += (frame.encode_header(), frame.payload)
            if not self._buffers:
                return
            try:
                sent = self._sock.sendmsg(self._buffers[:WRITE_BUFFERS])
            except BlockingIOError:
                return
            except OSError:
                self.has_ended = True  # what was received before may still be read
                return
            self._drop_sent(sent)

    def receive(self) -> Iterator[Frame]:
        """Read once, and yield the frames that are whole. Grants take effect and are not yielded.

        Raises ProtocolError.
        """
        self._read()
        yield from self._whole_frames()

    def receive_rest(self) -> Iterator[Frame]:
        """Yield what is left in the socket of a process that has died.

        Another process may have it open, and go on writing: MAX_REST_READS limits that.
        """
        self.has_ended = False
        for _ in range(MAX_REST_READS):
            if not self._read():
                return
            yield from self._whole_frames()

    def _read(self) -> bool:
        """Read once. Return whether there was something."""
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.has_ended = not data
        self._decoder.feed(data)
        return bool(data)

    def _whole_frames(self) -> Iterator[Frame]:
        while (frame := self._decoder.next_frame()) is not None:
            if frame.kind == GRANT:
                self._outbox.grant(frame.lane, granted_bytes(frame))
            else:
                yield frame

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self.has_ended = True
        self._sock.close()

    def _drop_sent(self, sent: int) -> None:
        while self._buffers and sent >= len(self._buffers[0]):
            sent -= len(self._buffers.pop(0))
        if sent:
            self._buffers[0] = memoryview(self._buffers[0])[sent:]
