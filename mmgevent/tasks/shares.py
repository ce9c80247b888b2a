"""Cut what goes to one partition into shares: segments that are small beside the memory of a task.

Whoever reads a segment holds its bytes and what they decode to, besides what it has already. So a
segment must not be as large as all that a task may hold.

1. A sample says how large the columns are. They are cut evenly, also within the values of one key.
2. A share that turns out more than twice too large is cut again, where its estimated values say.
   One value is never cut.

The order of the values is kept. What is small is one share, for the price of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from mmgevent._speedups import COUNT, SUM, estimate_bytes
from mmgevent._speedups._column import INTS, STEPS
from mmgevent.tasks.records import encode_segment, join_segment

if TYPE_CHECKING:
    from mmgevent._speedups import ColumnFold
    from mmgevent.tasks.plain_rules import PlainRules

#: Shares in the memory that a task has for records, at least, if it is not tiny or huge.
SHARES_OF_MEMORY = 8

#: Bounds of the size of a share, bytes. Smaller ones cost more to handle than to read, and nothing
#: is gained by larger ones.
MIN_SHARE_BYTES = 256 * 1024
MAX_SHARE_BYTES = 8 * 1024 * 1024

#: Entries of a sample, and the values of all of them that are estimated. It takes a few us.
_SAMPLE_ENTRIES = 16
_SAMPLE_VALUES = 64

#: Memory of a value in a list beside the value, bytes.
_SLOT_BYTES = 8

#: Memory of a number, bytes: as it is in a column, at most, and as an object, an int or a float.
_NUMBER_BYTES = 8
_OBJECT_BYTES = 32


def share_bytes(memory_bytes: int) -> int:
    """Return the size of a share, bytes, if a task may hold `memory_bytes` of records."""
    return min(max(memory_bytes // SHARES_OF_MEMORY, MIN_SHARE_BYTES), MAX_SHARE_BYTES)


def are_shares(
    parts: list[tuple[int, bytes, bytes] | None], most_bytes: int, *, are_ints_merged: bool
) -> bool:
    """Return whether what `FoldTable.scatter` gives for each partition is one share.

    are_ints_merged: whether ints are merged as they are, since they are added. Their bytes are then the
    memory that they take where they are read. Of any other column of values, and of its keys, objects
    are made.
    """
    object_bytes = 2 * (_OBJECT_BYTES + _SLOT_BYTES)

    def is_share(count: int, keys: bytes, values: bytes) -> bool:
        are_numbers = are_ints_merged and values[0] in (INTS, STEPS)
        return len(keys) + len(values) + (0 if are_numbers else count * object_bytes) <= most_bytes

    return all(part is None or is_share(*part) for part in parts)


def merges_ints(fold_op: int | None) -> bool:
    """Return whether a fold merges ints as they are, without an object for each."""
    return fold_op in (SUM, COUNT)


def numbers_of_share(most_bytes: int, *, are_objects: bool) -> int:
    """Return the entries of a share of two columns of numbers.

    are_objects: whether the numbers become objects where they are read, and are not merged as they are.
    """
    return max(1, most_bytes // (2 * (_OBJECT_BYTES + _SLOT_BYTES if are_objects else _NUMBER_BYTES)))


def encode_shares(
    keys: list[Any],
    values: list[Any],
    most_bytes: int,
    *,
    grouped: bool,
    hashed: bool = False,
    plain: PlainRules | None = None,
) -> Iterator[bytes]:
    """Yield the segments of two columns, of `most_bytes` each, about, in order.

    The others are those of `encode_segment`. Raise as it does.
    """
    count = -(-_sampled_bytes(keys, values, grouped) // most_bytes)
    shares: Iterator[tuple[list[Any], list[Any]]] = iter(((keys, values),))
    if count > 1:
        total = sum(map(len, values)) if grouped else len(values)
        step = max(1, total // count)
        shares = _split(keys, values, grouped, [*range(step, total, step), total])
    for some_keys, some_values in shares:
        yield from _encode_checked(some_keys, some_values, most_bytes, grouped, hashed, plain)


def encode_columns(
    columns: ColumnFold, partition: int, most_entries: int, most_bytes: int, plain: PlainRules | None
) -> Iterator[bytes]:
    """Yield the segments of a partition of a fold that was dealt out, in order.

    They have `most_entries` each. From a sum on that takes more than 64 bits, they are those of
    `encode_shares`.
    """
    start = 0
    while (run := columns.encoded(partition, start, most_entries)) is not None:
        if run[0] > 0:
            yield join_segment(*run)
        if run[0] < most_entries:
            return
        start += most_entries
    keys, values = columns.part(partition)
    yield from encode_shares(keys[start:], values[start:], most_bytes, grouped=False, plain=plain)


def _encode_checked(
    keys: list[Any], values: list[Any], most_bytes: int, grouped: bool, hashed: bool, plain: PlainRules | None
) -> Iterator[bytes]:
    segment = encode_segment(keys, values, grouped=grouped, hashed=hashed, plain=plain)
    size = len(segment)
    is_single = len(values) == 1 and (not grouped or len(values[0]) == 1)
    if size <= 2 * most_bytes or is_single:
        yield segment
        return
    del segment
    ends = _weighed_ends(list(chain.from_iterable(values)) if grouped else values, -(-size // most_bytes))
    for some_keys, some_values in _split(keys, values, grouped, ends):
        yield from _encode_checked(some_keys, some_values, most_bytes, grouped, hashed, plain)


def _sampled_bytes(keys: list[Any], values: list[Any], grouped: bool) -> int:
    """Estimate the memory of two columns from a sample of their entries."""
    if not keys:
        return 0
    picked = range(0, len(keys), -(-len(keys) // _SAMPLE_ENTRIES))
    sampled = 0
    for i in picked:
        sampled += estimate_bytes(keys[i]) + _SLOT_BYTES
        if grouped:
            sampled += _sampled_list_bytes(values[i], _SAMPLE_VALUES // len(picked))
        else:
            sampled += estimate_bytes(values[i]) + _SLOT_BYTES
    return sampled * len(keys) // len(picked)


def _sampled_list_bytes(values: list[Any], count: int) -> int:
    if not values:
        return 0
    sample = values[:: -(-len(values) // count)]
    return (sum(map(estimate_bytes, sample)) + _SLOT_BYTES * len(sample)) * len(values) // len(sample)


def _weighed_ends(values: list[Any], count: int) -> list[int]:
    """Return the ends of about `count` shares of equal size, at least two of several values."""
    weights = [estimate_bytes(value) + _SLOT_BYTES for value in values]
    most = sum(weights) // count
    ends: list[int] = []
    used = 0
    for i, weight in enumerate(weights):
        if used and used + weight > most:
            ends.append(i)
            used = 0
        used += weight
    return [*ends, len(values)]


def _split(
    keys: list[Any], values: list[Any], grouped: bool, ends: list[int]
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield columns of the values up to each of `ends`, which count the values of all keys."""
    start = entry = taken = 0  # `taken`: values of that entry
    for end in ends:
        if not grouped:
            yield keys[start:end], values[start:end]
            start = end
            continue
        some_keys: list[Any] = []
        some_values: list[Any] = []
        while start < end:
            group = values[entry]
            if taken or len(group) > end - start:
                group = group[taken : taken + end - start]
            some_keys.append(keys[entry])
            some_values.append(group)
            start += len(group)
            taken += len(group)
            if taken == len(values[entry]):
                entry, taken = entry + 1, 0
        yield some_keys, some_values
