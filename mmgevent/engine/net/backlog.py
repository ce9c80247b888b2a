"""What waits unsent where no credit bounds it: in lanes of `tell` messages."""

from __future__ import annotations

from mmgevent.engine.net.link import Link
from mmgevent.wire.frames import Frame, Lane

#: of memory, that a frame takes beside its payload (objects and a place in a queue): many that are tiny count, too
FRAME_BYTES = 256

_FEW_LANES = 64  #: not worth looking which of them have drained


class Backlog:
    """Some lanes of some links; what waits there is counted anew only when it may have reached a bound."""

    def __init__(self) -> None:
        self._lanes: set[tuple[Link, Lane]] = set()
        self._most_bytes = 0  # no more than this waits
        self._many_lanes = _FEW_LANES

    def put(self, link: Link, frame: Frame) -> int:
        """Send a frame in its lane; return the bytes that wait there now."""
        link.send_in_lane(frame)
        self._lanes.add((link, frame.lane))
        self._most_bytes += FRAME_BYTES + len(frame.payload)
        if len(self._lanes) > self._many_lanes:
            self._count()
        return waiting_bytes(link, frame.lane)

    def exceeds(self, limit_bytes: int) -> bool:
        """Do more bytes wait in all lanes?"""
        if self._most_bytes > limit_bytes:
            self._count()
        return self._most_bytes > limit_bytes

    def longest(self) -> tuple[Link, Lane]:
        """Return where the most waits; of a backlog that exceeds something."""
        return max(self._lanes, key=lambda entry: waiting_bytes(*entry))

    def drop(self, link: Link, lane: Lane) -> None:
        """Forget what waits in one lane."""
        link.drop_lane(lane)
        self._lanes.discard((link, lane))

    def drop_all(self) -> None:
        for link, lane in list(self._lanes):
            self.drop(link, lane)

    def _count(self) -> None:
        waiting = {entry: waiting_bytes(*entry) for entry in self._lanes}
        self._lanes = {entry for entry, n_bytes in waiting.items() if n_bytes}
        self._most_bytes = sum(waiting.values())
        self._many_lanes = max(_FEW_LANES, 2 * len(self._lanes))


def waiting_bytes(link: Link, lane: Lane) -> int:
    """Return the bytes that wait in a lane, with what its frames take beside their payload."""
    return link.queued_bytes(lane) + FRAME_BYTES * link.queued_frames(lane)
