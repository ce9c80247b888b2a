"""Read a column back into a list: the specification of `_column_read.h`."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

from mmgevent._speedups._column import (
    BYTES,
    DAMAGED,
    FEW_BITS,
    MASK,
    MAX_ARITY,
    MAX_DEPTH,
    MOST_BITS,
    NOTHING,
    SIGN,
    TEXTS,
    TUPLES,
    U64,
    little_endian,
)


def decode_column(data: Any, count: int, /) -> list[Any]:
    """Return the column of `count` elements that some bytes are. Raise ValueError.

    The bytes may be anybody's. Each element takes a byte at least, or a bit if it is one of a few
    texts that all places share. So a short column cannot become a long list.
    """
    reader = _Reader(memoryview(data))
    if count < 0:
        raise ValueError(DAMAGED)
    column = reader.column(count, 1)
    if reader.left:
        raise ValueError(DAMAGED)
    return column


class _Reader:
    """Reads a column piece by piece. Nothing is made before its bytes are there."""

    def __init__(self, view: memoryview):
        self._view = view
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._view) - self._at

    @property
    def next_kind(self) -> int | None:
        """The next byte, which is not read yet, or None at the end."""
        return self._view[self._at] if self.left else None

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise ValueError(DAMAGED)
        self._at += size
        return self._view[self._at - size : self._at]

    def column(self, count: int, depth: int, *, in_bits: bool = True) -> list[Any]:
        kind = self.take(1)[0]
        if depth > MAX_DEPTH or kind >= len(_DECODERS) or (kind == NOTHING) != (count == 0):
            raise ValueError(DAMAGED)
        return _DECODERS[kind](self, count, depth, in_bits)

    def ints(self, count: int) -> list[int]:
        """Return packed numbers, with a sign."""
        width = self.take(1)[0]
        if not 1 <= width <= U64.size:
            raise ValueError(DAMAGED)
        (least,) = U64.unpack(self.take(U64.size))
        packed = self.take(count * width)
        whole = bytearray(count * U64.size)
        for place in range(width):
            whole[place :: U64.size] = packed[place::width]
        numbers = little_endian(array("Q", bytes(whole)))
        least = (least ^ SIGN) - SIGN
        if width < U64.size and least + (1 << (8 * width)) <= SIGN:
            return [number + least for number in numbers]
        return [_signed(number + least) for number in numbers]

    def sizes(self, count: int, a_byte: int) -> list[int]:
        """Return packed sizes of what follows, of which at most so much is in a byte."""
        sizes = self.ints(count)
        if min(sizes) < 0 or sum(sizes) > a_byte * self.left:
            raise ValueError(DAMAGED)
        return sizes

    def bits(self, count: int, *, in_bits: bool) -> list[int]:
        """Return numbers of a few bits or bytes. in_bits: whether they may take less than a byte."""
        bits = self.take(1)[0]
        if bits in FEW_BITS and in_bits:
            in_byte = 8 // bits
            data = self.take(-(-count // in_byte))
            joined = int.from_bytes(data, "little")
            lowest = int.from_bytes(bytes([(1 << bits) - 1]) * len(data), "little")
            numbers = bytearray(len(data) * in_byte)
            for place in range(in_byte):
                lane = joined >> (place * bits) & lowest
                numbers[place::in_byte] = lane.to_bytes(len(data), "little")
            return list(numbers[:count])
        if bits % 8 or not 8 <= bits <= MOST_BITS:
            raise ValueError(DAMAGED)
        packed = self.take(count * bits // 8)
        whole = bytearray(count * U64.size)
        for place in range(bits // 8):
            whole[place :: U64.size] = packed[place :: bits // 8]
        return little_endian(array("Q", bytes(whole))).tolist()


def _signed(number: int) -> int:
    """Return a number modulo 2**64, with a sign."""
    return ((number & MASK) ^ SIGN) - SIGN


def _decode_nothing(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[Any]:
    return []


def _decode_ints(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[int]:
    return reader.ints(count)


def _decode_steps(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[int]:
    (first,) = U64.unpack(reader.take(U64.size))
    return list(map(_signed, accumulate(reader.ints(count - 1), initial=first)))


def _decode_floats(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[float]:
    numbers = array("d", bytes(reader.take(count * 8)))
    return little_endian(numbers).tolist()


def _decode_bools(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[bool]:
    data = bytes(reader.take(count))
    if max(data) > 1:
        raise ValueError(DAMAGED)
    return list(map(bool, data))


def _decode_texts(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[str]:
    sizes = reader.sizes(count, 1)
    data = bytes(reader.take(sum(sizes)))
    ends = accumulate(sizes, initial=0)
    if data.isascii():
        text = data.decode("ascii")
        return [text[start:end] for start, end in pairwise(ends)]
    try:
        return [data[start:end].decode() for start, end in pairwise(ends)]
    except UnicodeDecodeError:
        raise ValueError(DAMAGED) from None


def _decode_bytes(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[bytes]:
    sizes = reader.sizes(count, 1)
    data = bytes(reader.take(sum(sizes)))
    return [data[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]


def _decode_tuples(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[Any]:
    arity = reader.take(1)[0]
    if not 0 < arity <= MAX_ARITY:
        raise ValueError(DAMAGED)
    return list(zip(*[reader.column(count, depth + 1, in_bits=False) for _ in range(arity)], strict=True))


def _decode_lists(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[Any]:
    sizes = reader.sizes(count, 8)
    elements = reader.column(sum(sizes), depth + 1)
    return [elements[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]


def _decode_shared(reader: _Reader, count: int, depth: int, in_bits: bool) -> list[Any]:
    (size,) = U64.unpack(reader.take(U64.size))
    kind = reader.next_kind
    if size > count or kind not in (TEXTS, BYTES, TUPLES):
        raise ValueError(DAMAGED)
    distinct = reader.column(size, depth + 1)
    numbers = reader.bits(count, in_bits=in_bits and kind != TUPLES)
    if max(numbers) >= size:
        raise ValueError(DAMAGED)
    return [distinct[number] for number in numbers]


_DECODERS: list[Callable[[_Reader, int, int, bool], list[Any]]] = [
    _decode_nothing,
    _decode_ints,
    _decode_steps,
    _decode_floats,
    _decode_bools,
    _decode_texts,
    _decode_bytes,
    _decode_tuples,
    _decode_lists,
    _decode_shared,
]
