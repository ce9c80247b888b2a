"""Count the bytes that wait in lanes without credit: those of `tell` messages."""

from __future__ import annotations

from mmgevent.engine.net.link import Link
from mmgevent.wire.frames import Frame, Lane

#: Memory of a frame besides its payload, bytes: objects, and a place in a queue. So many tiny
#: frames count, too.
FRAME_BYTES = 256

#: Lanes that are kept before a count forgets those that have drained.
_FEW_LANES = 64


class Backlog:
    """Some lanes of some links.

    Their bytes are counted anew only when they may have reached a limit.
    """

    def __init__(self) -> None:
        self._lanes: set[tuple[Link, Lane]] = set()
        #: upper bound of what waits
        self._most_bytes = 0
        self._many_lanes = _FEW_LANES

    def put(self, link: Link, frame: Frame) -> int:
        """Send a frame in its lane. Return the bytes that wait there now."""
        link.send_in_lane(frame)
        self._lanes.add((link, frame.lane))
        self._most_bytes += FRAME_BYTES + len(frame.payload)
        if len(self._lanes) > self._many_lanes:
            self._count()
        return waiting_bytes(link, frame.lane)

    def exceeds(self, limit_bytes: int) -> bool:
        """Return whether more bytes than this wait in all lanes together."""
        if self._most_bytes > limit_bytes:
            self._count()
        return self._most_bytes > limit_bytes

    def longest(self) -> tuple[Link, Lane]:
        """Return the lane with the most bytes. There must be one."""
        return max(self._lanes, key=lambda entry: waiting_bytes(*entry))

    def drop(self, link: Link, lane: Lane) -> None:
        """Drop what waits in one lane."""
        link.drop_lane(lane)
        self._lanes.discard((link, lane))

    def drop_all(self) -> None:
        """Drop what waits in all lanes."""
        for link, lane in list(self._lanes):
            self.drop(link, lane)

    def _count(self) -> None:
        waiting = {entry: waiting_bytes(*entry) for entry in self._lanes}
        self._lanes = {entry for entry, n_bytes in waiting.items() if n_bytes}
        self._most_bytes = sum(waiting.values())
        self._many_lanes = max(_FEW_LANES, 2 * len(self._lanes))


def waiting_bytes(link: Link, lane: Lane) -> int:
    """Return the bytes that wait in a lane, with FRAME_BYTES for each frame."""
    return link.queued_bytes(lane) + FRAME_BYTES * link.queued_frames(lane)
