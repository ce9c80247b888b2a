"""Order things as `<` does, and say what has no order.

1. NaN is no number: it comes last, and so does a tuple or list that holds one.
2. Sets are refused: their `<` means "is a subset of".
3. What `<` refuses is a `NoOrder`, which names both sides. But equal things need no `<`: many
   times None are in order.
4. Only `<` says whether things tie. Their `==` may say something else, or be that of objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from itertools import chain
from operator import ne
from typing import Any

#: Types whose values all have an order among themselves.
PLAIN = frozenset((int, str, bytes, bool))

#: Types whose values have one, too, unless a NaN is among them.
_NUMBERS = frozenset((int, bool, float))

#: Types whose `==` is true where neither of two values is less.
_AGREEING = PLAIN | {float}

Rank = tuple[int, Any]


class LessOnly(tuple[int, Any]):
    """A rank whose thing has no `==` that agrees with its `<`. It ties where neither is less."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, other: Rank) -> bool:  # type: ignore[override]
        return _is_less(self, other)

    def __gt__(self, other: Rank) -> bool:  # type: ignore[override]
        return _is_less(other, self)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, tuple)
        return not _is_less(self, other) and not _is_less(other, self)


class NoOrder(Exception):
    """Two things have no order, or one has no order at all. The text says so, with their types."""


def has_plain_order(things: list[Any]) -> bool:
    """Return whether `<` alone orders the things, as far as their types say: no NaN, no set.

    False means that their `rank` must be compared instead. It takes a tenth of the time of sorting.
    """
    kinds = set(map(type, things))
    if kinds == {tuple}:
        things = list(chain.from_iterable(things))
        kinds = set(map(type, things))
    kinds = {kind for kind in kinds if kind.__module__ != "datetime"}  # those of the library alone
    return kinds <= PLAIN or (kinds <= _NUMBERS and not any(map(ne, things, things)))


def rank(thing: Any) -> Rank:
    """Return what a thing is compared by. Raise NoOrder for a set."""
    if type(thing) not in PLAIN and is_nan(thing):
        return 1, None
    parts = thing if type(thing) is tuple else (thing,)
    return (0, thing) if all(type(part) in _AGREEING for part in parts) else LessOnly((0, thing))


def is_nan(thing: Any) -> bool:
    """Return whether a thing is NaN or holds one. Raise NoOrder for a set."""
    if isinstance(thing, (tuple, list)):
        return any(type(part) not in PLAIN and is_nan(part) for part in thing)
    if isinstance(thing, (Set, Counter)):
        raise NoOrder(f"{named(thing)} has no place before or behind another")
    try:
        return bool(thing != thing)
    except Exception:  # an array, say: it is compared next, and that fails by name
        return False


class Explained:
    """Compares as its rank does. If that fails, a NoOrder names both sides."""

    __slots__ = ("_rank",)

    def __init__(self, rank: Rank):
        self._rank = rank

    def __lt__(self, other: Explained) -> bool:
        try:
            return self._rank < other._rank
        except Exception as error:
            one, two = find_different(self._rank[1], other._rank[1])
            raise NoOrder(f"{named(one)} and {named(two)} have no order") from error


def find_different(one: Any, two: Any) -> tuple[Any, Any]:
    """Return the parts at which two things differ: themselves, or parts of tuples and lists."""
    while isinstance(one, (tuple, list)) and type(one) is type(two):
        pair = next(((a, b) for a, b in zip(one, two, strict=False) if not _is_equal(a, b)), None)
        if pair is None:
            break
        one, two = pair
    return one, two


def named(thing: Any) -> str:
    """Return the name of a thing's type, with its article."""
    name = type(thing).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _is_less(one: Rank, other: Rank) -> bool:
    if one[0] or other[0]:
        return one[0] < other[0]
    try:
        return bool(one[1] < other[1])
    except Exception:
        if _is_equal(one[1], other[1]):
            return False
        raise


def _is_equal(one: Any, two: Any) -> bool:
    try:
        return one is two or bool(one == two)
    except Exception:  # arrays, say: they are what has no order
        return False
