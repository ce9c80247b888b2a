"""Hash, group, fold, scatter and merge in Python: the specification of `_core.c`.

Both give the same results and raise the same errors, so workers with and
without a compiler serve one job.  Whatever changes here changes there.

`used` is an estimate, in bytes, of what a call added to the dict, by the
formula of `estimate_bytes`; it steers when to flush and is no measurement.
User code (`__hash__`, `__eq__`, `__add__`, `__lt__`, iterators) runs inside these
calls.  What it raises passes through; the dict then holds what came before.
"""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from typing import Any

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

__all__ = [
    "COUNT",
    "FIRST",
    "MAX",
    "MIN",
    "NAN",
    "SUM",
    "BadKeyError",
    "NoPairError",
    "encode",
    "estimate_bytes",
    "fold",
    "group",
    "hash_key",
    "is_hashed",
    "map_items",
    "merge_flat",
    "merge_fold",
    "merge_grouped",
    "pair_error",
    "partition",
    "scatter",
    "take",
    "unhashable_error",
    "unify_nan",
    "xxh64",
]

SUM, COUNT, MIN, MAX, FIRST = 1, 2, 3, 4, 5

ENTRY_BYTES = 100  #: a dict entry, with its share of the table's free room
LIST_BYTES = 72  #: an empty list and the room of its first items
POINTER_BYTES = 8  #: one item of a list

_SAMPLED_ITEMS = 16  #: of a container so many items are looked at, the rest taken for their like
_SAMPLED_DEPTH = 2  #: containers below this depth count without their items
_MAX_BYTES = 1 << 40  #: no object is taken for larger, so sums of estimates fit 64 bits


def partition(key: Any, count: int, seed: int = 0) -> int:
    """Return the partition, 0 <= p < count, that owns a key.

    ValueError unless 1 <= count < 2**32; otherwise raises what `hash_key` raises.
    """
    _check_count(count)
    return hash_key(key, seed) % count


def group(pairs: Iterable[Any], groups: dict[Any, list[Any]], budget: int) -> tuple[bool, int, int]:
    """Append the value of each pair to the list of its key, until `used >= budget`.

    `pairs` is an iterator of (key, value), tuples or lists of two.  At least one
    pair is taken, whatever the budget, so calling again always gets on.  NaN keys
    are replaced by one NaN.

    Returns (exhausted, used, records): whether the iterator ended, the estimated
    bytes added, the pairs taken.  When it did not end it can be used further.
    A value that is the very object of the pair before costs only its pointer.

    TypeError for what is no pair or has an unhashable key.
    """
    used = records = 0
    previous: Any = _ABSENT
    for raw, value in map(_as_pair, pairs):
        key = unify_nan(raw)
        values = _find(groups, key)
        if values is _ABSENT:
            used += ENTRY_BYTES + LIST_BYTES + estimate_bytes(key)
            groups[key] = [value]
        else:
            _check_list(values)
            values.append(value)
        used += POINTER_BYTES + (0 if value is previous else estimate_bytes(value))
        previous = value
        records += 1
        if used >= budget:
            return False, used, records
    return True, used, records


def fold(pairs: Iterable[Any], table: dict[Any, Any], op: int, budget: int) -> tuple[bool, int, int]:
    """Fold the values of each key into one, `{key: folded}`, until `used >= budget`.

    As `group`, but for the value.  `op`: SUM adds with `+`, never in place; COUNT
    counts pairs; MIN and MAX keep the earliest of equals, as `min` and `max` do;
    FIRST keeps the first.  The first value of a key is stored as it came.  `used`
    grows or falls with a value that is replaced, unless an int replaces an int
    or a float a float.

    ValueError for another `op`; otherwise raises what `group` raises and what
    `+`, `<` and `>` of the values raise.
    """
    _check_op(op)
    used = records = 0
    for key, value in map(_as_pair, pairs):
        used += _fold_one(table, unify_nan(key), 1 if op == COUNT else value, op)
        records += 1
        if used >= budget:
            return False, used, records
    return True, used, records


