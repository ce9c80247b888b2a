"""Fold the values of each key into one: the specification of fold(), merge_fold() and FoldTable."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from mmgevent._speedups._block import Block
from mmgevent._speedups._column_read import decode_column
from mmgevent._speedups._encoding import unify_nan
from mmgevent._speedups._estimate import ENTRY_BYTES, estimate_bytes
from mmgevent._speedups._pairs import ABSENT, as_pair, check_columns, find

SUM, COUNT, MIN, MAX, FIRST = 1, 2, 3, 4, 5


def fold(pairs: Iterable[Any], table: dict[Any, Any], op: int, budget: int) -> tuple[bool | Block, int, int]:
    """Fold the values of each key into one, `{key: folded}`, until `used >= budget`.

    Arguments and result are those of `group`, except that values are folded. `op` is one of

    - SUM: adds with `+`, never in place;
    - COUNT: counts pairs;
    - MIN, MAX: keep the earliest of equal values, as `min` and `max` do;
    - FIRST: keeps the first value.

    The first value of a key is stored unchanged. `used` changes when a value is replaced, unless an
    int replaces an int, or a float replaces a float.

    Raises ValueError for another `op`, and what `group` and the values' `+`, `<` and `>` raise.
    """
    _check_op(op)
    used = records = 0
    for pair in pairs:
        if isinstance(pair, Block):
            return pair, used, records
        key, value = as_pair(pair)
        used += _fold_one(table, unify_nan(key), 1 if op == COUNT else value, op)
        records += 1
        if used >= budget:
            return False, used, records
    return True, used, records


def merge_fold(table: dict[Any, Any], keys: list[Any], values: list[Any], op: int) -> int:
    """Fold partial results `values[i]` of `keys[i]` into `table`; COUNT adds counts.

    Returns `used`. Raises ValueError for an unknown `op` or if the lengths differ, and what `fold`
    raises.
    """
    _check_op(op)
    check_columns(keys, values)
    used = 0
    for key, value in zip(keys, values, strict=True):
        used += _fold_one(table, unify_nan(key), value, op)
    return used


class FoldTable:
    """Folds values by key. Keys stay in the order of their arrival.

    Here they are in a dict. The C core keeps ints as they are, in a table, while all keys are strs,
    bytes, and ints of 64 bits. So it folds, scatters and merges them without an object of Python.
    """

    def __init__(self, op: int):
        """op: the fold, see `fold`. Raises ValueError for an unknown one."""
        _check_op(op)
        self._op = op
        self._table: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._table)

    def fold(self, pairs: Iterable[Any], budget: int, /) -> tuple[bool | Block, int, int]:
        """Fold pairs until `used >= budget`. Return and raise what `fold` does."""
        return fold(pairs, self._table, self._op, budget)

    def merge(self, keys: Any, values: Any, count: int, /) -> int:
        """Fold encoded columns of partial results, and return and raise what `merge_fold` does.

        Raise ValueError for damaged columns. Some of their values may then be folded.
        """
        return self.merge_lists(decode_column(keys, count), decode_column(values, count))

    def merge_lists(self, keys: list[Any], values: list[Any], /) -> int:
        """Fold columns of partial results, as `merge_fold`."""
        return merge_fold(self._table, keys, values, self._op)

    def scatter(self, count: int, seed: int = 0, /) -> list[tuple[int, bytes, bytes] | None] | None:
        """Deal keys and values out to partitions, as encoded columns.

        `parts[p]` is (entries, keys, values), or None if partition p gets nothing. The bytes are those
        of `encode_column` for what `scatter` gives for the dict.

        Return None if that needs an object for each, as always here. The caller then takes the dict.
        """
        return None

    def clear(self) -> None:
        """Forget all keys and values."""
        self._table = {}

    def take(self) -> dict[Any, Any]:
        """Return keys and values as a dict, and forget them."""
        table, self._table = self._table, {}
        return table


def _fold_one(table: dict[Any, Any], key: Any, value: Any, op: int) -> int:
    present = find(table, key)
    if present is ABSENT:
        used = ENTRY_BYTES + estimate_bytes(key)
        table[key] = value
        return used + estimate_bytes(value)
    folded = _combine(present, value, op)
    if folded is present:
        return 0
    table[key] = folded
    if type(folded) is type(present) and type(folded) in (int, float):
        return 0
    return estimate_bytes(folded) - estimate_bytes(present)


def _combine(present: Any, value: Any, op: int) -> Any:
    if op in (SUM, COUNT):
        return operator.add(present, value)
    if op == MIN:
        return value if value < present else present
    if op == MAX:
        return value if value > present else present
    return present


def _check_op(op: int) -> None:
    if not SUM <= op <= FIRST:
        raise ValueError(f"the fold must be one of SUM=1, COUNT=2, MIN=3, MAX=4, FIRST=5, got {op}")
