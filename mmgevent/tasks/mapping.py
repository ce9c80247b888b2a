"""Call mapfn on the items of a task, and group its records.

`StreamedMapping` is for jobs in which a failure ends the task. The core consumes the records of all
items as one iterator, which `_speedups.stream_items` makes. So no code of ours in Python runs once
for each item. A mapfn of `mmgevent.text` gets the bytes of files here. If the records are summed, it
is replaced by what it returns from `summing()`, which adds them up itself. It gives those that it
has no room for, and in the end either the others (`rest`), or all as one dict (`sums`).

`CarefulMapping` is for jobs with `retries` or `max_skipped`. An item that fails must leave no
records:

- The records of an item are first taken into a list, and then reach the groups all together.
  `_speedups.map_items` checks them on the way.
- An item that fails is tried again at once, then set aside. The task continues with the next item,
  so every item is mapped once, whatever else fails.
- An item of more than WHOLE_RECORDS records has a table of its own instead of a list.
- An item that outgrows the memory of the task is grouped while it runs. If it fails, the attempt
  ends, and the next attempt leaves the item out.

Both yield the groups of one flush after another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from mmgevent._speedups import Block, map_items, spread, stream_items, take
from mmgevent.job.inputs.refs import ContentNeeded
from mmgevent.reducers import FOLD_OPS
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.counters import counting_item, drop_counts
from mmgevent.tasks.grouping import Grouping, Groups
from mmgevent.tasks.items import Mark, TaskItems
from mmgevent.tasks.originals import Originals
from mmgevent.tasks.returned import blame_records, no_pair, pairs_of
from mmgevent.tasks.skipping import UNREAD, Skipping

#: Most records of an item that are taken into a list. Python reuses the memory of this many small
#: tuples. Of ten times as many, each takes twice as long.
WHOLE_RECORDS = 1000

#: Records that `take` may return if there is no limit.
_NO_LIMIT = sys.maxsize

#: Called as `map_items(fn, triples)`. It applies `fn(position, key, value)` to each triple, perhaps to
#: several at once, and returns an iterator over the results in order. It must raise what `fn` raises.
MapItems = Callable[
    [Callable[[int, Any, Any], list[Any]], Iterable[tuple[int, Any, Any]]], Iterable[list[Any]]
]


class Filled(NamedTuple):
    """The groups of one flush, and how many records went into them."""

    groups: dict[Any, Any]
    records: int


class StreamedMapping:
    """Maps items one after another; the first failure ends the task."""

    def __init__(
        self,
        mapfn: Any,
        items: TaskItems,
        grouping: Grouping,
        budget: int,
        mark: Mark,
        map_items: MapItems | None,
    ):
        """budget: size of the groups in a flush, bytes, as the core estimates it."""
        self._summing: Any = None
        if map_items is None:
            items.gives_encoded = getattr(type(mapfn), "takes_encoded", None) is True
            if items.gives_encoded and grouping.fold_op == FOLD_OPS["sum"]:
                mapfn = self._summing = mapfn.summing(budget)
        self._mapfn = mapfn
        self._items = items
        self._grouping = grouping
        self._budget = budget
        self._mark = mark
        self._map_items = map_items

    def fills(self) -> Iterator[Filled]:
        """Map all items and yield the groups of each flush. Raises TaskFailure, ContentNeeded."""
        pairs: Iterator[Any]
        if self._mapfn is None or self._map_items is None:
            pairs = stream_items(self._items, self._mark, self._mapfn, _pairs_of_mapfn)
            if self._summing is not None:
                pairs = chain(pairs, self._summing.rest())
        else:
            pairs = chain.from_iterable(self._map_items(self._map_one, self._items))
        yield from fill(self._grouping, pairs, self._budget, self._blame)
        if self._summing is not None:
            sums = self._summing.sums()
            yield Filled(sums, len(sums))

    def _map_one(self, position: int, key: Any, value: Any) -> list[Any]:
        """Map one item to the list of its records.

        `map_items` may call this for several items at once.
        """
        try:
            records = list(spread(pairs_of(self._mapfn(key, value), "mapfn")))
        except BaseException as error:
            if is_end_of_greenlet(error):  # an item before this one failed
                raise
            raise blame_records(error, "mapfn", key, position) from error
        for record in records:
            if not isinstance(record, (tuple, list)) or len(record) != 2:
                raise TaskFailure(no_pair(record, "mapfn", key), position)
        return records

    def _blame(self, error: BaseException) -> TaskFailure:
        function = None if self._mapfn is None else "mapfn"
        return blame_records(error, function, self._items.key, self._items.position)


class _Large(NamedTuple):
    """An item with more records than are taken into a list."""

    position: int
    key: Any
    value: Any
    records: Iterator[Any]


class CarefulMapping:
    """Maps items one after another. An item that fails is tried again, then set aside."""

    def __init__(
        self,
        mapfn: Any,
        items: TaskItems,
        grouping: Grouping,
        budget: int,
        mark: Mark,
        map_items: MapItems | None,
        skipping: Skipping,
        emit_set_aside: Callable[[], None],
        originals: Originals,
    ):
        """emit_set_aside: called when `skipping` has many rows to encode.

        The other arguments are those of StreamedMapping.
        """
        items.on_unreadable = self._set_unreadable_aside
        self._mapfn = _give_item if mapfn is None else mapfn
        self._function = None if mapfn is None else "mapfn"
        self._items = items
        self._each = iter(items)
        self._grouping = grouping
        self._budget = budget
        self._mark = mark
        self._map_items = map_items
        self._skipping = skipping
        self._emit_set_aside = emit_set_aside
        self._originals = originals
        #: what `emit_set_aside` raised, which is no failure of an item; None before
        self._broken: BaseException | None = None
        self._large: _Large | None = None

    def fills(self) -> Iterator[Filled]:
        """Map all items and yield the groups of each flush. Raises TaskFailure, ContentNeeded."""
        if self._map_items is not None:
            pairs = chain.from_iterable(self._pooled(self._map_items(self._map_one, self._each)))
            yield from fill(self._grouping, pairs, self._budget, self._blame)
            return
        grouping, budget = self._grouping, self._budget
        groups = Groups()
        used = records = 0
        is_over = False
        while not is_over:
            small = self._small_items()
            exhausted = False
            while not exhausted:
                table = Groups() if groups else groups
                exhausted, added, count = self._add(small, table, max(1, budget - used))
                used += added if table is groups else self._merge(table, groups)
                records += count
                if not exhausted:
                    yield Filled(groups, records)
                    groups, used, records = Groups(), 0, 0
            large, self._large = self._large, None
            is_over = large is None
            if large is not None:
                table, count, rest = self._take_large(large)
                if rest is not None:  # the groups so far come before the item
                    yield Filled(groups, records)
                    groups, used, records = Groups(), 0, 0
                    yield Filled(table, count)
                    yield from fill(grouping, rest, budget, self._blame)
                else:
                    used += self._merge(table, groups)
                    records += count
                    if used >= budget:
                        yield Filled(groups, records)
                        groups, used, records = Groups(), 0, 0
        yield Filled(groups, records)

    # -- items to records

    def _small_items(self) -> Iterator[Any]:
        """Yield the records of each item.

        Stop at an item with more than WHOLE_RECORDS records, as a block may have. It becomes `_large`.
        """
        return map_items(
            self._each,
            self._mark,
            self._mapfn,
            _pairs_of_mapfn,
            self._on_failure,
            self._on_large,
            WHOLE_RECORDS,
        )

    def _on_failure(self, position: int, key: Any, value: Any, error: BaseException) -> list[Any] | None:
        if self._skipping.passes(error):
            raise error
        output, records = self._try_again(position, key, value, error, WHOLE_RECORDS)
        if self._skipping.is_full:
            self._send_rows()
        if len(records) < WHOLE_RECORDS and not (records and isinstance(records[-1], Block)):
            return records
        self._on_large(position, key, value, records, output)
        return None

    def _on_large(
        self, position: int, key: Any, value: Any, records: list[Any], output: Iterator[Any]
    ) -> None:
        self._large = _Large(position, key, value, chain(records, output))

    def _pooled(self, outputs: Iterable[list[Any]]) -> Iterator[list[Any]]:
        for records in outputs:
            if self._skipping.is_full:  # not in the greenlets, which cannot share the output
                self._send_rows()
            yield records

    def _map_one(self, position: int, key: Any, value: Any) -> list[Any]:
        """Map one item to the list of its records.

        `map_items` may call this for several items at once.
        """
        with counting_item():
            try:
                return take(pairs_of(self._mapfn(key, value), "mapfn"), _NO_LIMIT)
            except BaseException as error:
                if self._skipping.passes(error) or is_end_of_greenlet(
                    error
                ):  # an item before this one failed
                    raise
                return self._try_again(position, key, value, error, _NO_LIMIT)[1]

    def _try_again(
        self, position: int, key: Any, value: Any, error: BaseException, limit: int
    ) -> tuple[Iterator[Any], list[Any]]:
        """Try a failed item again, as often as the job allows. Set it aside if it fails each time.

        Return the iterator over its records, and the first `limit` of them, which were taken from
        it. An item that is set aside has none.
        """
        drop_counts(position)
        for _ in range(self._skipping.retries):
            self._skipping.retried += 1
            key, value = self._originals.item(position, key, value)
            self._mark(position, key)
            try:
                output = pairs_of(self._mapfn(key, value), "mapfn")
                return output, take(output, limit)
            except BaseException as again:
                if self._skipping.passes(again) or is_end_of_greenlet(again):
                    raise
                drop_counts(position)
                error = again
        self._set_aside(position, key, value, error)
        return iter(()), []

    def _set_aside(self, position: int, key: Any, value: Any, error: BaseException) -> None:
        key, value = self._originals.item(position, key, value)
        with_traceback = self._skipping.wants_traceback
        failure = blame_records(error, self._function, key, position, with_traceback=with_traceback)
        failure.__cause__ = error
        self._skipping.give_up(position, key, value, failure)

    def _set_unreadable_aside(self, position: int, key: Any, failure: TaskFailure) -> None:
        self._skipping.give_up(position, key, UNREAD, failure)
        if self._skipping.is_full and self._map_items is None:
            self._send_rows()

    def _send_rows(self) -> None:
        try:
            self._emit_set_aside()
        except BaseException as error:
            self._broken = error
            raise

    # -- records to groups

    def _take_large(self, large: _Large) -> tuple[Groups, int, Iterator[Any] | None]:
        """Group the records of a large item by themselves.

        Return (groups, number of records, iterator of the other records).

        The iterator is None if all records were grouped, or if the item failed and was set aside.
        An item that fails is tried again like any other.
        """
        tries = self._skipping.retries
        position, key, value, records = large
        while True:
            table = Groups()
            try:
                exhausted, _, count = self._grouping.add(records, table, self._budget)
                return table, count, None if exhausted else records
            except BaseException as error:
                if self._skipping.passes(error):
                    raise self._blame(error) from error
                drop_counts(position)
                if not tries:
                    self._set_aside(position, key, value, error)
                    return Groups(), 0, None
            tries -= 1
            self._skipping.retried += 1
            key, value = self._originals.item(position, key, value)
            self._mark(position, key)
            records = self._begin(key, value)

    def _begin(self, key: Any, value: Any) -> Iterator[Any]:
        """Yield the records of an item.

        An exception of the call of mapfn is raised instead of the first record.
        """
        yield from pairs_of(self._mapfn(key, value), "mapfn")

    def _add(self, pairs: Iterator[Any], groups: Groups, budget: int) -> tuple[bool, int, int]:
        try:
            return self._grouping.add(pairs, groups, budget)
        except (ContentNeeded, TaskFailure):
            raise
        except BaseException as error:
            raise self._blame(error) from error

    def _merge(self, table: Groups, groups: Groups) -> int:
        try:
            return self._grouping.merge(table, groups)
        except BaseException as error:  # the values of several items do not add, or compare
            raise self._blame(error) from error

    def _blame(self, error: BaseException) -> TaskFailure:
        """Make the failure of the current item for an error outside of mapfn."""
        if error is self._broken:
            raise error
        return blame_records(error, self._function, self._items.key, self._items.position)


def fill(
    grouping: Grouping, pairs: Iterator[Any], budget: int, blame: Callable[[BaseException], TaskFailure]
) -> Iterator[Filled]:
    """Group all records of an iterator; yield the groups of each flush."""
    exhausted = False
    while not exhausted:
        groups = grouping.make()
        try:
            exhausted, _, records = grouping.add(pairs, groups, budget)
        except (ContentNeeded, TaskFailure):
            raise
        except BaseException as error:
            if isinstance(error, MemoryError):
                del groups
            raise blame(error) from error
        yield Filled(groups, records)


def is_end_of_greenlet(error: BaseException) -> bool:
    """Return whether `map_items` raised this to end an item's greenlet.

    The user's own GreenletExit is a failure.
    """
    return getattr(type(error), "ends_item", False) is True


def _pairs_of_mapfn(output: Any) -> Iterator[Any]:
    return pairs_of(output, "mapfn")


def _give_item(key: Any, value: Any) -> list[tuple[Any, Any]]:
    return [(key, value)]