def take(records: Iterable[Any], limit: int, /) -> list[Any]:
    """Return the next records of an iterator, `limit` at most, as a list; each is checked.

    What `group` or `fold` is given after this they cannot refuse: every record is a pair, and every key can be one.

    TypeError for what is no pair, has an unhashable key, or a key that `hash_key` refuses.
    """
    taken: list[Any] = []
    iterator = iter(records)
    while len(taken) < limit:
        record = next(iterator, _ABSENT)
        if record is _ABSENT:
            break
        key, _ = _as_pair(record)
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
    """Yield the records of all items; those of one item only when its mapfn has given them all.

    `items` are (position, key, value).  For each: `mark(position, key)`, then
    `mapfn(key, value)`.  What it returns is made an iterator by `pairs_of`, unless
    it is a generator, and its records are taken as by `take`.

    What mapfn, `pairs_of` or `take` raise goes to `failed(position, key, value,
    error)`: the list it returns stands for the item's records, None ends the
    iterator, what it raises passes through.  At the `limit`-th record of an item
    the iterator ends after `large(position, key, value, records, output)`: the
    records that were taken, and the iterator of those that were not.
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
        elif len(taken) >= limit:
            large(position, key, value, taken, output)
            return
        else:
            yield from taken


def scatter(
    groups: dict[Any, Any], count: int, seed: int = 0
) -> tuple[list[tuple[list[Any], list[Any]] | None], bool]:
    """Deal the entries of a dict out to partitions.

    Returns (parts, hashed): `parts[p]` is (keys, values) in the dict's order, or
    None where nothing fell; `hashed` tells whether `is_hashed` holds for any key.

    ValueError unless 1 <= count < 2**32; otherwise raises what `hash_key` raises.
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
    """Extend the list of `keys[i]` by the list `values[i]`, or take that very list over.

    The lists in `values` belong to `groups` afterwards.  Returns `used`.
    ValueError if the lengths differ, TypeError if a `values[i]` is no list or a
    key unhashable.
    """
    _check_columns(keys, values)
    used = 0
    for key, new in zip(map(unify_nan, keys), values, strict=True):
        _check_list(new)
        used += _estimate_values(new)
        present = _find(groups, key)
        if present is _ABSENT:
            used += ENTRY_BYTES + LIST_BYTES + estimate_bytes(key)
            groups[key] = new
        else:
            _check_list(present)
            present.extend(new)
    return used


def merge_flat(groups: dict[Any, list[Any]], keys: list[Any], values: list[Any]) -> int:
    """Append `values[i]` to the list of `keys[i]`.  Returns `used`; raises as `merge_grouped`."""
    _check_columns(keys, values)
    return group(zip(keys, values, strict=True), groups, sys.maxsize)[1]


def merge_fold(table: dict[Any, Any], keys: list[Any], values: list[Any], op: int) -> int:
    """Fold partial results `values[i]` of `keys[i]` into `table`; counts are added up.

    Returns `used`.  ValueError for an unknown `op` or columns that differ in
    length; otherwise raises what `fold` raises.
    """
    _check_op(op)
    _check_columns(keys, values)
    used = 0
    for key, value in zip(keys, values, strict=True):
        used += _fold_one(table, unify_nan(key), value, op)
    return used


def estimate_bytes(thing: Any) -> int:
    """Estimate the memory of a key or value, cheaply and the same in both implementations.

    None, bools and ints from -5 to 256 are shared and cost nothing; other ints of 64
    bits cost 32, floats 24; a str 56 and its length, four times that unless
    ASCII; bytes and bytearray 40 and their length; tuples and lists 56, 8 an
    item, and their items (of more than 16, as if all were like the first 16); dicts
    216, ENTRY_BYTES an entry, and their keys and values likewise; sets 216 and 72 an item;
    anything else what `sys.getsizeof` says, or 64 inside a container.
    """
    return _estimate(thing, 0)


def pair_error(pair: Any) -> NoPairError:
    """Return what is wrong with something that should have been a (key, value) pair."""
    came = type(pair).__name__
    if issubclass(type(pair), (tuple, list)):
        came += f" of {len(pair)}"
    elif issubclass(type(pair), str):
        came += f" {str.__str__(pair)[:40]!r}"
    return NoPairError(came)


