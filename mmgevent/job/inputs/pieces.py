"""Pieces of content, and the whole lines and rows in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Largest line that is read, with its line end, bytes. A line is in memory as a whole, some times
#: over. This is the longest human chromosome on one line; most files with longer lines are no text.
MAX_LINE_BYTES = 256 * 1024 * 1024


class Piece(NamedTuple):
    """A piece of what a file contains."""

    #: where it is, as keys of lines have it
    offset: int
    data: bytes
    #: whether it is part of the split, and not of the next
    is_own: bool = True


def whole_lines(pieces: Iterable[Piece], *, is_first: bool) -> Iterator[tuple[int, bytes | None]]:
    """Yield (offset, bytes of whole lines) of a split, whose pieces follow one another.

    (offset, None) stands for one line of more than MAX_LINE_BYTES.

    is_first: whether the split begins where the content begins.

    A split that is not the first begins after the first line end in it. Its last line is the one
    that contains or begins at the first byte of the next split. A line end may be missing only from
    the last line of all.
    """
    is_inside = is_first
    rest: list[bytes] = []
    rest_offset = rest_bytes = 0
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
        if end and rest:
            start = data.find(b"\n", start) + 1
            rest.append(data[:start])
            is_too_long = rest_bytes + start > MAX_LINE_BYTES
            yield rest_offset, None if is_too_long else b"".join(rest)
            rest.clear()
        if start < end:
            yield offset + start, data[start:end] if start or end < len(data) else data
        if end and not is_own:
            return
        if not rest:
            rest_offset, rest_bytes = offset + max(start, end), 0
        if max(start, end) < len(data):
            rest.append(data[max(start, end) :])
            rest_bytes += len(rest[-1])
        if rest_bytes > MAX_LINE_BYTES:  # the next line begins after its end
            yield rest_offset, None
            rest.clear()
            is_inside = False
    if rest:
        yield rest_offset, b"".join(rest)


def row_blocks(pieces: Iterable[bytes], n_bytes: int, max_row_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Yield (bytes, whether they are the last) of about `n_bytes`, which end at a line end.

    More than `max_row_bytes` without a line end are yielded as well.
    """
    rest: list[bytes] = []
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size < n_bytes:
            continue
        data = b"".join(parts)
        end = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1
        if not end and sum(map(len, rest)) + size > max_row_bytes:
            end = size
        rest.append(data[:end] if end else data)
        if end:
            yield b"".join(rest), False
            rest = [data[end:]]
        parts, size = [], 0
    yield b"".join([*rest, *parts]), True
