"""Try whether the functions of a job keep the promises on which every engine relies.

A function gets copies, as in an executor, and may be called again, in another order, and with other
parts of the data. What it gives must not depend on any of that.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmgevent._speedups import spread
from mmgevent.driver.trying.sameness import are_same, find_difference
from mmgevent.errors import BrokenPromiseError
from mmgevent.job.functions import Functions
from mmgevent.tasks.blame import short_repr
from mmgevent.tasks.number_arrays import array_for_reducefn
from mmgevent.tasks.returned import pairs_of
from mmgevent.tasks.value_order import ValueOrder

Record = tuple[Any, Any]
Groups = dict[Any, list[Any]]

#: Seed for other orders: the same in each run, so that a failure is not gone the next time.
SEED = 20

#: Longest text of a key or value in a message, characters.
SHOWN_CHARS = 200


def copy_of(thing: Any, what: str, function: str | None, key: Any) -> Any:
    """Return a copy as it travels, and check that it is the same. Raises BrokenPromiseError."""
    try:
        copy = pickle.loads(pickle.dumps(thing, pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # whatever the user's methods raise
        raise broken(
            "pickling",
            function,
            key,
            f"{what} cannot be pickled and read again: {type(error).__name__}: {error}",
            "give what pickles",
        ) from error
    if not are_same(thing, copy):
        raise broken(
            "pickling",
            function,
            key,
            f"{what} is {_show(thing)}, and {_show(copy)} after it was pickled and read again",
            "a class that pickles itself (__reduce__, __getstate__) must keep all that its == compares",
        )
    return copy


def broken(promise: str, function: str | None, key: Any, found: str, advice: str) -> BrokenPromiseError:
    """Return the error of a promise that a function does not keep."""
    where = f"{function} at {_show(key)}" if function else f"the item {_show(key)}"
    return BrokenPromiseError(f"{where}: {found}\n{advice}", promise, function, _show(key))


class Promises:
    """The promises of one job's functions, tried on some of its items."""

    def __init__(self, functions: Functions, items: Sequence[Record], *, items_per_call: int | None):
        """`items_per_call`: how many mapfn gets at once, or None if it gets one."""
        self._functions = functions
        self._items = items
        self._size = items_per_call

    def check(self, *, are_values_ordered: bool) -> None:
        """Try every function. `are_values_ordered`: whether the values of a key have an order.

        Raises BrokenPromiseError, and what the functions raise.
        """
        for key, value in self._items:
            copy_of((key, value), "the item", None, key)
        groups = self._check_map()
        self._check_collect(groups)
        self._check_reduce(groups, are_values_ordered)

    # Map.

    def _check_map(self) -> Groups:
        """Map all items, again, and in another order; return the groups of the records."""
        calls = [list(range(at, min(at + (self._size or 1), len(self._items)))) for at in self._starts()]
        first = [self._map(call) for call in calls]
        for number, call in enumerate(calls):
            again = self._map(call)
            self._compare(
                call,
                first[number],
                again,
                "state",
                "gives other records when the same item comes again",
                "its records must depend on the item alone: not on globals, time or chance, nor on the items "
                "before it",
            )
        order = list(enumerate(calls))
        random.Random(SEED).shuffle(order)
        for number, call in [*reversed(list(enumerate(calls))), *order]:
            self._compare(
                call,
                first[number],
                self._map(call),
                "order",
                "gives other records when the items come in another order",
                "its records must not depend on the items before it: executors get any items, in any order",
            )
        groups: Groups = {}
        for call, records in zip(calls, first, strict=True):
            for key, value in records:
                name = "a record" if self._functions.mapfn is not None else "the item"
                key, value = copy_of((key, value), name, self._mapper, self._items[call[0]][0])
                groups.setdefault(key, []).append(value)
        return groups

    def _starts(self) -> range:
        return range(0, len(self._items), self._size or 1)

    @property
    def _mapper(self) -> str | None:
        return None if self._functions.mapfn is None else "mapfn"

    def _map(self, call: Sequence[int]) -> list[Record]:
        """Return the records of one call of mapfn, as a copy."""
        mapfn: Any = self._functions.mapfn
        items = pickle.loads(pickle.dumps([self._items[index] for index in call]))
        if mapfn is None:
            return list(items)
        if self._size is None:
            output = mapfn(*items[0])
        else:
            output = mapfn([key for key, _ in items], [value for _, value in items])
        return [(key, value) for key, value in spread(pairs_of(output, "mapfn"))]

    def _compare(
        self, call: Sequence[int], one: Any, other: Any, promise: str, found: str, advice: str
    ) -> None:
        if not are_same(one, other):
            text = f"it {found}: {_show(one)}, then {_show(other)}"
            raise broken(promise, "mapfn", self._items[call[0]][0], text, advice)

    # Combine.

    def _check_collect(self, groups: Groups) -> None:
        """Compare reducefn of the values with reducefn of what collectfn makes of parts of them."""
        if self._functions.collectfn is None or self._functions.reducefn is None:
            return
        whole = self._reduce_all(groups)
        for words, cut in _CUTS.items():
            collected: Groups = {}
            for part in _split(groups, cut):
                for key, value in self._collect(part):
                    values = value if isinstance(value, list) else [value]
                    collected.setdefault(key, []).extend(values)
            difference = find_difference(whole, self._reduce_all(collected))
            if difference is not None:
                key, value, other = difference
                raise broken(
                    "combiner",
                    "collectfn",
                    key,
                    f"it changes the answer: reducefn gives {_show(value)} of the values themselves, and "
                    f"{_show(other)} if collectfn gets them before, {words}",
                    "collectfn gets some of a key's values, each once, in parts of any size: reducefn of its "
                    "results must equal reducefn of the values",
                )

    def _collect(self, groups: Groups) -> list[Record]:
        collectfn: Any = self._functions.collectfn
        groups = pickle.loads(pickle.dumps(groups))
        if self._functions.collect_form == "iterator":
            return [(key, value) for key, value in pairs_of(collectfn(iter(groups.items())), "collectfn")]
        return [(key, collectfn(key, values)) for key, values in groups.items()]

    # Reduce.

    def _check_reduce(self, groups: Groups, are_values_ordered: bool) -> None:
        if self._functions.reducefn is None or not groups:
            return
        first = self._reduce_all(groups)
        for key, value in first:
            copy_of((key, value), "a result", "reducefn", key)
        again = "its result for a key must depend on the values alone, not on globals, time or chance"
        self._compare_results(first, self._reduce_all(groups), "state", "the second time", again)
        keys = list(groups)
        for order in (keys[::-1], random.Random(SEED).sample(keys, len(keys))):
            other = self._reduce_all({key: groups[key] for key in order})
            advice = "keys come in any order, and its result must not depend on the keys before them"
            self._compare_results(first, other, "order", "when the keys come in another order", advice)
        parts = [record for part in _halve_keys(groups) for record in self._reduce_all(part)]
        advice = (
            "each reduce task gets some of the keys: what it gives for them must not depend on the others"
        )
        self._compare_results(first, parts, "order", "when the keys come in two tasks", advice)
        if not are_values_ordered and self._functions.sort_values is None:
            other = self._reduce_all({key: values[::-1] for key, values in groups.items()})
            advice = (
                "the values of a key have no order from the second stage on: set sort_values, or use what "
                "does not depend on it"
            )
            self._compare_results(first, other, "order", "when the values come in another order", advice)

    def _compare_results(
        self, one: list[Record], other: list[Record], promise: str, when: str, advice: str
    ) -> None:
        difference = find_difference(one, other)
        if difference is not None:
            key, value, changed = difference
            text = f"it gives {_show(value)}, and {_show(changed)} {when}"
            raise broken(promise, "reducefn", key, text, advice)

    def _reduce_all(self, groups: Groups) -> list[Record]:
        reducefn: Any = self._functions.reducefn
        groups = pickle.loads(pickle.dumps(groups))
        if self._functions.sort_values:
            rule = self._functions.sort_values
            order = ValueOrder(None if rule is True else rule)
            for key, values in groups.items():
                order.sort(key, values)
        if self._functions.arrays:
            groups = {key: array_for_reducefn(key, values) for key, values in groups.items()}
        if self._functions.reduce_form == "iterator":
            return [(key, value) for key, value in pairs_of(reducefn(iter(groups.items())), "reducefn")]
        return [(key, reducefn(key, values)) for key, values in groups.items()]


def _split(groups: Groups, cut: Callable[[int], list[int]]) -> Iterator[Groups]:
    """Yield groups with some of the values of each key: `cut(count)` returns where each part ends."""
    ends = {key: cut(len(values)) for key, values in groups.items()}
    for number in range(max(map(len, ends.values()), default=0)):
        part: Groups = {}
        for key, values in groups.items():
            low, high = [0, *ends[key]][number : number + 2] if number < len(ends[key]) else (0, 0)
            if low < high:
                part[key] = values[low:high]
        if part:
            yield part


#: {words: where to cut so many values}. Parts are unequal: a mean of the means of equal parts is
#: right.
_CUTS: dict[str, Callable[[int], list[int]]] = {
    "all at once": lambda count: [count],
    "the first one by itself": lambda count: [1, count],
    "in two parts": lambda count: [-(-count // 3), count],
    "one by one": lambda count: list(range(1, count + 1)),
}


def _halve_keys(groups: Groups) -> tuple[Groups, Groups]:
    keys = list(groups)
    middle = len(keys) // 2
    return {key: groups[key] for key in keys[:middle]}, {key: groups[key] for key in keys[middle:]}


def _show(thing: Any) -> str:
    return short_repr(thing, SHOWN_CHARS)
