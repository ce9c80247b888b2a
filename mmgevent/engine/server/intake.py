"""Bytes that drivers send to a server: a limit on all of them, and a share for each link.

Segments over their limit spill to disk.  Batches over the limit are not accepted: the server grants
no more credit until batches are released.

Memory counts as bytes arrive.  What a driver may send but has not sent counts for its own link
only, so that promises keep nobody else out.  A link may hold `SHARE` times what is still free: one
link alone gets four fifths of the limit, and there is always room left for the next one.

A link over its share may still receive one batch at a time, for a job that has none.  Otherwise its
jobs could deadlock: only whole batches can be worked on and released.  By such batches it may
exceed its share by MAX_BATCH_BYTES.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.spill import JOINED_BYTES
from mmgevent.wire.limits import MAX_BATCH_BYTES

#: What one link may hold, as a multiple of what is free. One link alone then gets 4/5 of all.
SHARE = 4


class Share:
    """What one link holds of an intake."""

    def __init__(self, intake: Intake):
        self.intake = intake
        self.held_bytes = 0  #: bytes that arrived
        self.promised_bytes = 0  #: bytes that may arrive: they were granted
        self._exceeder: object = None  # the batch that may come over the limit

    @property
    def is_full(self) -> bool:
        """Return whether the link has used up its share, or everything is used up."""
        free = self.intake.limit_bytes - self.intake.held_bytes
        return self.held_bytes + self.promised_bytes >= SHARE * free

    @property
    def room_bytes(self) -> int:
        """Return how many bytes may still arrive."""
        free = self.intake.limit_bytes - self.intake.held_bytes
        return max(0, (SHARE * free - self.held_bytes) // (SHARE + 1))

    def promise(self, n_bytes: int) -> None:
        """Count bytes that the link may send."""
        self.promised_bytes += n_bytes

    def arrive(self, n_bytes: int, *, promised: bool = True) -> None:
        """Count bytes that arrived."""
        self.held_bytes += n_bytes
        self.intake.held_bytes += n_bytes
        if promised:
            self.promised_bytes -= n_bytes

    def give_back(self, n_bytes: int, *, promised: int = 0) -> None:
        """Count bytes as free, and promises as void; call everyone who waits for room."""
        self.held_bytes -= n_bytes
        self.promised_bytes -= promised
        self.intake.held_bytes -= n_bytes
        self.intake.resume()

    def may_exceed(self, batch: object) -> bool:
        """Return whether a batch may come although the share is full: one at a time may."""
        free = max(0, self.intake.limit_bytes - self.intake.held_bytes)
        if self._exceeder is None and self.held_bytes < SHARE * free + MAX_BATCH_BYTES:
            self._exceeder = batch
        return self._exceeder is batch

    def end_exceeding(self, batch: object) -> None:
        """Note that a batch is whole or forgotten: the next one may come."""
        if self._exceeder is batch:
            self._exceeder = None
            self.intake.resume()


class Intake:
    """Counts the bytes of all links, and knows who waits for room."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._shares: weakref.WeakKeyDictionary[Link, Share] = weakref.WeakKeyDictionary()
        #: Called in this order after bytes were given back, once each. They may wait again.
        self._waiting: dict[Callable[[], None], None] = {}

    def share_of(self, link: Link) -> Share:
        """Return the share of a link."""
        share = self._shares.get(link)
        if share is None:
            share = self._shares[link] = Share(self)
        return share

    def resume(self) -> None:
        """Call everyone who waits for room."""
        waiting, self._waiting = self._waiting, {}
        for resume in waiting:
            resume()

    def wait(self, resume: Callable[[], None]) -> None:
        """Have `resume` called after bytes were given back; it must check again for room."""
        self._waiting[resume] = None

    def forget(self, resume: Callable[[], None]) -> None:
        """Undo `wait`."""
        self._waiting.pop(resume, None)


def append_chunk(chunks: list[bytes], data: bytes) -> None:
    """Append received bytes; short chunks are joined."""
    if chunks and len(chunks[-1]) + len(data) <= JOINED_BYTES:
        chunks[-1] += data
    else:
        chunks.append(data)
