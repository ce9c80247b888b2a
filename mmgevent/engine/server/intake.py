"""The bound on bytes of batches that a server holds, of all jobs together.

Segments beyond their bound go to the disk; batches beyond theirs do not come: what their drivers may send on is
withheld until others are released; what may come by now counts as held. One batch of each job comes whatever is
held, since only what is whole can be worked on and released; so no job waits for another, and none for itself. What
can be held beyond the bound is therefore one batch of each job, and of each other batch under way its first, small
window.
"""

from __future__ import annotations

from collections.abc import Callable

#: chunks up to this are joined, so that many tiny ones take no more memory than they say
JOINED_BYTES = 4096


class Intake:
    """Counts what is held; knows who waits for room."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        #: called, once each, in this order, after something was given back; they may wait again
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def is_full(self) -> bool:
        return self.held_bytes >= self.limit_bytes

    def take(self, n_bytes: int) -> None:
        self.held_bytes += n_bytes

    def give_back(self, n_bytes: int) -> None:
        self.held_bytes -= n_bytes
        waiting, self._waiting = self._waiting, {}
        for resume in waiting:
            resume()

    def wait(self, resume: Callable[[], None]) -> None:
        """Have `resume` called when something was given back; it asks again whether there is room."""
        self._waiting[resume] = None

    def forget(self, resume: Callable[[], None]) -> None:
        self._waiting.pop(resume, None)


def append_chunk(chunks: list[bytes], data: bytes) -> None:
    """Append bytes that came to what came before."""
    if chunks and len(chunks[-1]) + len(data) <= JOINED_BYTES:
        chunks[-1] += data
    else:
        chunks.append(data)
