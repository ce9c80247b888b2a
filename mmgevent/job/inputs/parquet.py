"""Parquet: one item for each row of Parquet files, or for each table of rows.

A file is cut between row groups. An executor reads one row group after another, and of it some rows
at a time, so its memory depends neither on the size of a file nor on that of its row groups.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.parquet_files import ParquetError, ParquetFile, Ranges, parquet_module
from mmgevent.job.inputs.parquet_rows import RowMaker, even_tables
from mmgevent.job.inputs.paths import Paths, some_files
from mmgevent.job.inputs.refs import Ref, Unreadable
from mmgevent.job.inputs.source import FileSource, Found
from mmgevent.job.inputs.window import Changed, Window
from mmgevent.job.remote.urls import is_remote

#: What an item may be.
FORMS = ("rows", "arrow")

#: Rows that are read at once. More are not faster, and Python's values take ten times the memory.
MAX_ROWS = 8192
#: Rows of a table that is one item: a call of a function of pyarrow costs little beside them.
MAX_TABLE_ROWS = 128 * 1024
#: Bytes that are read at once, as the footer counts them: uncompressed, but with dictionaries.
READ_BYTES, TABLE_BYTES = 4 * 1024**2, 16 * 1024**2

#: Files that are looked at before the job runs. One that is sound shows which columns there are.
_CHECKED_FILES = 8


@dataclass(frozen=True, slots=True)
class ParquetRef(Ref):
    """A row group: items `((path, row number), row or table)`."""

    #: number of the row group in its file
    group: int
    #: number of its first row in the file
    first_row: int
    n_rows: int
    #: size of the wanted columns in the file
    compressed_bytes: int
    #: names of the columns, or None for all
    columns: tuple[str, ...] | None
    #: rows of a table that is one item; 0 if each row is one
    table_rows: int
    #: rows that are read at once
    rows_at_once: int
    #: (offset, bytes) that are needed; None while they are in the file
    content: tuple[tuple[int, bytes], ...] | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.first_row

    @property
    def weight(self) -> int:
        return max(1, self.compressed_bytes)

    @property
    def unit_count(self) -> int:
        return -(-self.n_rows // self.table_rows) if self.table_rows else self.n_rows

    def units(self) -> Iterator[tuple[tuple[str, int], Any]]:
        return self.units_between(0, self.unit_count)

    def units_between(self, low: int, high: int) -> Iterator[tuple[tuple[str, int], Any]]:
        if self.table_rows:
            size = self.table_rows
            tables = self.tables(low * size, min(high * size, self.n_rows), size)
            return (((self.path, row), table) for row, table in tables)
        return chain.from_iterable(self._rows(low, high))

    def _rows(self, low: int, high: int) -> Iterator[Iterator[tuple[tuple[str, int], Any]]]:
        """Yield iterators of items, whose values are rows."""
        maker: RowMaker | None = None
        for row, batch in self._batches(low, high):
            maker = maker or RowMaker(batch.schema, self.path)
            rows = maker.rows(batch, row)
            yield zip(zip(repeat(self.path), range(row, row + len(rows))), rows, strict=False)

    def tables(self, low: int, high: int, rows: int) -> Iterator[tuple[int, Any]]:
        """Yield (number of the first row in the file, pyarrow.Table) of rows of this row group.

        The rows are those from `low` on and before `high`, counted from 0 in this row group, whatever
        its items are. Each table has so many `rows`, the last one fewer. Raise as `units` does.
        """
        row = self.first_row + low
        for table in even_tables((batch for _, batch in self._batches(low, high)), rows):
            yield row, table
            row += table.num_rows

    @property
    def joins_values(self) -> bool:
        return bool(self.table_rows)

    def join_values(self, values: list[Any]) -> Any:
        from pyarrow import concat_tables

        return concat_tables(values)

    def with_content(self) -> ParquetRef:
        if self.content is not None:
            return self
        try:
            with self._file(at_driver=True) as file:
                return replace(self, content=file.ranges(self.group, self.columns))
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error

    def file(self) -> ParquetFile:
        """Return the file, for the driver. Raise ParquetError, or DatasourceError if it is lost."""
        try:
            return self._file(at_driver=True)
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error

    def _file(self, *, at_driver: bool) -> ParquetFile:
        """Return the file, or what was sent of it. Raise OSError, Changed or ParquetError."""
        window: Window
        if self.content is None:
            window = self._open(at_driver=at_driver)
        else:
            window = Ranges(self.size, self.content)
        try:
            return ParquetFile(window, self.path, (self.location, self.size, self.mtime_ns, self.head_hash))
        except BaseException:
            window.close()
            raise

    def _batches(self, low: int, high: int) -> Iterator[tuple[int, Any]]:
        """Yield (number of the first row in the file, batch) of these rows of the row group."""
        try:
            with self._file(at_driver=False) as file:
                self._check_rows(file)
                row = 0
                for batch in file.batches(self.group, self.columns, self.rows_at_once):
                    n_rows = batch.num_rows
                    if row < high and row + n_rows > low:
                        start, end = max(0, low - row), min(n_rows, high - row)
                        yield self.first_row + row + start, batch.slice(start, end - start)
                    row += n_rows
                    if row >= high:
                        return
                raise ParquetError(
                    f"{self.path}: row group {self.group} ends after {row} of {self.n_rows} rows; get the file again, or "
                    f"set max_skipped to set it aside"
                )
        except (OSError, Changed) as error:
            if self.content is not None:
                raise ParquetError(f"{self.path}: row group {self.group} cannot be read: {error}") from error
            raise self._content_needed(error) from error

    def _check_rows(self, file: ParquetFile) -> None:
        metadata = file.metadata
        if self.group >= metadata.num_row_groups or metadata.row_group(self.group).num_rows != self.n_rows:
            raise Changed("its row groups are not what they were")


@dataclass(frozen=True, slots=True)
class UnreadableRef(Ref):
    """A file that the driver could not read: one failed item."""

    why: str

    @property
    def key(self) -> tuple[str, int]:
        return self.path, 0

    @property
    def weight(self) -> int:
        return 1

    def units(self) -> Iterator[tuple[tuple[str, int], Any]]:
        yield self.key, Unreadable(DatasourceError(self.why))

    def with_content(self) -> UnreadableRef:
        return self


class Parquet(FileSource):
    """One item `((path, row number), {column: value})` for each row of Parquet files.

    Paths are those of `Files`; in folders and globs, names that begin with `_` are left out, as other
    readers of Parquet do. Rows are numbered from 0 in each file. `columns` is a list of names: only
    these are read. Values are what pyarrow's `to_pylist` gives, except that times are always Python's
    own. A row whose time has nanoseconds, which Python has not, is a failed item.

    With `as_="arrow"` an item is `((path, first row number), pyarrow.Table)`: a row group, or a part
    of MAX_TABLE_ROWS rows or TABLE_BYTES of a larger one.

    Several executors work on one file, each on its row groups. A row group is read in pieces. One
    that cannot be read is a failed item, which `max_skipped` sets aside, and so is a file that is
    damaged, is no Parquet file, or lacks a column that others have. DatasourceError names path and
    row group. Needs pyarrow: `pip install 'mmgevent[parquet]'`.
    """

    def __init__(self, *paths: Paths, columns: Iterable[str] | None = None, as_: str = "rows") -> None:
        super().__init__(paths, "", "", None)
        self.columns = columns if columns is None or isinstance(columns, str) else tuple(columns)
        self.as_ = as_

    def refs(self) -> Iterator[Ref]:
        columns: Any = self.columns
        n_files = 0
        for found in self.find(binary=True):
            n_files += 1
            whole = self._whole(found)
            try:
                with whole.file() as file:
                    names = file.column_names(columns, all_differ=self.as_ == "rows")
                    refs = list(self._cut(whole, file, names))
            except ParquetError as error:
                yield UnreadableRef(found.path, *found.identity, "", "", str(error))
                continue
            yield from refs
        if not n_files:
            raise DatasourceError(
                f"no input files: {', '.join(self.paths) or 'the list'} has only names that begin with _, which no "
                f"reader of Parquet reads"
            )

    def check(self) -> None:
        columns = self.columns
        if columns is not None and (
            isinstance(columns, str) or not columns or not all(isinstance(name, str) for name in columns)
        ):
            raise DatasourceError(
                f"columns={columns!r}: it is a list of names of columns, such as ['id', 'name']"
            )
        if columns is not None and len(set(columns)) < len(columns):
            raise DatasourceError(f"columns={list(columns)!r} names a column twice; name each once")
        if self.as_ not in FORMS:
            raise DatasourceError(f"as_={self.as_!r}: an item is one of {', '.join(map(repr, FORMS))}")
        self.refuse_streams()
        parquet_module()
        self.check_input(binary=True)
        self._check_files()

    def find(self, *, binary: bool = False) -> Iterator[Found]:
        markers = Markers(self._all_paths())
        for found in super().find(binary=binary):
            if markers.takes(found.path):
                yield found

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Parquet  # subclasses may give other items

    def _check_files(self) -> None:
        """Raise ParquetError if none of the first files can be read as it is wanted.

        If one can, others that cannot are failed items, as they are when they are found later.
        """
        error: ParquetError | None = None
        columns: Any = self.columns
        files = filter(Markers(self._all_paths()).takes, some_files(self._all_paths(), _CHECKED_FILES))
        for path in islice(files, _CHECKED_FILES):
            try:
                with self._whole(self._look_at(path, binary=True)).file() as file:
                    file.column_names(columns, all_differ=self.as_ == "rows")
                    return
            except ParquetError as this:
                error = error or this
        if error is not None:
            raise error

    def _whole(self, found: Found) -> ParquetRef:
        """Return a ref of a file without a row group, to open it."""
        content = None if found.content is None else ((0, found.content),)
        return ParquetRef(found.path, *found.identity, "", "", 0, 0, 0, 0, None, 0, 1, content, raw=True)

    def _cut(self, whole: ParquetRef, file: ParquetFile, names: tuple[str, ...]) -> Iterator[ParquetRef]:
        columns = None if self.columns is None else names
        first_row = 0
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            if n_rows:
                chunks = file.chunks(group, columns)
                row_bytes = max(1, sum(chunk.total_uncompressed_size for chunk in chunks) // n_rows)
                table_rows = 0
                if self.as_ == "arrow":
                    table_rows = rows_at_once = max(1, min(TABLE_BYTES // row_bytes, MAX_TABLE_ROWS, n_rows))
                else:
                    rows_at_once = max(1, min(READ_BYTES // row_bytes, MAX_ROWS))
                yield replace(
                    whole,
                    group=group,
                    first_row=first_row,
                    n_rows=n_rows,
                    compressed_bytes=sum(chunk.total_compressed_size for chunk in chunks),
                    columns=columns,
                    table_rows=table_rows,
                    rows_at_once=rows_at_once,
                )
            first_row += n_rows


class Markers:
    """Which files were found in folders or by globs, and are none of the table's.

    Writers of folders put their own files there, such as `_SUCCESS`, `_metadata` and all below
    `_delta_log`. A file that several of the given paths lead to is found as many times. It counts for
    each that leads to it without such a name.
    """

    def __init__(self, given: tuple[str, ...]):
        self._given = Counter(map(_place_of, given))
        starts = ((_start_of(path), _place_of(path)) for path in given)
        self._starts = [start for start, place in starts if start != place or start.endswith(os.sep)]
        self._found: Counter[str] = Counter()

    def takes(self, path: str) -> bool:
        """Return whether a file that was found counts this time."""
        times = self._times(path)
        self._found[path] += times is not None
        return times is None or self._found[path] <= times

    def _times(self, path: str) -> int | None:
        """Return how many times a file counts; None for one that always does."""
        place = _place_of(path)
        if not any(name.startswith("_") for name in place.split(os.sep)):
            return None
        below = [place[len(os.path.dirname(s)) :].split(os.sep) for s in self._starts if place.startswith(s)]
        plain = sum(not any(name.startswith("_") for name in names) for names in below)
        return None if plain == len(below) else plain + self._given[place]


def _start_of(given: str) -> str:
    """Return what all files that a path leads to begin with: a folder, or what is before a glob."""
    place = _place_of(given)
    start = re.split(r"[*?[]", place)[0]
    is_folder = start == place if is_remote(given) else os.path.isdir(place)
    return os.path.join(place, "") if is_folder else start


def _place_of(path: str) -> str:
    """Return a path without the archive that it is in."""
    return next(part for part in path.split("::") if "://" in part) if is_remote(path) else path
