"""Put the values of a key in order, as a job with `sort_values` wants them.

Values are compared by themselves, or by what the job's key function returns of each. The order is
stable: equal values stay in datasource order. `natural_order` says where NaN goes and what has no
order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from mmgevent.job.natural_order import Explained, NoOrder, has_plain_order, rank
from mmgevent.tasks.blame import TaskFailure, blame_exception, describe_error, short_repr
from mmgevent.wire.failures import bound

#: What failures call the key function, and the sorting itself.
SORT_VALUES = "sort_values"

_ADVICE = (
    "give the job sort_values=f, where f(value) returns what the values can be compared by, "
    "or yield values of one kind in mapfn"
)

#: Opens one run of values.
Run = Callable[[], Iterator[Any]]


class ValueOrder:
    """The order of the values of a key."""

    def __init__(self, function: Callable[[Any], Any] | None):
        """`function`: the job's key function; None to compare the values themselves."""
        self._function = function

    def sort(self, key: Any, values: list[Any]) -> None:
        """Sort the values of a key where they are. Raise TaskFailure, which names the key."""
        try:
            self._sort(values)
            return
        except BaseException as error:
            raised = error  # below, it is not the context of what is raised again
        raise self._blame(key, [lambda: iter(values)], raised) from raised

    def merge(self, key: Any, runs: list[Run]) -> Iterator[Any]:
        """Yield the values of sorted runs in order. Raise TaskFailure as `sort` does."""
        try:
            yield from heapq.merge(*(run() for run in runs), key=self._rank)
        except (TaskFailure, GeneratorExit):
            raise
        except BaseException as error:
            raised = error
        else:
            return
        raise self._blame(key, runs, raised) from raised

    def _sort(self, values: list[Any]) -> None:
        things = values if self._function is None else list(map(self._function, values))
        if not has_plain_order(things):
            things = list(map(rank, things))
        elif things is values:
            values.sort()
            return
        places = sorted(range(len(values)), key=things.__getitem__)
        values[:] = [values[place] for place in places]

    def _rank(self, value: Any) -> Any:
        return rank(value if self._function is None else self._function(value))

    def _blame(self, key: Any, runs: list[Run], error: BaseException) -> TaskFailure:
        """Find what is at fault by doing the same again, and make its failure."""
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            return blame_exception(error, SORT_VALUES, key)
        try:
            for _ in heapq.merge(*(self._explained(key, run()) for run in runs)):
                pass
            sorted(self._explained(key, runs[0]()))
        except NoOrder as found:
            failure = blame_exception(found.__cause__ or found, SORT_VALUES, key).failure
            text = f"the values of key {short_repr(key)} cannot be sorted: {found}"
            return TaskFailure(bound({**failure, "error": text, "advice": _ADVICE}))
        except TaskFailure as found:
            return found
        except Exception:  # it fails in another way each time: what happened first counts
            pass
        return blame_exception(error, SORT_VALUES, key)

    def _explained(self, key: Any, values: Iterator[Any]) -> Iterator[Explained]:
        for value in values:
            try:
                thing = value if self._function is None else self._function(value)
            except Exception as error:
                failure = blame_exception(error, SORT_VALUES, key).failure
                text = f"{describe_error(error)} (of the value {short_repr(value)})"
                raise TaskFailure(bound({**failure, "error": text})) from error
            yield Explained(rank(thing))