# -- the parts ---------------------------------------------------------------------------------------


def _as_pair(pair: Any) -> Any:
    if type(pair) is tuple and len(pair) == 2:
        return pair
    cls = type(pair)  # not isinstance: it would believe an object that lies about its __class__
    if issubclass(cls, tuple) and tuple.__len__(pair) == 2:
        return tuple.__iter__(pair)
    if issubclass(cls, list) and list.__len__(pair) == 2:
        return list.__iter__(pair)
    raise pair_error(pair)


#: exact classes whose objects are keys, whatever they hold
_PLAIN_KEYS = frozenset({str, int, float, bytes, type(None)})

_ABSENT: Any = object()  #: no value, key or result can be this


def _find(table: dict[Any, Any], key: Any) -> Any:
    try:
        return dict.get(table, key, _ABSENT)
    except TypeError:
        refused = unhashable_error(key)
        if refused is None:
            raise
    raise refused


def _fold_one(table: dict[Any, Any], key: Any, value: Any, op: int) -> int:
    present = _find(table, key)
    if present is _ABSENT:
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


def _estimate_values(values: list[Any]) -> int:
    used = 0
    previous: Any = _ABSENT
    for value in values:
        used += POINTER_BYTES + (0 if value is previous else estimate_bytes(value))
        previous = value
    return used


def _estimate(thing: Any, depth: int) -> int:
    cls = type(thing)
    if cls is int and -(1 << 63) <= thing < 1 << 63:
        return 0 if -5 <= thing <= 256 else 32
    if thing is None or cls is bool:
        return 0
    if cls is float:
        return 24
    if issubclass(cls, str):
        return 56 + str.__len__(thing) * (1 if str.isascii(thing) else 4)
    if issubclass(cls, bytes):
        return 40 + bytes.__len__(thing)
    if issubclass(cls, tuple):
        return _estimate_items(56, POINTER_BYTES, tuple.__len__(thing), tuple.__iter__(thing), depth)
    if issubclass(cls, list):
        return _estimate_items(56, POINTER_BYTES, list.__len__(thing), list.__iter__(thing), depth)
    if issubclass(cls, dict):
        flat = itertools.chain.from_iterable(dict.items(thing))
        return _estimate_items(216, ENTRY_BYTES, dict.__len__(thing), flat, depth, 2)
    if issubclass(cls, bytearray):
        return 40 + bytearray.__len__(thing)
    if issubclass(cls, set):
        return 216 + 72 * set.__len__(thing)
    if issubclass(cls, frozenset):
        return 216 + 72 * frozenset.__len__(thing)
    return 64 if depth else min(sys.getsizeof(thing), _MAX_BYTES)


def _estimate_items(
    base: int, slot: int, length: int, items: Iterable[Any], depth: int, width: int = 1
) -> int:
    if depth == _SAMPLED_DEPTH:
        return base + slot * length
    sample = sum(_estimate(item, depth + 1) for item in itertools.islice(items, width * _SAMPLED_ITEMS))
    if length > _SAMPLED_ITEMS:
        sample = sample // _SAMPLED_ITEMS * length
    return min(base + slot * length + sample, _MAX_BYTES)


def _check_count(count: int) -> None:
    if not 1 <= count < 1 << 32:
        raise ValueError(f"the number of partitions must be from 1 to 2**32 - 1, got {count!r}")


def _check_op(op: int) -> None:
    if not SUM <= op <= FIRST:
        raise ValueError(f"the fold must be one of SUM=1, COUNT=2, MIN=3, MAX=4, FIRST=5, got {op}")


def _check_list(values: Any) -> None:
    if type(values) is not list:
        raise TypeError(f"the values of a group must be a list, got {type(values).__name__}")


def _check_columns(keys: list[Any], values: list[Any]) -> None:
    if len(keys) != len(values):
        raise ValueError(f"there must be one value for each key, got {len(keys)} keys, {len(values)} values")
