"""Say which of two results comes first.

1. Records with equal values are ordered by their keys, so that the same results are in the same
   order each time: numbers, then text, then tuples, then anything else by its text.
2. NaN is no number: it comes last in either direction.
3. What has no order is an OutputError that names both types and the keys. Sets are refused, too:
   their `<` means "is a subset of".
"""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

from mmgevent.errors import OutputError
from mmgevent.job.natural_order import PLAIN, find_different, named
from mmgevent.job.outputs.formats import as_text, short

Record = tuple[Any, Any]


class Order(NamedTuple):
    """What to order results by, and how many of them to keep."""

    #: "key" or "value"
    by: str
    is_descending: bool
    #: how many records of the beginning to keep; None for all
    top: int | None = None


class ResultRanking:
    """Compares records by one order."""

    def __init__(self, order: Order):
        self._order = order
        self._at = 0 if order.by == "key" else 1

    def sort(self, records: list[Record]) -> None:
        """Sort records where they are."""
        try:
            if self._order.by == "value":  # keys are hardly ever equal
                records.sort(key=_tie_of)
            ranked = sorted(records, key=self._rank, reverse=self._order.is_descending)
        except OutputError:
            raise
        except Exception as error:  # of a comparison: find it by making the same ones again
            self._find_failure(
                lambda: sorted(records, key=self._explained, reverse=self._order.is_descending), error
            )
        records[:] = ranked

    def merge(self, runs: list[Callable[[], Iterator[Record]]]) -> Iterator[Record]:
        """Yield the records of sorted runs, each of which a function opens."""
        is_reverse = self._order.is_descending
        try:
            yield from heapq.merge(*(run() for run in runs), key=self._merge_rank, reverse=is_reverse)
        except (OutputError, GeneratorExit):
            raise
        except Exception as error:
            again = heapq.merge(*(run() for run in runs), key=self._explained, reverse=is_reverse)
            self._find_failure(lambda: sum(1 for _ in again), error)

    def is_behind(self, record: Record, last: Record) -> bool:
        """Return whether a record certainly comes behind another one."""
        try:
            if self._order.is_descending:
                return bool(self._rank(record) < self._rank(last))
            return bool(self._rank(last) < self._rank(record))
        except OutputError:
            raise
        except Exception:  # they have no order: the record is kept, and sorting it says so
            return False

    def _rank(self, record: Record) -> tuple[int, Any]:
        """Return what a record is compared by: whether it is NaN, then key or value."""
        thing = record[self._at]
        if type(thing) not in PLAIN and self._is_nan(thing, record[0]):
            return (0 if self._order.is_descending else 1), None
        return (1 if self._order.is_descending else 0), thing

    def _merge_rank(self, record: Record) -> Any:
        rank = self._rank(record)
        if self._order.by == "key":
            return rank
        tie = _tie_of(record)
        return *rank, (_Reversed(tie) if self._order.is_descending else tie)

    def _is_nan(self, thing: Any, key: Any) -> bool:
        """Return whether a value is NaN or holds one. Raise OutputError for a set."""
        if isinstance(thing, (tuple, list)):
            return any(type(part) not in PLAIN and self._is_nan(part, key) for part in thing)
        if isinstance(thing, (Set, Counter)):
            raise OutputError(
                f"cannot sort by {self._order.by}: {named(thing)}, as of the key {short(key)}, has no place before "
                f"or behind another; change it in finishfn"
            )
        try:
            return bool(thing != thing)
        except Exception:  # an array, say: it is compared next, and that fails by name
            return False

    def _explained(self, record: Record) -> Any:
        return _Explained(self._rank(record), record[0], self._order.by)

    def _find_failure(self, act: Callable[[], Any], error: Exception) -> None:
        """Act again, comparing with explanations; raise OutputError in any case."""
        with contextlib.suppress(RecursionError):  # a value within itself: said below
            act()
        raise OutputError(f"cannot sort by {self._order.by}: {error!r}") from error


class _Explained:
    """Compares as its rank does. If that fails, the error names both sides."""

    __slots__ = ("_by", "_key", "_rank")

    def __init__(self, rank: tuple[int, Any], key: Any, by: str):
        self._rank = rank
        self._key = key
        self._by = by

    def __lt__(self, other: _Explained) -> bool:
        try:
            return self._rank < other._rank
        except Exception as error:
            one, two = find_different(self._rank[1], other._rank[1])
            raise OutputError(
                f"cannot sort by {self._by}: {named(one)} and {named(two)} have no order "
                f"(keys {short(self._key)} and {short(other._key)}); make them of one kind in finishfn"
            ) from error


class _Reversed:
    """Compares the other way round."""

    __slots__ = ("_thing",)

    def __init__(self, thing: Any):
        self._thing = thing

    def __lt__(self, other: _Reversed) -> bool:
        return bool(other._thing < self._thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and bool(self._thing == other._thing)

    __hash__ = None  # type: ignore[assignment] # nobody looks one up


def _tie_of(record: Record) -> tuple[int, Any]:
    return _tie(record[0])


def _tie(thing: Any) -> tuple[int, Any]:
    """Return something that can be compared for anything at all."""
    kind = type(thing)
    if kind is str:
        return 1, thing
    if kind is int or kind is bool or (kind is float and thing == thing):
        return 0, thing
    if kind is tuple:
        return 2, tuple(map(_tie, thing))
    try:
        return 3, as_text(thing)
    except Exception:  # its repr() fails: whether that is an error is up to the format
        return 4, kind.__name__
