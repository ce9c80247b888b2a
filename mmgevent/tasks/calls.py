"""Call mapfn with many items at once, for jobs with `items_per_call`.

A call that fails must leave no records, and the item at fault must be found:

- The records of a call are first grouped by themselves, and reach the groups of the task all
  together once the call has ended.
- A call that fails is tried again, as often as the job's retries allow. Then it is halved. A half
  is tried once and halved again, until an item is alone. That item is tried again like any other
  call, then set aside. If no item fails alone, the records of its halves count.
- A call whose records outgrow the memory of the task is grouped while it runs. If it fails, the
  attempt ends, and the next attempts are of fewer items.

Calls end where a task ends, and where the values of a ref are passed as one object. Halves run in
datasource order, and so are the values of each key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from mmgevent._speedups import take
from mmgevent.job.inputs.refs import ContentNeeded, Ref
from mmgevent.tasks.blame import TaskFailure, short_repr
from mmgevent.tasks.counters import drop_counts, keep_counts
from mmgevent.tasks.grouping import Grouping, Groups
from mmgevent.tasks.items import Mark, TaskItems
from mmgevent.tasks.mapping import WHOLE_RECORDS, Filled, fill
from mmgevent.tasks.originals import Originals
from mmgevent.tasks.returned import blame_records, pairs_of
from mmgevent.tasks.skipping import UNREAD, Skipping

Item = tuple[int, Any, Any]


class CallRules(NamedTuple):
    """How a job wants its mapfn called."""

    #: most items of one call
    size: int
    #: called as `mark(count, key)` before a call of several items, with the key of the first. While
    #: items of a call are read, the count is 0.
    mark: Callable[[int, Any], object]


class CallMapping:
    """Maps the items of a task in calls of many."""

    def __init__(
        self,
        mapfn: Any,
        items: TaskItems,
        grouping: Grouping,
        budget: int,
        mark: Mark,
        rules: CallRules,
        skipping: Skipping,
        emit_set_aside: Callable[[], None],
        originals: Originals,
    ):
        """Take the items over.

        originals: remembers at least as many items as a call has. The others are those of
        CarefulMapping.
        """
        self._mark_ref = items.mark
        items.mark = self._mark_reading
        items.on_unreadable = self._set_unreadable_aside
        self._mapfn = mapfn
        self._items = items
        self._each = iter(items)
        self._grouping = grouping
        self._budget = budget
        self._mark = mark
        self._rules = rules
        self._skipping = skipping
        self._emit_set_aside = emit_set_aside
        self._originals = originals
        self._held: list[Item] = []  # items of the call that is read
        self._next: Item | None = None  # the item that ended the call before it
        self._groups = Groups()
        self._used = 0  # bytes of the groups, as the core estimates them
        self._records = 0  # records of the groups

    def fills(self) -> Iterator[Filled]:
        """Map all items and yield the groups of each flush. Raises TaskFailure, ContentNeeded."""
        while True:
            ref, call = self._read_call()
            if not call:
                break
            yield from self._map_call(ref, call)
        yield self._take_filled()

    # -- items to calls

    def _read_call(self) -> tuple[Ref | None, list[Item]]:
        """Return the items of the next call, and the ref that makes one object of their values."""
        held = self._held = []
        self._rules.mark(0, None)
        if self._next is not None:
            held.append(self._next)
            self._next = None
        joining = self._items.ref
        try:
            for item in self._each if len(held) < self._rules.size else ():
                ref = self._items.ref
                if not held:
                    joining = ref
                elif ref is not joining and (_joins(ref) or _joins(joining)):
                    self._next = item
                    break
                held.append(item)
                if len(held) == 1:
                    self._rules.mark(0, None)  # from here on any item may be at fault
                if len(held) >= self._rules.size:
                    break
        except TaskFailure as failure:
            if held and failure.failure.get("kind") == "memory":  # fewer items may fit
                failure.item = None
                failure.is_divisible = True
            raise
        finally:
            self._held = []
        return (joining if _joins(joining) else None), held

    def _mark_reading(self, position: int, key: Any) -> None:
        """Show which ref is read, unless items before it are held: they take memory, too."""
        if not self._held:
            self._mark_ref(position, key)

    def _set_unreadable_aside(self, position: int, key: Any, failure: TaskFailure) -> None:
        self._skipping.give_up(position, key, UNREAD, failure)

    # -- calls to records

    def _map_call(self, ref: Ref | None, call: list[Item]) -> Iterator[Filled]:
        """Map the items of one call, in halves if it fails."""
        parts = [call]
        is_whole = True
        while parts:
            if self._skipping.is_full:
                self._emit_set_aside()
            part = parts.pop()
            tries = self._skipping.retries if is_whole or len(part) == 1 else 0
            for left in range(tries, -1, -1):
                table = Groups()
                records = self._begin(ref, part)
                try:
                    is_done, added, count = self._grouping.add(records, table, self._budget)
                except ContentNeeded:
                    raise
                except BaseException as error:
                    if self._skipping.passes(error):
                        raise self._blame(part, error) from error
                    table.clear()
                    drop_counts()
                    part = self._as_they_were(part)
                    if left:
                        self._skipping.retried += 1
                        continue
                    if len(part) > 1:
                        middle = len(part) // 2
                        parts += [part[middle:], part[:middle]]
                        self._skipping.retried += 1
                    else:
                        self._set_aside(*part[0], error)
                    break
                if is_done:
                    keep_counts()
                    self._merge(part, table, added, count)
                    if self._used >= self._budget:
                        yield self._take_filled()
                    break
                if self._groups:
                    yield self._take_filled()
                yield Filled(table, count)
                yield from fill(self._grouping, records, self._budget, partial(self._blame, part))
                keep_counts()
                break
            is_whole = False

    def _begin(self, ref: Ref | None, part: list[Item]) -> Iterator[Any]:
        """Yield the records of a call, each of them checked.

        An exception of the call of mapfn is raised instead of the first record.
        """
        items = self._items
        # A flush is the fault of no single item while records of other calls are in the groups.
        items.position = part[0][0] if len(part) == 1 and not self._groups else None
        if len(part) == 1:
            items.key = part[0][1]
            self._mark(*part[0][:2])
        else:
            self._rules.mark(len(part), part[0][1])
        keys = [key for _, key, _ in part]
        values: Any = [value for _, _, value in part]
        if ref is not None:
            values = ref.join_values(values)
        output = pairs_of(self._mapfn(keys, values), "mapfn")
        yield from chain.from_iterable(iter(partial(take, output, WHOLE_RECORDS), []))

    def _as_they_were(self, part: list[Item]) -> list[Item]:
        """Return the items of a call that failed as they were before it."""
        return [(position, *self._originals.item(position, key, value)) for position, key, value in part]

    def _set_aside(self, position: int, key: Any, value: Any, error: BaseException) -> None:
        with_traceback = self._skipping.wants_traceback
        failure = blame_records(error, "mapfn", key, position, with_traceback=with_traceback)
        failure.__cause__ = error
        self._skipping.give_up(position, key, value, failure)

    # -- records to groups

    def _merge(self, part: list[Item], table: Groups, added: int, count: int) -> None:
        self._records += count
        if not self._groups:
            self._groups, self._used = table, added
            return
        try:
            self._used += self._grouping.merge(table, self._groups)
        except BaseException as error:  # the values of several calls do not add, or compare
            raise self._blame(part, error) from error

    def _take_filled(self) -> Filled:
        filled = Filled(self._groups, self._records)
        self._groups, self._used, self._records = Groups(), 0, 0
        return filled

    def _blame(self, part: list[Item], error: BaseException) -> TaskFailure:
        """Make the failure of a call that can only be done again in another attempt."""
        position, key, _ = part[0]
        if len(part) == 1:
            return blame_records(error, "mapfn", key, position)
        failure = blame_records(error, "mapfn")
        failure.failure["error"] += f" (in a call of {len(part)} items, from {short_repr(key)} on)"
        failure.is_divisible = True
        return failure


def _joins(ref: Ref | None) -> bool:
    return ref is not None and ref.joins_values
