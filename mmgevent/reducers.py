"""Known reducers: reducing functions that the engine knows.

Each is a plain `f(key, values) -> value` that anybody may call. If one is the `reducefn` of a job
without `collectfn`, the engine also combines values before the shuffle:

- The folds (sum, count, min, max, first) keep one value per key. The C core folds records as they
  arrive; `fold_of` names the operation.
- unique and top shorten the list of a key's values. `combiner_of` returns the function. Its result
  is a list of values that may be combined again.

All can be pickled by name. All keep datasource order where order matters, so combining only changes
the amount of data.
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

#: Name of an operation -> its number in `_speedups.fold` and `_speedups.merge_fold`.
FOLD_OPS = {"sum": 1, "count": 2, "min": 3, "max": 4, "first": 5}


def sum_values(key: Any, values: Iterable[Any]) -> Any:
    """Add the values with `+`, from the first to the last; anything that has `+` will do."""
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

    All NaNs count as one value. Raises TypeError for a value that is not hashable.
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

    Of equal values it keeps the earlier ones. Raises FunctionError unless `n` is an int of at least
    1.
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


#: Name -> known reducer, for all that are plain functions.
_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    fn.__name__: fn
    for fn in (sum_values, count_values, min_value, max_value, first_value, unique_values, list_values)
}


def fold_of(reducefn: Any) -> str | None:
    """Return the operation (a key of `FOLD_OPS`) of a fold, or None for any other function."""
    return next((op for fn, op in _FOLDS if reducefn is fn), None)


def combiner_of(reducefn: Any) -> Callable[[Any, Iterable[Any]], list[Any]] | None:
    """Return the function that shortens a key's values before the shuffle, or None.

    None also for list_values, which shortens nothing, and for the folds, which `fold_of` names.
    """
    if reducefn is unique_values or isinstance(reducefn, _TopValues):
        return reducefn
    return None


def is_recognised(reducefn: Any) -> bool:
    """Return whether `reducefn` is a known reducer."""
    return fold_of(reducefn) is not None or combiner_of(reducefn) is not None or reducefn is list_values


def name_of(reducefn: Any) -> str | None:
    """Return the name of a known reducer, as `by_name` takes it, or None for any other function."""
    if isinstance(reducefn, _TopValues):
        return repr(reducefn)
    return next((name for name, fn in _PLAIN.items() if fn is reducefn), None)


def by_name(name: str) -> Callable[[Any, Any], Any]:
    """Return the known reducer of a name such as "sum_values" or "top_values(5)".

    Raises FunctionError if there is none of that name.
    """
    top = re.fullmatch(r"top_values\(([0-9]{1,18})\)", name)
    if top is not None:
        return top_values(int(top[1]))
    if name not in _PLAIN:
        raise FunctionError(f"mmgevent.reducers has no {name!r}; it has {', '.join(_PLAIN)}, top_values(n)")
    return _PLAIN[name]


def check_collectfn(collectfn: Any, reducefn: Any) -> None:
    """Raise FunctionError if `collectfn` before `reducefn` would give wrong results.

    Reducing collected values must equal reducing the raw ones. This can be checked for known
    reducers only.
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
    """Return `collectfn`, or None if the engine does the same by itself.

    This also matters for results. As a collectfn, `sum_values` over lists would return a list,
    which counts as a list of values. If the engine folds it, it stays one value.
    """
    return None if collectfn is reducefn and is_recognised(reducefn) else collectfn
