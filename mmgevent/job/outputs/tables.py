"""Make a table of pandas, polars or pyarrow from records: tuples become columns, as in csv."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.formats import short
from mmgevent.job.outputs.rows import Rows, check_columns

Record = tuple[Any, Any]


class TableMaker:
    """Makes tables with one library."""

    def __init__(self, library: str, columns: str | Iterable[str] | None):
        """`library`: "pandas", "polars" or "pyarrow".

        Raise OutputError if it is not installed, or for wrong names of columns.
        """
        self._library = library
        self._columns = None if columns is None else check_columns(columns)
        try:
            self._module: Any = import_module(library)
        except ImportError as error:
            raise OutputError(
                f"a table needs the package {library}, which cannot be imported ({error}): pip install {library}"
            ) from error

    def make(self, records: Iterable[Record]) -> Any:
        """Return the table. Raise OutputError for a record that does not fit."""
        rows = Rows(self._columns)
        names = self._columns or ("key", "value")
        columns: list[list[Any]] = [[] for _ in names]
        keys: list[Any] = []
        for key, value in records:
            row = rows.row(key, value)
            if not keys:
                names = self._columns or rows.default_columns(key, value)
                columns = [[] for _ in row]
            keys.append(key)
            for column, field in zip(columns, row, strict=True):
                column.append(field)
        return self._build(dict(zip(names, columns, strict=True)), keys)

    def _build(self, columns: dict[str, list[Any]], keys: list[Any]) -> Any:
        if self._library == "pandas":
            return self._module.DataFrame(columns)
        if self._library == "polars":
            return self._module.DataFrame(
                [self._series(name, list(map(_python_of, values)), keys) for name, values in columns.items()]
            )
        from mmgevent.job.outputs.arrow_columns import make_column

        return self._module.table({name: make_column(name, values, keys) for name, values in columns.items()})

    def _series(self, name: str, values: list[Any], keys: list[Any]) -> Any:
        """Return a column of polars; the error for values of several types names the first misfit."""
        make = self._module.Series
        try:
            return make(name, values)
        except Exception as error:
            fits, fails = 0, len(values)  # so many values make a column, and so many do not
            while fails - fits > 1:
                middle = (fits + fails) // 2
                if _succeeds(lambda n=middle: make(name, values[:n])):  # type: ignore[misc] # it has a default
                    fits = middle
                else:
                    fails = middle
            raise OutputError(
                f"polars has no type for the column {name!r}: the record of {short(keys[fits])} has "
                f"{short(values[fits])} there, which does not go with those before it"
            ) from error


def _succeeds(act: Callable[[], Any]) -> bool:
    try:
        act()
    except Exception:  # it failed before, too; which value is to blame is what is looked for
        return False
    return True


def _python_of(value: Any) -> Any:
    """Return Python's own value for a scalar of numpy, which polars does not read."""
    is_numpy = (
        type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", ())
    )
    return value.item() if is_numpy else value
