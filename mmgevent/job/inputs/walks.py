"""Remember which datasources were walked through before, so that none is used up unnoticed.

Three kinds of things can be walked through:

- Things that surely give the same items each time (`is_repeatable`). Nothing is remembered.
- Iterators (`is_iterator`). A walk uses them up, and `claim` refuses the second.
- All others, such as `tqdm(generator)` or a wrapper around a database cursor. They may be either.
  Only a second walk shows it: `Walk` compares it with earlier walks.

A thing is known by its identity while it lives. If it allows no weak reference (`zip`, `map`,
classes with slots), we hold it until the first submit after the program has dropped it.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from mmgevent.errors import DatasourceError

#: Types that give the same items each time. So do subclasses that do not change how they iterate.
_REPEATABLE: tuple[type[Any], ...] = (
    list,
    tuple,
    range,
    dict,
    OrderedDict,
    defaultdict,
    Counter,
    set,
    frozenset,
    deque,
    type({}.items()),
    type(OrderedDict().items()),
)

#: Methods that decide how a thing iterates; the second is for mappings.
_WAYS = ("__iter__", "keys")


class Repeatable:
    """An iterable of ours that gives the same items in each walk."""


class StandIn:
    """An iterable of ours that is made for each walk through another thing."""

    #: the thing that is walked through
    stands_for: Any


class _Record:
    """What is known about one thing."""

    __slots__ = ("first", "is_once", "items", "reference", "walks")

    def __init__(self) -> None:
        self.reference: Callable[[], Any] = _nothing
        #: number of walks that have begun
        self.walks = 0
        #: number of items of the first walk that reached the end; None before
        self.items: int | None = None
        #: digest of the first item of the first walk; None before
        self.first: int | None = None
        #: whether a walk has shown that it gives its items only once
        self.is_once = False


#: {id of a thing: its record}, while the thing lives
_records: dict[int, _Record] = {}
#: {id of a thing: [thing]} for those that allow no weak reference
_held: dict[int, list[Any]] = {}
_lock = threading.Lock()


def is_repeatable(thing: Any) -> bool:
    """Return whether a thing surely gives all its items in each walk."""
    kind = type(thing)
    if issubclass(kind, Repeatable):
        return True
    return any(
        issubclass(kind, known)
        and all(getattr(kind, way, None) is getattr(known, way, None) for way in _WAYS)
        for known in _REPEATABLE
    )


def is_iterator(thing: Any) -> bool:
    """Return whether a walk surely uses a thing up, as with a generator."""
    return (
        hasattr(type(thing), "__next__")
        and hasattr(type(thing), "__iter__")
        and not isinstance(thing, type)
        and iter(thing) is thing
    )


def claim(iterator: Any, used_up: Callable[[], DatasourceError]) -> None:
    """Note a walk through an iterator. Raise what `used_up` returns if it is not the first."""
    record = _record_of(iterator)
    with _lock:
        record.walks += 1
        is_first = record.walks == 1
    if not is_first:
        raise used_up()


def release_dropped() -> None:
    """Forget things that only we hold, so that they end."""
    with _lock:
        _release_dropped()


class Walk:
    """One walk through a thing that may or may not allow another."""

    def __init__(self, thing: Any):
        """Begin a walk."""
        if isinstance(thing, StandIn):
            thing = thing.stands_for
        self._name = type(thing).__name__
        self._record = _record_of(thing)
        with _lock:
            self._record.walks += 1
            self._is_again = self._record.walks > 1
        self._items = 0

    @property
    def has_begun(self) -> bool:
        """Return whether there was an item."""
        return self._items > 0

    def begin(self, first: int) -> None:
        """Note the digest of the first item.

        Raise DatasourceError if an earlier walk began with another item and did not reach the end.
        This walk probably continues where that one stopped.
        """
        record = self._record
        if record.first is None:
            record.first = first
        elif record.items is None and record.first != first:
            record.is_once = True
            raise DatasourceError(
                f"the datasource, a {self._name}, began with another item when an earlier job walked through it and "
                f"did not reach its end, so items may be missing now; {_ADVICE}"
            )

    def count(self, n_items: int) -> None:
        """Count items."""
        self._items += n_items

    def end(self) -> None:
        """Note the end. Raise DatasourceError if items must be missing."""
        record = self._record
        if record.items is not None and self._items < record.items:
            record.is_once = True
            raise DatasourceError(
                f"the datasource, a {self._name}, gave {self._items} items, and {record.items} when it was walked "
                f"through first: it seems that it can be walked through only once; {_ADVICE}"
            )
        if record.is_once or (not self._items and record.first is not None):
            raise DatasourceError(
                f"the datasource, a {self._name}, can be walked through only once, and another job has had items of "
                f"it; {_ADVICE}"
            )
        if record.items is None:
            record.items = self._items


class Repetition:
    """The walks of one job through its datasource: one, and one more after each lost server.

    Each walk must give at least as many items as the walks before it, and the first item of the
    first walk. Otherwise items would be lost if all iterators of a function continue one stream.
    """

    def __init__(self) -> None:
        self._items = 0
        self._due = 0
        self._first: int | None = None
        self._is_sought = False

    def restart(self) -> None:
        """Begin another walk."""
        self._due = max(self._due, self._items)
        self._items = 0
        self._is_sought = self._first is not None

    @property
    def wants_digest(self) -> bool:
        """Return whether `compare` needs the next item."""
        return self._is_sought or (self._first is None and not self._due)

    def compare(self, digest: int) -> None:
        """Note the digest of an item."""
        if self._first is None:
            self._first = digest
        elif digest == self._first:
            self._is_sought = False

    def count(self, n_items: int) -> None:
        """Count items."""
        self._items += n_items

    def end(self) -> int:
        """Note the end, and return the number of items.

        Raise DatasourceError if items must be missing.
        """
        if self._items < self._due:
            raise DatasourceError(
                f"the datasource gave {self._items} items when the job was submitted again, and at least {self._due} "
                f"before its server or engine was lost; {_SAME}"
            )
        if self._is_sought:
            raise DatasourceError(
                "when the job was submitted again, the datasource did not give the item with which it began before its "
                f"server or engine was lost; {_SAME}"
            )
        return self._items


def note_call(function: Any, n_items: int) -> int:
    """Note how many items a datasource function gave when it was called.

    Return the most items that it gave in an earlier call.
    """
    record = _record_of(function)
    before = record.items or 0
    record.items = max(before, n_items)
    return before


_SAME = "a function must make a new iterator, with the same items, each time it is called"
_ADVICE = "pass a function that makes a new one each time: Job(lambda: ..., ...)"


def _nothing() -> None:
    return None


def _record_of(thing: Any) -> _Record:
    """Return the record of a thing; a new one if nothing is known."""
    key = id(thing)
    with _lock:
        _release_dropped()
        record = _records.get(key)
        if record is not None and record.reference() is thing:
            return record
        record = _records[key] = _Record()
        try:
            record.reference = weakref.ref(thing, lambda _: _records.pop(key, None))
        except TypeError:
            held = _held[key] = [thing]
            record.reference = lambda: held[0]
        return record


def _release_dropped() -> None:
    """Release things that only we hold: nobody can submit them again."""
    for key in [key for key, held in _held.items() if _count_references(held) <= _UNSHARED]:
        del _held[key], _records[key]


def _count_references(held: list[Any]) -> int:
    return sys.getrefcount(held[0])


#: What `_count_references` returns for a thing that only we hold.
_UNSHARED = _count_references([object()])
