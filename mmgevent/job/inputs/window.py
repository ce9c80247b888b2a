"""Windows: the bytes of a file, read where the file is, or carried in a ref."""

from __future__ import annotations

from types import TracebackType
from typing import Any


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
