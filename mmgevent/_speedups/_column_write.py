"""Write a list as a column: the specification of `_column_write.h` and `_column_share.h`."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import chain
from operator import sub
from typing import Any

from mmgevent._speedups._column import (
    BOOLS,
    BYTES,
    FEW_BITS,
    FLOATS,
    GIVE_UP_FROM,
    INTS,
    LISTS,
    MASK,
    MAX_ARITY,
    MAX_DEPTH,
    MAX_SHARED_SIZE,
    MIN_SHARING,
    NOTHING,
    SHARED,
    SIGN,
    STEPS,
    TEXTS,
    TUPLES,
    U64,
    little_endian,
)


class _NotPlain(Exception):
    """A column has an element that its kind cannot hold."""


def encode_column(column: list[Any], /) -> bytes | None:
    """Return a column as bytes, or None if its elements are not all of one plain kind."""
    parts: list[bytes] = []
    try:
        _encode(column, 1, parts)
    except _NotPlain:
        return None
    return b"".join(parts)


def _encode(column: list[Any], depth: int, parts: list[bytes], *, in_bits: bool = True) -> None:
    """Append a column to the parts. in_bits: whether its elements may take less than a byte."""
    encode = _encoder_of(column)
    if encode is None or depth > MAX_DEPTH:
        raise _NotPlain
    encode(column, depth, parts, in_bits)


def _encoder_of(column: list[Any]) -> _Encoder | None:
    """Return the function that encodes a column of this class of elements, or None."""
    if not column:
        return _encode_nothing
    kinds = set(map(type, column))
    return _ENCODERS.get(kinds.pop()) if len(kinds) == 1 else None


def _encode_nothing(column: list[Any], depth: int, parts: list[bytes], in_bits: bool) -> None:
    parts.append(bytes([NOTHING]))


def _encode_ints(column: list[int], depth: int, parts: list[bytes], in_bits: bool) -> None:
    least, most = min(column), max(column)
    if least < -SIGN or most >= SIGN:
        raise _NotPlain
    if len(column) > 1:
        steps = list(map(sub, column[1:], column))
        first, last = min(steps), max(steps)
        saved = _width(most - least) - _width(last - first)
        if first >= -SIGN and last < SIGN and saved * len(column) > U64.size:
            parts.append(bytes([STEPS]) + U64.pack(column[0] & MASK))
            parts.append(_pack(steps, first, last))
            return
    parts.append(bytes([INTS]))
    parts.append(_pack(column, least, most))


def _encode_floats(column: list[float], depth: int, parts: list[bytes], in_bits: bool) -> None:
    parts.append(bytes([FLOATS]))
    parts.append(little_endian(array("d", column)).tobytes())


def _encode_bools(column: list[bool], depth: int, parts: list[bytes], in_bits: bool) -> None:
    parts.append(bytes([BOOLS]) + bytes(column))


def _encode_texts(column: list[str], depth: int, parts: list[bytes], in_bits: bool) -> None:
    if _encode_shared(column, column, depth, parts, in_bits=in_bits):
        return
    whole = "".join(column)
    try:
        data = whole.encode()
        sizes = [len(text.encode()) for text in column] if len(data) > len(whole) else list(map(len, column))
    except UnicodeEncodeError:  # a lone surrogate
        raise _NotPlain from None
    parts += (bytes([TEXTS]), _pack(sizes, min(sizes), max(sizes)), data)


def _encode_bytes(column: list[bytes], depth: int, parts: list[bytes], in_bits: bool) -> None:
    if _encode_shared(column, column, depth, parts, in_bits=in_bits):
        return
    sizes = list(map(len, column))
    parts += (bytes([BYTES]), _pack(sizes, min(sizes), max(sizes)), *column)


def _encode_tuples(column: list[tuple[Any, ...]], depth: int, parts: list[bytes], in_bits: bool) -> None:
    arity = len(column[0])
    if not 0 < arity <= MAX_ARITY or any(len(element) != arity for element in column):
        raise _NotPlain
    if _encode_shared(column, list(map(id, column)), depth, parts, in_bits=False):
        return
    children = [list(items) for items in zip(*column, strict=True)]
    if any(_encoder_of(child) is None for child in children):
        raise _NotPlain
    parts.append(bytes([TUPLES, arity]))
    for child in children:
        _encode(child, depth + 1, parts, in_bits=False)


def _encode_lists(column: list[list[Any]], depth: int, parts: list[bytes], in_bits: bool) -> None:
    if len(set(map(id, column))) < len(column):  # one list many times: the pickler writes it once
        raise _NotPlain
    sizes = list(map(len, column))
    parts += (bytes([LISTS]), _pack(sizes, min(sizes), max(sizes)))
    _encode(list(chain.from_iterable(column)), depth + 1, parts)


def _encode_shared(
    column: list[Any], names: list[Any], depth: int, parts: list[bytes], *, in_bits: bool
) -> bool:
    """Write each element once if there are at most half as many as places. Return whether they are.

    `names[i]`: what is equal for elements that count as one: the element itself, or its identity.
    """
    most = len(column) // 2
    if len(column) < MIN_SHARING or depth == MAX_DEPTH:
        return False
    numbers: list[int] = []
    known: dict[Any, int] = {}
    distinct: list[Any] = []
    for seen, name in enumerate(names, 1):
        if names is column and len(name) > MAX_SHARED_SIZE:
            return _encode_shared(column, list(map(id, column)), depth, parts, in_bits=in_bits)
        number = known.setdefault(name, len(known))
        if number == len(distinct):
            distinct.append(column[seen - 1])
            if len(distinct) > min(most, GIVE_UP_FROM + seen // 2):
                return False
        numbers.append(number)
    parts.append(bytes([SHARED]) + U64.pack(len(distinct)))
    _encode(distinct, depth + 1, parts)
    parts.append(_pack_bits(numbers, _bits_of(len(distinct) - 1, in_bits)))
    return True


_Encoder = Callable[[list[Any], int, list[bytes], bool], None]
_ENCODERS: dict[type, _Encoder] = {
    int: _encode_ints,
    float: _encode_floats,
    bool: _encode_bools,
    str: _encode_texts,
    bytes: _encode_bytes,
    tuple: _encode_tuples,
    list: _encode_lists,
}


def _width(difference: int) -> int:
    """Return the bytes of a number, 1 at least."""
    return max(1, (difference.bit_length() + 7) // 8)


def _pack(numbers: list[int], least: int, most: int) -> bytes:
    """Return numbers of 64 bits as their width, the least of them, and how much larger each is."""
    width = _width(most - least)
    whole = little_endian(array("Q", [number - least for number in numbers])).tobytes()
    packed = bytearray(len(numbers) * width)
    for place in range(width):
        packed[place::width] = whole[place :: U64.size]
    return bytes([width]) + U64.pack(least & MASK) + packed


def _bits_of(most: int, in_bits: bool) -> int:
    """Return the bits of each number, up to `most`, of which the first elements of a column are."""
    if in_bits and most < 1 << max(FEW_BITS):
        return next(bits for bits in FEW_BITS if most < 1 << bits)
    return 8 * _width(most)


def _pack_bits(numbers: list[int], bits: int) -> bytes:
    """Return numbers as the bits of each, and all of them, the first in the lowest bits."""
    if bits >= 8:
        whole = little_endian(array("Q", numbers)).tobytes()
        packed = bytearray(len(numbers) * bits // 8)
        for place in range(bits // 8):
            packed[place :: bits // 8] = whole[place :: U64.size]
        return bytes([bits]) + packed
    in_byte = 8 // bits
    size = -(-len(numbers) // in_byte)
    padded = bytes(numbers).ljust(size * in_byte, b"\0")
    joined = 0
    for place in range(in_byte):
        joined |= int.from_bytes(padded[place::in_byte], "little") << (place * bits)
    return bytes([bits]) + joined.to_bytes(size, "little")
