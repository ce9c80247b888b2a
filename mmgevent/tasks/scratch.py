"""Merge the segments of one partition into groups, on local disk if they are larger than memory.

Segments arrive in (task, flush) order and are merged in that order, so the values of a key stay in
order. If the groups in memory outgrow the limit, they are scattered over a few *pieces*, by hash
and under another seed, and appended to an unlinked temporary file. The rest of the partition
follows the same way. Then each piece is a smaller partition, and is merged like one, at most
MAX_SPLITS deep.

All values of one key are in one piece. So a piece of a single key is never split: it is merged in
memory. If it does not fit, the job fails. But if the job wants the values in order, they are kept
on disk in sorted runs (`ordered_values`), and so are those of a piece that was split MAX_SPLITS
times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mmgevent import _speedups
from mmgevent.machine.resources import find_scratch_folder
from mmgevent.tasks.blame import TaskFailure, blame_exception, blame_segment, make_failure, short_repr
from mmgevent.tasks.columns import is_typed
from mmgevent.tasks.ordered_values import OrderedValues, ValueRuns
from mmgevent.tasks.records import (
    Columns,
    Segment,
    SegmentError,
    decode_segment,
    join_segment,
    split_segment,
)
from mmgevent.tasks.scratch_file import ScratchFile
from mmgevent.tasks.shares import are_shares, encode_shares, merges_ints, share_bytes

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules
    from mmgevent.tasks.value_order import ValueOrder

#: Most splits of one partition, one inside another. Four splits into 4 to 32 pieces each are enough
#: for 256 to a million times the memory.
MAX_SPLITS = 4

#: Pieces of one split. With fewer they are split again at once, with more their segments are tiny.
MIN_PIECES = 4
MAX_PIECES = 32

#: Share of the limit for values that are to be sorted. What they are compared by, and their places,
#: need as much again.
SORTED_SHARE = 0.5

#: Bytes of groups for each byte of segments, as the C core estimates them. Measured: 2 for long str
#: values, 5 for floats, 13 for shared strs, 16 for small tuples under short keys. It decides the
#: number of pieces only.
EXPANSION = 8


class PieceFile:
    """The pieces of one split: runs of segments in one unlinked file.

    Every method that touches the disk may raise OSError.
    """

    def __init__(self, folder: str | None, count: int, seed: int):
        self._file = ScratchFile(folder, "pieces")
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        #: the seed under which keys are hashed to pieces
        self.seed = seed

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._extents)

    def append(self, piece: int, segment: bytes) -> None:
        """Append a segment to a piece."""
        self._extents[piece].append(self._file.append(segment))

    def size(self, piece: int) -> int:
        """Return the bytes of a piece."""
        return sum(n_bytes for _, n_bytes in self._extents[piece])

    def segments(self, piece: int) -> Iterator[bytes]:
        """Yield the segments of a piece in the order they were appended."""
        for offset, n_bytes in self._extents[piece]:
            yield self._file.read(offset, n_bytes)


class Merger:
    """Merges partitions for one reduce task.

    Segments hold values, and groups are `{key: [value, ...]}`. With a `fold_op`, the number of a
    fold of the C core, segments hold its partial results, and groups are `{key: partial result}`.
    """

    def __init__(
        self,
        *,
        partitions: int,
        bound_bytes: int,
        fold_op: int | None,
        scratch_dir: str | None,
        plain: PlainRules | None = None,
        order: ValueOrder | None = None,
        on_failure: Callable[[BaseException], None] = lambda _: None,
        note_key: Callable[[Any], object] = lambda _: None,
    ):
        """`plain`: rules for the segments of others, if they must be plain data.

        `order`: that of values which do not fit into memory; None if they must. A list that fits is
        not sorted here. `on_failure`: as for `ValueRuns`. `note_key`: called before the values of a key
        are sorted here.
        """
        self._plain = plain
        self._partitions = partitions
        self._bound_bytes = bound_bytes if order is None else max(1, int(bound_bytes * SORTED_SHARE))
        self._order = order
        self._on_failure = on_failure
        self._note_key = note_key
        self._fold_op = fold_op
        self._scratch_dir = scratch_dir

    def merge(self, partition: int, n_bytes: int, segments: Iterator[Any]) -> Iterator[dict[Any, Any]]:
        """Yield the groups of a partition as one or more dicts; each key is in one of them.

        A dict is emptied when the next one is asked for. `n_bytes` is the size of the segments together, or 0 if unknown. Raise TaskFailure.
        Exceptions of the `segments` iterator pass unchanged, and so does SegmentError for damaged
        bytes.
        """
        return self._merge(self._checked(partition, segments), n_bytes, depth=0)

    def _merge(
        self, segments: Iterator[Segment | Columns], n_bytes: int, depth: int
    ) -> Iterator[dict[Any, Any]]:
        groups: Any = {} if self._fold_op is None else _speedups.FoldTable(self._fold_op)
        used = 0
        pieces: PieceFile | None = None
        runs: ValueRuns | None = None
        try:
            for segment in self._held(segments, groups):
                used += self._add(groups, segment)
                del segment  # before the next is read: it has values that may go to disk now
                if used <= self._bound_bytes:
                    continue
                if depth < MAX_SPLITS and (pieces is not None or len(groups) > 1):
                    if pieces is None:
                        pieces = self._on_disk(
                            PieceFile, self._scratch_dir, self._piece_count(n_bytes), depth + 1
                        )
                    self._scatter(groups, pieces, runs)
                    used = 0
                elif self._order is not None:
                    runs = runs or self._open_runs(self._order)
                    self._add_runs(groups, list(groups), runs)
                    used = 0
            if runs is not None:
                yield self._take_ordered(groups, runs)
            if pieces is None:
                if groups:
                    taken = groups if isinstance(groups, dict) else groups.take()
                    yield taken
                    taken.clear()  # whoever got them may hold them until the next ones come
                return
            self._scatter(groups, pieces)
            for piece in range(len(pieces)):
                size = pieces.size(piece)
                if size:
                    yield from self._merge(self._read_back(pieces, piece), size, depth + 1)
        finally:
            if pieces is not None:
                pieces.close()
            if runs is not None:
                runs.close()

    def _add_runs(self, groups: dict[Any, Any], keys: list[Any], runs: ValueRuns) -> None:
        """Move the values of some keys to their runs. The keys stay: later segments have equal ones."""
        for key in keys:
            if groups[key]:
                self._note_key(key)
                runs.add(key, groups[key])
                groups[key] = []

    def _take_ordered(self, groups: dict[Any, Any], runs: ValueRuns) -> dict[Any, Any]:
        """Take the keys that have runs out of the groups; return them with their values in order."""
        keys = runs.keys()
        self._add_runs(groups, keys, runs)
        for key in keys:
            del groups[key]
        return {key: OrderedValues(runs, key) for key in keys}

    def _open_runs(self, order: ValueOrder) -> ValueRuns:
        return ValueRuns(self._scratch_dir, order, self._bound_bytes, self._on_disk, self._on_failure)

    def _checked(self, partition: int, segments: Iterator[Any]) -> Iterator[Segment | Columns]:
        """Decode segments; check keys whose hash came from a class of the user's."""
        for data in segments:
            try:
                segment = self._typed_columns(data) or decode_segment(data, plain=self._plain)
            except SegmentError as error:
                if error.__cause__ is None:
                    raise
                raise blame_segment(error) from error
            del data
            if segment.hashed:
                self._check_hashes(segment.keys, partition)
            yield segment
            del segment

    def _typed_columns(self, data: Any) -> Columns | None:
        """Return a segment whose columns are folded as they are, or None if it must be decoded first.

        Raise SegmentError.
        """
        if self._fold_op is None:
            return None
        columns = split_segment(data)
        is_short = columns.size > len(columns.keys)
        if columns.hashed or columns.grouped or is_short or not is_typed(columns.keys, columns.values):
            return None
        return columns

    def _check_hashes(self, keys: Any, partition: int) -> None:
        for key in keys:
            try:
                is_lost = _speedups.is_hashed(key) and _speedups.partition(key, self._partitions) != partition
            except BaseException as error:
                raise blame_exception(error, "reducefn", key) from error
            if is_lost:
                cls = _unstable_class(key)
                name = f"{cls.__module__}.{cls.__qualname__}"
                raise TaskFailure(
                    make_failure(
                        "key",
                        f"the hash of a {name} differs between processes, so equal keys would not meet",
                        key=key,
                        advice=f"yield a str, number or tuple instead, that is the same in every process; or, "
                        f"if the class {name} is yours, give it a method __partition_key__() that returns one",
                    )
                )

    def _read_back(self, pieces: PieceFile, piece: int) -> Iterator[Segment | Columns]:
        segments = pieces.segments(piece)
        while True:
            data = self._on_disk(next, segments, None)
            if data is None:
                return
            segment = self._typed_columns(data) or decode_segment(data)
            del data
            yield segment
            del segment

    def _add(self, groups: Any, segment: Segment | Columns) -> int:
        if isinstance(segment, Columns):
            return self._fold_columns(groups, segment)
        keys, values = segment.keys, segment.values
        try:
            if self._fold_op is not None:
                return int(groups.merge_lists(keys, values))
            if segment.grouped:
                return _speedups.merge_grouped(groups, keys, values)
            return _speedups.merge_flat(groups, keys, values)
        except MemoryError as error:
            raise self._out_of_memory(groups) from error
        except BaseException as error:  # __eq__, __hash__, __add__ or __lt__ of the user's
            raise blame_exception(error, "reducefn") from error

    def _fold_columns(self, table: _speedups.FoldTable, columns: Columns) -> int:
        try:
            return table.merge(columns.keys, columns.values, columns.size)
        except MemoryError as error:
            raise self._out_of_memory(table) from error
        except ValueError as error:  # plain values raise none
            raise SegmentError(f"the columns of a segment have not {columns.size} elements each") from error
        except BaseException as error:  # a str is added to an int, say
            raise blame_exception(error, "reducefn") from error

    def _held(
        self, segments: Iterator[Segment | Columns], groups: dict[Any, Any]
    ) -> Iterator[Segment | Columns]:
        """Yield the segments.

        If there is no memory for the next, blame the key that has most values.
        """
        try:
            yield from segments
        except MemoryError as error:
            raise self._out_of_memory(groups) from error

    def _out_of_memory(self, groups: Any) -> TaskFailure:
        if self._fold_op is not None or not groups:
            failure = make_failure("memory", f"{len(groups)} keys do not fit into memory")
        else:
            key, values = max(groups.items(), key=lambda group: len(group[1]))
            failure = make_failure(
                "memory",
                f"the {len(values)} values of key {short_repr(key)} do not fit into memory, "
                f"with a bound of {self._bound_bytes} bytes",
                key=key,
                advice="shorten them before they meet, with one of mmgevent.reducers or a collectfn, "
                "or raise the job's memory_limit",
            )
        groups.clear()
        return TaskFailure(failure)

    def _piece_count(self, n_bytes: int) -> int:
        wanted = 2 * n_bytes * EXPANSION // max(self._bound_bytes, 1)
        return min(max(wanted, MIN_PIECES), MAX_PIECES)

    def _scatter(self, groups: Any, pieces: PieceFile, runs: ValueRuns | None = None) -> None:
        """Move the groups to the ends of their pieces, or of their runs if they have some."""
        if isinstance(groups, _speedups.FoldTable):
            parts = groups.scatter(len(pieces), pieces.seed)
            most = share_bytes(self._bound_bytes)
            if parts is None or not are_shares(parts, most, are_ints_merged=merges_ints(self._fold_op)):
                self._scatter(groups.take(), pieces)
                return
            groups.clear()
            for piece, part in enumerate(parts):
                if part is not None:
                    self._on_disk(pieces.append, piece, join_segment(*part))
            return
        in_runs = [] if runs is None else runs.keys()
        if runs is not None:
            self._add_runs(groups, in_runs, runs)
            for key in in_runs:
                del groups[key]
        try:
            dealt, _ = _speedups.scatter(groups, len(pieces), pieces.seed)
        except BaseException as error:
            raise blame_exception(error, "reducefn") from error
        groups.clear()
        for piece, columns in enumerate(dealt):
            if columns is not None:
                dealt[piece] = None
                shares = encode_shares(
                    *columns, share_bytes(self._bound_bytes), grouped=self._fold_op is None
                )
                while (segment := self._next_share(shares)) is not None:
                    self._on_disk(pieces.append, piece, segment)
        groups.update((key, []) for key in in_runs)

    def _next_share(self, shares: Iterator[bytes]) -> bytes | None:
        try:
            return next(shares, None)
        except BaseException as error:
            raise blame_exception(error, "reducefn") from error

    def _on_disk(self, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except OSError as error:
            folder = self._scratch_dir or find_scratch_folder()
            raise TaskFailure(
                make_failure(
                    "disk",
                    f"cannot keep a partition that is larger than memory in {folder}: {error.strerror or error}",
                    advice="make room there, set TMPDIR to a larger disk, or raise the job's memory_limit",
                )
            ) from error


def _unstable_class(key: Any) -> type:
    """Return the class that relies on `hash()`: that of the key, or of something in it."""
    parts = key if type(key) in (tuple, frozenset) else ()
    return next((_unstable_class(part) for part in parts if _speedups.is_hashed(part)), type(key))
