"""Streams: which frame goes next, and how much may be on the way.

A *lane* is the ordered sequence of frames of one (job, task, attempt) in one
direction of a link.  `Outbox` is the sending end: control frames before every lane,
then the lanes that may send, in turn, one frame each.  So a lane that is long, slow
or stopped holds up nothing else.

A lane that was opened has a window: its data frames need credit, which the final
receiver grants as it consumes them (`ReceiveWindow`).  Control frames in a lane keep
their place and need no credit.  A lane that was never opened has no window: that is
how a relay forwards, since credit is between the sender and the final receiver, and
what a relay can come to hold is bounded by the window of whoever sends.

A data frame that is larger than the credit left is cut, so where frames end within a
stream means nothing and a window never gets stuck between two frames.

Invariants: `_turn` holds exactly the lanes that have a frame which may go now; every
operation is O(1) in lanes and frames; a lane is forgotten when it is empty and was
closed or never opened.  No clock and no I/O here.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque

from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import DATA_KINDS, GRANT, HEADER_BYTES, Frame, Lane, Payload

# Windows, in bytes.  Eight slots with 64 MiB each would hold a 100 Mbit/s link for 43 s;
# with these it is below 2 s, while 1 MiB still fills 1 Gbit/s at 8 ms of delay.
INPUT_WINDOW = 256 * 1024  #: input of a task that is queued behind another
RUNNING_INPUT_WINDOW = 1024 * 1024  #: input of the task that runs
OUTPUT_WINDOW = 1024 * 1024
FIRST_BATCH_WINDOW = 64 * 1024  #: of a batch that the server has not heard of: drivers may be hundreds ahead
BATCH_WINDOW = 1024 * 1024
CODE_WINDOW = 1024 * 1024
RESULT_WINDOW = 1024 * 1024

_U32 = struct.Struct("<I")
_MAX_GRANT = 2**32 - 1


class _LaneQueue:
    """What waits in one lane; `credit` is None for a lane without a window."""

    __slots__ = ("bytes", "closed", "credit", "frames")

    def __init__(self) -> None:
        self.frames: deque[Frame] = deque()
        self.bytes = 0
        self.credit: int | None = None
        self.closed = False

    def is_ready(self) -> bool:
        """Is there a first frame, and may it go?"""
        if not self.frames:
            return False
        if self.credit is None or self.credit > 0:
            return True
        first = self.frames[0]
        return first.kind not in DATA_KINDS or not len(first.payload)

    def is_forgotten(self) -> bool:
        return not self.frames and (self.closed or self.credit is None)

    def take(self) -> Frame:
        """Remove the first frame, or as much of it as there is credit for."""
        frame = self.frames[0]
        size = len(frame.payload)
        if self.credit is not None and frame.kind in DATA_KINDS:
            if size > self.credit:
                frame, rest = _cut(frame, self.credit)
                self.frames[0] = rest
                size = self.credit
                self.credit = 0
                self.bytes -= size
                return frame
            self.credit -= size
        self.frames.popleft()
        self.bytes -= size
        return frame


class Outbox:
    """Everything that waits to be sent on one direction of a link."""

    __slots__ = ("_control", "_lanes", "_turn", "control_bytes")

    def __init__(self) -> None:
        self._control: deque[Frame] = deque()
        self._lanes: dict[Lane, _LaneQueue] = {}
        self._turn: OrderedDict[Lane, _LaneQueue] = OrderedDict()
        #: bytes that wait before every lane, headers included, so that many empty frames count too
        self.control_bytes = 0

    def put(self, frame: Frame) -> None:
        """Queue a frame before every lane, behind the others so queued."""
        self._control.append(frame)
        self.control_bytes += HEADER_BYTES + len(frame.payload)

    def put_in_lane(self, frame: Frame) -> None:
        """Queue a frame behind what its lane holds."""
        lane = frame.lane
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = _LaneQueue()
        queue.frames.append(frame)
        queue.bytes += len(frame.payload)
        if len(queue.frames) == 1:
            self._settle(lane, queue)

    def open_lane(self, lane: Lane, window_bytes: int) -> None:
        """Make data frames of this lane wait for credit, of which it now has `window_bytes`.

        ValueError if it is open already, or closed and not yet drained: drop it first.
        """
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = _LaneQueue()
        elif queue.credit is not None:
            raise ValueError(f"lane {lane} is already open")
        queue.credit = window_bytes
        self._settle(lane, queue)

    def close_lane(self, lane: Lane) -> None:
        """Say that nothing more will be put: the lane is forgotten once it is drained."""
        queue = self._lanes.get(lane)
        if queue is not None:
            queue.closed = True
            if queue.is_forgotten():
                del self._lanes[lane]

    def drop_lane(self, lane: Lane) -> int:
        """Forget a lane with all it holds, at once; return the payload bytes dropped."""
        queue = self._lanes.pop(lane, None)
        if queue is None:
            return 0
        self._turn.pop(lane, None)
        return queue.bytes

    def drop_job(self, job: int) -> None:
        """Forget every lane of a job with what it holds."""
        for lane in [lane for lane in self._lanes if lane[0] == job]:
            self.drop_lane(lane)

    def grant(self, lane: Lane, n_bytes: int) -> None:
        """Let a lane send `n_bytes` more; a lane that has no window (any more) is ignored."""
        queue = self._lanes.get(lane)
        if queue is not None and queue.credit is not None:
            queue.credit += n_bytes
            self._settle(lane, queue)

    def has_window(self, lane: Lane) -> bool:
        """Was this lane opened here and not forgotten?  Then grants for it are meant for this end."""
        queue = self._lanes.get(lane)
        return queue is not None and queue.credit is not None

    def next_frame(self) -> Frame | None:
        """Remove and return the frame that goes next; None when nothing may go now."""
        if self._control:
            frame = self._control.popleft()
            self.control_bytes -= HEADER_BYTES + len(frame.payload)
            return frame
        if not self._turn:
            return None
        lane, queue = self._turn.popitem(last=False)
        frame = queue.take()
        if queue.is_ready():
            self._turn[lane] = queue
        elif queue.is_forgotten():
            del self._lanes[lane]
        return frame

    def queued_bytes(self, lane: Lane) -> int:
        """Payload bytes that wait in this lane, control frames included."""
        queue = self._lanes.get(lane)
        return 0 if queue is None else queue.bytes

    def queued_frames(self, lane: Lane) -> int:
        """Return how many frames wait in this lane."""
        queue = self._lanes.get(lane)
        return 0 if queue is None else len(queue.frames)

    def __bool__(self) -> bool:
        """Would next_frame() return a frame now?"""
        return bool(self._control) or bool(self._turn)

    def _settle(self, lane: Lane, queue: _LaneQueue) -> None:
        if lane not in self._turn and queue.is_ready():
            self._turn[lane] = queue


class ReceiveWindow:
    """The receiver's account of one incoming lane: what was granted, received and consumed, in bytes."""

    __slots__ = ("_due", "_held", "_room", "window_bytes")

    def __init__(self, window_bytes: int) -> None:
        #: the most that can be on the way or unconsumed
        self.window_bytes = window_bytes
        self._room = window_bytes  # granted, not yet received
        self._held = 0  # received, not yet consumed
        self._due = 0  # consumed, not yet granted again

    def received(self, n_bytes: int) -> None:
        """Account for data that came; ProtocolError beyond what was granted."""
        if n_bytes > self._room:
            raise ProtocolError(f"{n_bytes} bytes came in a lane that had {self._room} granted")
        self._room -= n_bytes
        self._held += n_bytes

    def consumed(self, n_bytes: int) -> int:
        """Account for data done with; return bytes to grant now.

        0 until at least half the window is due, so that grants stay few.  ValueError
        if more is consumed than was received.
        """
        if n_bytes > self._held:
            raise ValueError(f"{n_bytes} bytes consumed of {self._held} received")
        self._held -= n_bytes
        self._due += n_bytes
        return self._grant_due() if 2 * self._due >= self.window_bytes else 0

    def widen(self, window_bytes: int) -> int:
        """Enlarge the window; return bytes to grant now (0 if it is no larger than before)."""
        if window_bytes <= self.window_bytes:
            return 0
        self._due += window_bytes - self.window_bytes
        self.window_bytes = window_bytes
        return self._grant_due()

    def _grant_due(self) -> int:
        n_bytes, self._due = self._due, 0
        self._room += n_bytes
        return n_bytes


def grant_frame(lane: Lane, n_bytes: int) -> Frame:
    """Return the frame that lets the sender of `lane` send `n_bytes` more (1 to 2**32 - 1)."""
    if not 0 < n_bytes <= _MAX_GRANT:
        raise ValueError(f"a grant is of 1 to {_MAX_GRANT} bytes, not {n_bytes}")
    return Frame(GRANT, _U32.pack(n_bytes), *lane)


def granted_bytes(frame: Frame) -> int:
    """Return what a GRANT frame grants; ProtocolError for another frame or an empty grant."""
    if frame.kind != GRANT or len(frame.payload) != _U32.size:
        raise ProtocolError(f"expected a GRANT frame of 4 bytes, got {frame!r}")
    n_bytes: int = _U32.unpack(frame.payload)[0]
    if not n_bytes:
        raise ProtocolError("a GRANT of no bytes came")
    return n_bytes


def _cut(frame: Frame, n_bytes: int) -> tuple[Frame, Frame]:
    view: Payload = memoryview(frame.payload)
    return (
        Frame(frame.kind, view[:n_bytes], *frame.lane),
        Frame(frame.kind, view[n_bytes:], *frame.lane),
    )
