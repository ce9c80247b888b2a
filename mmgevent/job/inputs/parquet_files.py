"""Parquet files: what their footers say, and their row groups through a window.

pyarrow is imported here when a file is opened: by executors, and by the driver, which lists row
groups.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.compressed import find_kind
from mmgevent.job.inputs.parquet_rows import first_line
from mmgevent.job.inputs.window import Changed, Window

#: First and last bytes of a Parquet file, and of one whose footer is encrypted.
MAGIC, ENCRYPTED = b"PAR1", b"PARE"

#: Smallest Parquet file, bytes: both marks, and the size of a footer.
_LEAST_BYTES = 12

#: Bytes that pyarrow reads at the end of a file, if it has so many.
_TAIL_BYTES = 64 * 1024

#: Bytes that some writers forgot to count in the size of a column.
_UNCOUNTED_BYTES = 100

#: Compressed bytes of a row group in memory, over all columns, and for one column at least and at
#: most. Larger reads are not faster.
_BUFFERS_BYTES, _LEAST_BUFFER_BYTES, _MOST_BUFFER_BYTES = 32 * 1024**2, 16 * 1024, 1024**2

_ADVICE = "get the file again, leave it out, or set max_skipped to set it aside"


class ParquetMissingError(DatasourceError):
    """This Python cannot read Parquet."""


class ParquetError(DatasourceError):
    """A file is no Parquet file, is damaged, or lacks a column."""


#: Footer of the file that was read last, with what tells the file from others. A file of many row
#: groups has a large one.
_last_footer: tuple[Any, Any] = (None, None)


def parquet_module() -> Any:
    """Return pyarrow.parquet. Raise ParquetMissingError if it cannot be imported."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ParquetMissingError(
            f"Parquet needs the package pyarrow, which cannot be imported ({error}): pip install "
            f"'mmgevent[parquet]', here and on all workers"
        ) from error
    return pyarrow.parquet


