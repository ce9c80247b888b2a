"""The results of one stage of a chain, on their way to the next stage through the driver.

They are encoded, and lie in memory while they are few, else in an unlinked file. So a chain needs
no more memory than its stages, and a stage that is submitted again reads its items again.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from typing import IO, Any

from mmgevent.errors import JobCancelled, JobError
from mmgevent.job.inputs.walks import Repeatable
from mmgevent.machine.resources import find_scratch_folder
from mmgevent.tasks.records import decode_items, encode_items
from mmgevent.tasks.unpicklable import RecordError

#: Results in memory, bytes. More go to a file, as fast as the disk takes them.
MEMORY_BYTES = 16 * 1024 * 1024

#: Encoded results of one write, bytes, about: far above the cost of a call, far below the memory.
CHUNK_BYTES = 1024 * 1024

#: Most results of one write. They are objects of the driver, whose size nobody knows before.
MAX_CHUNK_RECORDS = 8192

Record = tuple[Any, Any]


class StageResults(Repeatable):
    """Results of one stage, in the order in which they came. One thread adds, any may read."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None  # from the first result until `close`
        self._is_closed = False
        self._lock = threading.Lock()  # guards the file and its position
        self._sizes = array("Q")  # bytes of each chunk
        #: number of results
        self.count = 0

    def add_all(self, records: Iterable[Record]) -> None:
        """Add records until their end.

        Raises JobError: kind "record" for one that cannot be encoded, "disk" if there is no room.
        What `records` raises passes unchanged.
        """
        source = iter(records)
        size = 1
        while chunk := list(islice(source, size)):
            n_bytes = self._add(chunk)
            self.count += len(chunk)
            if n_bytes < CHUNK_BYTES // 2:
                size = min(2 * size, MAX_CHUNK_RECORDS)
            elif n_bytes > CHUNK_BYTES:
                size = max(1, size // 2)

    def __iter__(self) -> Iterator[Record]:
        sizes = list(self._sizes)
        for at, n_bytes in zip(accumulate(sizes, initial=0), sizes, strict=False):
            data = self._read(at, n_bytes)
            if data is None:
                return
            yield from decode_items(data)

    def close(self) -> None:
        """Free memory and disk. Idempotent."""
        with self._lock:
            self._is_closed = True
            if self._file is not None:
                self._file.close()

    def _add(self, chunk: list[Record]) -> int:
        try:
            data = encode_items(chunk)
        except RecordError as error:
            failure = {"kind": "record", "error": f"a result cannot go to the next stage: {error}"}
            raise JobError.from_failure(failure) from error
        try:
            with self._lock:
                file = self._open()
                file.seek(0, 2)
                file.write(data)
                file.flush()
        except OSError as error:
            failure = {
                "kind": "disk",
                "error": f"cannot keep the results for the next stage: {error.strerror or error}",
                "advice": "free some disk, or set TMPDIR to a folder that has room",
            }
            raise JobError.from_failure(failure) from error
        self._sizes.append(len(data))
        return len(data)

    def _open(self) -> IO[bytes]:
        """Return the file. Raises JobCancelled if it is closed: whoever closes it wants no more results."""
        if self._is_closed:
            raise JobCancelled("the job was cancelled")
        if self._file is None:
            import tempfile

            # It makes a real file of itself when there is more than MEMORY_BYTES.
            folder = find_scratch_folder()
            self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by close()
                MEMORY_BYTES, prefix="mmgevent-stage-", dir=folder
            )
        return self._file

    def _read(self, at: int, n_bytes: int) -> bytes | None:
        """Return bytes of the file, or None if it is closed."""
        with self._lock:
            if self._is_closed or self._file is None:
                return None
            self._file.seek(at)
            return self._file.read(n_bytes)
