"""Rows of CSV: what an executor reads of a split of a file.

The driver cuts files where rows end (`quotes`). An executor reads a split and gives its rows to
`csv.reader`. What that cannot take is looked at row by row.

An executor that finds a wrong cut raises ContentNeeded. The driver then looks at the cut itself,
and ends the job with an error: no `max_skipped` can set aside rows that nobody can tell apart.
"""

from __future__ import annotations

import codecs
import csv
import io
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain, islice
from typing import Any

from mmgevent._speedups import CsvRows
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.dialects import (
    SHOWN_BYTES,
    Dialect,
    has_bom,
    make_quotes,
    quotes_of,
    shown_bytes,
    too_long_a_field,
)
from mmgevent.job.inputs.pieces import row_blocks
from mmgevent.job.inputs.refs import HEAD_BYTES, DecodeError, Ref, Unreadable, bounded
from mmgevent.job.inputs.window import Changed, Window

#: Size of a split, bytes: some tenths of a second of work. One file feeds many executors.
CSV_SPLIT_BYTES = 4 * 1024 * 1024

#: Largest row that is surely read, bytes. A quote that never ends must not fill the memory.
MAX_ROW_BYTES = 16 * 1024 * 1024

Item = tuple[tuple[str, int], Any]


@dataclass(frozen=True, slots=True)
class CsvRef(Ref):
    """A split of a file: items `((path, byte offset), row)`."""

    dialect: Dialect
    start: int = 0
    end: int = 0
    #: the file up to its first row; None while it is in the file
    head: bytes | None = None
    #: the bytes of this split; None while they are in the file
    content: bytes | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.start

    @property
    def weight(self) -> int:
        return bounded(self._read_end - self.start)

    @property
    def is_in_pieces(self) -> bool:
        """Return whether it is one split, which is read from its start, block by block."""
        return self.is_decompressed or self.is_whole

    @property
    def _read_end(self) -> int:
        """Return where reading ends: where the split ends, unless its last row is too long."""
        if self.is_in_pieces:
            return self.end
        return min(self.end, self.start + CSV_SPLIT_BYTES + MAX_ROW_BYTES)

    @property
    def _is_cut_off(self) -> bool:
        """Return whether the last row of this split, too long, is not read to its end."""
        return self._read_end < self.end

    def units(self) -> Iterator[Item]:
        if self.is_in_pieces:
            return chain.from_iterable(self._units_of_content())
        if self._is_cut_off and self.content is None:
            raise self._content_needed(Changed("its last row is too long for this split"))
        head, data = self.head, self.content
        if head is None or data is None:
            try:
                head, data = self._read(at_driver=False)
            except (OSError, Changed) as error:
                raise self._content_needed(error) from error
        offset = max(self.start, len(head))
        rows = self._rows(self._names(head), data[offset - self.start :], offset, is_last=True)
        return chain.from_iterable(rows)

    def with_content(self) -> CsvRef:
        if self.content is not None and (self.head is not None or self.is_in_pieces):
            return self
        try:
            if self.is_in_pieces:
                content = self._read_all()
                return replace(self, content=content, size=len(content), end=len(content))
            head, data = self._read(at_driver=True)
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error
        return replace(self, head=head, content=data)

    def _read(self, *, at_driver: bool) -> tuple[bytes, bytes]:
        """Return the file up to its first row, and the bytes of this split."""
        if self.content is not None:  # the driver has read the whole file
            return self._head_of(self.content, is_all=True), self.content
        with self._open(at_driver=at_driver) as window:
            head = window.read(0, HEAD_BYTES)
            if self._ends_inside_header(head) and self.size > len(head):
                head = window.read(0, MAX_ROW_BYTES)
            head = self._head_of(head, is_all=len(head) == self.size)
            data = window.read(self.start, self._read_end - self.start)
            if at_driver:
                self._check_cut(window, data)
        return head, data

    def _units_of_content(self) -> Iterator[Iterable[Item]]:
        """Yield iterators of the items of a file that is one split, block by block."""
        from mmgevent.job.inputs.members import content_of

        names: tuple[str, ...] | None = None
        offset, rest, has_head = 0, b"", False
        try:
            window = (
                self._open(at_driver=False) if self.content is None else Window(self.size, None, self.content)
            )
            with window:
                pieces = content_of(window, self.path, self.kind if self.is_decompressed else "")
                for data, is_last in row_blocks(pieces, CSV_SPLIT_BYTES, MAX_ROW_BYTES):
                    if not is_last and data[-1] not in b"\r\n":
                        raise self._endless_row(offset + len(rest), data)
                    data = rest + data
                    if not has_head:
                        head = self._head_of(data, is_all=is_last)
                        names, has_head = self._names(head), True
                        data, offset = data[len(head) :], len(head)
                    after = yield from self._rows(names, data, offset, is_last=is_last)
                    rest, offset = data[after - offset :], after
                    if len(rest) > MAX_ROW_BYTES:
                        raise self._endless_row(offset, rest)
        except (OSError, Changed) as error:
            raise self._content_needed(error) from error

    def _ends_inside_header(self, data: bytes) -> bool:
        return self.dialect.has_header and self._find_header(data)[1] == len(data)

    def _find_header(self, data: bytes) -> tuple[int, int]:
        """Return where the header begins, and its end; the end of all if it is not whole there."""
        start = len(codecs.BOM_UTF8) if has_bom(data, self.encoding) else 0
        while start < len(data):
            place = quotes_of(self.dialect).find_row_end(data, start)
            if place.is_inside:
                return start, len(data)
            if data[start : place.position].strip(b"\r\n"):
                return start, place.position
            start = place.position
        return start, len(data)

    def _head_of(self, data: bytes, *, is_all: bool) -> bytes:
        """Return the first bytes of the file: a byte order mark, the header, and empty lines before.

        data: the file, or the start of it. Raise DatasourceError if the header has no end in it.
        """
        if not self.dialect.has_header:
            return codecs.BOM_UTF8 if has_bom(data, self.encoding) else b""
        start, end = self._find_header(data)
        is_open = quotes_of(self.dialect).find_row_end(data, start).is_inside
        if end == len(data) and (is_open or not is_all):
            raise DatasourceError(
                f"{self.path}: the header, which begins at {self._place_of(start, 0)}, has no end: {shown_bytes(data, start)}; "
                f"close its quote, or pass quotechar=None if quotes are text"
            )
        return data[:end]

    def _names(self, head: bytes) -> tuple[str, ...] | None:
        """Return the names of the columns, or None if rows are tuples."""
        if self.dialect.columns is not None or not self.dialect.has_header:
            return self.dialect.columns
        bom_bytes = len(codecs.BOM_UTF8) if has_bom(head, self.encoding) else 0
        text = self._decode(head[bom_bytes:], bom_bytes, "")
        rows = self.dialect.reader(io.StringIO(text, newline=""), strict=False)
        try:
            names: list[str] = next((row for row in rows if row), [])
        except csv.Error as error:
            raise DatasourceError(too_long_a_field(f"{self.path}: the header")) from error
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DatasourceError(
                f"{self.path}: the header names the column {twice!r} twice; pass columns=[...] with other names"
            )
        return tuple(names)

    def _rows(
        self, names: tuple[str, ...] | None, data: bytes, offset: int, *, is_last: bool
    ) -> Generator[Iterable[Item], None, int]:
        """Yield iterators of the items of bytes that begin with a row.

        Return where the first row begins that is not whole, or the end. Raise ContentNeeded if the
        split was cut wrongly.

        is_last: whether all rows must be whole.
        """
        at = offset
        if not self._is_cut_off:
            rows = CsvRows(
                self.path,
                offset,
                data,
                self._plain_encoding,
                self.errors,
                self._is_like_ascii(),
                partial(self.dialect.reader, strict=True),
                self.dialect.delimiter,
                self.dialect.quotechar,
                csv.field_size_limit(),
                names,
                lambda n_fields, at: self._wrong_width(n_fields, len(names or ()), data, at, offset),
                (csv.Error, UnicodeDecodeError),
            )
            yield rows
            if not rows.has_failed:
                return rows.at
            at = rows.at
        ends: list[int] = []
        yield self._rows_by_line(names, data[at - offset :], at, ends, is_last=is_last)
        return ends[0]

    @property
    def _plain_encoding(self) -> str:
        """Return the encoding of what comes after a byte order mark."""
        return "utf-8" if self.encoding.lower().replace("_", "-") == "utf-8-sig" else self.encoding

    def _is_like_ascii(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii", "iso8859-1", "cp1252")

    def _rows_by_line(
        self, names: tuple[str, ...] | None, data: bytes, offset: int, ends: list[int], *, is_last: bool
    ) -> Iterator[Item]:
        """Yield the items of bytes, whatever is in them. Append what `_rows` returns to `ends`."""
        path = self.path
        lines, starts, broken = self._lines(data, offset)
        line, n_lines = 0, len(lines)
        if self._is_cut_off and lines:
            broken[n_lines - 1] = self._too_long()
        width = -1 if names is None else len(names)
        while line < n_lines:
            base, at = line, starts[line]
            reader = self.dialect.reader(islice(lines, base, None), strict=True)
            value: Any
            try:
                for row in reader:
                    n_fields = len(row)
                    if n_fields == width:
                        value = dict(zip(names, row))  # type: ignore[arg-type] # noqa: B905 - equally many
                    elif names is None or not n_fields:
                        value = tuple(row)
                    else:
                        value = self._wrong_width(n_fields, width, data, at, offset)
                    last, line = line, base + reader.line_num
                    if broken and not broken.keys().isdisjoint(range(last, line)):
                        value = next(broken[number] for number in range(last, line) if number in broken)
                    if n_fields:
                        yield (path, at), value
                    at = starts[line]
            except csv.Error:
                after, found = self._read_carefully(lines, starts, line, data, is_last=is_last)
                if found is None:
                    ends.append(at)
                    return
                if isinstance(found, Unreadable):
                    value = found
                elif names is None:
                    value = tuple(found)
                elif len(found) == width:
                    value = dict(zip(names, found))  # noqa: B905 - equally many
                else:
                    value = self._wrong_width(len(found), width, data, at, offset)
                value = next((broken[number] for number in range(line, after) if number in broken), value)
                line = after
                yield (path, at), value
        ends.append(starts[-1])

    def _lines(self, data: bytes, offset: int) -> tuple[list[str], list[int], dict[int, Unreadable]]:
        r"""Return lines with their line ends (\n, \r or \r\n), and where they begin in the file.

        The last of the beginnings is the end of all. Also return {index of a line: what is wrong
        with it} for lines that cannot be decoded.
        """
        encoding = self._plain_encoding
        broken: dict[int, Unreadable] = {}
        raw = data.splitlines(keepends=True)
        starts = list(accumulate(map(len, raw), initial=offset))
        try:
            return [str(line, encoding, self.errors) for line in raw], starts, broken
        except UnicodeDecodeError:
            lines = []
        for index, line in enumerate(raw):
            try:
                lines.append(self._decode(line, starts[index], ""))
            except DecodeError as error:
                broken[index] = Unreadable(error)
                lines.append(line.decode(encoding, "replace"))
        return lines, starts, broken

    def _read_carefully(
        self, lines: list[str], starts: list[int], line: int, data: bytes, *, is_last: bool
    ) -> tuple[int, list[str] | Unreadable | None]:
        """Return the line after a row that strict rules refuse, and the row; None if it is not whole."""
        offset = starts[0]
        at = starts[line]
        place = quotes_of(self.dialect).find_row_end(data, at - offset)
        if place.is_inside:
            return len(lines), self._without_end(data, at, offset) if is_last else None
        after = bisect_left(starts, offset + place.position)
        try:
            (row,) = self.dialect.reader(lines[line:after], strict=False)
        except csv.Error:
            text = f"{too_long_a_field(self._row_at(at))}; it begins {shown_bytes(data, at - offset)}"
            return after, Unreadable(DatasourceError(text))
        return after, row

    def _row_at(self, offset: int) -> str:
        """Return what errors call a row."""
        return f"{self.path}: the row at {self._place_of(offset, 0)}"

    def _wrong_width(self, n_fields: int, width: int, data: bytes, at: int, offset: int) -> Unreadable:
        source = "columns=[...]" if self.dialect.columns is not None else "the header"
        return Unreadable(
            DatasourceError(
                f"{self._row_at(at)} has {n_fields} fields, and {source} {width}; it begins "
                f"{shown_bytes(data, at - offset)}; mend it, or set max_skipped to set it aside"
            )
        )

    def _endless_row(self, offset: int, data: bytes) -> DatasourceError:
        return DatasourceError(
            f"{self._row_at(offset)} has more than {MAX_ROW_BYTES:,} bytes; it begins {shown_bytes(data, 0)}"
        )

    def _too_long(self) -> Unreadable:
        return Unreadable(
            DatasourceError(
                f"{self.path}: the row has more than {MAX_ROW_BYTES:,} bytes: it was read up to byte {self._read_end}, and "
                f"ends at byte {self.end}"
            )
        )

    def _without_end(self, data: bytes, at: int, offset: int) -> Unreadable:
        """Return what is wrong with a row whose quote does not end in this split.

        Raise ContentNeeded if the split may have been cut wrongly.
        """
        if self.content is None and self.end < self.size:
            raise self._content_needed(Changed("the row that ends it has an open quote"))
        quote = quotes_of(self.dialect).find_open_quote(data[at - offset :])
        read = "the end of the file" if self._read_end == self.size else f"byte {self._read_end}"
        return Unreadable(
            DatasourceError(
                f"{self._row_at(at)} has no end: its quote at byte {at + quote} does not end before {read}; it begins "
                f"{shown_bytes(data, at - offset)}; close the quote, or pass quotechar=None if quotes are text"
            )
        )

    def _check_cut(self, window: Window, data: bytes) -> None:
        """Raise DatasourceError if this split does not end where a row does; for the driver."""
        quotes = quotes_of(self.dialect)
        if not self._is_cut_off:
            is_right = self.end == self.size or not quotes.follow(data).is_inside
        else:
            target = self.start + CSV_SPLIT_BYTES
            is_right = quotes.find_cut(window, self.start, target) == self.end
        if not is_right:
            stray = self.start + quotes.find_stray_quote(data)
            raise DatasourceError(
                f"{self.path}: the quote at byte {stray} neither begins nor ends a field, or never ends, so the file was "
                f"cut in the wrong places: {shown_bytes(data, max(0, stray - self.start - SHOWN_BYTES // 2))}; pass "
                f"stray_quotes=True, or quotechar=None if quotes are text"
            )


def cut_rows(whole: CsvRef) -> Iterator[CsvRef]:
    """Yield the splits of a file, which is read as they are asked for."""
    if whole.size <= CSV_SPLIT_BYTES:
        yield whole
        return
    dialect = whole.dialect
    quotes = make_quotes(dialect.delimiter, dialect.quotechar, follows=dialect.stray_quotes)
    try:
        with whole._open(at_driver=True) as window:
            for start, end in quotes.cut(window, CSV_SPLIT_BYTES):
                yield replace(whole, start=start, end=end)
    except (OSError, Changed) as error:
        raise whole._content_lost(error) from error
