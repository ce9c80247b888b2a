"""Give the items of one map task: entries of a batch in, items with their positions out.

A ref is read and expanded here. Items that the server skips are left out. If an entry was cut in
parts, only the items of one part are given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from mmgevent.job.inputs.refs import ContentNeeded, Ref, Unreadable
from mmgevent.tasks.blame import NO_KEY, TaskFailure, blame_exception, make_failure
from mmgevent.wire.positions import ALL, WHOLE, Part, position_of, range_of

#: Called with the position and key of an item, or the index and key of a group, before it runs.
Mark = Callable[[int, Any], object]


class TaskItems:
    """Iterates once over the items that a task maps, as (position, key, value).

    `on_unreadable(position, key, failure)` is called for an item that cannot be read. By default it
    raises the failure. Raises ContentNeeded if a file is not the driver's.
    """

    def __init__(
        self,
        entries: Iterable[tuple[Any, Any]],
        *,
        first_entry: int,
        skip: Collection[int],
        part: Part,
        mark: Mark,
    ):
        """skip: positions to leave out.

        mark: called as `mark(position, key)` before a ref is read.
        """
        self._entries = entries
        self._first_entry = first_entry
        self._skip = frozenset(skip)
        self._part = part
        self.mark = mark
        self.on_unreadable: Callable[[int, Any, TaskFailure], None] = _raise_failure
        #: number of items given so far
        self.count = 0
        #: position and key of the item that was given last
        self.position: int | None = None
        self.key: Any = NO_KEY
        #: the ref whose items are given now; None between refs
        self.ref: Ref | None = None

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        skip = self._skip
        for entry, (key, value) in enumerate(self._entries, self._first_entry):
            if isinstance(value, Ref):
                self.ref = value
                yield from self._expanded(entry, key, value)
                self.ref = None
                continue
            position = position_of(entry)
            if position in skip or (self._part != ALL and range_of(self._part, 1) == (0, 0)):
                continue
            self.count += 1
            self.position = position
            self.key = key
            yield position, key, value

    def _expanded(self, entry: int, key: Any, ref: Ref) -> Iterator[tuple[int, Any, Any]]:
        whole = position_of(entry, WHOLE)
        skip = self._skip
        if skip and whole in skip:
            return
        self.mark(whole, key)  # until its first item is read
        position = position_of(entry)
        units = self._units(whole, key, ref.units)
        if self._part != ALL:
            # Counted first: a compressed file may have more items than memory has room for.
            count = sum(1 for _ in units) if ref.unit_count is None else ref.unit_count
            low, high = range_of(self._part, count)
            position += low
            units = self._units(whole, key, lambda: ref.units_between(low, high))
        self.key = key
        given = self.count
        for item_key, value in units:
            if not skip or position not in skip:
                given += 1
                self.count = given
                self.position = position
                self.key = item_key
                if type(value) is Unreadable:
                    self.on_unreadable(position, item_key, blame_unreadable(value, item_key, position))
                else:
                    yield position, item_key, value
            position += 1

    def _units(
        self, whole: int, key: Any, units: Callable[[], Iterator[tuple[Any, Any]]]
    ) -> Iterator[tuple[Any, Any]]:
        try:
            yield from units()
        except (ContentNeeded, GeneratorExit):
            raise
        except MemoryError as error:
            raise blame_exception(error, None, key, whole) from error
        except Exception as error:
            raise TaskFailure(make_failure("input", str(error), key=key), whole) from error


def blame_unreadable(value: Unreadable, key: Any, position: int) -> TaskFailure:
    """Make the failure of an item that could not be read."""
    failure = TaskFailure(make_failure("input", str(value.error), key=key), position)
    failure.__cause__ = value.error
    return failure


def _raise_failure(position: int, key: Any, failure: TaskFailure) -> None:
    raise failure
