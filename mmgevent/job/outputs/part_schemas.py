"""Give all Parquet parts of a folder one schema, whoever has written them.

1. Each part has the types of its own first row group: executors know nothing of each other.
2. The driver reads the footer of every part. Types go together if one type holds the values of
   both: an integer and a float, None and anything. Otherwise the job ends, and the message has a
   row of each part.
3. When all parts are there, the driver writes those anew whose types are narrower. Nothing is lost:
   an integer that no float equals ends the job.
4. Names are those of the first part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mmgevent.errors import OutputError
from mmgevent.job.outputs.arrow_columns import first_line, merge_types, widen
from mmgevent.job.outputs.formats import short
from mmgevent.job.outputs.parquet import ROW_GROUP_ROWS, RowGroupBuffer, open_writer


class Write(Protocol):
    """Takes the bytes of a file, in order."""

    def __call__(self, data: memoryview, /) -> None: ...


#: Opens a part for pyarrow by its name: a path, or a file. Raises OSError.
OpenPart = Callable[[str], contextlib.AbstractContextManager[Any]]


class PartSchemas:
    """The schemas of the parts of one folder."""

    def __init__(self, folder: str, open_part: OpenPart):
        """`folder`: as the user wrote it."""
        self._folder = folder
        self._open_part = open_part
        self._schemas: dict[str, Any] = {}  # of each part
        self._names: list[str] = []
        self._types: list[Any] = []  # what holds the values of all parts
        self._widest: list[str] = []  # for each column, the part whose type it is

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns, none before the first part."""
        return tuple(self._names)

    def add(self, part: str) -> None:
        """Note a part that is whole. Raise OSError, and OutputError if it does not go with the others."""
        with self._reading(part) as file:
            schema = file.schema_arrow
        if not self._schemas:
            self._names, self._types = schema.names, schema.types
            self._widest = [part] * len(self._names)
        elif len(schema) != len(self._names):
            raise OutputError(
                f"{self._folder}{part} has {len(schema)} columns, but {self._folder}{min(self._schemas)} has "
                f"{len(self._names)}; make the records equal in finishfn"
            )
        self._schemas[part] = schema
        for column, kind in enumerate(schema.types):
            self._merge(column, kind, part)

    def narrower(self) -> list[str]:
        """Return the parts that are to be written anew."""
        wanted = self._schema()
        return [part for part, schema in self._schemas.items() if not schema.equals(wanted)]

    def write_anew(self, part: str, write: Write) -> None:
        """Write the rows of a part with the schema of all. Raise OSError, and OutputError for a misfit."""
        import pyarrow

        memory, wanted = RowGroupBuffer(), self._schema()
        writer = open_writer(memory, wanted)
        with self._reading(part) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                columns = [
                    self._widened(table, number, kind, part) for number, kind in enumerate(wanted.types)
                ]
                writer.write_table(pyarrow.table(columns, schema=wanted), row_group_size=ROW_GROUP_ROWS)
                write(memoryview(memory.take()))
        writer.close()
        write(memoryview(memory.take()))
        self._schemas[part] = wanted

    def _schema(self) -> Any:
        import pyarrow

        return pyarrow.schema(list(zip(self._names, self._types, strict=True)))

    def _merge(self, column: int, kind: Any, part: str) -> None:
        before = self._types[column]
        merged = merge_types(before, kind)
        if merged is None:
            raise OutputError(
                f"no column of Parquet holds both {before} and {kind}, and the column {self._names[column]!r} has "
                f"them: {self._example(self._widest[column], column)}, and {self._example(part, column)}; "
                f"change it in finishfn"
            )
        if merged != before:
            self._types[column], self._widest[column] = merged, part

    def _example(self, part: str, column: int) -> str:
        """Return in words the first row of a part that has a value in a column."""
        with self._reading(part) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                for number, value in enumerate(table.column(column)):
                    if value.is_valid:
                        return f"{_row(table, number)} of {self._folder}{part}"
        return f"{self._folder}{part}"

    def _widened(self, table: Any, column: int, kind: Any, part: str) -> Any:
        array = table.column(column).combine_chunks()
        try:
            return widen(array, kind)
        except Exception as error:
            for number in range(len(array)):
                try:
                    widen(array.slice(number, 1), kind)
                except Exception as why:
                    raise OutputError(
                        f"pyarrow has no type for the column {self._names[column]!r}: {_row(table, number)} of "
                        f"{self._folder}{part} cannot be {kind}, as others are: {first_line(why)}; change it in finishfn"
                    ) from why
            raise OutputError(f"cannot write {self._folder}{part} anew: {first_line(error)}") from error

    @contextlib.contextmanager
    def _reading(self, part: str) -> Iterator[Any]:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            with self._open_part(part) as source, ParquetFile(source) as file:
                yield file
        except (ArrowException, OSError) as error:
            if isinstance(error, OSError) and (error.errno or type(error) is not OSError):
                raise  # pyarrow's own have no number
            raise OutputError(f"{self._folder}{part} is damaged: {first_line(error)}; begin anew") from error


def _row(table: Any, number: int) -> str:
    """Return in words a row of a table."""
    return f"the row {short(tuple(column[number].as_py() for column in table.columns))}"
