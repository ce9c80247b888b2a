"""Estimate the memory of keys and values, equally in C (`_estimate.h`) and here.

The estimates decide when a task flushes. They must be cheap, and equal everywhere; they need not be
exact.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import Any

#: Memory of a dict entry, bytes, with its share of the table's free room.
ENTRY_BYTES = 100
#: Memory of an empty list, bytes, with the room of its first items.
LIST_BYTES = 72
#: Memory of one item of a list, bytes.
POINTER_BYTES = 8
#: Items of a container that are looked at; the others count as their average.
_SAMPLED_ITEMS = 16
#: Levels of containers whose items are looked at; deeper ones count without their items.
_SAMPLED_DEPTH = 2
#: Largest estimate, bytes: sums of estimates fit 64 bits.
_MAX_BYTES = 1 << 40

#: No value of a list can be this object.
_NOTHING: Any = object()


def estimate_bytes(thing: Any) -> int:
    """Estimate the memory of a key or value, cheaply and equally in both implementations.

    | thing | bytes |
    |---|---|
    | None, a bool, an int from -5 to 256 | 0: they are shared |
    | any other int of 64 bits | 32 |
    | float | 24 |
    | str | 56, and 1 per character if all are ASCII, else 4 |
    | bytes, bytearray | 40, and the length |
    | tuple, list | 56, 8 per item, and the items |
    | dict | 216, ENTRY_BYTES per entry, and keys and values |
    | set, frozenset | 216, and 72 per item |
    | anything else | what `sys.getsizeof` says, or 64 inside a container |

    Of more than 16 items only the first 16 are estimated; the others count as their average.
    """
    return _estimate(thing, 0)


def estimate_values(values: list[Any]) -> int:
    """Return the estimate of the items of a list.

    An item that is the same object as the previous one costs only its pointer.
    """
    used = 0
    previous: Any = _NOTHING
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
