"""Cut the bytes of a file into records with their places: the specification of `_units.h`.

A *unit* is ((path, offset), record): what a ref gives. These functions return iterators of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Unit = tuple[tuple[str, int], Any]


def lines_of(
    path: str,
    offset: int,
    data: bytes,
    ignored: int,
    encoding: str,
    errors: str,
    is_like_ascii: bool,
    broken: Callable[[bytes, int], Any],
    /,
) -> Iterator[Unit]:
    r"""Yield the lines of bytes that begin at an offset, without their line ends \n or \r\n.

    ignored: bytes at the start that belong to the first line and are not given.
    is_like_ascii: whether the bytes of ASCII are its characters in this encoding.
    broken: called as `broken(line, offset)` for a line that is not `encoding`; it returns the record.
    """
    if is_like_ascii and not ignored and data.isascii() and b"\r" not in data:
        # One decode instead of one for each line takes half the time.
        for text in data.decode("ascii").removesuffix("\n").split("\n") if data else ():
            yield (path, offset), text
            offset += len(text) + 1
        return
    lines = data[ignored:].split(b"\n")
    del data
    if not lines[-1]:
        lines.pop()
    for line in lines:
        n_bytes = len(line) + 1 + ignored
        ignored = 0
        if line.endswith(b"\r"):
            line = line[:-1]
        try:
            value: Any = line.decode(encoding, errors)
        except UnicodeDecodeError:
            value = broken(line, offset)
        yield (path, offset), value
        offset += n_bytes


def pieces_of(path: str, offset: int, data: bytes, n_bytes: int, /) -> Iterator[Unit]:
    """Yield all pieces of `n_bytes` that are whole."""
    for place in range(0, len(data) - n_bytes + 1, n_bytes):
        yield (path, offset + place), data[place : place + n_bytes]


def placed(path: str, offset: int, records: Iterable[Any], between: int, /) -> Iterator[Unit]:
    """Yield records that follow one another, with so many bytes after each."""
    for record in records:
        yield (path, offset), record
        offset += len(record) + between


def values_of(
    lines: Iterable[Unit], scan: Callable[[str, int], tuple[Any, int]], parse: Callable[[Any, Any], Any], /
) -> Iterator[Unit]:
    """Yield the values of JSON in lines.

    scan: as `json.JSONDecoder().scan_once`. If it does not read all of a line, or raises one of
        UNSCANNED, or if the line is no str, `parse(key, line)` returns the value; None for no unit.
    """
    for key, line in lines:
        if type(line) is str:
            try:
                value, end = scan(line, 0)
                if end == len(line):
                    yield key, value
                    continue
            except UNSCANNED:
                pass
        unit = parse(key, line)
        if unit is not None:
            yield unit


#: What a scanner raises for a line that is not JSON, or that it cannot read.
UNSCANNED = (StopIteration, ValueError, RecursionError, TypeError)


class CsvRows:
    r"""Iterates once over the rows of CSV in bytes. Their lines end with \n, \r or \r\n.

    It ends where `make_reader`'s iterator, or decoding, raises one of `unreadable`.
    """

    def __init__(
        self,
        path: str,
        offset: int,
        data: bytes,
        encoding: str,
        errors: str,
        is_like_ascii: bool,
        make_reader: Callable[[Iterator[str]], Iterator[list[str]]],
        delimiter: str,
        quotechar: str | None,
        field_limit: int,
        names: tuple[str, ...] | None,
        wrong_width: Callable[[int, int], Any],
        unreadable: tuple[type[BaseException], ...],
        /,
    ):
        """make_reader: returns an iterator of rows, which reads no line before it needs it.

        delimiter, quotechar, field_limit: those of the reader. C itself splits a line of no more
            characters than that limit without a quote in it.
        names: of the columns, so that a row is a dict; or None, and it is a tuple.
        wrong_width: called as `wrong_width(number of fields, offset)` for a row of another number of
            fields than there are names; it returns the record.
        """
        self._path = path
        self._offset = offset
        self._names = names
        self._wrong_width = wrong_width
        self._unreadable = unreadable
        self._place = 0
        self._tell: Callable[[], int] | None = None
        if is_like_ascii and data.isascii():
            # Places in the text are those in the file, so nobody has to add up lengths of lines.
            text = io.StringIO(data.decode("ascii"), newline="")
            self._tell = text.tell
            self._rows = make_reader(text)
        else:
            self._rows = make_reader(self._lines(data, encoding, errors))
        #: where the row begins that comes next
        self.at = offset
        #: whether it was that which could not be read
        self.has_failed = False

    def __iter__(self) -> Iterator[Unit]:
        path, offset, names, tell = self._path, self._offset, self._names, self._tell
        width = -1 if names is None else len(names)
        at = offset
        try:
            for row in self._rows:
                if not row:
                    pass
                elif len(row) == width:
                    yield (path, at), dict(zip(names, row))  # type: ignore[arg-type] # noqa: B905 - equally many
                elif names is None:
                    yield (path, at), tuple(row)
                else:
                    yield (path, at), self._wrong_width(len(row), at)
                at = self.at = offset + (self._place if tell is None else tell())
        except self._unreadable:
            self.has_failed = True

    def _lines(self, data: bytes, encoding: str, errors: str) -> Iterator[str]:
        for line in data.splitlines(keepends=True):
            self._place += len(line)
            yield str(line, encoding, errors)
