"""Lanes: which frame goes next, and how much may be on its way.

A *lane* is the ordered sequence of frames of one (job, task, attempt) in one direction of a link.
`Outbox` is the sending end: control frames go before every lane, then each lane that may send
sends one frame in turn.  So a long, slow or stopped lane delays nothing else.

An open lane has a window: its data frames need credit, which the final receiver grants as it
consumes them (`ReceiveWindow`).  Control frames in a lane keep their place and need no credit.  A
lane that was never opened has no window.  That is how a relay forwards: credit is between the
sender and the final receiver, so the sender's window also limits what a relay holds.

A data frame that is larger than the remaining credit is cut. So frame boundaries have no meaning,
and a lane is never stuck because a frame is larger than its window.

Invariants:

- `_ready` holds exactly the lanes whose first frame may go now;
- every operation is O(1) in lanes and frames;
- a lane is forgotten when it is empty and either closed or never opened.

No clock and no I/O here.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque

from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import DATA_KINDS, GRANT, HEADER_BYTES, Frame, Lane, Payload

# Windows of 64 MiB for eight slots would occupy a 100 Mbit/s link for 43 s. Windows of 1 MiB occupy
# it for less than 2 s, and still fill 1 Gbit/s at 8 ms of delay.

#: Window for the input of an attempt that is queued behind another, bytes.
INPUT_WINDOW = 256 * 1024

#: Window for the input of an attempt that runs, bytes.
RUNNING_INPUT_WINDOW = 1024 * 1024

#: Window for the output of an attempt, bytes.
OUTPUT_WINDOW = 1024 * 1024

#: Window for a batch that the server does not know yet, bytes. Drivers may be hundreds of batches
#: ahead.
FIRST_BATCH_WINDOW = 64 * 1024

#: Window for a batch, bytes.
BATCH_WINDOW = 1024 * 1024

#: Window for the code of a job, bytes.
CODE_WINDOW = 1024 * 1024

#: Window for the results of a task, bytes.
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
        """Return whether there is a first frame that may go."""
        if not self.frames:
            return False
        if self.credit is None or self.credit > 0:
            return True
        first = self.frames[0]
        return first.kind not in DATA_KINDS or not len(first.payload)

    def is_forgotten(self) -> bool:
        """Return whether nothing needs to be remembered of the lane."""
        return not self.frames and (self.closed or self.credit is None)

    def take(self) -> Frame:
        """Remove and return the first frame, or the part of it that there is credit for."""
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
    """All frames that wait to be sent in one direction of a link."""

    __slots__ = ("_control", "_lanes", "_ready", "control_bytes")

    def __init__(self) -> None:
        self._control: deque[Frame] = deque()
        self._lanes: dict[Lane, _LaneQueue] = {}
        self._ready: OrderedDict[Lane, _LaneQueue] = OrderedDict()
        #: Bytes that wait before every lane. Headers count, or empty frames would cost nothing.
        self.control_bytes = 0

    def put(self, frame: Frame) -> None:
        """Queue a frame before every lane, behind earlier ones."""
        self._control.append(frame)
        self.control_bytes += HEADER_BYTES + len(frame.payload)

    def put_in_lane(self, frame: Frame) -> None:
        """Queue a frame at the end of its lane."""
        lane = frame.lane
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = _LaneQueue()
        queue.frames.append(frame)
        queue.bytes += len(frame.payload)
        if len(queue.frames) == 1:
            self._note_ready(lane, queue)

    def open_lane(self, lane: Lane, window_bytes: int) -> None:
        """Make data frames of this lane wait for credit.  It has `window_bytes` of credit now.

        Raises ValueError if the lane is open, or closed and not yet empty: drop it first.
        """
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = _LaneQueue()
        elif queue.credit is not None:
            raise ValueError(f"lane {lane} is already open")
        queue.credit = window_bytes
        self._note_ready(lane, queue)

    def close_lane(self, lane: Lane) -> None:
        """Note that no more frames will be queued. The lane is forgotten once it is empty."""
        queue = self._lanes.get(lane)
        if queue is not None:
            queue.closed = True
            if queue.is_forgotten():
                del self._lanes[lane]

    def drop_lane(self, lane: Lane) -> int:
        """Forget a lane with its frames at once; return the payload bytes dropped."""
        queue = self._lanes.pop(lane, None)
        if queue is None:
            return 0
        self._ready.pop(lane, None)
        return queue.bytes

    def drop_job(self, job: int) -> None:
        """Forget every lane of a job with its frames."""
        for lane in [lane for lane in self._lanes if lane[0] == job]:
            self.drop_lane(lane)

    def grant(self, lane: Lane, n_bytes: int) -> None:
        """Let a lane send `n_bytes` more.  A lane that is not open is ignored."""
        queue = self._lanes.get(lane)
        if queue is not None and queue.credit is not None:
            queue.credit += n_bytes
            self._note_ready(lane, queue)

    def has_window(self, lane: Lane) -> bool:
        """Return whether this lane is open here: then grants for it are meant for this end."""
        queue = self._lanes.get(lane)
        return queue is not None and queue.credit is not None

    def next_frame(self) -> Frame | None:
        """Remove and return the frame that goes next, or None if no frame may go now."""
        if self._control:
            frame = self._control.popleft()
            self.control_bytes -= HEADER_BYTES + len(frame.payload)
            return frame
        if not self._ready:
            return None
        lane, queue = self._ready.popitem(last=False)
        frame = queue.take()
        if queue.is_ready():
            self._ready[lane] = queue
        elif queue.is_forgotten():
            del self._lanes[lane]
        return frame

    def queued_bytes(self, lane: Lane) -> int:
        """Return the payload bytes that wait in this lane, including control frames."""
        queue = self._lanes.get(lane)
        return 0 if queue is None else queue.bytes

    def queued_frames(self, lane: Lane) -> int:
        """Return the number of frames that wait in this lane."""
        queue = self._lanes.get(lane)
        return 0 if queue is None else len(queue.frames)

    def __bool__(self) -> bool:
        """Return whether next_frame() would return a frame."""
        return bool(self._control) or bool(self._ready)

    def _note_ready(self, lane: Lane, queue: _LaneQueue) -> None:
        if lane not in self._ready and queue.is_ready():
            self._ready[lane] = queue


class ReceiveWindow:
    """The receiver's account of one incoming lane: bytes granted, received and consumed."""

    __slots__ = ("_due", "_held", "_room", "window_bytes")

    def __init__(self, window_bytes: int) -> None:
        #: Most bytes that may be on their way or unconsumed.
        self.window_bytes = window_bytes
        self._room = window_bytes  # bytes granted and not yet received
        self._held = 0  # bytes received and not yet consumed
        self._due = 0  # bytes consumed and not yet granted again

    def received(self, n_bytes: int) -> None:
        """Account for received bytes.  Raises ProtocolError if they exceed what was granted."""
        if n_bytes > self._room:
            raise ProtocolError(f"{n_bytes} bytes came in a lane that had {self._room} granted")
        self._room -= n_bytes
        self._held += n_bytes

    def consumed(self, n_bytes: int) -> int:
        """Account for consumed bytes; return the bytes to grant now.

        That is 0 until half the window is due, so that grants are few.  Raises ValueError if more
        is consumed than was received.
        """
        if n_bytes > self._held:
            raise ValueError(f"{n_bytes} bytes consumed of {self._held} received")
        self._held -= n_bytes
        self._due += n_bytes
        return self._grant_due() if 2 * self._due >= self.window_bytes else 0

    def widen(self, window_bytes: int) -> int:
        """Enlarge the window; return the bytes to grant now, 0 if it is no larger than before."""
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
    """Return the bytes that a GRANT frame grants.  Raises ProtocolError for anything else."""
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
