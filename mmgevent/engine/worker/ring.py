"""The end of what an executor printed, in limited memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: Bytes that are kept of what an executor prints.
RING_BYTES = 64 * 1024

#: Bytes of them in the report of a failure.
LAST_WORDS_BYTES = 4 * 1024


class Ring:
    """The last RING_BYTES of what was added, and how many bytes were dropped before them."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._held = 0
        #: bytes that are no longer kept
        self.dropped_bytes = 0

    def add(self, data: bytes) -> None:
        """Append. Drops the oldest chunks as long as RING_BYTES are left without them."""
        self._chunks.append(data)
        self._held += len(data)
        while self._held - len(self._chunks[0]) >= RING_BYTES:
            self.dropped_bytes += len(self._chunks[0])
            self._held -= len(self._chunks.popleft())

    def tail(self, n_bytes: int, strip: Callable[[bytes], bytes] = bytes) -> str:
        """Return the last `n_bytes` as text. It says how many bytes are missing before them.

        `strip` takes out what is not of the text.
        """
        data = strip(b"".join(self._chunks))
        missing = self.dropped_bytes + max(0, len(data) - n_bytes)
        text = data[-n_bytes:].decode("utf-8", "replace")
        return f"... {missing} bytes left out ...\n{text}" if missing else text
