"""Splits of a file of bz2: the blocks that begin in a range of its bytes, and what comes after.

Nobody reads the file to cut it. The first block of a split is the first one that begins at or after
its start. From there on each block ends where the next begins, so no mark that occurs by chance
inside a block is taken for one. Where a mark turns out to be none, or its block is damaged, the
blocks before it tell which. What remains doubtful is an error.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmgevent.job.inputs.bz2_marks import (
    CRC_BITS,
    MARK_BITS,
    Bz2Block,
    Mark,
    NoBlockError,
    find_block,
    find_marks,
    is_block,
    read_bits,
)
from mmgevent.job.inputs.compressed import (
    BZ2_BLOCK,
    BZ2_END,
    FORMATS,
    DamagedError,
    find_kind,
    goes_on,
    note_ignored,
)
from mmgevent.job.inputs.members import Members, skip_zeros
from mmgevent.job.inputs.pieces import Piece
from mmgevent.job.inputs.window import Window

#: Bits of an offset for the position in the content of a block, of which 46 MB are most: runs of
#: 259 equal bytes take 5 of 900,000.
POSITION_BITS = 26

#: Bytes before a doubtful mark in which an earlier block is looked for first.
_LOOK_BACK_BYTES = 4 * 1024 * 1024

_HEADER_BITS = 32


def offset_of(bit: int) -> int:
    """Return the offset of the first byte of a block's content, as keys of lines have it."""
    return bit // 8 << POSITION_BITS


#: Offset of the first byte of a file that is cut.
FIRST_OFFSET = offset_of(_HEADER_BITS)


def first_block(window: Window, path: str, start: int) -> Bz2Block | None:
    """Return the first block that begins at or after byte `start`, or None.

    It may be damaged. Raise DamagedError if it cannot be told.
    """
    for mark in find_marks(window, 8 * start):
        if not mark.is_end:
            block = Bz2Block(window, mark.bit)
            if not block.read():
                bit = _first_after_others(window, path, start)
                return None if bit is None else Bz2Block(window, bit)
            return block
    return None


def split_pieces(
    window: Window, path: str, start: int, end: int, first_bit: int | None = None
) -> Iterator[Piece]:
    """Yield the content of the blocks that begin in [start, end), then of those after them.

    first_bit: where the first block begins, if that is known.

    Raise DamagedError for what cannot be read, and as Window.read does.
    """
    first: Bz2Block | None = None
    if first_bit is not None:
        first = Bz2Block(window, first_bit)
    elif start:
        first = first_block(window, path, start)
        if first is None:
            return
    yield from _Sequence(window, path, 8 * end).pieces(first)


