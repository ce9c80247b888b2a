"""Count distinct values: exactly while they are few, then within a known error.

Up to `EXACT` distinct values are kept as they are. Beyond that a HyperLogLog sketch of 16 KiB stands
for them: P. Flajolet and others, "HyperLogLog: the analysis of a near-optimal cardinality estimation
algorithm", 2007, with the estimator of O. Ertl, "New cardinality estimation algorithms for
HyperLogLog sketches", 2017. Its standard error is 1.04 / sqrt(2 ** BITS) = 0.81 %.

What comes out depends on the set of values alone, not on how it was cut: a set is a sketch where,
and only where, it has more than `EXACT` values in all.

A sketch among values is (SKETCH, registers), plain data.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from mmgevent import _speedups

SKETCH = "mmgevent distinct"

#: Most distinct values that are counted exactly.
EXACT = 4096

#: Bits of a hash that choose the register: 2 ** 14 registers of a byte each.
BITS = 14

_REGISTERS = 1 << BITS
_REST_BITS = 64 - BITS
_REST = (1 << _REST_BITS) - 1


def summarize(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values, or a list of one sketch. Raises TypeError for unhashable values."""
    distinct, registers = _take(values)
    return list(distinct) if registers is None else [(SKETCH, bytes(registers))]


def count(values: Iterable[Any]) -> int:
    """Return how many distinct values there are, those of sketches included."""
    distinct, registers = _take(values)
    return len(distinct) if registers is None else round(_estimate(registers))


def _take(values: Iterable[Any]) -> tuple[dict[Any, None], bytearray | None]:
    """Return the distinct values; or, if they are too many, the registers of all."""
    distinct: dict[Any, None] = {}
    registers: bytearray | None = None
    for value in values:
        if type(value) is tuple and len(value) == 2 and value[0] == SKETCH:
            registers = bytearray(value[1]) if registers is None else _larger(registers, value[1])
            continue
        if isinstance(value, float) and value != value:
            value = _speedups.unify_nan(value)  # all NaNs are one value
        distinct[value] = None
        if len(distinct) > EXACT:
            registers = bytearray(_REGISTERS) if registers is None else registers
            _note(distinct, registers)
            distinct = {}
    if registers is not None:
        _note(distinct, registers)
    return distinct, registers


def _larger(ours: bytearray, theirs: bytes) -> bytearray:
    return bytearray(map(max, ours, theirs))


def _note(values: Iterable[Any], registers: bytearray) -> None:
    """Put the hashes of the values into the registers."""
    hash_key = _speedups.hash_key
    for value in values:
        hashed = hash_key(value)
        register = hashed >> _REST_BITS
        rank = _REST_BITS + 1 - (hashed & _REST).bit_length()
        if rank > registers[register]:
            registers[register] = rank


def _estimate(registers: bytearray) -> float:
    """Return the number of distinct hashes: section 4 of Ertl's paper, algorithm 6."""
    ranks = Counter(registers)
    total = _REGISTERS * _tau(1 - ranks[_REST_BITS + 1] / _REGISTERS)
    for rank in range(_REST_BITS, 0, -1):
        total = 0.5 * (total + ranks[rank])
    total += _REGISTERS * _sigma(ranks[0] / _REGISTERS)
    return _REGISTERS * _REGISTERS / (2 * math.log(2) * total)


def _sigma(x: float) -> float:
    """Return x + the sum of x ** (2 ** k) * 2 ** (k - 1) for k = 1, 2, ...; infinite at 1."""
    if x == 1:
        return math.inf
    weight, total, before = 1.0, x, -1.0
    while total != before:
        x, before = x * x, total
        total += x * weight
        weight += weight
    return total


def _tau(x: float) -> float:
    """Return a third of (1 - x - the sum of (1 - x ** (2 ** -k)) ** 2 * 2 ** -k for k = 1, 2, ...)."""
    if x in (0, 1):
        return 0.0
    weight, total, before = 1.0, 1 - x, -1.0
    while total != before:
        x, before = math.sqrt(x), total
        weight *= 0.5
        total -= (1 - x) ** 2 * weight
    return total / 3
