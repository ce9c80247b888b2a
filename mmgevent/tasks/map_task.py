"""Run one map task: items in, flushes out.

`mapping` calls mapfn and groups the records until the groups reach a budget. The groups are then
combined, scattered to partitions, encoded and emitted. Then grouping continues.

What happens to the groups of a flush:

    reducefn is a fold, no collectfn         folded while records arrive; FLAT partial results
    reducefn has a combiner, no collectfn    combined key by key; GROUPED
    collectfn in pair form                   called key by key; FLAT, or GROUPED if it returns lists
    collectfn in iterator form               called once a flush, then grouped again; GROUPED
    none of these, or sort_values            GROUPED, or FLAT if every key occurs once

Every value passes through the combining function exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmgevent import _speedups
from mmgevent.job.functions import Functions
from mmgevent.reducers import FOLD_OPS, combiner_of, fold_of
from mmgevent.tasks.blame import NO_KEY, TaskFailure, blame_exception
from mmgevent.tasks.calls import CallMapping, CallRules
from mmgevent.tasks.counters import TaskTally
from mmgevent.tasks.grouping import Grouping, Groups
from mmgevent.tasks.items import Mark, TaskItems
from mmgevent.tasks.mapping import CarefulMapping, MapItems, StreamedMapping
from mmgevent.tasks.originals import Originals
from mmgevent.tasks.records import encode_flush, join_segment
from mmgevent.tasks.returned import blame_records, pairs_of
from mmgevent.tasks.shares import (
    are_shares,
    encode_columns,
    encode_shares,
    merges_ints,
    numbers_of_share,
    share_bytes,
)
from mmgevent.tasks.skipping import Skipping
from mmgevent.wire.positions import ALL, Part

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

#: Most groups in one flush, bytes. Combining more hardly gains anything, and the user can use the
#: memory.
MAX_GROUP_BYTES = 64 * 1024 * 1024

#: Size at which an encoded flush is cut into several, bytes. It may be exceeded by one segment.
MAX_FLUSH_BYTES = 16 * 1024 * 1024

MarkFlush = Callable[[int | None], object]
Emit = Callable[[bytes], object]
Decode = Callable[[], Sequence[tuple[Any, Any]]]


@dataclass
class TaskStats:
    """What a task did."""

    #: items begun, also those that were set aside; 0 in a reduce task
    items: int = 0
    #: records of mapfn, or results of reducefn
    records: int = 0
    #: keys grouped, counted once a flush; in a reduce task, keys reduced
    groups: int = 0
    flushes: int = 0
    #: bytes emitted
    bytes: int = 0
    #: what the functions counted, see `counters`
    counters: dict[str, int] = field(default_factory=dict)


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
        part: Part = ALL,
        skipping: Skipping | None = None,
        decode: Decode | None = None,
        plain: PlainRules | None = None,
        unwanted: Container[int] = (),
        calls: CallRules | None = None,
    ):
        self._has_mapfn = functions.mapfn is not None
        self._collectfn: Any = functions.collectfn
        self._collect_form = functions.collect_form
        # Values to be sorted arrive one by one where they are reduced.
        combines = functions.collectfn is None and not functions.sort_values
        fold = fold_of(functions.reducefn) if combines else None
        self._fold_op = None if fold is None else FOLD_OPS[fold]
        self._combiner = combiner_of(functions.reducefn) if combines else None
        self._partitions = partitions
        self._plain = plain
        self._unwanted = unwanted
        self._budget = group_budget(memory_bytes)
        self._share_bytes = share_bytes(self._budget)
        self._emit_bytes = emit
        self._mark_flush = mark_flush
        if map_items is not None:  # it runs several items at once, and marks them itself
            mark = _mark_nothing
        self._items = TaskItems(items, first_entry=first_index, skip=skip, part=part, mark=mark)
        self._skipping = skipping if skipping is not None and skipping.is_needed else None
        self._originals: Originals | None = None  # of the mapping, if it may need any
        self._grouping = Grouping(self._fold_op)
        self._mapping = self._make_mapping(
            functions.mapfn, mark, map_items, calls, skipping, decode, first_index
        )
        self._flushed_items = 0  # items that were done before the last flush ended
        self.stats = TaskStats()
        #: what the functions count
        self.tally = TaskTally(self._items)

    def _make_mapping(
        self,
        mapfn: Any,
        mark: Mark,
        map_items: MapItems | None,
        calls: CallRules | None,
        rules: Skipping | None,
        decode: Decode | None,
        first_index: int,
    ) -> StreamedMapping | CarefulMapping | CallMapping:
        grouping = self._grouping
        items, budget, skipping = self._items, self._budget, self._skipping
        if calls is not None:
            originals = self._originals = Originals(decode, first_index, calls.size)
            rules = rules or Skipping()  # also where none is needed: a signal is no failure of a call
            return CallMapping(
                mapfn, items, grouping, budget, mark, calls, rules, self._emit_set_aside, originals
            )
        if skipping is None:
            return StreamedMapping(mapfn, items, grouping, budget, mark, map_items)
        originals = self._originals = Originals(decode, first_index)
        return CarefulMapping(
            mapfn, items, grouping, budget, mark, map_items, skipping, self._emit_set_aside, originals
        )

    def run(self) -> TaskStats:
        """Run the task. Raises as `tasks.run_map` says."""
        try:
            for groups, records in self._mapping.fills():
                self.stats.records += records
                if groups:
                    self._flush_blaming(groups, records)
        finally:
            if self._originals is not None:
                self._originals.close()
        if self._skipping is not None:
            self._emit_set_aside()
        self.stats.items = self._items.count
        if self._mark_flush is not None and self._items.count > 1:
            self._mark_flush(None)  # from here on any item may be at fault
        return self.stats

    def _flush_blaming(self, groups: dict[Any, Any], records: int) -> None:
        """Flush groups. Blame an item for what goes wrong only if no other item can be at fault."""
        begun = self._items.count
        is_of_one = begun - self._flushed_items <= 1 and self._items.position is not None
        self._flushed_items = begun - 1
        if is_of_one:
            self._flush(groups, records, self._items.position)
            return
        if self._mark_flush is not None:
            self._mark_flush(None)
        try:
            self._flush(groups, records, None)
        except TaskFailure as failure:
            failure.is_divisible = True
            raise
        if self._mark_flush is not None:
            self._mark_flush(self._items.position)

    def _emit_set_aside(self) -> None:
        """Emit the rows of items that were set aside, as one more partition than the job has."""
        assert self._skipping is not None
        segment = self._skipping.take_segment()
        if segment is not None:
            self._emit_flush({self._partitions: segment})

    # -- groups to flushes

    def _flush(self, groups: dict[Any, Any], records: int, item: int | None) -> None:
        if isinstance(groups, Groups):
            untyped = self._flush_typed(groups, item)
            if untyped is None:
                return
            groups = untyped
        self.stats.groups += len(groups)
        if self._collectfn is not None and self._collect_form == "iterator":
            self._collect_all(groups, item)
            return
        grouped = self._fold_op is None
        combine = self._collectfn if self._collectfn is not None else self._combiner
        if combine is not None:
            grouped = self._collect_each(groups, combine, item)
        elif grouped and records == len(groups):
            for key, values in groups.items():
                groups[key] = values[0]
            grouped = False
        self._emit(groups, grouped, "mapfn" if self._has_mapfn else None, item)

    def _flush_typed(self, groups: Groups, item: int | None) -> dict[Any, Any] | None:
        """Emit what columns and a table hold without a dict, or return all of it as a dict."""
        if groups.columns is not None:
            assert groups.kinds is not None
            if not groups.has_earlier:
                self.stats.groups += len(groups.columns)
                self._emit_columns(groups.columns, groups.kinds)
                groups.clear()
                return None
            self._grouping.pour(groups)
        if groups.table is not None:
            parts = groups.table.scatter(self._partitions)
            are_ints_merged = merges_ints(self._fold_op)
            if parts is not None and are_shares(parts, self._share_bytes, are_ints_merged=are_ints_merged):
                self.stats.groups += len(groups.table)
                self._emit_parts(_taken(parts), lambda part: [join_segment(*part)])
                return None
        return groups.take()

    def _emit_columns(self, columns: _speedups.ColumnFold, kinds: tuple[str, str]) -> None:
        """Encode and emit what was folded as columns, one partition at a time."""
        are_ints = kinds == ("whole", "whole") and merges_ints(self._fold_op)
        most = numbers_of_share(self._share_bytes, are_objects=not are_ints)
        columns.deal(self._partitions)
        self._emit_parts(
            ((partition, partition) for partition in range(self._partitions)),
            lambda partition: encode_columns(columns, partition, most, self._share_bytes, self._plain),
        )

    def _collect_each(
        self, groups: dict[Any, Any], combine: Callable[[Any, Any], Any], item: int | None
    ) -> bool:
        """Replace the values of each key by what `combine` returns.

        Return whether the groups now hold lists.
        """
        lists = 0
        key: Any = NO_KEY
        try:
            for key, values in groups.items():
                result = groups[key] = combine(key, values)
                if isinstance(result, list):
                    lists += 1
        except BaseException as error:
            function = "collectfn" if self._collectfn is not None else "reducefn"
            failure = blame_exception(error, function, self._key_at_fault(item, key), item)
            if key is not NO_KEY:
                failure.given = key, groups[key]
            raise failure from error
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

    def _key_at_fault(self, item: int | None, key: Any = NO_KEY) -> Any:
        """Return the key to name: that of the item if it may be set aside, else `key`."""
        return key if item is None or self._skipping is None else self._items.key

    def _collect_all(self, groups: dict[Any, Any], item: int | None) -> None:
        """Call a collectfn of iterator form on the groups of one flush, and emit what it yields."""
        try:
            collected_of = pairs_of(self._collectfn(iter(groups.items())), "collectfn")
            pairs = _spread(_speedups.spread(collected_of))
        except BaseException as error:
            raise blame_records(error, "collectfn", self._key_at_fault(item), item) from error
        exhausted: object = False
        while not exhausted:
            collected: dict[Any, Any] = {}
            try:
                exhausted, _, _ = _speedups.group(pairs, collected, self._budget)
            except BaseException as error:
                raise blame_records(error, "collectfn", self._key_at_fault(item), item) from error
            if collected:
                self._emit(collected, True, "collectfn", item)

    def _emit(self, groups: dict[Any, Any], grouped: bool, function: str | None, item: int | None) -> None:
        """Scatter groups to partitions, encode and emit them; `groups` is empty afterwards."""
        try:
            parts, hashed = _speedups.scatter(groups, self._partitions)
        except BaseException as error:
            raise _blame_keys(error, groups, function, self._key_at_fault(item), item) from error
        groups.clear()
        self._emit_parts(_taken(parts), lambda part: self._encode(part, grouped, hashed, function, item))

    def _encode(
        self,
        part: tuple[list[Any], list[Any]],
        grouped: bool,
        hashed: bool,
        function: str | None,
        item: int | None,
    ) -> Iterator[bytes]:
        """Yield the segments of (keys, values) of one partition."""
        shares = encode_shares(*part, self._share_bytes, grouped=grouped, hashed=hashed, plain=self._plain)
        while True:
            try:
                segment = next(shares, None)
            except BaseException as error:
                maker = function if self._collectfn is None else "collectfn"
                raise blame_exception(error, maker, self._key_at_fault(item), item) from error
            if segment is None:
                return
            yield segment

    def _emit_parts(self, parts: Iterator[tuple[int, Any]], encode: Callable[[Any], Iterable[bytes]]) -> None:
        """Encode and emit what goes to each partition."""
        segments: dict[int, bytes] = {}
        size = 0
        for partition, part in parts:
            if partition in self._unwanted:
                continue
            for segment in encode(part):
                if partition in segments:
                    self._emit_flush(segments)
                    segments, size = {}, 0
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
    """Return the size of groups at which to flush, bytes, if the task may hold `memory_bytes`."""
    return max(1, min(memory_bytes, MAX_GROUP_BYTES))


def _blame_keys(
    error: BaseException, groups: dict[Any, Any], function: str | None, named: Any, item: int | None
) -> TaskFailure:
    """Make the failure of a key that the core refused.

    It names `named` instead of the key, unless NO_KEY.
    """
    for key in groups:
        try:
            _speedups.hash_key(key)
        except BaseException as again:
            return blame_records(again, function, key if named is NO_KEY else named, item)
    return blame_records(error, function, named, item)


def _taken(parts: list[Any]) -> Iterator[tuple[int, Any]]:
    """Yield the partitions of a list that have records, and take them out of it."""
    for partition, part in enumerate(parts):
        if part is not None:
            parts[partition] = None  # frees memory
            yield partition, part
            del part


def _mark_nothing(index: int, key: Any) -> None:
    pass


def _spread(records: Iterator[Any]) -> Iterator[Any]:
    """Yield a record for each value in a record whose value is a list, and all others."""
    for record in records:
        if isinstance(record, (tuple, list)) and len(record) == 2 and isinstance(record[1], list):
            key, values = record
            for value in values:
                yield key, value
        else:
            yield record
