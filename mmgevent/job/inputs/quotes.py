"""Cut CSV files where a row surely ends, though quoted fields contain line ends.

A row ends at a line end that is outside quotes. Whether a byte is outside depends on all quotes
before it, so somebody has to read them all. The driver does, one split after another, no faster
than executors need splits.

`Quotes` knows two ways of that. They agree where quotes stand only around fields, and doubled
inside of them:

- Count quotes: outside is where their number is even. This is done at the speed of memory.
- Follow them, field by field, as `csv.reader` does. This takes twenty times as long where every
  field is quoted. It is right for any text.

A cut by counting is proven by whoever reads the split: a row that begins in it must end in it. The
first split begins where a row begins. So if every split ends where a row ends, each begins where
one begins. If not, the first wrong cut is found, whatever else there is in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from mmgevent.job.inputs.window import Window

#: Bytes read at once while looking for the end of the row in which a split ends. Most are short.
_PIECE_BYTES = 64 * 1024

#: Bytes added to a piece that ends within what belongs together.
_MORE_BYTES = 64


class Place(NamedTuple):
    """A place in a text, and whether it is inside quotes."""

    position: int
    is_inside: bool


class Quotes:
    """The quotes of one dialect."""

    def __init__(self, delimiter: str, quotechar: str | None, *, follows: bool):
        """follows: whether quotes are followed, and not just counted."""
        self._quote = quotechar.encode("ascii") if quotechar else b""
        self._follows = follows and quotechar is not None
        quote, ends = re.escape(self._quote), re.escape(delimiter.encode("ascii")) + rb"\r\n"
        self._field_ends = delimiter.encode("ascii") + b"\r\n"
        self._special = re.compile(b"[" + quote + rb"\r\n]")
        if self._quote:
            inside = b"[^" + quote + b"]*+(?:" + quote * 2 + b"[^" + quote + b"]*+)*+" + quote
            well = b"(?<![^" + ends + b"])" + quote + inside + b"(?![^" + ends + b"])"
            self._closing = re.compile(inside)
            self._rest_of_field = re.compile(b"[^" + ends + b"]*+")
            self._fields = re.compile(b"(?:[^" + quote + b"]*+" + well + b")*+")
            self._row = re.compile(b"(?:[^" + quote + rb"\r\n]*+" + well + b")*+[^" + quote + rb"\r\n]*+")

    def follow(self, data: bytes, position: int = 0, *, is_inside: bool = False) -> Place:
        """Return the place at the end of `data`, found by following the quotes from a place on.

        The byte before `position`, if there is one, must be in `data`.
        """
        return self._follow(data, position, is_inside, to_row_end=False)

    def find_row_end(self, data: bytes, position: int = 0, *, is_inside: bool = False) -> Place:
        """Return the place after the line end that ends a row, or at the end of `data`.

        The quotes are followed, as in `follow`.
        """
        if not self._quote:
            found = self._special.search(data, position)
            return Place(_after_line_end(data, found.start()) if found else len(data), False)
        return self._follow(data, position, is_inside, to_row_end=True)

    def find_open_quote(self, data: bytes) -> int:
        """Return where the quote is that does not end in `data`, which begins with a row; or -1."""
        position = 0
        while self._quote:
            position = self._fields.match(data, position).end()  # type: ignore[union-attr]
            position = data.find(self._quote, position)
            if position < 0:
                break
            if self._is_field_start(data, position):
                closing = self._closing.match(data, position + 1)
                if closing is None:
                    return position
                position = closing.end()
            position = self._rest_of_field.match(data, position).end()  # type: ignore[union-attr]
        return -1

    def find_stray_quote(self, data: bytes) -> int:
        """Return the first quote that is not around a whole field, or 0. `data` begins with a row."""
        position = self._fields.match(data).end()  # type: ignore[union-attr]
        return max(0, data.find(self._quote, position))

    def cut(self, window: Window, split_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of splits that begin and end where rows do, so far as quotes show.

        A split has at least `split_bytes`, except for the last, and ends with the row that is there.
        Raises what reading the window raises.
        """
        start = 0
        while window.size - start > split_bytes:
            end = self.find_cut(window, start, start + split_bytes)
            yield start, end
            start = end
        if start < window.size:
            yield start, window.size

    def find_cut(self, window: Window, start: int, target: int) -> int:
        """Return where the first row ends that ends at `target` or after it."""
        is_inside = False
        if self._quote:
            data = self._read(window, start, target - start)
            target = start + len(data)
            is_inside = self.follow(data).is_inside if self._follows else data.count(self._quote) % 2 == 1
            last = data[-1:]
        else:
            last = window.read(target - 1, 1)  # perhaps the first byte of a line end that ends behind
        find = self.find_row_end if self._follows or not self._quote else self._count_to_row_end
        while target < window.size:
            data = last + self._read(window, target, _PIECE_BYTES)
            place = find(data, 1, is_inside=is_inside)
            target += place.position - 1
            if not place.is_inside and data[place.position - 1] in b"\r\n":
                break
            is_inside, last = place.is_inside, data[-1:]
        return target

    def _read(self, window: Window, start: int, n_bytes: int) -> bytes:
        """Return bytes of a file, a few more than asked for if the end is ambiguous.

        Doubled quotes and the two bytes of a line end must not be torn apart.
        """
        data = window.read(start, n_bytes)
        more = _MORE_BYTES
        while data[-1:] in (self._quote, b"\r") and start + len(data) < window.size:
            data += window.read(start + len(data), more)
            more *= 2
        return data

    def _count_to_row_end(self, data: bytes, position: int, *, is_inside: bool) -> Place:
        while True:
            if is_inside:
                position = data.find(self._quote, position) + 1
                if not position:
                    return Place(len(data), True)
            found = self._special.search(data, position)
            if found is None:
                return Place(len(data), False)
            position = found.end()
            is_inside = found.group() == self._quote
            if not is_inside:
                return Place(_after_line_end(data, found.start()), False)

    def _follow(self, data: bytes, position: int, is_inside: bool, *, to_row_end: bool) -> Place:
        well = self._row if to_row_end else self._fields
        while True:
            if is_inside:
                closing = self._closing.match(data, position)
                if closing is None:
                    return Place(len(data), True)
                is_inside = False
                position = self._rest_of_field.match(data, closing.end()).end()  # type: ignore[union-attr]
            position = well.match(data, position).end()  # type: ignore[union-attr]
            if to_row_end:
                if data[position : position + 1] != self._quote:
                    return Place(_after_line_end(data, position), False)
            else:
                position = data.find(self._quote, position)
                if position < 0:
                    return Place(len(data), False)
            if self._is_field_start(data, position):
                position += 1
                is_inside = True
            else:  # it stands in a field without quotes
                position = self._rest_of_field.match(data, position).end()  # type: ignore[union-attr]

    def _is_field_start(self, data: bytes, position: int) -> bool:
        return position == 0 or data[position - 1] in self._field_ends


def _after_line_end(data: bytes, position: int) -> int:
    r"""Return the place after the \n, \r or \r\n at a position, or the position if it is the end."""
    return position + (2 if data.startswith(b"\r\n", position) else 1 if position < len(data) else 0)
