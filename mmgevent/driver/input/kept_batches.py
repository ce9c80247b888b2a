"""The copy of a datasource that may not give its items again, while its job runs.

It holds the encoded batches, in order, in an unlinked file.  When the job is submitted again, they
are read from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import accumulate, groupby
from typing import Any

from mmgevent.driver.input.encoding import EncodedBatch
from mmgevent.errors import JobError, MmgeventError
from mmgevent.job.inputs.refs import Ref, Unreadable
from mmgevent.machine.resources import find_scratch_folder
from mmgevent.tasks.records import decode_items
from mmgevent.wire.positions import entry_of, place_of

#: Disk that the kept batches of one job may take, bytes.  A larger copy would endanger the machine
#: for the sake of a rare loss, so such a job goes on without one.
MAX_KEPT_BYTES = 16 * 1024**3
#: Largest file that is read again as one item, bytes. A bundle would not keep a larger one.
MAX_FOUND_BYTES = 16 * 1024 * 1024
#: Time for which a failed item is looked for in its file, seconds. A user waits for the error.
FIND_S = 5.0
#: What a user can do if the copy is a burden.
ADVICE = "pass a function that returns a new iterator each time"


class KeptBatches:
    """Encoded batches in an unlinked file.  One thread appends, any thread may read."""

    def __init__(self) -> None:
        """Open the file. Raises JobError (kind "disk") if that fails."""
        import tempfile

        try:
            self._file = tempfile.TemporaryFile(prefix="mmgevent-input-", dir=find_scratch_folder())  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _cannot_keep(error) from error
        self._lock = threading.Lock()  # guards the file and its position
        self._rows: list[tuple[int, int, int, bool]] = []  # items, weight, bytes, has refs
        #: bytes of all batches in the file
        self.n_bytes = 0

    def has_room_for(self, batch: EncodedBatch) -> bool:
        """Return whether the copy stays within MAX_KEPT_BYTES with this batch."""
        return self.n_bytes + len(batch.data) <= MAX_KEPT_BYTES

    def append(self, batch: EncodedBatch) -> None:
        """Add a batch. Raises JobError (kind "disk") if there is no room for it."""
        try:
            with self._lock:
                self._file.seek(0, 2)
                self._file.write(batch.data)
                self._file.flush()
        except OSError as error:
            raise _cannot_keep(error) from error
        self._rows.append((batch.items, batch.weight, len(batch.data), batch.has_refs))
        self.n_bytes += len(batch.data)

    def read(self) -> Iterator[EncodedBatch]:
        """Yield the batches that are in the file now."""
        at = 0
        for items, weight, n_bytes, has_refs in list(self._rows):
            data = self._read(at, n_bytes)
            assert data is not None  # only the reader of this closes the file
            yield EncodedBatch(items, weight, data, has_refs)
            at += n_bytes

    def read_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        """Do as `Feeder.read_again`; yield nothing more when the file is closed."""
        rows = list(self._rows)
        ends = list(accumulate(n_bytes for _, _, n_bytes, _ in rows))
        for number, group in groupby(places, lambda place: place[0]):
            n_bytes = rows[number - 1][2]
            data = self._read(ends[number - 1] - n_bytes, n_bytes)
            if data is None:
                return
            items = decode_items(data)
            for entry, these in groupby(group, lambda place: entry_of(place[1])):
                yield from items_at(*items[entry], these)

    def close(self) -> None:
        with self._lock, suppress(OSError):  # it tries once more to write what had no room
            self._file.close()

    def _read(self, at: int, n_bytes: int) -> bytes | None:
        """Return bytes of the file, or None if it is closed."""
        with self._lock:
            if self._file.closed:
                return None
            self._file.seek(at)
            data: bytes = self._file.read(n_bytes)
        return data


def items_at(
    key: Any, value: Any, places: Iterable[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
    """Yield (place, (key, value)) of the items of one entry of a batch.

    What can no longer be read is left out.
    """
    if not isinstance(value, Ref):
        for place in places:
            yield place, (key, value)
        return
    wanted = {place_of(position): (batch, position) for batch, position in places}
    with suppress(MmgeventError):
        for index, (item_key, item) in enumerate(value.units()):
            if index in wanted and not isinstance(item, Unreadable):
                yield wanted[index], (item_key, item)


def find_unit(ref: Ref, place: int) -> tuple[Any, Any] | None:
    """Return an item of a ref, or None if it can no longer be read, is large, or takes FIND_S to find."""
    if ref.unit_count == 1 and ref.weight > MAX_FOUND_BYTES:
        return None
    until_s = time.monotonic() + FIND_S
    with suppress(MmgeventError):
        for index, (key, value) in enumerate(ref.units()):
            if index == place:
                return None if isinstance(value, Unreadable) else (key, value)
            if time.monotonic() > until_s:
                break
    return None


def too_large_notice() -> str:
    return (
        f"the copy of the datasource would be larger than {MAX_KEPT_BYTES >> 20:,} MiB, so it is not kept: if the "
        f"server or the engine is lost, the job fails; {ADVICE}"
    )


def _cannot_keep(error: OSError) -> JobError:
    failure = {
        "kind": "disk",
        "error": f"cannot keep a copy of the one-shot datasource: {error.strerror or error}",
        "advice": f"{ADVICE}, or set TMPDIR to a folder that has room",
    }
    return JobError.from_failure(failure)


def not_kept_error() -> JobError:
    failure = {
        "kind": "disk",
        "error": f"it cannot be submitted again, since no copy of its datasource of more than "
        f"{MAX_KEPT_BYTES >> 20:,} MiB was kept",
        "advice": ADVICE,
    }
    return JobError.from_failure(failure)
