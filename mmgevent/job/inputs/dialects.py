"""How rows of CSV are written, and what errors say about them."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from mmgevent.job.inputs.quotes import Quotes

#: Bytes of a row that an error shows.
SHOWN_BYTES = 60


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


def quotes_of(dialect: Dialect) -> Quotes:
    """Return what follows the quotes of a dialect."""
    return make_quotes(dialect.delimiter, dialect.quotechar, follows=True)


@cache
def make_quotes(delimiter: str, quotechar: str | None, *, follows: bool) -> Quotes:
    return Quotes(delimiter, quotechar, follows=follows)


def has_bom(data: bytes, encoding: str) -> bool:
    return data.startswith(codecs.BOM_UTF8) and codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def shown_bytes(data: bytes, position: int) -> str:
    """Return the start of a row, for an error."""
    part = data[position : position + SHOWN_BYTES].decode("utf-8", "replace")
    return repr(part) + ("..." if len(data) > position + SHOWN_BYTES else "")


def too_long_a_field(what: str) -> str:
    return (
        f"{what} has a field of more than csv.field_size_limit() = {csv.field_size_limit():,} characters; "
        f"raise that in your program, before the job"
    )
