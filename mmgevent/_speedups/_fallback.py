"""Hash, group, fold, scatter and merge in Python: the specification of `_core.c`.

Both give the same results and raise the same errors, so workers with and without a compiler serve
one job. A change here needs the same change there.

`used` is an estimate, in bytes, of the memory that a call added to the dict, by the formula of
`estimate_bytes`. It decides when to flush; it is no measurement. User code (`__hash__`, `__eq__`,
`__add__`, `__lt__`, iterators) runs inside these calls. Its exceptions pass through. The dict then
holds all earlier records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from typing import Any

from mmgevent._speedups._block import Block
from mmgevent._speedups._block_fold import ColumnFold
from mmgevent._speedups._column_read import decode_column
from mmgevent._speedups._column_write import encode_column
from mmgevent._speedups._encoding import (
    NAN,
    BadKeyError,
    NoPairError,
    encode,
    hash_key,
    is_hashed,
    unhashable_error,
    unify_nan,
    xxh64,
)
from mmgevent._speedups._estimate import (
    ENTRY_BYTES,
    LIST_BYTES,
    POINTER_BYTES,
    estimate_bytes,
    estimate_values,
)
from mmgevent._speedups._folds import COUNT, FIRST, MAX, MIN, SUM, FoldTable, fold, merge_fold
from mmgevent._speedups._items import Items, stream_items
from mmgevent._speedups._marking import make_mark
from mmgevent._speedups._opcodes import check_pickle
from mmgevent._speedups._pairs import ABSENT, as_pair, check_columns, check_list, find, pair_error
from mmgevent._speedups._units import CsvRows, lines_of, pieces_of, placed, values_of

__all__ = [
    "COUNT",
    "FIRST",
    "MAX",
    "MIN",
    "NAN",
    "SUM",
    "BadKeyError",
    "Block",
    "ColumnFold",
    "CsvRows",
    "FoldTable",
    "Items",
    "NoPairError",
    "check_pickle",
    "decode_column",
    "encode",
    "encode_column",
    "estimate_bytes",
    "fold",
    "group",
    "hash_key",
    "is_hashed",
    "lines_of",
    "make_mark",
    "map_items",
    "merge_flat",
    "merge_fold",
    "merge_grouped",
    "pair_error",
    "partition",
    "pieces_of",
    "placed",
    "scatter",
    "stream_items",
    "take",
    "unhashable_error",
    "unify_nan",
    "values_of",
    "xxh64",
]


def partition(key: Any, count: int, seed: int = 0) -> int:
    """Return the partition, 0 <= p < count, that owns a key.

    Raises ValueError unless 1 <= count < 2**32, and what `hash_key` raises.
    """
    _check_count(count)
    return hash_key(key, seed) % count


def group(pairs: Iterable[Any], groups: dict[Any, list[Any]], budget: int) -> tuple[bool | Block, int, int]:
    """Append the value of each pair to the list of its key, until `used >= budget`.

    `pairs` is an iterator of (key, value), tuples or lists of two. Every call takes at least one
    pair, whatever the budget, so repeated calls make progress. One NaN replaces all NaN keys.

    Returns (exhausted, used, records): whether the iterator ended, the estimated bytes added, the
    number of pairs taken. An iterator that did not end can be the number of pairs taken. An iterator that did not end can be used in another call. A value that is
    the same object as that of the previous pair costs only its pointer. If a Block comes, it is
    returned as `exhausted`, and is not grouped.

    Raises TypeError for an object that is no pair, or has an unhashable key.
    """
    used = records = 0
    previous: Any = ABSENT
    for pair in pairs:
        if isinstance(pair, Block):
            return pair, used, records
        raw, value = as_pair(pair)
        key = unify_nan(raw)
        values = find(groups, key)
        if values is ABSENT:
            used += ENTRY_BYTES + LIST_BYTES + estimate_bytes(key)
            groups[key] = [value]
        else:
            check_list(values)
            values.append(value)
        used += POINTER_BYTES + (0 if value is previous else estimate_bytes(value))
        previous = value
        records += 1
        if used >= budget:
            return False, used, records
    return True, used, records


def take(records: Iterable[Any], limit: int, /) -> list[Any]:
    """Return the next records of an iterator, at most `limit`, as a list; check each of them.

    `group` and `fold` can refuse none of them: every record is a pair, and every key can be a key.
    Of a Block its records are taken. If they are more than the limit leaves, the Block itself is
    taken instead. It is the last, and its keys are not checked.

    Raises TypeError for an object that is no pair, or whose key is unhashable or refused by
    `hash_key`.
    """
    taken: list[Any] = []
    iterator = iter(records)
    while len(taken) < limit:
        record = next(iterator, ABSENT)
        if record is ABSENT:
            break
        if isinstance(record, Block):
            if len(record) < limit - len(taken):
                taken += take(record.pairs(), limit)
                continue
            taken.append(record)
            break
        key, _ = as_pair(record)
        if type(key) not in _PLAIN_KEYS:
            hash_key(key)
        taken.append(record)
    return taken


def map_items(
    items: Iterable[tuple[int, Any, Any]],
    mark: Callable[[int, Any], object],
    mapfn: Callable[[Any, Any], Any],
    pairs_of: Callable[[Any], Iterator[Any]],
    failed: Callable[[int, Any, Any, BaseException], list[Any] | None],
    large: Callable[[int, Any, Any, list[Any], Iterator[Any]], object],
    limit: int,
    /,
) -> Iterator[Any]:
    """Yield the records of all items; those of one item only after its mapfn has given all of them.

    `items` are (position, key, value). For each item this calls `mark(position, key)`, then
    `mapfn(key, value)`. `pairs_of` makes an iterator of its result, unless that is a generator. The
    records are taken as by `take`.

    An exception of mapfn, `pairs_of` or `take` is passed to `failed(position, key, value, error)`.
    If that returns a list, the list replaces the item's records. If it returns None, the iterator
    ends. Its own exceptions pass through.

    If an item has `limit` records or more, as a Block may hold, the iterator calls `large(position, key, value, records,
    output)` and ends. `records` are those that were taken, `output` is the iterator of the others.
    """
    for position, key, value in items:
        mark(position, key)
        error: BaseException | None = None
        taken: list[Any] = []
        try:
            output = mapfn(key, value)
            if type(output) is not GeneratorType:
                output = pairs_of(output)
            taken = take(output, limit)
        except BaseException as raised:
            error = raised
        if error is not None:
            try:
                instead = failed(position, key, value, error)
            finally:
                error = None  # its traceback holds this frame
            if instead is None:
                return
            yield from instead
        elif len(taken) >= limit or (taken and isinstance(taken[-1], Block)):
            large(position, key, value, taken, output)
            return
        else:
            yield from taken


def scatter(
    groups: dict[Any, Any], count: int, seed: int = 0
) -> tuple[list[tuple[list[Any], list[Any]] | None], bool]:
    """Deal the entries of a dict out to partitions.

    Returns (parts, hashed): `parts[p]` is (keys, values) in the dict's order, or None if partition
    p gets nothing; `hashed` is whether `is_hashed` holds for any key.

    Raises ValueError unless 1 <= count < 2**32, and what `hash_key` raises.
    """
    _check_count(count)
    parts: list[tuple[list[Any], list[Any]] | None] = [None] * count
    any_hashed = False
    for key, value in list(groups.items()):  # hashing a key may change the dict
        code, hashed = encode(key)
        any_hashed = any_hashed or hashed
        number = xxh64(code, seed) % count
        part = parts[number]
        if part is None:
            parts[number] = ([key], [value])
        else:
            part[0].append(key)
            part[1].append(value)
    return parts, any_hashed


def merge_grouped(groups: dict[Any, list[Any]], keys: list[Any], values: list[list[Any]]) -> int:
    """Extend the list of `keys[i]` by the list `values[i]`. A new key gets that list itself.

    The lists in `values` belong to `groups` afterwards. Returns `used`.

    Raises ValueError if the lengths differ, and TypeError if a `values[i]` is no list or a key is
    unhashable.
    """
    check_columns(keys, values)
    used = 0
    for key, new in zip(map(unify_nan, keys), values, strict=True):
        check_list(new)
        used += estimate_values(new)
        present = find(groups, key)
        if present is ABSENT:
            used += ENTRY_BYTES + LIST_BYTES + estimate_bytes(key)
            groups[key] = new
        else:
            check_list(present)
            present.extend(new)
    return used


def merge_flat(groups: dict[Any, list[Any]], keys: list[Any], values: list[Any]) -> int:
    """Append `values[i]` to the list of `keys[i]`. Returns and raises what `merge_grouped` does."""
    check_columns(keys, values)
    return group(zip(keys, values, strict=True), groups, sys.maxsize)[1]


#: Exact classes whose objects are always keys.
_PLAIN_KEYS = frozenset({str, int, float, bytes, type(None)})


def _check_count(count: int) -> None:
    if not 1 <= count < 1 << 32:
        raise ValueError(f"the number of partitions must be from 1 to 2**32 - 1, got {count!r}")
