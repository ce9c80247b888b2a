"""Write the results of a reduce task into parts of the output folder, where that can be done.

Few results are sent, as without a folder: the driver writes those of many tasks into one part. What
is sent instead of many results is a receipt (`outputs.receipts`), under the first partition of the
task.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.part_files import PartFiles
from mmgevent.tasks.blame import TaskFailure, make_failure
from mmgevent.tasks.map_task import Emit, TaskStats
from mmgevent.tasks.results import (
    CHUNK_GROWTH,
    FIRST_CHUNK,
    MAX_CHUNK,
    SEGMENT_BYTES,
    MakeWriter,
    ResultWriter,
    Writer,
)
from mmgevent.wire.flushes import FLUSH_HEAD, FLUSH_MAGIC, FLUSH_ROW

if TYPE_CHECKING:
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.tasks.plain_rules import PlainRules

#: Most records that a row of a flush can say.
_MAX_ROW_RECORDS = 2**32 - 1

#: Results of a task from which on it writes them itself, bytes before compression. Smaller ones
#: would be many small parts, and cost the driver a few ms.
MIN_OWN_BYTES = 1024 * 1024


class PartWriter:
    """Stands in for a `ResultWriter`."""

    def __init__(
        self,
        emit: Emit,
        stats: TaskStats,
        plain: PlainRules | None,
        files: PartFiles,
        note: Callable[[str], None],
        pausing: Callable[[], contextlib.AbstractContextManager[None]],
    ):
        """`note` gets a sentence for the user. `pausing`: stops the clock of an item meanwhile."""
        self._emit = emit
        self._stats = stats
        self._files = files
        self._note = note
        self._pausing = pausing
        self._partition: int | None = None  # the first one
        self._sender = ResultWriter(self._hold_or_emit, stats, plain)
        self._held: list[bytes] | None = []  # flushes; None once it is known that they are sent
        self._pending: list[Any] = []  # encoded records that are held, too
        self._pending_bytes = 0
        self._is_writing = False
        #: most records that the next `write` should bring
        self.chunk = FIRST_CHUNK

    def write(self, partition: int, keys: list[Any], values: list[Any], function: str | None) -> None:
        """Write or send up to `chunk` results. Raise TaskFailure."""
        if self._partition is None:
            self._partition = partition
        if self._is_writing:
            with self._pausing():
                self._write_part(keys, values)
            return
        self._sender.write(partition, keys, values, function)
        self.chunk = self._sender.chunk
        if self._held is not None:
            self._add_pending(keys, values)

    def flush(self) -> None:
        """Emit what is left, at the end of the task. Raise TaskFailure."""
        if not self._is_writing:
            self._send_held()
            self._sender.flush()
            return
        with self._pausing():
            try:
                receipt = self._files.end()
            except OutputError as error:
                raise TaskFailure(make_failure("output", str(error))) from error
        assert self._partition is not None
        data = receipt.encode()
        row = FLUSH_ROW.pack(self._partition, min(receipt.records, _MAX_ROW_RECORDS), len(data))
        flush = FLUSH_HEAD.pack(FLUSH_MAGIC, 1) + row + data
        self._stats.flushes += 1
        self._stats.bytes += len(flush)
        self._emit(flush)

    def abort(self) -> None:
        """Remove what was written, for a task that has failed."""
        self._files.abort()

    def _hold_or_emit(self, flush: bytes) -> None:
        if self._held is None:
            self._emit(flush)
        else:
            self._held.append(flush)

    def _send_held(self) -> None:
        held, self._held = self._held, None
        self._pending.clear()
        for flush in held or ():
            self._emit(flush)

    def _add_pending(self, keys: list[Any], values: list[Any]) -> None:
        encode = self._files.encode
        try:
            for key, value in zip(keys, values, strict=True):
                record = encode(key, value)
                self._pending.append(record)
                self._pending_bytes += len(record)
        except OutputError:  # the driver says so
            self._send_held()
            return
        if self._pending_bytes >= MIN_OWN_BYTES:
            self._begin()

    def _begin(self) -> None:
        """Open the first part, and write what is held; or send it."""
        with self._pausing():
            why = self._files.begin()
            if why is None:
                self._is_writing = True
                self._write_encoded(self._pending)
        if why is not None:
            self._note(why)
            self._send_held()
            return
        self._stats.flushes = self._stats.bytes = 0  # none of it is sent
        self._pending, self._held = [], []

    def _write_part(self, keys: list[Any], values: list[Any]) -> None:
        try:
            records = list(map(self._files.encode, keys, values))
        except OutputError as error:
            raise TaskFailure(make_failure("output", str(error))) from error
        self._write_encoded(records)
        self._stats.records += len(keys)
        wanted = SEGMENT_BYTES * len(keys) // max(1, sum(map(len, records)))
        self.chunk = max(1, min(wanted, self.chunk * CHUNK_GROWTH, MAX_CHUNK))

    def _write_encoded(self, records: list[Any]) -> None:
        try:
            self._files.write(records)
        except OutputError as error:
            raise TaskFailure(make_failure("output", str(error))) from error


def import_modules(plan: PartsPlan) -> None:
    """Import those of our modules that a plan needs."""
    PartFiles(plan)


def write_parts(
    plan: PartsPlan,
    note: Callable[[str], None],
    pausing: Callable[[], contextlib.AbstractContextManager[None]],
) -> MakeWriter:
    """Return what makes the writer of a reduce task. See `PartWriter` for the rest."""

    def make(emit: Emit, stats: TaskStats, plain: PlainRules | None) -> Writer:
        return PartWriter(emit, stats, plain, PartFiles(plan), note, pausing)

    return make
