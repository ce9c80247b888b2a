"""Provide the reducing functions that the engine knows by heart.

Each is a plain `f(key, values) -> value` and may be called by anybody.  Given
as `reducefn`, with no `collectfn`, the engine also combines before the shuffle:

- the folds (sum, count, min, max, first) keep one value a key and are folded
  by the C core as records arrive: `fold_of` names the operation;
- unique and top shorten the list of a key's values: `combiner_of` gives the
  function, whose result is a list of values and may be combined again.

All are picklable by name, and all keep datasource order where order matters,
so combining changes nothing but the amount of data.
"""

from __future__ import annotations

import functools
import heapq
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmgevent.errors import FunctionError

#: operation name -> its number in `_speedups.fold` and `_speedups.merge_fold`
FOLD_OPS = {"sum": 1, "count": 2, "min": 3, "max": 4, "first": 5}


def sum_values(key: Any, values: Iterable[Any]) -> Any:
    """Add the values with `+`, from the first to the last; anything that adds will do."""
    return functools.reduce(operator.add, values)


def count_values(key: Any, values: Sequence[Any]) -> int:
    """Count the values."""
    return len(values)


def min_value(key: Any, values: Iterable[Any]) -> Any:
    """Return the smallest value, the earliest of several equal ones."""
    return min(values)


def max_value(key: Any, values: Iterable[Any]) -> Any:
    """Return the largest value, the earliest of several equal ones."""
    return max(values)


def first_value(key: Any, values: Sequence[Any]) -> Any:
    """Return the value that comes first in datasource order."""
    return values[0]


def unique_values(key: Any, values: Iterable[Any]) -> list[Any]:
    """Return the distinct values, each where it first occurs.

    Values must be hashable (TypeError).  All NaNs count as one value.
    """
    distinct = list(dict.fromkeys(values))
    nans = [i for i, v in enumerate(distinct) if isinstance(v, float) and v != v]
    for i in reversed(nans[1:]):
        del distinct[i]
    return distinct


def list_values(key: Any, values: Iterable[Any]) -> list[Any]:
    """Return all values, in datasource order."""
    return list(values)


def top_values(n: int) -> Callable[[Any, Iterable[Any]], list[Any]]:
    """Make a reducer that returns the `n` largest values, largest first.

    Of equal values those that come earlier are kept.  Raise FunctionError
    unless `n` is an int of at least 1.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise FunctionError(f"top_values takes the number of values to keep, an int of at least 1; got {n!r}")
    return _TopValues(n)


@dataclass(frozen=True)
class _TopValues:
    n: int

    def __call__(self, key: Any, values: Iterable[Any]) -> list[Any]:
        return heapq.nlargest(self.n, values)

    def __repr__(self) -> str:
        return f"top_values({self.n})"


_FOLDS = (
    (sum_values, "sum"),
    (count_values, "count"),
    (min_value, "min"),
    (max_value, "max"),
    (first_value, "first"),
)


#: those that are functions, by name
_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    fn.__name__: fn
    for fn in (sum_values, count_values, min_value, max_value, first_value, unique_values, list_values)
}


def fold_of(reducefn: Any) -> str | None:
    """Name the operation (a key of `FOLD_OPS`) that `reducefn` is, or None."""
    return next((op for fn, op in _FOLDS if reducefn is fn), None)


def combiner_of(reducefn: Any) -> Callable[[Any, Iterable[Any]], list[Any]] | None:
    """Return the function that shortens a key's values before the shuffle, or None.

    None also for list_values, where there is nothing to shorten, and for the
    folds, which `fold_of` names.
    """
    if reducefn is unique_values or isinstance(reducefn, _TopValues):
        return reducefn
    return None


def is_recognised(reducefn: Any) -> bool:
    """Say whether `reducefn` is one of this module's reducers."""
    return fold_of(reducefn) is not None or combiner_of(reducefn) is not None or reducefn is list_values


def name_of(reducefn: Any) -> str | None:
    """Return what `by_name` takes for one of this module's reducers, None for any other function."""
    if isinstance(reducefn, _TopValues):
        return repr(reducefn)
    return next((name for name, fn in _PLAIN.items() if fn is reducefn), None)


def by_name(name: str) -> Callable[[Any, Any], Any]:
    """Return the reducer of a name such as "sum_values" or "top_values(5)"; FunctionError if there is none."""
    top = re.fullmatch(r"top_values\(([0-9]{1,18})\)", name)
    if top is not None:
        return top_values(int(top[1]))
    if name not in _PLAIN:
        raise FunctionError(f"mmgevent.reducers has no {name!r}; it has {', '.join(_PLAIN)}, top_values(n)")
    return _PLAIN[name]


def check_collectfn(collectfn: Any, reducefn: Any) -> None:
    """Raise FunctionError where `collectfn` before `reducefn` would give wrong results.

    Only what is known of the reducers here can be judged: reducing collected
    values must equal reducing the raw ones.
    """
    if collectfn is count_values and reducefn is count_values:
        raise FunctionError(
            "collectfn and reducefn are both count_values, which would count the counts; "
            "leave collectfn out: the engine combines count_values by itself"
        )
    if isinstance(collectfn, _TopValues) and isinstance(reducefn, _TopValues) and collectfn.n < reducefn.n:
        raise FunctionError(
            f"collectfn {collectfn!r} drops values that reducefn {reducefn!r} may need; "
            f"leave collectfn out: the engine combines {reducefn!r} by itself"
        )


def without_redundant(collectfn: Any, reducefn: Any) -> Any:
    """Return `collectfn`, or None where the engine does the same by itself.

    Not only a saving: as a collectfn, `sum_values` over lists would give a list,
    which is taken for a list of values; folded by the engine it stays one value.
    """
    return None if collectfn is reducefn and is_recognised(reducefn) else collectfn
