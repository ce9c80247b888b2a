"""Pieces of content, and the whole lines in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """A piece of what a file contains."""

    #: where it is, as keys of lines have it
    offset: int
    data: bytes
    #: whether it is part of the split, and not of the next
    is_own: bool = True


def whole_lines(pieces: Iterable[Piece], *, is_first: bool) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes of whole lines) of a split, whose pieces follow one another.

    is_first: whether the split begins where the content begins.

    A split that is not the first begins after the first line end in it. Its last line is the one
    that contains or begins at the first byte of the next split. A line end may be missing only from
    the last line of all.
    """
    is_inside = is_first
    rest: list[bytes] = []
    rest_offset = 0
    for offset, data, is_own in pieces:
        if not data:
            continue
        start = 0
        if not is_inside:
            start = data.find(b"\n") + 1
            if not is_own:
                return
            if not start:
                continue
            is_inside = True
        end = (data.rfind(b"\n", start) if is_own else data.find(b"\n", start)) + 1
        if not end:
            if start < len(data):
                rest_offset = rest_offset if rest else offset + start
                rest.append(data[start:])
            continue
        if rest:
            start = data.find(b"\n", start) + 1
            rest.append(data[:start])
            yield rest_offset, b"".join(rest)
            rest.clear()
        if start < end:
            yield offset + start, data[start:end] if start or end < len(data) else data
        if not is_own:
            return
        if end < len(data):
            rest_offset = offset + end
            rest.append(data[end:])
    if rest:
        yield rest_offset, b"".join(rest)
