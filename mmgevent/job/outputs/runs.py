"""Sorted runs of results in a temporary file, which has no name and vanishes with its process."""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mmgevent._speedups import estimate_bytes
from mmgevent.errors import OutputError
from mmgevent.job.outputs.formats import short
from mmgevent.job.outputs.ranking import Record
from mmgevent.machine.resources import find_scratch_folder

#: Estimated memory of the records that are pickled together, bytes. A merge holds as many of each run.
_CHUNK_BYTES = 256 * 1024

#: Memory of a record beside its key and value, bytes: its tuple, and what it is compared by.
_RECORD_BYTES = 300


class Extent(NamedTuple):
    """Where some pickled records of a run are in its file."""

    offset: int
    size: int


class RunFile:
    """Sorted runs in one file without a name."""

    def __init__(self) -> None:
        with _explained_disk():
            folder = find_scratch_folder()
            self._file = tempfile.TemporaryFile(prefix="mmgevent-sort-", dir=folder, buffering=0)  # noqa: SIM115
        self._end = 0

    def append(self, records: Iterable[Record]) -> Iterator[Extent]:
        """Append a run."""
        chunk: list[Record] = []
        used_bytes = 0
        for record in records:
            chunk.append(record)
            used_bytes += estimate_record(*record)
            if used_bytes >= _CHUNK_BYTES:
                yield self._append_chunk(chunk)
                chunk, used_bytes = [], 0
        if chunk:
            yield self._append_chunk(chunk)

    def read(self, run: list[Extent]) -> Iterator[Record]:
        """Yield the records of a run."""
        for extent in run:
            with _explained_disk():
                data = self._read(extent)
            yield from pickle.loads(data)

    def close(self) -> None:
        self._file.close()

    def _append_chunk(self, chunk: list[Record]) -> Extent:
        try:
            data = pickle.dumps(chunk, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise _find_unpickled(chunk, error) from error
        rest = memoryview(data)
        with _explained_disk():
            while rest:
                rest = rest[os.pwrite(self._file.fileno(), rest, self._end + len(data) - len(rest)) :]
        extent = Extent(self._end, len(data))
        self._end += len(data)
        return extent

    def _read(self, extent: Extent) -> bytes:
        parts: list[bytes] = []
        offset, size = extent
        while size:  # one read may give less than it was asked for
            part = os.pread(self._file.fileno(), size, offset)
            if not part:
                raise OSError("the temporary file is shorter than what was written")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)


@contextlib.contextmanager
def _explained_disk() -> Iterator[None]:
    """Turn an OSError into an OutputError that says where the temporary file is."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot sort the results: a temporary file in {find_scratch_folder()} failed ({error.strerror or error}); "
            f"set TMPDIR to a folder with more room"
        ) from error


def _find_unpickled(chunk: list[Record], error: Exception) -> OutputError:
    for record in chunk:
        try:
            pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as own:
            return OutputError(
                f"cannot sort so many results: cannot pickle the record of {short(record[0])}: {own}"
            )
    return OutputError(f"cannot sort so many results: {error}")


def estimate_record(key: Any, value: Any) -> int:
    """Estimate the memory of a record while it is sorted, bytes."""
    return estimate_bytes(key) + estimate_bytes(value) + _RECORD_BYTES
