"""Windows: the bytes of a file, read where the file is, or carried in a ref."""

from __future__ import annotations

from types import TracebackType
from typing import Any

#: Size of a remote object whose file system does not say how large it is. No object is as large.
UNKNOWN_BYTES = 2**62

#: Bytes that are kept of what was read of a stream. Readers of compressed data go back by less.
KEPT_BYTES = 8 * 1024 * 1024


class Changed(Exception):
    """The file has changed since its ref was made."""


class Window:
    """Bytes at offsets of a file.

    `reached` is the end of the highest byte that was read. So one can learn how much of a file a
    reader needs.
    """

    def __init__(self, size: int, file: Any = None, content: bytes = b"", offset: int = 0):
        """size: bytes of the file, whether or not the window has them all.

        file: opened without a buffer; the window closes it.
        content: if there is no file, its bytes from `offset` on.
        """
        self.size = size
        self._file = file
        self._content = content
        self._offset = offset
        self.reached = 0

    @property
    def has_all(self) -> bool:
        """Return whether any byte of the file can be read."""
        return self._file is not None or len(self._content) >= self.size

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes`; fewer only at the end of the file, or of the content.

        Raise Changed if the file is shorter than it was, and OSError if it cannot be read.
        """
        n_bytes = max(0, min(n_bytes, self.size - offset))
        self.reached = max(self.reached, offset + n_bytes)
        if self._file is None:
            start = offset - self._offset
            return self._content[start : start + n_bytes] if start >= 0 else b""
        self._file.seek(offset)
        parts: list[bytes] = []
        missing = n_bytes
        while missing:
            part = self._file.read(missing)
            if not part:
                raise Changed(f"it ended after {offset + n_bytes - missing} of {self.size} bytes")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_all(self, limit: int) -> bytes:
        """Return everything. Raise an error if that is more than `limit` bytes."""
        raise NotImplementedError  # for windows that have no size

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ForwardWindow(Window):
    """A window that only goes forward. It keeps what it read last."""

    def __init__(self, size: int):
        """size: bytes, or a number above it if that is not known."""
        super().__init__(size)
        self._kept = bytearray()
        self._kept_offset = 0

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes`; fewer only at the end. Raises what `_read_some` raises."""
        while self._kept_offset + len(self._kept) < offset + n_bytes:
            data = self._read_some()
            if not data:
                self.size = self._kept_offset + len(self._kept)
                break
            self._kept += data
            surplus = min(len(self._kept) - KEPT_BYTES, offset - self._kept_offset)
            if surplus > KEPT_BYTES:
                del self._kept[:surplus]
                self._kept_offset += surplus
        start = offset - self._kept_offset
        assert start >= 0, "a reader of a stream went back too far"
        return bytes(memoryview(self._kept)[start : start + n_bytes])

    @property
    def has_all(self) -> bool:
        return True

    def _read_some(self) -> bytes:
        """Return what comes next, b"" at the end."""
        raise NotImplementedError
