"""Known reducers: reducing functions that the engine knows.

Each is a plain `f(key, values) -> value` that anybody may call. If one is the `reducefn` of a job
without `collectfn`, the engine also combines values before the shuffle:

- The folds (sum, count, min, max, first) keep one value per key. The C core folds records as they
  arrive; `fold_of` names the operation.
- unique and top shorten the list of a key's values. `combiner_of` returns the function. Its result
  is a list of values that may be combined again.
- mean, std, count_distinct and quantile have summaries (`summaries/`), which stand for many values of
  a key in the lists that they get.

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


def mean_values(key: Any, values: Iterable[Any]) -> float:
    """Return the mean of numbers, correctly rounded: their order and grouping do not matter.

    NaN and infinite values count as in a sum of floats. Raises TypeError for what is no number.
    """
    from mmgevent.summaries import moments

    return moments.mean(values)


def std_values(key: Any, values: Iterable[Any]) -> float:
    """Return the standard deviation of a sample of numbers, as `statistics.stdev` does.

    Their order and grouping do not matter: squares are added exactly. NaN for one value, and where a
    value is NaN or infinite. Raises TypeError for what is no number.
    """
    from mmgevent.summaries import moments

    return moments.std(values)


def count_distinct(key: Any, values: Iterable[Any]) -> int:
    """Return how many distinct values there are: exact up to 4,096.

    Beyond that it is an estimate (HyperLogLog) whose standard error is 0.81 %. It depends on the set
    of values alone. All NaNs count as one value. Raises TypeError for a value that is not hashable
    and, of more than 4,096, for one whose class hashes by identity.
    """
    from mmgevent.summaries import distinct

    return distinct.count(values)


def quantile_values(rank: float, *ranks: float) -> Callable[[Any, Iterable[Any]], Any]:
    """Make a reducer that returns the quantile of numbers at `rank`, from 0 to 1; 0.5 is the median.

    With more ranks the reducer returns a list, one quantile for each. Quantiles are floats, and exact
    for up to 1,000 values of a key, interpolated as numpy does by default. Of more values the rank is
    off by less than 0.005, and by much less towards 0 and 1 (t-digest); what comes out then depends a
    little on how values are grouped. NaN if a value is NaN. Raises FunctionError for other ranks.
    """
    for given in (rank, *ranks):
        if not isinstance(given, int | float) or isinstance(given, bool) or not 0 <= given <= 1:
            raise FunctionError(f"quantile_values takes ranks from 0 to 1, such as 0.5; got {given!r}")
    return _QuantileValues((float(rank), *map(float, ranks)))


@dataclass(frozen=True)
class _QuantileValues:
    ranks: tuple[float, ...]

    def __call__(self, key: Any, values: Iterable[Any]) -> Any:
        from mmgevent.summaries import quantiles

        found = quantiles.quantiles(values, self.ranks)
        return found if len(found) > 1 else found[0]

    def __repr__(self) -> str:
        return f"quantile_values({', '.join(map(repr, self.ranks))})"


def _summarize_mean(key: Any, values: list[Any]) -> list[Any]:
    from mmgevent.summaries import moments

    return moments.summarize_mean(values)


def _summarize_std(key: Any, values: list[Any]) -> list[Any]:
    from mmgevent.summaries import moments

    return moments.summarize_std(values)


def _summarize_distinct(key: Any, values: list[Any]) -> list[Any]:
    from mmgevent.summaries import distinct

    return distinct.summarize(values)


def _summarize_quantiles(key: Any, values: list[Any]) -> list[Any]:
    from mmgevent.summaries import quantiles

    return quantiles.summarize(values)


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
    for fn in (
        *(sum_values, count_values, min_value, max_value, first_value, unique_values, list_values),
        *(mean_values, std_values, count_distinct),
    )
}

#: Reducer -> what makes summaries of its values.
_SUMMARIES: dict[Any, Callable[[Any, list[Any]], list[Any]]] = {
    mean_values: _summarize_mean,
    std_values: _summarize_std,
    count_distinct: _summarize_distinct,
}

#: Reducers of what cannot be reduced again, and what that would be.
_NOT_AGAIN = {
    count_values: "count the counts",
    mean_values: "take the mean of means",
    std_values: "take the deviation of deviations",
    count_distinct: "count the counts",
}


def fold_of(reducefn: Any) -> str | None:
    """Return the operation (a key of `FOLD_OPS`) of a fold, or None for any other function."""
    return next((op for fn, op in _FOLDS if reducefn is fn), None)


def combiner_of(reducefn: Any) -> Callable[[Any, list[Any]], list[Any]] | None:
    """Return the function that shortens a key's values before the shuffle, or None.

    None also for list_values, which shortens nothing, and for the folds, which `fold_of` names.
    """
    if reducefn is unique_values or isinstance(reducefn, _TopValues):
        return reducefn
    if isinstance(reducefn, _QuantileValues):
        return _summarize_quantiles
    return next((summarize for fn, summarize in _SUMMARIES.items() if fn is reducefn), None)


def is_recognised(reducefn: Any) -> bool:
    """Return whether `reducefn` is a known reducer."""
    return fold_of(reducefn) is not None or combiner_of(reducefn) is not None or reducefn is list_values


def name_of(reducefn: Any) -> str | None:
    """Return the name of a known reducer, as `by_name` takes it, or None for any other function."""
    if isinstance(reducefn, _TopValues | _QuantileValues):
        return repr(reducefn)
    return next((name for name, fn in _PLAIN.items() if fn is reducefn), None)


def by_name(name: str) -> Callable[[Any, Any], Any]:
    """Return the known reducer of a name such as "sum_values" or "top_values(5)".

    Raises FunctionError if there is none of that name.
    """
    top = re.fullmatch(r"top_values\(([0-9]{1,18})\)", name)
    if top is not None:
        return top_values(int(top[1]))
    quantile = re.fullmatch(
        r"quantile_values\(([0-9][0-9.e+-]{0,23}(?:, [0-9][0-9.e+-]{0,23}){0,99})\)", name
    )
    if quantile is not None:
        try:
            return quantile_values(*map(float, quantile[1].split(", ")))
        except ValueError:
            pass  # such as 0.5.5: no name
    if name not in _PLAIN:
        raise FunctionError(
            f"mmgevent.reducers has no {name!r}; it has {', '.join(_PLAIN)}, top_values(n), quantile_values(q)"
        )
    return _PLAIN[name]


def check_collectfn(collectfn: Any, reducefn: Any) -> None:
    """Raise FunctionError if `collectfn` before `reducefn` would give wrong results.

    Reducing collected values must equal reducing the raw ones. This can be checked for known
    reducers only.
    """
    again = next((what for fn, what in _NOT_AGAIN.items() if collectfn is fn and reducefn is fn), None)
    if isinstance(collectfn, _QuantileValues) and isinstance(reducefn, _QuantileValues):
        again = "take quantiles of quantiles"
    if again is not None:
        name = name_of(reducefn)
        raise FunctionError(
            f"collectfn and reducefn are both {name}, which would {again}; "
            f"leave collectfn out: the engine combines {name} by itself"
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