class _Sequence:
    """Blocks one after another, over the ends of streams."""

    def __init__(self, window: Window, path: str, end_bit: int):
        self._window = window
        self._path = path
        self._end_bit = end_bit
        #: where the block that is read begins
        self.bit = 0
        #: checksum of all blocks of the stream so far; None if its first block was not seen
        self._crc: int | None = None

    def pieces(self, first: Bz2Block | None) -> Iterator[Piece]:
        """Yield the content from a block on, or from the header of the file on if that is None."""
        is_own = True
        mark: Mark | None = Mark(first.bit, False) if first is not None else self._open_stream(0)
        while mark is not None:
            if mark.is_end:
                at = self._end_stream(mark)
                mark = self._open_stream(at)
                if mark is None:
                    yield from self._rest(at, is_own)
                continue
            is_own = mark.bit < self._end_bit
            self.bit = mark.bit
            block = Bz2Block(self._window, mark.bit) if first is None else first
            first = None
            offset = offset_of(mark.bit)
            try:
                for piece in block.pieces():
                    yield Piece(offset, piece, is_own)
                    offset += len(piece)
            except NoBlockError as error:
                raise self._damaged(
                    mark.bit, f"cannot be read ({error}): it is damaged, or was cut off"
                ) from error
            assert block.end is not None
            self._check_inside(mark.bit, block.end.bit)
            if self._crc is not None:
                self._crc = (self._crc << 1 & 0xFFFFFFFF | self._crc >> 31) ^ block.crc
            mark = block.end

    def _check_inside(self, bit: int, end: int) -> None:
        """Raise DamagedError if the next split takes a mark inside a block for its first block."""
        if bit < self._end_bit < end:
            for mark in find_marks(self._window, self._end_bit):
                if mark.bit >= end:
                    return
                if not mark.is_end and is_block(self._window, mark.bit):
                    raise self._damaged(bit, f"contains another at bit {mark.bit:,}, so it cannot be cut")

    def _end_stream(self, mark: Mark) -> int:
        """Return the offset of the byte after a stream."""
        end = mark.bit + MARK_BITS + CRC_BITS
        if end > 8 * self._window.size:
            raise self._damaged(mark.bit, "has no checksum after it: the file was cut off")
        crc = read_bits(self._window, mark.bit + MARK_BITS, CRC_BITS)
        if self._crc is not None and crc != self._crc:
            raise self._damaged(
                mark.bit, "is the last of a stream with another checksum than its blocks have"
            )
        return (end + 7) // 8

    def _open_stream(self, at: int) -> Mark | None:
        """Return the first mark of the stream that begins at byte `at`, or None if none does."""
        at, head = skip_zeros(self._window, at)
        if find_kind(head) != "bz2":
            return None
        self._crc = 0
        bit = 8 * at + _HEADER_BITS
        value = read_bits(self._window, bit, MARK_BITS).to_bytes(MARK_BITS // 8, "big")
        if value not in (BZ2_BLOCK, BZ2_END):
            raise self._damaged(bit, "was cut off")
        return Mark(bit, value == BZ2_END)

    def _rest(self, at: int, is_own: bool) -> Iterator[Piece]:
        """Yield what other data after the last stream contains. It belongs to the last block."""
        end = at
        at, head = skip_zeros(self._window, at)
        if not head:
            return
        again = find_block(self._window, 8 * at)
        if again is not None:
            raise DamagedError(goes_on(self._path, "bz2", at, again // 8))
        kind = find_kind(head)
        if kind not in FORMATS:
            if is_own:
                note_ignored(self._path, "bz2", self._window.size - end, end)
            return
        offset = offset_of(8 * at)
        for _, piece in Members(self._window, self._path, kind, at).pieces():
            yield Piece(offset, piece, is_own)
            offset += len(piece)

    def _damaged(self, bit: int, what: str) -> DamagedError:
        return DamagedError(
            f"{self._path}: its bz2 block at byte {bit // 8:,} {what}; get the file again, leave it out, or set "
            f"max_skipped to set it aside"
        )


def _first_after_others(window: Window, path: str, start: int) -> int | None:
    """Do as `first_block`, where a mark was no block: read the blocks before it."""
    if not window.has_all:  # the driver could not tell, either
        raise DamagedError(
            f"{path}: its bz2 data after byte {start:,} is damaged; get the file again, leave it out, or set "
            f"max_skipped to set it aside"
        )
    low = start
    while low > 0:
        low = max(0, low - _LOOK_BACK_BYTES)
        before = []
        for mark in find_marks(window, 8 * low):
            if mark.bit >= 8 * start:
                break
            if not mark.is_end:
                before.append(mark.bit)
        for bit in reversed(before):
            if is_block(window, bit):
                return _first_following(window, path, start, bit)
    return _first_following(window, path, start, None)


def _first_following(window: Window, path: str, start: int, bit: int | None) -> int | None:
    """Return where the first block at or after byte `start` begins, given an earlier block."""
    sequence = _Sequence(window, path, 8 * start)
    try:
        for piece in sequence.pieces(None if bit is None else Bz2Block(window, bit)):
            if not piece.is_own:
                return sequence.bit
    except DamagedError:
        if sequence.bit < 8 * start:
            raise
        return sequence.bit  # who reads it finds out
    return None
