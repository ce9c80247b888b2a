"""Csv: one item for each row of CSV files.

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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, islice
from typing import Any, BinaryIO, NamedTuple

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.paths import Paths, check_paths, find_files, flatten
from mmgevent.job.inputs.quotes import Quotes
from mmgevent.job.inputs.refs import HEAD_BYTES, Changed, DecodeError, Ref, Unreadable, identify, read_exactly
from mmgevent.job.inputs.source import Source, check_codec

#: Size of a split, bytes: some tenths of a second of work. One file feeds many executors.
CSV_SPLIT_BYTES = 4 * 1024 * 1024

#: Largest row that is surely read, bytes. A quote that never ends must not fill the memory.
MAX_ROW_BYTES = 16 * 1024 * 1024

#: Bytes of a row that an error shows.
SHOWN_BYTES = 60

#: Encodings in which some characters have several bytes, and no byte of these is below 128.
_SELF_SYNCHRONOUS = frozenset({"utf-8", "utf-8-sig", "ascii", "euc_jp", "euc_kr", "gb2312"})

Item = tuple[tuple[str, int], Any]


class Dialect(NamedTuple):
    """How the rows of a file are written, and what becomes of them."""

    delimiter: str
    #: None: quotes are text
    quotechar: str | None
    has_header: bool
    #: names of the columns; None: those of the header, or none
    columns: tuple[str, ...] | None
    #: whether quotes may stand inside of fields that are not quoted
    stray_quotes: bool

    def reader(self, lines: Iterable[str], *, strict: bool) -> Any:
        """Return a csv.reader."""
        if self.quotechar is None:
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quotechar, strict=strict)


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
        return self._read_end - self.start

    @property
    def _read_end(self) -> int:
        """Return where reading ends: where the split ends, unless its last row is too long."""
        return min(self.end, self.start + CSV_SPLIT_BYTES + MAX_ROW_BYTES)

    @property
    def _is_cut_off(self) -> bool:
        """Return whether the last row of this split, too long, is not read to its end."""
        return self._read_end < self.end

    def units(self) -> Iterator[Item]:
        head, data = self.head, self.content
        if self._is_cut_off and data is None:
            raise self._content_needed(Changed("its last row is too long for this split"))
        if head is None or data is None:
            try:
                head, data = self._read(at_driver=False)
            except (OSError, Changed) as error:
                raise self._content_needed(error) from error
        return self._items(head, data)

    def with_content(self) -> CsvRef:
        if self.content is not None and self.head is not None:
            return self
        try:
            head, data = self._read(at_driver=True)
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error
        return replace(self, head=head, content=data)

    def _read(self, *, at_driver: bool) -> tuple[bytes, bytes]:
        """Return the file up to its first row, and the bytes of this split."""
        if self.content is not None:  # the driver has read the whole file
            return self._head_of(self.content), self.content
        with open(self.location, "rb", buffering=0) as file:
            self._check_stat(file, at_driver=at_driver)
            head = read_exactly(file, min(HEAD_BYTES, self.size))
            self._check_head(head)
            head = self._head_of(head, file)
            file.seek(self.start)
            data = read_exactly(file, self._read_end - self.start)
            if at_driver:
                self._check_cut(file, data)
        return head, data

    def _head_of(self, data: bytes, file: BinaryIO | None = None) -> bytes:
        """Return the first bytes of the file: a byte order mark, the header, and empty lines before.

        Raise DatasourceError if the header has no end.
        """
        position = len(codecs.BOM_UTF8) if _has_bom(data, self.encoding) else 0
        if not self.dialect.has_header:
            return data[:position]
        quotes = quotes_of(self.dialect)
        is_all = file is None or len(data) == self.size
        while position < len(data):
            place = quotes.find_row_end(data, position)
            if place.is_inside or (place.position == len(data) and not is_all):
                break
            if data[position : place.position].strip(b"\r\n"):
                return data[: place.position]
            position = place.position
        if file is not None and not is_all and len(data) <= HEAD_BYTES:
            more = min(MAX_ROW_BYTES, self.size - len(data))
            return self._head_of(data + read_exactly(file, more), file)
        if position < len(data):
            raise DatasourceError(
                f"{self.path}: the header, which begins at byte {position}, has no end: {_shown(data, position)}; "
                f"close its quote, or pass quotechar=None if quotes are text"
            )
        return data

    def _names(self, head: bytes) -> tuple[str, ...] | None:
        """Return the names of the columns, or None if rows are tuples."""
        if self.dialect.columns is not None or not self.dialect.has_header:
            return self.dialect.columns
        bom_bytes = len(codecs.BOM_UTF8) if _has_bom(head, self.encoding) else 0
        text = self._decode(head[bom_bytes:], bom_bytes, "")
        rows = self.dialect.reader(io.StringIO(text, newline=""), strict=False)
        try:
            names = next((row for row in rows if row), [])
        except csv.Error as error:
            raise DatasourceError(f"{self.path}: {_too_long_a_field('the header', 0)}") from error
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise DatasourceError(
                f"{self.path}: the header names the column {twice!r} twice; pass columns=[...] with other names"
            )
        return tuple(names)

    def _items(self, head: bytes, data: bytes) -> Iterator[Item]:
        """Yield the items of this split, and raise ContentNeeded if it was cut wrongly."""
        names, path = self._names(head), self.path
        offset = self.start
        if offset < len(head):
            data, offset = data[len(head) - offset :], len(head)
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
                line, row = self._read_carefully(lines, starts, line, data)
                n_fields = len(row) if type(row) is list else width
                if type(row) is Unreadable:
                    value = row
                elif names is None:
                    value = tuple(row)
                elif n_fields == width:
                    value = dict(zip(names, row))  # noqa: B905 - equally many
                else:
                    value = self._wrong_width(n_fields, width, data, at, offset)
                yield (path, at), value

    def _lines(self, data: bytes, offset: int) -> tuple[list[str], list[int], dict[int, Unreadable]]:
        r"""Return lines with their line ends (\n, \r or \r\n), and where they begin in the file.

        The last of the beginnings is the end of all. Also return {index of a line: what is wrong
        with it} for lines that cannot be decoded.
        """
        encoding = "utf-8" if self.encoding.lower().replace("_", "-") == "utf-8-sig" else self.encoding
        broken: dict[int, Unreadable] = {}
        if data.isascii() and codecs.lookup(encoding).name in ("utf-8", "ascii", "iso8859-1", "cp1252"):
            lines = list(io.StringIO(data.decode("ascii"), newline=""))
            return lines, list(accumulate(map(len, lines), initial=offset)), broken
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
        self, lines: list[str], starts: list[int], line: int, data: bytes
    ) -> tuple[int, list[str] | Unreadable]:
        """Return the line after a row that strict rules refuse, and the row."""
        offset = starts[0]
        at = starts[line]
        place = quotes_of(self.dialect).find_row_end(data, at - offset)
        if place.is_inside:
            return len(lines), self._without_end(data, at, offset)
        after = bisect_left(starts, offset + place.position)
        try:
            (row,) = self.dialect.reader(lines[line:after], strict=False)
        except csv.Error:
            text = f"{_too_long_a_field('the row', at)}; it begins {_shown(data, at - offset)}"
            return after, Unreadable(DatasourceError(f"{self.path}: {text}"))
        return after, row

    def _wrong_width(self, n_fields: int, width: int, data: bytes, at: int, offset: int) -> Unreadable:
        source = "columns=[...]" if self.dialect.columns is not None else "the header"
        return Unreadable(
            DatasourceError(
                f"{self.path}: the row at byte {at} has {n_fields} fields, and {source} {width}; it begins "
                f"{_shown(data, at - offset)}; mend it, or set max_skipped to set it aside"
            )
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
                f"{self.path}: in the row at byte {at}, the quote at byte {at + quote} does not end before {read}; the "
                f"row begins {_shown(data, at - offset)}; close the quote, or pass quotechar=None if quotes are text"
            )
        )

    def _check_cut(self, file: BinaryIO, data: bytes) -> None:
        """Raise DatasourceError if this split does not end where a row does; for the driver."""
        quotes = quotes_of(self.dialect)
        if not self._is_cut_off:
            is_right = self.end == self.size or not quotes.follow(data).is_inside
        else:
            target = self.start + CSV_SPLIT_BYTES
            is_right = quotes.find_cut(file, self.start, target, self.size) == self.end
        if not is_right:
            stray = self.start + quotes.find_stray_quote(data)
            raise DatasourceError(
                f"{self.path}: the quote at byte {stray} neither begins nor ends a field, or never ends, so the file was "
                f"cut in the wrong places: {_shown(data, max(0, stray - self.start - SHOWN_BYTES // 2))}; pass "
                f"stray_quotes=True, or quotechar=None if quotes are text"
            )


class Csv(Source):
    """One item `((path, byte offset), row)` for each row of CSV files.

    A row is a dict `{column: text}` with the names of the header, which each file has. With
    `header=False` it is a tuple of texts. `columns` names the columns of files without a header, or
    replaces the names of the header. Paths are those of `Files`.

    Rows are those of `csv.reader`: fields in quotes may contain delimiters, line ends and doubled
    quotes; empty lines are no rows. `delimiter` and `quotechar` are one ASCII character each.
    `quotechar=None` means that quotes are text. A byte order mark of UTF-8 is ignored.

    Files are read in splits of CSV_SPLIT_BYTES. The driver counts quotes in large files to cut them
    between rows. If quotes also stand inside of fields that are not quoted, as in `5" pipe`, a wrong
    cut is possible. It is found, and ends the job. With `stray_quotes=True` the driver follows quotes
    as `csv.reader` does, which takes longer.

    A row that cannot be read is a failed item, which `max_skipped` sets aside: one with another
    number of fields than there are columns, with bytes that are not `encoding`, with a quote that
    does not end, or with a field over `csv.field_size_limit()`. A row of more than MAX_ROW_BYTES may
    fail, too. DatasourceError names path and offset.
    """

    def __init__(
        self,
        *paths: Paths,
        header: bool = True,
        columns: Iterable[str] | None = None,
        delimiter: str = ",",
        quotechar: str | None = '"',
        stray_quotes: bool = False,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        self.paths = flatten(paths)
        self.header = header
        self.columns = columns if columns is None or isinstance(columns, str) else tuple(columns)
        self.delimiter = delimiter
        self.quotechar = quotechar
        self.stray_quotes = stray_quotes
        self.encoding = encoding
        self.errors = errors

    def refs(self) -> Iterator[CsvRef]:
        columns: Any = self.columns
        dialect = Dialect(self.delimiter, self.quotechar, bool(self.header), columns, bool(self.stray_quotes))
        for path in find_files(self.paths):
            identity, content = identify(path)
            whole = CsvRef(path, *identity, self.encoding, self.errors, dialect, end=identity.size)
            if content is not None:  # it has been read: one split, whatever its length
                yield replace(whole, content=content).with_content()
            else:
                yield from _splits(whole)

    def check(self) -> None:
        check_codec(self.encoding, self.errors)
        self._check_columns()
        special = {"delimiter": self.delimiter}
        if self.quotechar is not None:
            special["quotechar"] = self.quotechar
        for name, value in special.items():
            if not isinstance(value, str) or len(value) != 1 or not value.isascii() or value in "\r\n":
                raise DatasourceError(
                    f"{name}={value!r}: it is one ASCII character, and no line end; write other files anew, or read "
                    f"them with Files and split them in mapfn"
                )
        if self.delimiter == self.quotechar:
            raise DatasourceError(f"delimiter and quotechar are both {self.delimiter!r}; they must differ")
        for name, value in {**special, "a line end": "\n"}.items():
            if not _is_one_byte(value, self.encoding):
                raise DatasourceError(
                    f"Csv cannot cut {self.encoding}, where the byte of {name} may be part of other characters; use "
                    f"Files(..., encoding={self.encoding!r}) and csv.reader(io.StringIO(text, newline='')) in mapfn"
                )
        check_paths(self.paths)

    def _check_columns(self) -> None:
        columns = self.columns
        if columns is None:
            return
        if isinstance(columns, str) or not columns or not all(isinstance(name, str) for name in columns):
            raise DatasourceError(f"columns={columns!r}: it is a list of names, one for each column")
        if len(set(columns)) < len(columns):
            raise DatasourceError(f"columns={list(columns)!r}: a name occurs twice; each column has its own")

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Csv  # subclasses may give other items

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.paths))})"


def _splits(whole: CsvRef) -> Iterator[CsvRef]:
    """Yield the splits of a file, which is read as they are asked for."""
    dialect = whole.dialect
    quotes = _make_quotes(dialect.delimiter, dialect.quotechar, follows=dialect.stray_quotes)
    try:
        with open(whole.location, "rb", buffering=0) as file:
            for start, end in quotes.cut(file, whole.size, CSV_SPLIT_BYTES):
                yield replace(whole, start=start, end=end)
    except (OSError, Changed) as error:
        raise whole._content_lost(error) from error


def quotes_of(dialect: Dialect) -> Quotes:
    """Return what follows the quotes of a dialect."""
    return _make_quotes(dialect.delimiter, dialect.quotechar, follows=True)


@cache
def _make_quotes(delimiter: str, quotechar: str | None, *, follows: bool) -> Quotes:
    return Quotes(delimiter, quotechar, follows=follows)


def _has_bom(data: bytes, encoding: str) -> bool:
    return data.startswith(codecs.BOM_UTF8) and codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _is_one_byte(character: str, encoding: str) -> bool:
    """Return whether a character is its ASCII byte, and this byte is part of no other character."""
    name = codecs.lookup(encoding).name
    try:
        if name != "utf-8-sig" and character.encode(encoding) != character.encode("ascii"):
            return False
    except UnicodeEncodeError:
        return False
    if name in _SELF_SYNCHRONOUS:
        return True
    try:  # every byte is a character, or none
        return len(bytes(range(256)).decode(encoding, "replace")) == 256
    except (UnicodeError, LookupError):
        return False


def _shown(data: bytes, position: int) -> str:
    """Return the start of a row, for an error."""
    part = data[position : position + SHOWN_BYTES].decode("utf-8", "replace")
    return repr(part) + ("..." if len(data) > position + SHOWN_BYTES else "")


def _too_long_a_field(what: str, at: int) -> str:
    return (
        f"a field of {what} at byte {at} has more than csv.field_size_limit() = {csv.field_size_limit():,} characters; "
        f"raise that in your program, before the job"
    )
