"""One unlinked file for what a task cannot hold in memory. It vanishes when it is closed."""

from __future__ import annotations

import errno
import os
import tempfile

from mmgevent.machine.resources import find_scratch_folder


class ScratchFile:
    """Appends pieces of bytes, and reads them back. Every method may raise OSError."""

    def __init__(self, folder: str | None, name: str):
        """`folder`: None for the one that the system gives. `name`: what the file is for."""
        folder = folder or find_scratch_folder()
        self._file = tempfile.TemporaryFile(prefix=f"mmgevent-{name}-", dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        self._end = 0

    @property
    def is_closed(self) -> bool:
        """Return whether the file is gone."""
        return self._file.closed

    def close(self) -> None:
        """Remove the file. Idempotent."""
        self._file.close()

    def append(self, data: bytes) -> tuple[int, int]:
        """Append bytes; return their offset and size."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, self._end + len(data) - len(view))
            view = view[written:]
        extent = self._end, len(data)
        self._end += len(data)
        return extent

    def read(self, offset: int, size: int) -> bytes:
        """Return what was appended there."""
        parts = []
        while size:  # Linux reads at most 0x7ffff000 bytes at once
            part = os.pread(self._file.fileno(), size, offset)
            if not part:
                raise OSError(errno.EIO, "the file is shorter than what was written")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)