class ParquetFile:
    """A Parquet file in a window. A context manager, which closes the window."""

    def __init__(self, window: Window, path: str, identity: Any):
        """`identity`: what is equal only for equal files.

        Raise ParquetError if it is no Parquet file, and OSError or Changed as windows do.
        """
        global _last_footer
        self.path = path
        self._window = window
        self._parquet = parquet_module()
        self._file = _WindowFile(window)
        known, footer = _last_footer
        if known == identity:
            self.metadata = footer
        else:
            _check_marks(window, path)
            with self._explained("its footer cannot be read"):
                self.metadata = self._parquet.read_metadata(self._file)
            _last_footer = identity, self.metadata
        with self._explained("its schema cannot be read"):
            self.schema = self.metadata.schema.to_arrow_schema()

    def column_names(self, columns: tuple[str, ...] | None, *, all_differ: bool) -> tuple[str, ...]:
        """Return the names of the columns that are wanted. Raise ParquetError for one that is not there.

        `all_differ`: whether two columns of one name are an error, though none is asked for by name.
        """
        names: list[str] = self.schema.names
        missing = [name for name in columns or () if name not in names]
        if missing:
            raise ParquetError(
                f"{self.path} has no column {missing[0]!r}; it has {', '.join(map(repr, names)) or 'none'}"
            )
        chosen = tuple(names) if columns is None else columns
        twice = [name for name in chosen if names.count(name) > 1]
        if twice and (all_differ or columns is not None):
            raise ParquetError(
                f"{self.path} has two columns with the name {twice[0]!r}; name others with columns=[...], or read "
                f'as_="arrow" without columns'
            )
        return chosen

    def chunks(self, group: int, columns: tuple[str, ...] | None) -> list[Any]:
        """Return what the footer says of the wanted columns of a row group."""
        row_group = self.metadata.row_group(group)
        found = [row_group.column(index) for index in range(row_group.num_columns)]
        if columns is None:
            return found
        tops = [name.partition(".")[0] for name in columns]
        return [chunk for chunk in found if chunk.path_in_schema.partition(".")[0] in tops]

    def batches(self, group: int, columns: tuple[str, ...] | None, rows: int) -> Iterator[Any]:
        """Yield the rows of a row group, so many at once. Raise ParquetError if it is damaged."""
        n_columns = max(1, self.metadata.num_columns)
        buffer_bytes = min(_MOST_BUFFER_BYTES, max(_LEAST_BUFFER_BYTES, _BUFFERS_BYTES // n_columns))
        with self._explained(f"row group {group} cannot be read"):
            reader = self._parquet.ParquetFile(
                self._file,
                metadata=self.metadata,
                buffer_size=buffer_bytes,
                pre_buffer=False,
                page_checksum_verification=True,
            )
            # With threads, each executor would use all cores.
            found = reader.iter_batches(
                rows, [group], None if columns is None else list(columns), use_threads=False
            )
        while True:
            with self._explained(f"row group {group} cannot be read"):
                batch = next(found, None)
                if batch is None:
                    return
                if columns is not None:
                    batch = batch.select(list(columns))
            yield batch

    def ranges(self, group: int, columns: tuple[str, ...] | None) -> tuple[tuple[int, bytes], ...]:
        """Return the bytes that `batches` reads, with their offsets."""
        window = self._window
        footer = int.from_bytes(window.read(window.size - 8, 4), "little") + 8
        tail = max(0, window.size - max(footer, _TAIL_BYTES))
        wanted = [(tail, window.size)]
        for chunk in self.chunks(group, columns):
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
                start = chunk.dictionary_page_offset
            wanted.append((start, start + chunk.total_compressed_size + _UNCOUNTED_BYTES))
        return tuple((low, window.read(low, high - low)) for low, high in _merged(wanted, window.size))

    def _explained(self, what: str) -> _Blaming:
        return _Blaming(self._file, f"{self.path}: {what}")

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self._window.close()


class Ranges(Window):
    """Some bytes of a file, which were sent."""

    def __init__(self, size: int, ranges: tuple[tuple[int, bytes], ...]):
        super().__init__(size)
        self._ranges = ranges

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes`; fewer only at the end of the file. Raise Changed for others."""
        n_bytes = max(0, min(n_bytes, self.size - offset))
        for start, data in self._ranges:
            if start <= offset and offset + n_bytes <= start + len(data):
                return data[offset - start : offset - start + n_bytes]
        raise Changed(f"its bytes from {offset} to {offset + n_bytes} were not sent")


class _Blaming:
    """Turns what pyarrow raises into ParquetError, unless the window is to blame."""

    def __init__(self, file: _WindowFile, what: str):
        self._file = file
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        if self._file.error is not None:
            raise self._file.error
        # OSError: what pyarrow says of damaged bytes, too
        if isinstance(error, (pyarrow.ArrowException, OSError, ValueError)):
            raise ParquetError(f"{self._what}: {first_line(error)}; {_ADVICE}") from error


class _WindowFile(io.RawIOBase):
    """A window as a file. What its window raises is kept, since pyarrow may say something else."""

    def __init__(self, window: Window):
        self._window = window
        self._at = 0
        #: what the window raised
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._window.size}[whence]
        return self._at

    def read(self, n_bytes: int | None = -1) -> bytes:
        if n_bytes is None or n_bytes < 0:
            n_bytes = self._window.size - self._at
        try:
            data = self._window.read(self._at, n_bytes)
        except (OSError, Changed) as error:
            self.error = error
            raise
        self._at += len(data)
        return data


def _check_marks(window: Window, path: str) -> None:
    """Raise ParquetError if a file is no Parquet file, or not all of one."""
    head = window.read(0, len(MAGIC))
    if head not in (MAGIC, ENCRYPTED):
        kind = find_kind(window.read(0, _TAIL_BYTES))
        what = f"it is {kind}" if kind else f"it begins with {head!r}" if head else "it is empty"
        raise ParquetError(f"{path} is not a Parquet file: {what}; name Parquet files only, or leave it out")
    tail = window.read(window.size - len(MAGIC), len(MAGIC)) if window.size >= _LEAST_BYTES else b""
    if tail != head:
        raise ParquetError(
            f"{path} is a Parquet file that is cut off: it does not end as one, after {window.size:,} bytes; {_ADVICE}"
        )


def _merged(ranges: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        high = min(high, size)
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        elif low < high:
            merged.append((low, high))
    return merged
