"""Write records as rows of Parquet: columns as in csv, with types as pyarrow has them.

- The types of the columns are those of the first row group of a file, at most ROW_GROUP_ROWS
  records. A record that does not fit is an OutputError, which names its key.
- The parts of a folder may have different types while they are written: see `part_schemas`.
- Rows are collected until they are a row group. So memory is bounded, whatever the results are.
- pyarrow writes into memory, row group by row group; the sink passes that on. So the destination
  is the same as for other formats, and a writer that was not closed writes nothing to it.
"""

from __future__ import annotations

from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.arrow_columns import first_line, make_column
from mmgevent.job.outputs.formats import short
from mmgevent.job.outputs.rows import RowEncoder, Rows

#: How columns are compressed. A word count is 2.4 times as large with snappy, in the same time.
CODEC = "zstd"

#: Most rows of a row group. Readers share a file by row groups, and 100,000 rows are worth a task.
ROW_GROUP_ROWS = 131_072

#: Size of a row group at which it ends, bytes, before it is encoded. Its objects of Python take up
#: to five times as much, and arrays of pyarrow come on top.
ROW_GROUP_BYTES = 32 * 1024 * 1024

#: Size of a number in a column, bytes.
_NUMBER_BYTES = 8


class Row:
    """A record as a row, whose size is known."""

    __slots__ = ("fields", "key", "n_bytes")

    def __init__(self, key: Any, fields: list[Any]):
        self.key = key
        self.fields = fields
        self.n_bytes = sum(map(_size_of, fields))

    def __len__(self) -> int:
        """Return how many bytes it has, about, before it is encoded."""
        return self.n_bytes


class ParquetRows(RowEncoder):
    """Makes the rows of one output, which may have several files. It does not need pyarrow."""

    def __init__(self, columns: tuple[str, ...] | None):
        """`columns`: their names."""
        super().__init__(Rows(columns))
        self._names = columns

    def __call__(self, key: Any, value: Any) -> Row:
        fields = self._rows.row(key, value)
        if self._names is None:
            self._names = self._rows.default_columns(key, value)
        try:
            return Row(key, fields)
        except RecursionError:
            raise OutputError(
                f"the record of {short(key)} has too many lists within lists; change it in finishfn"
            ) from None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns; those of one key and one value before the first record."""
        return self._names or ("key", "value")

    def go_on_with(self, names: tuple[str, ...]) -> None:
        """Take the names of the columns of a part that is there."""
        self._names = names
        self._rows = Rows(names)


class ParquetTable:
    """The rows of one file."""

    def __init__(self, rows: ParquetRows):
        self._rows = rows
        #: schema of all row groups, None until the first one
        self._schema: Any = None
        self._keys: list[Any] = []  # of the rows that wait
        self._columns: list[list[Any]] = []
        self._n_bytes = 0
        self._memory = RowGroupBuffer()
        self._writer: Any = None
        self._is_ended = False

    def add(self, row: Any) -> bytearray:
        """Add a row, and return what is next in the file: a row group, if this one ends it.

        Raise OutputError for a row that does not fit.
        """
        if not self._columns:
            self._columns = [[] for _ in row.fields]
        for column, field in zip(self._columns, row.fields, strict=True):
            column.append(field)
        self._keys.append(row.key)
        self._n_bytes += row.n_bytes
        if self._n_bytes >= ROW_GROUP_BYTES or len(self._keys) >= ROW_GROUP_ROWS:
            self._write_group()
        return self._memory.take()

    def end(self) -> bytearray:
        """Return the rest of the file, the second time nothing. Raise OutputError as `add` does."""
        if not self._is_ended:
            if self._keys or self._writer is None:
                self._write_group()
            self._writer.close()
            self._is_ended = True
        return self._memory.take()

    def _write_group(self) -> None:
        keys, columns = self._keys, self._columns
        self._keys, self._columns, self._n_bytes = [], [], 0
        table = self._make_table(keys, columns)
        if self._writer is None:
            self._writer = open_writer(self._memory, table.schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def _make_table(self, keys: list[Any], columns: list[list[Any]]) -> Any:
        """Return a table of rows. Raise OutputError for one that does not fit."""
        import pyarrow

        names = self._rows.names
        columns = columns or [[] for _ in names]
        kinds = [None] * len(names) if self._schema is None else self._schema.types
        table = pyarrow.table(
            [
                make_column(name, values, keys, kind)
                for name, values, kind in zip(names, columns, kinds, strict=True)
            ],
            names=list(names),
        )
        self._schema = table.schema
        return table


def open_writer(file: RowGroupBuffer, schema: Any) -> Any:
    """Return what writes tables to a file. Raise OutputError for a type that Parquet does not have."""
    import pyarrow

    try:
        return _open(file, schema)
    except Exception as error:
        for field in schema:
            try:
                _open(RowGroupBuffer(), pyarrow.schema([field]))
            except Exception:
                raise OutputError(
                    f"Parquet has no type for the column {field.name!r}, which is {field.type}: "
                    f"{first_line(error)}; change its values in finishfn"
                ) from error
        raise


def _open(file: RowGroupBuffer, schema: Any) -> Any:
    from pyarrow.parquet import ParquetWriter

    return ParquetWriter(file, schema, compression=CODEC)


class RowGroupBuffer:
    """A file of pyarrow's that is emptied again and again. It knows how much it has got in all."""

    closed = False

    def __init__(self) -> None:
        self._data = bytearray()
        self._taken_bytes = 0

    def take(self) -> bytearray:
        """Return what was written since the last time."""
        if not self._data:
            return self._data
        data, self._data = self._data, bytearray()
        self._taken_bytes += len(data)
        return data

    def write(self, data: Any) -> int:
        n_bytes = memoryview(data).nbytes
        self._data += data
        return n_bytes

    def tell(self) -> int:
        return self._taken_bytes + len(self._data)

    def flush(self) -> None:
        """Do nothing: it is all here."""

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def check_parquet() -> None:
    """Raise OutputError if this Python cannot write Parquet."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OutputError(
            f"the format parquet needs the package pyarrow, which cannot be imported ({error}): "
            f"pip install 'mmgevent[parquet]'"
        ) from error
    if not pyarrow.Codec.is_available(CODEC):
        raise OutputError(f"this pyarrow has no {CODEC}, which the format parquet needs: pip install pyarrow")


def _size_of(value: Any) -> int:
    """Return about how many bytes a value has in a column."""
    if isinstance(value, (str, bytes)):
        return _NUMBER_BYTES + len(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _NUMBER_BYTES + sum(map(_size_of, value))
    if isinstance(value, dict):
        return _NUMBER_BYTES + sum(map(_size_of, value.values()))
    return _NUMBER_BYTES + (value.nbytes if type(value).__module__ == "numpy" else 0)
