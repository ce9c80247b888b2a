"""Encode the results of a reduce task: FLAT segments of about a MiB, and flushes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mmgevent.tasks.blame import blame_exception
from mmgevent.tasks.map_task import Emit, TaskStats
from mmgevent.tasks.records import encode_flush, encode_segment

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

#: Size of a segment of results to aim at, bytes. It is cheap to handle, and small beside an
#: executor.
SEGMENT_BYTES = 1024 * 1024

#: Records in the first segment, while the size of a record is unknown.
FIRST_CHUNK = 256

#: Largest growth of the number of records from one segment to the next. The last may be a poor
#: sample.
CHUNK_GROWTH = 4

#: Most records in a segment.
MAX_CHUNK = 64 * 1024


class Writer(Protocol):
    """What a reduce task gives its results to."""

    #: most records that the next `write` should bring
    chunk: int

    def write(self, partition: int, keys: list[Any], values: list[Any], function: str | None) -> None: ...

    def flush(self) -> None: ...

    def abort(self) -> None: ...


MakeWriter = Callable[[Emit, TaskStats, "PlainRules | None"], Writer]


class ResultWriter:
    """Encodes results into segments of a good size, and segments into flushes."""

    def __init__(self, emit: Emit, stats: TaskStats, plain: PlainRules | None):
        self._emit = emit
        self._plain = plain
        self._stats = stats
        self._segments: dict[int, bytes] = {}
        self._size = 0
        #: most records that the next `write` should bring
        self.chunk = FIRST_CHUNK

    def write(self, partition: int, keys: list[Any], values: list[Any], function: str | None) -> None:
        """Encode up to `chunk` results.

        Raise TaskFailure, which blames `function`, if one cannot be pickled.
        """
        try:
            segment = encode_segment(keys, values, plain=self._plain)
        except BaseException as error:
            raise blame_exception(error, function) from error
        if partition in self._segments:
            self.flush()
        self._segments[partition] = segment
        self._size += len(segment)
        self._stats.records += len(keys)
        wanted = SEGMENT_BYTES * len(keys) // len(segment)
        self.chunk = max(1, min(wanted, self.chunk * CHUNK_GROWTH, MAX_CHUNK))
        if self._size >= SEGMENT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Emit what was written."""
        if self._segments:
            flush = encode_flush(self._segments)
            self._segments, self._size = {}, 0
            self._stats.flushes += 1
            self._stats.bytes += len(flush)
            self._emit(flush)

    def abort(self) -> None:
        """Drop what was written and not emitted, for a task that has failed."""
        self._segments = {}
