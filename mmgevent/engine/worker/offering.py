"""What the engine's own driver offers: the functions in its process, as if they were one more executor.

There is one thread over there, for all slots, and it cannot be ended. So an attempt goes over only
when the thread is about to be free, and stays counted until it was answered for, revoked or not:
what lies unread in the socket of a thread that runs a function for an hour are a few frames.

An offering lives as long as its engine. Workers come and go with their servers; each takes it over
from the one before, but gets no attempt through until that one's were all answered for, so that numbers
which two servers gave cannot be taken for one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.wire.frames import CONTROL, Frame, Lane
from mmgevent.wire.messages import control

if TYPE_CHECKING:
    from mmgevent.engine.worker.slot import CachedJob, HeldAttempt

#: attempts over there at once, where tasks are so short that the thread would idle between them
MAX_AHEAD = 2

OnFrame = Callable[["Offering", Frame], None]


class Offering:
    """The engine's end of its link to the offered functions."""

    def __init__(self, sock: Any, on_lost: Callable[[str], None]):
        """`sock`: a connected gevent socket, owned from now on. `on_lost(reason)`: nothing runs there any more."""
        self.link = SocketLink(sock, "offered functions", heartbeats=False)
        self._on_frame: OnFrame | None = None  # of the worker it serves
        self._on_room: Callable[[], None] | None = None
        #: attempts over there that were not answered for, with their jobs
        self._unanswered: dict[Lane, CachedJob] = {}
        self._is_blocked = False  # by attempts of the worker before
        self.link.start(self._take, on_lost)

    @property
    def is_doomed(self) -> bool:
        """Whether the process, or the thread, is gone."""
        return self.link.is_closed

    def serve(self, on_frame: OnFrame, on_room: Callable[[], None]) -> None:
        """Serve this worker from now on, and the one before no more.

        `on_frame(self, frame)` gets what comes about attempts, `on_room()` is called when one was answered for.
        """
        self._revoke_all()
        self._is_blocked = bool(self._unanswered)
        self._on_frame, self._on_room = on_frame, on_room

    def leave(self, on_frame: OnFrame) -> None:
        """Serve this worker no more, unless another has taken its place: its attempts are over."""
        if self._on_frame == on_frame:
            self._revoke_all()
            self._on_frame = self._on_room = None

    def has_room(self, job: CachedJob) -> bool:
        """Whether an attempt of this job may go over now."""
        if self.is_doomed or self._is_blocked:
            return False
        ahead = self._unanswered.values()
        return not ahead or (len(ahead) < MAX_AHEAD and _is_short(job) and all(map(_is_short, ahead)))

    def announce(self, attempt: HeldAttempt) -> None:
        """Say what the attempt that comes next in its lane is to call."""
        self._unanswered[attempt.lane] = attempt.job
        options = {"offered": attempt.job.offered, **attempt.job.failure_rules}
        self.link.send_in_lane(control("job", *attempt.lane, options=options, code_bytes=0, fingerprint=""))

    def revoke(self, lane: Lane) -> None:
        """Have an attempt given up: at once if it waits for something, else when its function returns."""
        if lane in self._unanswered:
            self.link.send_in_lane(control("revoke", *lane))  # behind its assignment

    def close(self) -> None:
        """End the link, and with it the thread over there (once it is in no function)."""
        self.link.close("the engine ends")

    def _revoke_all(self) -> None:
        for lane in self._unanswered:
            self.revoke(lane)

    def _take(self, frame: Frame) -> None:
        if self._is_blocked:
            on_frame = None  # it is about an attempt of the worker before
        else:
            on_frame = self._on_frame
        is_answer = frame.kind == CONTROL
        if is_answer:
            self._unanswered.pop(frame.lane, None)
        if on_frame is not None:
            on_frame(self, frame)
        if is_answer:
            self._is_blocked = self._is_blocked and bool(self._unanswered)
            if self._on_room is not None:
                self._on_room()


def _is_short(job: CachedJob) -> bool:
    return max(job.most_sent(True), job.most_sent(False)) > 1
