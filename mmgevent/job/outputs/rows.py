"""Turn records into rows of columns: tuples become several fields, anything else is one field.

A row has the fields of the key, then those of the value. All rows of one output have the same
number of fields. A record that has another number is an OutputError, which names its key.

csv is RFC 4180 with `\\n` as the line end. A str stands as it is, and is quoted if it must be. None
is an empty field, and the empty str is `""`. Everything else is written as in tsv.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.formats import as_text, short
from mmgevent.job.outputs.receipts import RowShape

#: Most columns: more are a mistake, and an error could not show them.
MAX_COLUMNS = 10_000

#: What makes a field need quotes. Readers drop blanks around a field that has none.
_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$|^$')


def check_columns(columns: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of columns from a list of them, or from text with commas between them.

    Raise OutputError for names that are empty or equal.
    """
    names = columns.split(",") if isinstance(columns, str) else list(columns)
    if not names:
        raise OutputError("expected names of columns, such as word,count; got none: leave them away")
    if not all(isinstance(name, str) for name in names):
        raise OutputError(f"expected names of columns, such as word,count; got {short(names)}")
    names = [name.strip() for name in names]
    if not all(names):
        raise OutputError(f"a name of a column is empty in {short(','.join(names))}; expected word,count")
    if len(names) > MAX_COLUMNS:
        raise OutputError(f"{len(names)} columns are too many: there may be {MAX_COLUMNS}")
    if len(set(names)) < len(names):
        double = max(names, key=names.count)
        raise OutputError(f"two columns have the name {short(double)}; give each a name of its own")
    return tuple(names)


class Rows:
    """Makes the rows of one output, which may have several files."""

    def __init__(self, columns: tuple[str, ...] | None = None):
        #: names of the columns; None if the user gave none
        self.columns = columns
        self._width = None if columns is None else len(columns)
        self._first: Any = None

    def row(self, key: Any, value: Any) -> list[Any]:
        """Return the fields of a record. Raise OutputError if it does not fit."""
        fields = [*_parts(key), *_parts(value)]
        if len(fields) != self._width:
            if self._width is not None or not fields:
                raise self._misfit(key, value, len(fields))
            self._width, self._first = len(fields), key
        return fields

    def default_columns(self, key: Any, value: Any) -> tuple[str, ...]:
        """Return names for the columns of a record like this one: key, value_0, value_1."""
        names: list[str] = []
        for name, thing in (("key", key), ("value", value)):
            if isinstance(thing, tuple):
                fields = getattr(type(thing), "_fields", None) or range(len(thing))
                names += [f"{name}_{field}" for field in fields]
            else:
                names.append(name)
        return tuple(names)

    @property
    def shape(self) -> RowShape | None:
        """Return what all rows have in common, None before the first one."""
        if self._width is None or self.columns is not None:
            return None
        return RowShape(self._width, short(self._first))

    def check_shape(self, shape: RowShape) -> None:
        """Note the shape of rows that were written elsewhere. Raise OutputError if ours have another."""
        if self._width is None:
            self._width, self._first = shape.width, _ShownKey(shape.first)
        elif self.columns is None and shape.width != self._width:
            raise OutputError(
                f"the record of {shape.first} has {_columns(shape.width)}, but the first record, of "
                f"{short(self._first)}, has {self._width}; make them equal in finishfn, or write jsonl"
            )

    def _misfit(self, key: Any, value: Any, count: int) -> OutputError:
        has = f"the record of {short(key)} has {_columns(count)} ({len(_parts(key))} of the key, {len(_parts(value))} of the value)"
        if self._width is None:
            return OutputError(f"{has}: there is nothing to write in a row")
        if self.columns is None:
            return OutputError(
                f"{has}, but the first record, of {short(self._first)}, has {self._width}; make them equal in "
                f"finishfn, or write jsonl"
            )
        return OutputError(
            f"{has}, but there are names for {self._width}: {short(','.join(self.columns))}; "
            f"name them all, or change the record in finishfn"
        )


class _ShownKey(str):
    """Text that stands for a key in errors."""

    def __repr__(self) -> str:
        return str(self)


class RowEncoder:
    """Encodes records as rows that all have as many columns."""

    def __init__(self, rows: Rows):
        self._rows = rows

    @property
    def shape(self) -> RowShape | None:
        """See `Rows.shape`."""
        return self._rows.shape

    def check_shape(self, shape: RowShape) -> None:
        """See `Rows.check_shape`."""
        self._rows.check_shape(shape)


class CsvEncoder(RowEncoder):
    """Encodes records as lines of csv."""

    def __init__(self, rows: Rows):
        super().__init__(rows)
        #: the line of names, or nothing if the user gave none
        self.header = b"" if rows.columns is None else _line(map(_quoted, rows.columns))

    def __call__(self, key: Any, value: Any) -> bytes:
        fields = self._rows.row(key, value)
        try:
            return _line([_field(field) for field in fields])
        except Exception as error:
            raise OutputError(f"cannot write the record of {short(key)}: {error!r}") from error


def _line(fields: Iterable[str]) -> bytes:
    line = ",".join(fields) or '""'  # readers skip empty lines
    return (line + "\n").encode("utf-8", "backslashreplace")


def _field(value: Any) -> str:
    if value is None:
        return ""
    return _quoted(value if type(value) is str else as_text(value))


def _quoted(text: str) -> str:
    if _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _parts(thing: Any) -> tuple[Any, ...]:
    return thing if isinstance(thing, tuple) else (thing,)


def _columns(count: int) -> str:
    return f"{count} column{'' if count == 1 else 's'}"
