"""Members of compressed data: their content as a stream of pieces.

Compressed data is a sequence of *members* (of gzip; streams of bz2 and xz, frames of zstd), each of
which can be read without the others. What follows the last member is ignored, as gzip(1) does, with
a warning. If members follow it, the file is damaged in between, and that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmgevent.job.inputs.compressed import (
    FORMATS,
    GZIP,
    XZ,
    ZSTD,
    DamagedError,
    find_kind,
    goes_on,
    is_skippable,
    note_ignored,
    reading_module,
)
from mmgevent.job.inputs.window import Window

#: Compressed bytes that are read at once: a part of a second of work, and small beside an executor.
READ_BYTES = 128 * 1024

#: Largest piece of content, bytes. The content of 1 KB may be 1 MB, or endless.
PIECE_BYTES = 1024 * 1024

#: Content after which a suspected member is believed to be one, bytes. Random bytes do not decode
#: as far as that.
TRIAL_BYTES = 4096

#: Bytes from which the kind of a member is known.
HEAD_BYTES = 64


class Members:
    """The content of compressed data, from the start of a member to the end of the file."""

    def __init__(self, window: Window, path: str, kind: str, start: int = 0):
        self._window = window
        self._path = path
        self._kind = kind
        self._buffer = b""  # bytes before `_at` that were read and not used
        self._at = start
        self._content = 0

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset of the member, content), in pieces of at most PIECE_BYTES.

        Raise DamagedError where the data is truncated or damaged, and as Window.read does.
        """
        while self._kind:
            member = self._at
            for piece in self._member():
                self._content += len(piece)
                yield member, piece
            self._find_next_member()

    def _member(self) -> Iterator[bytes]:
        decompressor, errors = _decompressor(self._kind, self._path)
        while not decompressor.eof:
            data = self._take() if decompressor.needs_input else b""
            try:
                piece = decompressor.decompress(data, PIECE_BYTES)
            except errors as error:
                raise self._damaged(f"at or before byte {self._at:,} is damaged ({error})") from error
            if piece:
                yield piece
        self._buffer = decompressor.unused_data
        self._at -= len(self._buffer)

    def _take(self) -> bytes:
        """Return what comes next; at least one byte."""
        data = self._buffer or self._window.read(self._at, READ_BYTES)
        self._buffer = b""
        if not data:
            raise self._damaged(f"ends at byte {self._at:,}, before it is complete: it was cut off")
        self._at += len(data)
        return data

    def _find_next_member(self) -> None:
        """Go to the next member, over zeros, and note its kind: "" if there is none."""
        before = self._kind
        end = self._at
        self._kind = ""
        head = self._buffer
        if len(head) < HEAD_BYTES or not head[0]:
            self._at, head = skip_zeros(self._window, self._at)
            self._buffer = head
        if not head:
            return
        kind = find_kind(head)
        if before == "zstd" and is_skippable(head):
            kind = "zstd"
        if kind in FORMATS:
            self._kind = kind
            return
        again = _find_member(self._window, self._path, before, self._at)
        if again is not None:
            raise DamagedError(goes_on(self._path, before, self._at, again))
        note_ignored(self._path, before, self._window.size - end, end)

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(
            f"{self._path}: its {self._kind} data {what}; {self._content:,} bytes of content came before; "
            f"get the file again, leave it out, or set max_skipped to set it aside"
        )


def content_of(window: Window, path: str, kind: str) -> Iterator[bytes]:
    """Yield what data contains, from its start to its end. kind: "" if it is not compressed."""
    if kind:
        for _, piece in Members(window, path, kind).pieces():
            yield piece
        return
    at = 0
    while piece := window.read(at, PIECE_BYTES):
        yield piece
        at += len(piece)


def skip_zeros(window: Window, at: int) -> tuple[int, bytes]:
    """Return the offset of the next byte that is not 0, and what begins there; b"" at the end."""
    while data := window.read(at, READ_BYTES):
        rest = data.lstrip(b"\0")
        at += len(data) - len(rest)
        if rest:
            return at, window.read(at, READ_BYTES)
    return at, b""


def _find_member(window: Window, path: str, kind: str, at: int) -> int | None:
    """Return where the next readable member of a kind begins, or None."""
    if kind == "bz2":  # its header may be what is damaged
        from mmgevent.job.inputs.bz2_marks import find_block

        bit = find_block(window, at * 8)
        return None if bit is None else bit // 8
    magic = {"gzip": GZIP, "xz": XZ, "zstd": ZSTD}[kind]
    while len(data := window.read(at, READ_BYTES)) >= len(magic):
        found = data.find(magic)
        while found >= 0:
            if _is_readable(window, path, kind, at + found):
                return at + found
            found = data.find(magic, found + 1)
        at += len(data) - len(magic) + 1
    return None


def _is_readable(window: Window, path: str, kind: str, at: int) -> bool:
    """Return whether a member begins here: it has an end, or much content."""
    decompressor, errors = _decompressor(kind, path)
    n_bytes = 0
    while not decompressor.eof and n_bytes < TRIAL_BYTES:
        data = window.read(at, READ_BYTES) if decompressor.needs_input else b""
        if decompressor.needs_input and not data:
            return False
        at += len(data)
        try:
            n_bytes += len(decompressor.decompress(data, TRIAL_BYTES))
        except errors:
            return False
    return True


def _decompressor(kind: str, path: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return what reads one member, and what it raises for damaged data."""
    module = reading_module(kind, path)
    if kind == "gzip":
        return _Inflate(module), (module.error,)
    if kind == "bz2":
        return module.BZ2Decompressor(), (OSError, ValueError)
    if kind == "xz":
        return module.LZMADecompressor(format=module.FORMAT_XZ), (module.LZMAError,)
    return module.ZstdDecompressor(), (module.ZstdError,)


class _Inflate:
    """A member of gzip, read as the other modules of the standard library read theirs."""

    def __init__(self, zlib: Any) -> None:
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        inflate = self._inflate
        if inflate.unconsumed_tail:
            data = inflate.unconsumed_tail + data
        content: bytes = inflate.decompress(data, max_length)
        self.needs_input = not inflate.unconsumed_tail and len(content) < max_length
        return content

    @property
    def eof(self) -> bool:
        return bool(self._inflate.eof)

    @property
    def unused_data(self) -> bytes:
        unused: bytes = self._inflate.unused_data
        return unused
