"""Make rows of Python, or tables of one size, from the batches that pyarrow reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.refs import Unreadable

#: Characters of an error of pyarrow that are shown. Some have many lines.
_SHOWN_CHARS = 200


def first_line(error: BaseException) -> str:
    """Return what an error of pyarrow says, in short."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


class RowMaker:
    """Makes rows `{column: value}` of batches of one schema."""

    def __init__(self, schema: Any, path: str):
        self._names: list[str] = schema.names
        self._types = [_microseconds(field.type) for field in schema]
        self._path = path
        self._zip = _compile(len(self._names))

    def rows(self, batch: Any, first_row: int) -> Sequence[Any]:
        """Return the rows of a batch. One with a value that Python does not have is Unreadable."""
        try:
            return self._zip(self._names, *map(self._values, batch.columns, self._types))
        except (ValueError, OverflowError):
            if batch.num_rows == 1:
                return [Unreadable(self._misfit(batch, first_row))]
        half = batch.num_rows // 2
        return [*self.rows(batch.slice(0, half), first_row), *self.rows(batch.slice(half), first_row + half)]

    def _values(self, column: Any, kind: Any) -> list[Any]:
        values: list[Any] = (column if column.type == kind else column.cast(kind)).to_pylist()
        return values

    def _misfit(self, batch: Any, row: int) -> DatasourceError:
        for name, column, kind in zip(self._names, batch.columns, self._types, strict=True):
            try:
                self._values(column, kind)
            except (ValueError, OverflowError) as error:
                return DatasourceError(
                    f"{self._path}: row {row} has a value in the column {name!r} that Python cannot hold: "
                    f'{first_line(error)}; read as_="arrow", or set max_skipped to set it aside'
                )
        raise AssertionError("a row failed, and none of its values")


def even_tables(batches: Iterable[Any], rows: int) -> Iterator[Any]:
    """Yield tables of so many rows, the last of fewer, whatever the sizes of the batches are."""
    from pyarrow import Table

    held: list[Any] = []
    missing = rows
    for batch in batches:
        while batch.num_rows >= missing:
            yield Table.from_batches([*held, batch.slice(0, missing)])
            batch = batch.slice(missing)
            held, missing = [], rows
        if batch.num_rows:
            held.append(batch)
            missing -= batch.num_rows
    if held:
        yield Table.from_batches(held)


def _compile(n_columns: int) -> Callable[..., Sequence[Any]]:
    """Return a function of names and columns that returns dicts: `dict(zip(...))` takes twice as long."""
    numbers = range(n_columns)
    values = "".join(f"v{i}, " for i in numbers)
    pairs = ", ".join(f"n{i}: v{i}" for i in numbers)
    columns = "".join(f"c{i}, " for i in numbers)
    names = "".join(f"n{i}, " for i in numbers)
    code = f"def make(names, {columns}):\n    {names}= names\n    return [{{{pairs}}} for {values}in zip({columns})]\n"
    made: dict[str, Any] = {}
    exec(code, made)
    make: Callable[..., Sequence[Any]] = made["make"]
    return make


def _microseconds(kind: Any) -> Any:
    """Return the type whose values Python has: its times have microseconds, not nanoseconds.

    pyarrow would give values of pandas where that is installed, and none elsewhere.
    """
    import pyarrow
    from pyarrow import types

    if types.is_timestamp(kind) and kind.unit == "ns":
        return pyarrow.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return pyarrow.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return pyarrow.time64("us")
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_microseconds(field.type)) for field in kind])
    if types.is_map(kind):
        return pyarrow.map_(
            kind.key_field.with_type(_microseconds(kind.key_type)),
            kind.item_field.with_type(_microseconds(kind.item_type)),
            keys_sorted=kind.keys_sorted,
        )
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(_element(kind), kind.list_size)
    if types.is_large_list(kind):
        return pyarrow.large_list(_element(kind))
    return pyarrow.list_(_element(kind)) if types.is_list(kind) else kind


def _element(kind: Any) -> Any:
    return kind.value_field.with_type(_microseconds(kind.value_type))
