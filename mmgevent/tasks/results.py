"""Encode the results of a reduce task: FLAT segments of about a MiB, and flushes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mmgevent._speedups import estimate_bytes
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

#: Memory of the results in a segment at which it is cut, bytes as the core estimates them. Results
#: that are small themselves never have so much.
MAX_CHUNK_BYTES = 8 * 1024 * 1024

#: Most results between two looks at their size, and most of their bytes, as estimated. Of larger
#: ones the next look comes after one.
MAX_STEP = 64
STEP_BYTES = 256 * 1024

#: Memory of the results of a segment from which on it gets no more, bytes as estimated. Few jobs
#: have results so large that this comes before SEGMENT_BYTES.
MAX_CHUNK_BYTES = 4 * 1024 * 1024

#: Most results of user code between two looks at their size; what was in memory before needs fewer
#: looks. Of results that take more than LARGE_BYTES together the next look comes after one.
MAX_STEP = 128
MAX_STEP_IN_MEMORY = 4096
LARGE_BYTES = 256 * 1024

#: Results whose size is estimated at one look; the others count as their average.
_SAMPLE = 8


class ChunkRoom:
    """Says how many more results the next `write` may bring, so that it keeps to its bytes."""

    def __init__(self, most: int):
        """`most`: results between two looks at their size."""
        self._most = most
        self._step = 1
        self._left = 0
        self._left_bytes = 0

    def begin(self, chunk: int) -> None:
        """Begin a chunk of at most so many results."""
        self._left, self._left_bytes = chunk, MAX_CHUNK_BYTES

    def step(self) -> int:
        """Return how many results may come before `took` is called; 0 if the chunk is full."""
        return min(self._step, self._left) if self._left_bytes > 0 else 0

    def took(self, results: list[Any]) -> None:
        """Note the results that came. What user code raises when it is asked for a size passes."""
        self._left -= len(results)
        sample = results[:: -(-len(results) // _SAMPLE) or 1]
        size = sum(map(estimate_bytes, sample)) * len(results) // max(1, len(sample))
        self._left_bytes -= size
        self._step = 1 if size > LARGE_BYTES else min(2 * self._step, self._most)


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
