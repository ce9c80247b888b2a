"""Splits of compressed files: where they are cut, and what they contain.

The driver cuts a file without decompressing it. gzip as bgzip writes it states the sizes of its
members, and the blocks of a zstd frame state theirs, so the driver goes from one to the next. bz2
states nothing, so it is cut anywhere; see `bz2_splits`. Everything else is one split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import bz2_splits
from mmgevent.job.inputs.compressed import GZIP, ZSTD, DamagedError, is_skippable, reading_module
from mmgevent.job.inputs.members import Members
from mmgevent.job.inputs.pieces import MAX_LINE_BYTES, Piece
from mmgevent.job.inputs.window import Changed, Window

#: Largest size of a split of bz2, bytes: some blocks, a second of work. The first block of the next split
#: is read too, for its first line, so small splits would be wasteful.
BZ2_SPLIT_BYTES = 2 * 1024 * 1024

#: The number of splits of bz2 is a multiple of this, and they are of one size. So two or four
#: executors end at one time.
EVEN_SPLITS = 4

#: Largest compressed size of a split of gzip or zstd, if that can be had, bytes. Its content may be
#: as large as a split of text.
SPLIT_BYTES = 2 * 1024 * 1024

#: Largest content of a block of zstd, bytes (RFC 8878).
_ZSTD_BLOCK_BYTES = 128 * 1024

#: Bytes in which the sizes of a member of BGZF stand: its header, and some extra fields.
_BGZF_HEAD_BYTES = 64

#: Largest header of a frame of zstd, bytes.
_ZSTD_HEAD_BYTES = 18


def cut(
    open_window: Callable[[], Window], path: str, kind: str, size: int, content_bytes: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, offset of the first byte of content) for each split of a file.

    content_bytes: content of a split, if the file says how much that is.

    Raise DatasourceError if the file cannot be read.
    """
    if kind == "bz2" and size > BZ2_SPLIT_BYTES:
        n_splits = -(-size // (BZ2_SPLIT_BYTES * EVEN_SPLITS)) * EVEN_SPLITS
        split_bytes = -(-size // n_splits)
        for start in range(0, size, split_bytes):
            yield start, min(start + split_bytes, size), bz2_splits.offset_of(8 * start)
        return
    if kind not in _WALKS or size <= SPLIT_BYTES:
        yield 0, size, 0
        return
    try:
        with open_window() as window:
            start = base = 0
            for at, offset in _WALKS[kind](window):
                if at > start and (at - start >= SPLIT_BYTES or offset - base >= content_bytes):
                    yield start, at, base
                    start, base = at, offset
            yield start, size, base
    except (OSError, Changed) as error:
        raise DatasourceError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def pieces_of(
    window: Window, path: str, kind: str, start: int, end: int, base: int, first_bit: int | None
) -> Iterator[Piece]:
    """Yield what a split contains, then what comes after it.

    Raise DamagedError for what cannot be read, CannotReadError, and as Window.read does.
    """
    reading_module(kind, path)
    if kind == "bz2" and (start, end) != (0, window.size):
        yield from bz2_splits.split_pieces(window, path, start, end, first_bit)
        return
    offset = base
    for member, data in Members(window, path, kind, start).pieces():
        yield Piece(offset, data, member < end)
        offset += len(data)


def find_range(window: Window, path: str, kind: str, start: int, end: int) -> tuple[int, int, int | None]:
    """Return (low, high, first bit): the bytes of the file that a split needs.

    They reach to the end of its last line, or show that it is too long. The bit is that of the first block of bz2; None if that
    is not known.
    """
    size = window.size
    is_bz2 = kind == "bz2" and (start, end) != (0, size)
    if end < size:
        try:
            window.reached = end
            n_bytes = 0
            for piece in pieces_of(window, path, kind, end, end, 0, None):
                n_bytes += len(piece.data)
                if b"\n" in piece.data or n_bytes > MAX_LINE_BYTES:
                    break
            end = window.reached
        except DamagedError:  # who reads the split finds out
            end = window.reached
    if not is_bz2 or not start:
        return start, end, None
    try:
        first = bz2_splits.first_block(window, path, start)
    except DamagedError:
        first = None
    return (start, end, None) if first is None else (first.bit // 8, end, first.bit)


def _walk_bgzf(window: Window) -> Iterator[tuple[int, int]]:
    """Yield (offset in the file, offset in the content) of each member, while they state sizes."""
    at = content = 0
    while n_bytes := _bgzf_size(window.read(at, _BGZF_HEAD_BYTES)):
        if at + n_bytes > window.size:
            return
        yield at, content
        content += int.from_bytes(window.read(at + n_bytes - 4, 4), "little")
        at += n_bytes


def _bgzf_size(head: bytes) -> int:
    """Return the size that a member of gzip states in its extra field BC, or 0."""
    if head[:3] != GZIP or len(head) < 18 or not head[3] & 4:
        return 0
    at, end = 12, 12 + int.from_bytes(head[10:12], "little")
    while at + 4 <= min(end, len(head)):
        n_bytes = int.from_bytes(head[at + 2 : at + 4], "little")
        if head[at : at + 2] == b"BC" and n_bytes == 2:
            return int.from_bytes(head[at + 4 : at + 6], "little") + 1
        at += 4 + n_bytes
    return 0


def _walk_zstd(window: Window) -> Iterator[tuple[int, int]]:
    """Yield (offset in the file, offset in the content) of each frame.

    A frame that does not state the size of its content counts as if its blocks were full.
    """
    at = content = 0
    while len(head := window.read(at, _ZSTD_HEAD_BYTES)) >= 8:
        if is_skippable(head):
            at += 8 + int.from_bytes(head[4:8], "little")
            continue
        if head[:4] != ZSTD:
            return
        header_bytes, stated = _zstd_header(head)
        end, most = _walk_blocks(window, at + header_bytes)
        if not end:
            return
        yield at, content
        content += most if stated is None else stated
        at = end + (4 if head[4] & 4 else 0)


def _zstd_header(head: bytes) -> tuple[int, int | None]:
    """Return the size of a frame's header, and the size of the content that it states, or None."""
    flags = head[4]
    is_single = flags >> 5 & 1
    at = 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3]
    n_bytes = (is_single, 2, 4, 8)[flags >> 6]
    if not n_bytes:
        return at, None
    stated = int.from_bytes(head[at : at + n_bytes], "little")
    return at + n_bytes, stated + 256 if n_bytes == 2 else stated


def _walk_blocks(window: Window, at: int) -> tuple[int, int]:
    """Return where the blocks of a frame end, and how large their content may be; 0, 0 if cut off."""
    most = 0
    while len(head := window.read(at, 3)) == 3:
        value = int.from_bytes(head, "little")
        is_last, kind, n_bytes = value & 1, value >> 1 & 3, value >> 3
        at += 3 + (1 if kind == 1 else n_bytes)
        most += n_bytes if kind < 2 else _ZSTD_BLOCK_BYTES
        if is_last:
            return at, most
    return 0, 0


_WALKS = {"gzip": _walk_bgzf, "zstd": _walk_zstd}
