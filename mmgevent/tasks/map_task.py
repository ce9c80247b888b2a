"""Run one map task: items in, flushes out.

The C core consumes the records of all items of the task as one iterator, so per item there is one turn of a Python
generator (about 1 us) and per record none.  It stops when the groups reach a budget; they are then combined, scattered
to partitions, encoded and emitted, and grouping goes on where it stopped, in the middle of an item if need be.

What happens to the groups of a flush:

    reducefn is a fold of `reducers`, no collectfn    folded while records arrive; FLAT partial results
    reducefn has a combiner, no collectfn             combined key by key; GROUPED
    collectfn in pair form                            called key by key; FLAT, or GROUPED once it returns a list
    collectfn in iterator form                        called once a flush; what it yields is grouped again; GROUPED
    none of these                                     GROUPED, or FLAT if every key came once

Every value passes through the combining function exactly once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import GeneratorType
from typing import Any

from mmgevent import _speedups
from mmgevent.functions import Functions
from mmgevent.records import encode_flush, encode_segment
from mmgevent.reducers import FOLD_OPS, combiner_of, fold_of
from mmgevent.sources import ContentNeeded, Ref
from mmgevent.tasks.blame import NO_KEY, TaskFailure, blame_exception, is_users, make_failure, short_repr

#: bytes of groups of one flush at most: beyond it combining hardly gains, and memory is better left to the user
MAX_GROUP_BYTES = 64 * 1024 * 1024

#: bytes at which an encoded flush is cut into several; exceeded by less than one segment
MAX_FLUSH_BYTES = 16 * 1024 * 1024

Mark = Callable[[int, Any], object]
MarkFlush = Callable[[int | None], object]
Emit = Callable[[bytes], object]
#: (fn, iterator of (index, key, value)) -> iterator of fn's results, in order
MapItems = Callable[
    [Callable[[int, Any, Any], list[Any]], Iterator[tuple[int, Any, Any]]], Iterable[list[Any]]
]

#: how the core's own complaints begin, see `_speedups._fallback.pair_message` and `_encoding`
_CORE_PAIR_WORDS = "mapfn must yield (key, value) pairs"
_CORE_KEY_WORDS = ("keys must be hashable", "keys cannot be of class")

_PAIRS_ADVICE = "yield (key, value) pairs, or return a list of them or a mapping; for nothing, return []"


@dataclass
class TaskStats:
    """What a task did."""

    #: items mapped; 0 in a reduce task
    items: int = 0
    #: records that came from the functions: of mapfn, or results of reducefn
    records: int = 0
    #: keys grouped, counted once a flush; in a reduce task, keys reduced
    groups: int = 0
    flushes: int = 0
    #: bytes emitted
    bytes: int = 0


def pairs_of(output: Any, function: str) -> Iterator[Any]:
    """Return an iterator of the records in what a function returned.

    Raises TypeError, with the advice in its text, for what holds no records.
    """
    if isinstance(output, (list, GeneratorType)):
        return iter(output)
    if isinstance(output, Mapping):
        return iter(output.items())
    if output is not None and not isinstance(output, (str, bytes)):
        try:
            return iter(output)
        except TypeError:
            if hasattr(type(output), "__iter__"):  # its own __iter__ failed
                raise
    what = "None" if output is None else f"an object of type {type(output).__name__}"
    raise NoRecordsError(f"{function} returned {what}, which holds no records")


class NoRecordsError(TypeError):
    """A function returned something that holds no records."""


class MapTask:
    """One run of one map task; see `tasks.run_map` for the arguments."""

    def __init__(
        self,
        functions: Functions,
        items: Iterable[tuple[Any, Any]],
        *,
        partitions: int,
        memory_bytes: int,
        emit: Emit,
        mark: Mark,
        first_index: int = 0,
        skip: Collection[int] = (),
        map_items: MapItems | None = None,
        mark_flush: MarkFlush | None = None,
    ):
        self._mapfn: Any = functions.mapfn
        self._collectfn: Any = functions.collectfn
        self._collect_form = functions.collect_form
        fold = None if functions.collectfn is not None else fold_of(functions.reducefn)
        self._fold_op = None if fold is None else FOLD_OPS[fold]
        self._combiner = None if functions.collectfn is not None else combiner_of(functions.reducefn)
        self._items = items
        self._partitions = partitions
        self._budget = group_budget(memory_bytes)
        self._emit_bytes = emit
        # several items at once: map_items alone knows which to show
        self._mark: Mark = mark if map_items is None else _mark_nothing
        self._mark_flush = mark_flush
        self._first_index = first_index
        self._skip = frozenset(skip)
        self._map_items = map_items
        self._index: int | None = None  # of the item at hand
        self._key: Any = NO_KEY  # of the item at hand
        self._flushed_items = 0  # items that were done or begun when the last flush ended
        self.stats = TaskStats()

    def run(self) -> TaskStats:
        pairs = self._pairs()
        exhausted = False
        while not exhausted:
            groups: dict[Any, Any] = {}
            exhausted, records = self._fill(pairs, groups)
            self.stats.records += records
            if groups:
                # blame an item for what turns up now only if there can be no other
                begun = self.stats.items
                is_of_one = begun - self._flushed_items <= 1
                self._flushed_items = begun - 1
                if is_of_one or self._mark_flush is None:
                    self._flush(groups, records, self._index if is_of_one else None)
                else:
                    self._mark_flush(None)
                    self._flush(groups, records, None)
                    self._mark_flush(self._index)
        if self._mark_flush is not None and self.stats.items > 1:
            self._mark_flush(None)  # what breaks from here on may be any item's doing
        return self.stats

    # --- items to pairs ---

    def _pairs(self) -> Iterator[Any]:
        if self._mapfn is None:
            return self._marked_items()
        if self._map_items is not None:
            return chain.from_iterable(self._map_items(self._map_one, self._triples()))
        return chain.from_iterable(self._outputs())

    def _outputs(self) -> Iterator[Iterable[Any]]:
        """Yield what mapfn returns for each item; the loop that every item passes."""
        mapfn, mark = self._mapfn, self._mark
        for index, key, value in self._triples():
            self._index = index
            self._key = key
            mark(index, key)
            output = mapfn(key, value)
            yield output if type(output) is GeneratorType else pairs_of(output, "mapfn")

    def _marked_items(self) -> Iterator[tuple[Any, Any]]:
        for index, key, value in self._triples():
            self._index = index
            self._key = key
            self._mark(index, key)
            yield key, value

    def _map_one(self, index: int, key: Any, value: Any) -> list[Any]:
        """Map one item to the list of its records: what `map_items` calls, perhaps several at a time."""
        try:
            records = list(pairs_of(self._mapfn(key, value), "mapfn"))
        except BaseException as error:
            if _is_greenlet_exit(error):  # an item before this one failed
                raise
            raise self._blame_mapfn(error, key, index) from error
        for record in records:
            if not isinstance(record, (tuple, list)) or len(record) != 2:
                raise TaskFailure(no_pair(record, "mapfn", key), index)
        return records

    def _triples(self) -> Iterator[tuple[int, Any, Any]]:
        """Yield (index, key, value) of the items to be mapped, files expanded into theirs."""
        skip = self._skip
        stats = self.stats
        for index, (key, value) in enumerate(self._items, self._first_index):
            if index in skip:
                continue
            stats.items += 1
            if isinstance(value, Ref):
                self._mark(index, key)
                for inner_key, inner_value in self._expanded(index, key, value):
                    yield index, inner_key, inner_value
            else:
                yield index, key, value

    def _expanded(self, index: int, key: Any, ref: Ref) -> Iterator[tuple[Any, Any]]:
        try:
            yield from ref.items()
        except (ContentNeeded, GeneratorExit):
            raise
        except MemoryError as error:
            raise blame_exception(error, None, key, index) from error
        except Exception as error:
            raise TaskFailure(make_failure("input", str(error), key=key), index) from error

    # --- pairs to groups ---

    def _fill(self, pairs: Iterator[Any], groups: dict[Any, Any]) -> tuple[bool, int]:
        try:
            if self._fold_op is not None:
                exhausted, _, records = _speedups.fold(pairs, groups, self._fold_op, self._budget)
            else:
                exhausted, _, records = _speedups.group(pairs, groups, self._budget)
        except (ContentNeeded, TaskFailure):
            raise
        except BaseException as error:
            if isinstance(error, MemoryError):
                groups.clear()
            raise self._blame_mapfn(error, self._key, self._index) from error
        return exhausted, records

    def _blame_mapfn(self, error: BaseException, key: Any, index: int | None) -> TaskFailure:
        return blame_records(error, None if self._mapfn is None else "mapfn", key, index)

    # --- groups to flushes ---

    def _flush(self, groups: dict[Any, Any], records: int, item: int | None) -> None:
        self.stats.groups += len(groups)
        if self._collectfn is not None and self._collect_form == "iterator":
            self._collect_all(groups, item)
            return
        grouped = self._fold_op is None
        combine = self._collectfn if self._collectfn is not None else self._combiner
        if combine is not None:
            grouped = self._collect_each(groups, combine)
        elif grouped and records == len(groups):
            for key, values in groups.items():
                groups[key] = values[0]
            grouped = False
        self._emit(groups, grouped, "mapfn" if self._mapfn is not None else None, item)

    def _collect_each(self, groups: dict[Any, Any], combine: Callable[[Any, Any], Any]) -> bool:
        """Replace the values of each key by what `combine` makes of them; return whether they are lists."""
        lists = 0
        key: Any = NO_KEY
        try:
            for key, values in groups.items():
                result = groups[key] = combine(key, values)
                if isinstance(result, list):
                    lists += 1
        except BaseException as error:
            function = "collectfn" if self._collectfn is not None else "reducefn"
            raise blame_exception(error, function, key) from error
        if lists == 0:
            return False
        for key in [key for key, result in groups.items() if type(result) is not list or not result]:
            result = groups[key]
            if not isinstance(result, list):
                groups[key] = [result]
            elif result:
                groups[key] = list(result)
            else:
                del groups[key]
        return True

    def _collect_all(self, groups: dict[Any, Any], item: int | None) -> None:
        """Call a collectfn of iterator form on the groups of one flush, and emit what it yields."""
        try:
            pairs = _spread(pairs_of(self._collectfn(iter(groups.items())), "collectfn"))
        except BaseException as error:
            raise blame_records(error, "collectfn") from error
        exhausted = False
        while not exhausted:
            collected: dict[Any, Any] = {}
            try:
                exhausted, _, _ = _speedups.group(pairs, collected, self._budget)
            except BaseException as error:
                raise blame_records(error, "collectfn") from error
            if collected:
                self._emit(collected, True, "collectfn", item)

    def _emit(self, groups: dict[Any, Any], grouped: bool, function: str | None, item: int | None) -> None:
        """Scatter groups to partitions, encode and emit them; `groups` is empty afterwards."""
        try:
            parts, hashed = _speedups.scatter(groups, self._partitions)
        except BaseException as error:
            raise _blame_keys(error, groups, function, item) from error
        groups.clear()
        segments: dict[int, bytes] = {}
        size = 0
        for partition, part in enumerate(parts):
            if part is None:
                continue
            parts[partition] = None  # free as we go
            keys, values = part
            try:
                segment = encode_segment(keys, values, grouped=grouped, hashed=hashed)
            except BaseException as error:
                maker = function if self._collectfn is None else "collectfn"
                raise blame_exception(error, maker, item=item) from error
            segments[partition] = segment
            size += len(segment)
            if size >= MAX_FLUSH_BYTES:
                self._emit_flush(segments)
                segments, size = {}, 0
        if segments:
            self._emit_flush(segments)

    def _emit_flush(self, segments: dict[int, bytes]) -> None:
        flush = encode_flush(segments)
        self.stats.flushes += 1
        self.stats.bytes += len(flush)
        self._emit_bytes(flush)


def group_budget(memory_bytes: int) -> int:
    """Return the bytes of groups at which a map task flushes, for a task that may hold `memory_bytes` of records."""
    return max(1, min(memory_bytes, MAX_GROUP_BYTES))


def blame_records(
    error: BaseException, function: str | None, key: Any = NO_KEY, index: int | None = None
) -> TaskFailure:
    """Judge an exception that came up while the core consumed the records of a function."""
    if isinstance(error, NoRecordsError):
        return TaskFailure(
            make_failure("record", str(error), function=function, key=key, advice=_PAIRS_ADVICE), index
        )
    kind = _core_kind(error)
    if kind is None:
        return blame_exception(error, function, key, index)
    advice = _PAIRS_ADVICE if kind == "record" else None
    text = str(error).replace("mapfn", function or "the datasource", 1)
    return TaskFailure(make_failure(kind, text, function=function, key=key, advice=advice), index)


def _core_kind(error: BaseException) -> str | None:
    """Return the kind of an error that the core itself raised; None for one of the user's under it.

    No frame but ours tells them apart, up to code of the user's that has no frames, such as `1 + "1"` in a fold or
    `map(int, words)`.  There the core's own first words decide.
    """
    if not isinstance(error, TypeError) or is_users(error.__traceback__):
        return None
    text = str(error)
    if text.startswith(_CORE_PAIR_WORDS):
        return "record"
    return "key" if text.startswith(_CORE_KEY_WORDS) else None


def _blame_keys(
    error: BaseException, groups: dict[Any, Any], function: str | None, item: int | None
) -> TaskFailure:
    """Find the key that the core refused, and say so."""
    for key in groups:
        try:
            _speedups.hash_key(key)
        except BaseException as again:
            return blame_records(again, function, key, item)
    return blame_records(error, function, index=item)


def no_pair(record: Any, function: str, key: Any) -> dict[str, Any]:
    return make_failure(
        "record",
        f"{function} gave {short_repr(record)}, which is no (key, value) pair",
        function=function,
        key=key,
        advice=_PAIRS_ADVICE,
    )


def _mark_nothing(index: int, key: Any) -> None:
    pass


def _is_greenlet_exit(error: BaseException) -> bool:
    greenlet = sys.modules.get("greenlet")  # there only if somebody uses greenlets
    return greenlet is not None and isinstance(error, greenlet.GreenletExit)


def _spread(records: Iterator[Any]) -> Iterator[Any]:
    """Yield a record for each value in those whose value is a list; all others as they are."""
    for record in records:
        if isinstance(record, (tuple, list)) and len(record) == 2 and isinstance(record[1], list):
            key, values = record
            for value in values:
                yield key, value
        else:
            yield record
