"""Bytes that jobs hold on a server: a limit on memory, and a file for what is over the limit.

The spill file is unlinked from the start and made of blocks of one frame each.  The next chunk
reuses a freed block, so the bytes of lost attempts need no rewriting.  A partly used block costs
no disk beyond its bytes.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmgevent.errors import StoreError
from mmgevent.wire.frames import MAX_PAYLOAD

#: Two chunks of this length in all are joined, bytes. Objects of many tiny chunks would take more
#: memory than the intake counts.
JOINED_BYTES = 4096

#: One block of a spill file, bytes. It holds what one frame carries.
BLOCK_BYTES = MAX_PAYLOAD


class Memory:
    """A limit on bytes that all jobs of a server hold in memory together."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        #: 0 <= used_bytes <= limit_bytes
        self.used_bytes = 0

    def take(self, n_bytes: int) -> bool:
        """Reserve bytes and return True, or return False if that would exceed the limit."""
        if self.used_bytes + n_bytes > self.limit_bytes:
            return False
        self.used_bytes += n_bytes
        return True

    def give_back(self, n_bytes: int) -> None:
        """Release bytes that were reserved."""
        self.used_bytes -= n_bytes


class SpillFile:
    """An unlinked file of numbered blocks; each holds at most BLOCK_BYTES.

    Any thread may call `write`, `read` and `close`.  A call that is running keeps the descriptor
    open: if the file were closed meanwhile, the system could give its number to another file.
    """

    def __init__(self, folder: str | None = None):
        """Open the file in `folder`, or in the system's temporary folder if None.

        Raises StoreError if the file cannot be opened.
        """
        try:
            self._file = tempfile.TemporaryFile(prefix="mmgevent-spill-", dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise StoreError(f"cannot make a spill file: {error}") from error
        self._free: list[int] = []
        self._block_count = 0
        self._lock = threading.Lock()  # guards the two below; close() is the only system call under it
        self._calls = 0  # reads and writes that are running
        self._is_closed = False

    @property
    def allocated_bytes(self) -> int:
        """Upper bound of the bytes in use."""
        return (self._block_count - len(self._free)) * BLOCK_BYTES

    def allocate(self) -> int:
        """Return the number of a free block."""
        if self._free:
            return self._free.pop()
        self._block_count += 1
        return self._block_count - 1

    def free(self, block: int) -> None:
        """Let another chunk use this block."""
        self._free.append(block)

    def write(self, block: int, data: bytes) -> None:
        """Fill a block. Raises StoreError if the disk is full or fails."""
        view, at = memoryview(data), block * BLOCK_BYTES
        try:
            with self._open() as fd:
                while view:
                    written = os.pwrite(fd, view, at)
                    view, at = view[written:], at + written
        except OSError as error:
            raise StoreError(f"cannot write {len(data)} bytes to the spill file: {error}") from error

    def read(self, block: int, start: int, n_bytes: int) -> bytes:
        """Return bytes of a block.  Raises StoreError if they are no longer there."""
        try:
            with self._open() as fd:
                data = os.pread(fd, n_bytes, block * BLOCK_BYTES + start)
        except OSError as error:
            raise StoreError(f"cannot read the spill file: {error}") from error
        if len(data) != n_bytes:
            raise StoreError(f"the spill file gave {len(data)} of {n_bytes} bytes")
        return data

    def close(self) -> None:
        """Free the disk as soon as no call is running."""
        with self._lock:
            self._is_closed = True
            if not self._calls:
                self._file.close()

    @contextmanager
    def _open(self) -> Iterator[int]:
        """Yield the descriptor, and keep it open.  Raises StoreError if the file is closed."""
        with self._lock:
            if self._is_closed:
                raise StoreError("the spill file is closed")
            self._calls += 1
        try:
            yield self._file.fileno()
        finally:
            with self._lock:
                self._calls -= 1
                if self._is_closed and not self._calls:
                    self._file.close()
