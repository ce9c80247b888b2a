"""The engine's end of the link to the functions that its own driver offers.

Offered functions run in the driver's process, in one thread for all slots. To a worker they are one
more executor, with two differences:

- The thread cannot be killed. So an attempt is sent only when the thread is about to be free, and
  it counts until it was answered for, revoked or not.
- The offering lives as long as its engine, but each server has a new worker. The new worker takes
  the offering over. Its attempts are sent when all attempts of the old worker were answered for,
  since two servers may use the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.wire.frames import CONTROL, Frame, Lane
from mmgevent.wire.messages import control

if TYPE_CHECKING:
    from mmgevent.engine.worker.held import CachedJob, HeldAttempt

#: Most attempts that are sent at once, where tasks are so short that the thread would idle between
#: them.
MAX_AHEAD = 2

OnFrame = Callable[["Offering", Frame], None]


class Offering:
    """The functions that this engine's driver offers, as its workers see them."""

    def __init__(self, sock: Any, on_lost: Callable[[str], None]):
        """`sock`: a connected gevent socket, owned from now on.

        `on_lost(reason)` is called when the functions can no longer be called.
        """
        self.link = SocketLink(sock, "offered functions", heartbeats=False)
        #: callbacks of the worker that it serves; None if there is none
        self._on_frame: OnFrame | None = None
        self._on_room: Callable[[], None] | None = None
        #: attempts that were sent and not answered for, with their jobs
        self._unanswered: dict[Lane, CachedJob] = {}
        #: whether some of these belong to the worker before
        self._is_blocked = False
        self.link.start(self._take, on_lost)

    @property
    def is_doomed(self) -> bool:
        """Whether the functions can no longer be called."""
        return self.link.is_closed

    def serve(self, on_frame: OnFrame, on_room: Callable[[], None]) -> None:
        """Serve this worker from now on, instead of the one before.

        `on_frame(self, frame)` gets frames about attempts. `on_room()` is called when one was
        answered for.
        """
        self._revoke_all()
        self._is_blocked = bool(self._unanswered)
        self._on_frame, self._on_room = on_frame, on_room

    def leave(self, on_frame: OnFrame) -> None:
        """Serve this worker no more, unless another has taken its place.

        Its attempts are revoked.
        """
        if self._on_frame == on_frame:
            self._revoke_all()
            self._on_frame = self._on_room = None

    def has_room(self, job: CachedJob) -> bool:
        """Return whether an attempt of this job may be sent now."""
        if self.is_doomed or self._is_blocked:
            return False
        sent = self._unanswered.values()
        return not sent or (len(sent) < MAX_AHEAD and job.is_short and all(of.is_short for of in sent))

    def announce(self, attempt: HeldAttempt) -> None:
        """Say which functions the next attempt in its lane calls."""
        self._unanswered[attempt.lane] = attempt.job
        options = {"offered": attempt.job.offered, **attempt.job.failure_rules}
        if attempt.job.plain is not None:
            options["plain"] = attempt.job.plain
        self.link.send_in_lane(control("job", *attempt.lane, options=options, code_bytes=0, fingerprint=""))

    def revoke(self, lane: Lane) -> None:
        """End an attempt: at once if it waits for something, else when its function returns."""
        if lane in self._unanswered:
            self.link.send_in_lane(control("revoke", *lane))  # behind its assignment

    def close(self) -> None:
        """End the link. The thread ends when it is in no function."""
        self.link.close("the engine ends")

    def _revoke_all(self) -> None:
        for lane in self._unanswered:
            self.revoke(lane)

    def _take(self, frame: Frame) -> None:
        # While it is blocked, frames are about attempts of the worker before.
        on_frame = None if self._is_blocked else self._on_frame
        is_answer = frame.kind == CONTROL
        if is_answer:
            self._unanswered.pop(frame.lane, None)
        if on_frame is not None:
            on_frame(self, frame)
        if is_answer:
            self._is_blocked = self._is_blocked and bool(self._unanswered)
            if self._on_room is not None:
                self._on_room()
