"""Keep the sorted values of keys on disk, and read them as a sequence.

1. Values arrive in runs. Each run is sorted and appended to one unlinked file, in chunks.
2. Reading merges the runs. RUN_COUNT runs become one, so few are merged at once. Their order is
   kept, so equal values stay in the order in which they arrived.
3. Who asks for a value by its index, or reads from behind, has all runs merged into one first.
4. Each run that is merged holds a chunk in memory, and a chunk has one value at least. So if values
   are large themselves, only as many runs are merged at once as the limit allows.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mmgevent._speedups import estimate_bytes
from mmgevent.tasks.blame import TaskFailure, short_repr
from mmgevent.tasks.records import SegmentError, decode_segment, encode_segment
from mmgevent.tasks.scratch_file import ScratchFile
from mmgevent.tasks.value_order import ValueOrder

#: Most runs of one level. Those of all levels are merged at once: there are two, hardly ever three.
RUN_COUNT = 64

#: Bounds of the estimated memory of a chunk, bytes. Between them RUN_COUNT chunks take half of the
#: limit. Smaller ones would be read one by one, larger ones are read no faster.
MIN_CHUNK_BYTES = 8 * 1024
MAX_CHUNK_BYTES = 256 * 1024

#: Fewest runs that are merged at once, however large their values are.
MIN_WIDTH = 2

#: Memory of a value in a list beside the value, bytes.
_SLOT_BYTES = 8

OnDisk = Callable[..., Any]


class Chunk(NamedTuple):
    """Where some values of a run are in the file, and how many they are."""

    offset: int
    size: int
    value_count: int


class ValueRuns:
    """The sorted runs of some keys."""

    def __init__(
        self,
        folder: str | None,
        order: ValueOrder,
        bound_bytes: int,
        on_disk: OnDisk,
        on_failure: Callable[[BaseException], None],
    ):
        """`on_disk(action, *args)`: acts, and turns an OSError into a TaskFailure.

        `on_failure`: called with what is raised while the user's code reads, which may swallow it.
        """
        self._order = order
        self._on_disk = on_disk
        self.note_failure = on_failure
        self._bound_bytes = bound_bytes
        self._chunk_bytes = min(max(bound_bytes // (2 * RUN_COUNT), MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
        self._file: ScratchFile = on_disk(ScratchFile, folder, "values")
        #: {key: levels, the youngest first, of runs, the oldest first}. The runs of a level are
        #: older than those of the levels before it.
        self._levels: dict[Any, list[list[list[Chunk]]]] = {}
        self._largest_bytes = 0  # of a chunk, in memory

    def close(self) -> None:
        """Remove the file. Idempotent."""
        self._file.close()

    def keys(self) -> list[Any]:
        """Return the keys that have runs."""
        return list(self._levels)

    def add(self, key: Any, values: list[Any]) -> None:
        """Sort the values that came behind those of the key's other runs, and add them."""
        self._order.sort(key, values)
        levels = self._levels.setdefault(key, [[]])
        levels[0].append(self._write(values))
        for level in itertools.count():
            if len(levels[level]) < min(RUN_COUNT, self._width()):
                break
            if level + 1 == len(levels):
                levels.append([])
            levels[level + 1].append(self._write(self._merge(key, levels[level])))
            levels[level] = []

    def read(self, key: Any) -> Iterator[Any]:
        """Yield all values of a key in order."""
        return self._merge(key, self._few_runs(key))

    def count(self, key: Any) -> int:
        """Return the number of values of a key."""
        return sum(chunk.value_count for run in self._runs(key) for chunk in run)

    def single_run(self, key: Any) -> list[Chunk]:
        """Make one run of all of a key, and return its chunks."""
        runs = self._few_runs(key)
        if len(runs) > 1:
            self._levels[key] = [[self._write(self._merge(key, runs))]]
        return self._runs(key)[0]

    def read_chunk(self, chunk: Chunk) -> list[Any]:
        """Return the values of a chunk."""
        if self._file.is_closed:
            raise ValueError("the values of this key were on disk, and are gone since the next keys are read")
        values: list[Any] = decode_segment(self._on_disk(self._file.read, chunk.offset, chunk.size)).values[0]
        return values

    def _runs(self, key: Any) -> list[list[Chunk]]:
        return [run for level in reversed(self._levels[key]) for run in level]

    def _few_runs(self, key: Any) -> list[list[Chunk]]:
        """Return the runs of a key, so few that they can be merged at once."""
        runs, width = self._runs(key), self._width()
        if len(runs) <= width:
            return runs
        while len(runs) > width:  # neighbours, so that equal values stay in order
            groups = [runs[start : start + width] for start in range(0, len(runs), width)]
            runs = [group[0] if len(group) == 1 else self._write(self._merge(key, group)) for group in groups]
        self._levels[key] = [runs]
        return runs

    def _width(self) -> int:
        """Return how many runs may be merged at once. Chunks of small values are no limit."""
        if self._largest_bytes <= 2 * self._chunk_bytes:
            return sys.maxsize
        return max(MIN_WIDTH, self._bound_bytes // (2 * self._largest_bytes))

    def _merge(self, key: Any, runs: list[list[Chunk]]) -> Iterator[Any]:
        if len(runs) == 1:
            return self._read_run(runs[0])
        return self._order.merge(key, [functools.partial(self._read_run, run) for run in runs])

    def _read_run(self, run: list[Chunk]) -> Iterator[Any]:
        for chunk in run:
            yield from self.read_chunk(chunk)

    def _write(self, values: Iterable[Any]) -> list[Chunk]:
        """Append a run; return its chunks."""
        run: list[Chunk] = []
        waiting: list[Any] = []
        used_bytes = 0
        for value in values:
            waiting.append(value)
            used_bytes += estimate_bytes(value) + _SLOT_BYTES
            self._largest_bytes = max(self._largest_bytes, used_bytes)
            if used_bytes >= self._chunk_bytes:
                run.append(self._write_chunk(waiting))
                waiting, used_bytes = [], 0
        if waiting:
            run.append(self._write_chunk(waiting))
        return run

    def _write_chunk(self, values: list[Any]) -> Chunk:
        offset, size = self._on_disk(self._file.append, encode_segment([None], [values], grouped=True))
        return Chunk(offset, size, len(values))


class OrderedValues(Sequence[Any]):
    """The values of one key, in order: what a reducefn gets instead of a list that memory cannot hold.

    It can be read as often as wanted, counted, indexed and sliced until the reducefn returns.
    """

    def __init__(self, runs: ValueRuns, key: Any, places: range | None = None):
        """`places`: those of the values that belong to this; None for all."""
        self._runs = runs
        self._key = key
        self._places = range(runs.count(key)) if places is None else places
        self._is_whole = places is None
        self._ends: list[int] = []  # behind each chunk, once there is a single run
        self._chunks: list[Chunk] = []
        self._read: tuple[int, list[Any]] | None = None  # the chunk that was read last

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Any]:
        values = self._runs.read(self._key) if self._is_whole else map(self._at, self._places)
        try:
            yield from values
        except (TaskFailure, SegmentError) as failure:
            self._runs.note_failure(failure)
            raise

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return OrderedValues(self._runs, self._key, self._places[index])
        place = self._places[index]
        if place == 0:
            return next(iter(OrderedValues(self._runs, self._key)))
        try:
            return self._at(place)
        except (TaskFailure, SegmentError) as failure:
            self._runs.note_failure(failure)
            raise

    def __getattr__(self, name: str) -> Any:
        if name in ("append", "clear", "copy", "extend", "insert", "pop", "remove", "reverse", "sort"):
            raise AttributeError(
                f"the {len(self)} values of key {short_repr(self._key)} do not fit into memory: they can be read, "
                f"counted, indexed and sliced, and have no {name}()"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (), None, iter(self)

    def __repr__(self) -> str:
        return f"<{len(self)} values of key {short_repr(self._key)} on disk>"

    def _at(self, place: int) -> Any:
        """Return the value at a place of all values."""
        if not self._chunks:
            self._chunks = self._runs.single_run(self._key)
            self._ends = list(itertools.accumulate(chunk.value_count for chunk in self._chunks))
        at = bisect.bisect_right(self._ends, place)
        if self._read is None or self._read[0] != at:
            self._read = at, self._runs.read_chunk(self._chunks[at])
        chunk = self._chunks[at]
        return self._read[1][place - self._ends[at] + chunk.value_count]
