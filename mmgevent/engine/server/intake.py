"""The limit on bytes of batches that a server holds for all jobs together.

Segments over their limit spill to disk.  Batches over the limit are not accepted: the server grants
no more credit until batches are released.  Granted credit counts as memory in use.

Every job may always receive one batch, even over the limit.  Otherwise jobs could deadlock: only
whole batches can be worked on and released.  So the server may exceed the limit by one batch of
each job, and by the first, small window of each other batch on its way.
"""

from __future__ import annotations

from collections.abc import Callable

#: Two chunks of this length in all are joined, bytes. Objects of many tiny chunks would take more
#: memory than the intake counts.
JOINED_BYTES = 4096


class Intake:
    """Counts the bytes of batches, and knows who waits for room."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        #: Called in this order after bytes were given back, once each. They may wait again.
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def is_full(self) -> bool:
        """Return whether the limit is reached."""
        return self.held_bytes >= self.limit_bytes

    def take(self, n_bytes: int) -> None:
        """Count bytes, also over the limit."""
        self.held_bytes += n_bytes

    def give_back(self, n_bytes: int) -> None:
        """Count bytes as free, and call everyone who waits for room."""
        self.held_bytes -= n_bytes
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
