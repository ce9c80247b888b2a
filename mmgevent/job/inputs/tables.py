"""Csv: one item for each row of CSV files."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.dialects import Dialect
from mmgevent.job.inputs.paths import Paths
from mmgevent.job.inputs.rows import CsvRef, cut_rows
from mmgevent.job.inputs.source import FileSource, check_codec

#: Encodings in which some characters have several bytes, and no byte of these is below 128.
_SELF_SYNCHRONOUS = frozenset({"utf-8", "utf-8-sig", "ascii", "euc_jp", "euc_kr", "gb2312"})

#: Starts of names of encodings in which the meaning of a byte depends on bytes before it.
_STATEFUL = ("iso2022", "hz", "utf-7")


class Csv(FileSource):
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
        compression: str | None = "infer",
    ) -> None:
        super().__init__(paths, encoding, errors, compression)
        self.header = header
        self.columns = columns if columns is None or isinstance(columns, str) else tuple(columns)
        self.delimiter = delimiter
        self.quotechar = quotechar
        self.stray_quotes = stray_quotes

    def refs(self) -> Iterator[CsvRef]:
        columns: Any = self.columns
        dialect = Dialect(self.delimiter, self.quotechar, bool(self.header), columns, bool(self.stray_quotes))
        for found in self.find():
            whole = CsvRef(
                found.path,
                *found.identity,
                self.encoding,
                self.errors,
                dialect,
                end=found.identity.size,
                raw=found.raw,
                content=found.content,
                is_whole=found.is_whole,
            )
            if whole.is_in_pieces or found.content is not None:
                yield whole
            else:
                yield from cut_rows(whole)

    def check(self) -> None:
        self._check_columns()
        self.refuse_streams()
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
        check_codec(self.encoding, self.errors)
        for name, value in {**special, "a line end": "\n"}.items():
            if not _is_one_byte(value, self.encoding):
                raise DatasourceError(
                    f"Csv cannot cut {self.encoding}, where the byte of {name} may be part of other characters; use "
                    f"Files(..., encoding={self.encoding!r}) and csv.reader(io.StringIO(text, newline='')) in mapfn"
                )
        self.check_input()

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
    if name.startswith(_STATEFUL):
        return False
    try:  # every byte is a character, or none
        return len(bytes(range(256)).decode(encoding, "replace")) == 256
    except (UnicodeError, LookupError):
        return False
