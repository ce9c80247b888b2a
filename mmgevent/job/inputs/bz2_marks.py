"""Blocks of bz2: where they may begin, and what one contains.

A stream of bz2 is a header of 4 bytes, blocks, and an end with a checksum. Each block can be read
without the others. Block and end begin with a *mark* of 48 bits, at any bit. The same bits may
occur by chance inside a block, so a mark is only a candidate: a block begins there if its content
has the checksum that the block states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mmgevent.job.inputs.compressed import BZ2_BLOCK, BZ2_END
from mmgevent.job.inputs.window import Window

#: Bits of a mark, and of the checksum after it.
MARK_BITS = 48
CRC_BITS = 32

#: Bytes that are searched for marks at once. Sixteen searches go through them.
_SEARCHED_BYTES = 256 * 1024

#: Largest block, bytes: 900,000 symbols of at most 20 bits, and its tables.
_MAX_BLOCK_BYTES = 3 * 1024 * 1024

#: Largest piece of content, bytes. A block may have 46 MB.
_PIECE_BYTES = 1024 * 1024


class Mark(NamedTuple):
    """Where a block or the end of a stream may begin."""

    bit: int
    is_end: bool


class NoBlockError(Exception):
    """No block begins at a mark, or it is damaged."""


class Bz2Block:
    """A block that begins at a mark, if that is one."""

    def __init__(self, window: Window, bit: int):
        self._window = window
        self.bit = bit
        #: where the block ends; None until all pieces were read
        self.end: Mark | None = None
        #: all pieces, after `read`
        self._read: list[bytes] | None = None

    @property
    def crc(self) -> int:
        """Return the checksum that the block states."""
        return read_bits(self._window, self.bit + MARK_BITS, CRC_BITS)

    def read(self) -> bool:
        """Read the content, and keep it. Return whether there is a whole block."""
        try:
            self._read = list(self._decompress())
        except NoBlockError:
            return False
        return True

    def pieces(self) -> Iterator[bytes]:
        """Yield the content. Raise NoBlockError as soon as it is known to be none."""
        return self._decompress() if self._read is None else iter(self._read)

    def _decompress(self) -> Iterator[bytes]:
        """Yield the content. Raise NoBlockError if there is none, or at its end if it is damaged.

        The bits up to the next mark are read. If that is no complete block, the mark was inside it,
        and more is read.
        """
        import bz2

        decompressor = bz2.BZ2Decompressor()
        decompressor.decompress(b"BZh9")
        done = 0
        for mark in find_marks(self._window, self.bit + 1):
            until = -(-(mark.bit - self.bit) // 8)
            if until > _MAX_BLOCK_BYTES:
                break
            data = _read_shifted(self._window, self.bit + 8 * done, until - done)
            done = until
            try:
                piece = decompressor.decompress(data, _PIECE_BYTES)
                if not piece:
                    continue
                while piece:  # `needs_input` says nothing about content that is still to come
                    yield piece
                    piece = decompressor.decompress(b"", _PIECE_BYTES)
            except (OSError, ValueError) as error:
                raise NoBlockError(str(error)) from error
            self.end = mark
            return
        raise NoBlockError("it has no end")


def find_block(window: Window, bit: int) -> int | None:
    """Return the bit where the first readable block at or after a bit begins, or None."""
    for mark in find_marks(window, bit):
        if not mark.is_end and is_block(window, mark.bit):
            return mark.bit
    return None


def is_block(window: Window, bit: int) -> bool:
    """Return whether a whole block begins at a bit."""
    return Bz2Block(window, bit).read()


def find_marks(window: Window, bit: int) -> Iterator[Mark]:
    """Yield the marks at or after a bit, in order."""
    at = bit // 8
    while data := window.read(at, _SEARCHED_BYTES + 6):
        for mark in sorted([*_search(data, BZ2_BLOCK, False), *_search(data, BZ2_END, True)]):
            if mark.bit < 8 * _SEARCHED_BYTES and 8 * at + mark.bit >= bit:
                yield Mark(8 * at + mark.bit, mark.is_end)
        at += _SEARCHED_BYTES


def read_bits(window: Window, bit: int, n_bits: int) -> int:
    """Return bits as a number. Bits after the end of the file are 0."""
    n_bytes = (bit % 8 + n_bits + 7) // 8
    data = window.read(bit // 8, n_bytes).ljust(n_bytes, b"\0")
    return int.from_bytes(data, "big") >> (8 * n_bytes - bit % 8 - n_bits) & ((1 << n_bits) - 1)


def _read_shifted(window: Window, bit: int, n_bytes: int) -> bytes:
    """Return the bytes that begin at a bit."""
    if bit % 8 == 0:
        return window.read(bit // 8, n_bytes)
    return read_bits(window, bit, 8 * n_bytes).to_bytes(n_bytes, "big")


def _search(data: bytes, magic: bytes, is_end: bool) -> Iterator[Mark]:
    """Yield where a mark begins in `data`, at any bit.

    Up to seven bits of it share their bytes with others. So its whole bytes are searched first.
    """
    value = int.from_bytes(magic, "big")
    for shift in range(8):
        whole = (value << 8 >> shift).to_bytes(7, "big")[1 if shift else 0 : 6]
        if not shift:
            whole = magic
        found = data.find(whole)
        while found >= 0:
            bit = 8 * found if not shift else 8 * (found - 1) + shift
            if bit >= 0:
                around = int.from_bytes(data[bit // 8 : bit // 8 + 7].ljust(7, b"\0"), "big")
                is_within = bit + MARK_BITS <= 8 * len(data)
                if is_within and around >> (8 - shift) & ((1 << MARK_BITS) - 1) == value:
                    yield Mark(bit, is_end)
            found = data.find(whole, found + 1)
