"""Fold columns of numbers by key: the specification of `_block_fold.h`."""

from __future__ import annotations

import math
from typing import Any

from mmgevent._speedups._column_write import encode_column
from mmgevent._speedups._encoding import NAN, hash_key

_SUM, _COUNT, _MIN, _MAX, _FIRST = 1, 2, 3, 4, 5

#: Records that are folded at a time.
_CHUNK_RECORDS = 4096
#: Slots of the smallest table. A slot has a key and a value, of 8 bytes each.
_FIRST_SLOTS = 1024
_SLOT_BYTES = 16
#: Most slots of a table: their numbers fit 32 bits.
_MAX_SLOTS = 1 << 31
#: Fewest sums that may be put aside, whatever the limit is.
_LEAST_ASIDE = 64
_MIN_INT64, _MAX_INT64 = -(1 << 63), (1 << 63) - 1

_FORMATS = {"whole": "bBhHiIlLqQ", "real": "fd"}


class ColumnFold:
    """Folds columns of ints or floats by key: `{key: folded value}` in limited memory.

    The results are those of `_fallback.fold` over the pairs, in any order of the keys.
    """

    def __init__(self, key_kind: str, value_kind: str, op: int, limit_bytes: int):
        """Make an empty fold.

        key_kind, value_kind: "whole" for ints, "real" for floats. COUNT does not look at values.
        op: as for `_fallback.fold`.
        limit_bytes: memory of the table at which it is full. It takes some hundred keys in any case.

        Raises ValueError for other kinds or operations.
        """
        for kind in (key_kind, value_kind):
            if kind not in _FORMATS:
                raise ValueError(f"a column is of whole or real numbers, not {kind}")
        if not _SUM <= op <= _FIRST:
            raise ValueError(f"the fold must be one of SUM=1, COUNT=2, MIN=3, MAX=4, FIRST=5, got {op}")
        slots = _FIRST_SLOTS
        while slots < _MAX_SLOTS and 2 * slots * _SLOT_BYTES <= limit_bytes:
            slots *= 2
        self._kinds = (key_kind, value_kind, op)
        self._op = op
        self._most_keys = slots // 8 * 5
        self._most_aside = max(_LEAST_ASIDE, limit_bytes // _SLOT_BYTES // 4)
        self._aside = 0
        self._table: dict[Any, Any] = {}
        self._parts: list[tuple[list[Any], list[Any]]] | None = None

    def __len__(self) -> int:
        return len(self._table)

    @property
    def _in_slots(self) -> int:
        return len(self._table) - (0 in self._table)  # the key 0 has a place of its own

    @property
    def is_full(self) -> bool:
        """Whether it takes no more records."""
        return self._in_slots >= self._most_keys - self._most_keys // 16 or self._aside >= self._most_aside

    @property
    def n_bytes(self) -> int:
        """The memory of its table, bytes."""
        slots = _FIRST_SLOTS
        while self._in_slots > slots // 8 * 5:
            slots *= 2
        return (slots + self._aside) * _SLOT_BYTES

    def add(self, keys: Any, values: Any, start: int, /) -> int:
        """Fold the records of two buffers from `start` on. Return where it stopped.

        That is the end, or where the fold is full, or before a run of records with a number that
        does not fit 64 bits with a sign. Buffers have one dimension, any stride, and native ints or
        floats, as the kinds say.

        Raises ValueError for other buffers, and if the lengths differ.
        """
        if self._parts is not None:
            raise RuntimeError("a fold that was dealt out takes no more records")
        keys = _checked(keys, self._kinds[0])
        values = keys if self._op == _COUNT else _checked(values, self._kinds[1])
        if len(keys) != len(values) or not 0 <= start <= len(keys):
            raise ValueError("columns must be equally long, and the start must lie in them")
        while start < len(keys) and not self.is_full:
            room = self._most_keys - self._in_slots
            end = min(len(keys), start + min(_CHUNK_RECORDS, room))  # a record adds one key at most
            some_keys, some_values = keys[start:end].tolist(), values[start:end].tolist()
            if not (_fits(some_keys) and (self._op == _COUNT or _fits(some_values))):
                break
            for key, value in zip(some_keys, some_values, strict=True):
                self._fold(key if key == key else NAN, 1 if self._op == _COUNT else value)
            start = end
        return start

    def absorb(self, later: ColumnFold, /) -> None:
        """Fold the entries of a fold of later records, of the same kinds. Raises ValueError."""
        if self is later or type(later) is not ColumnFold or later._kinds != self._kinds:
            raise ValueError("a fold can take another of the same kinds only")
        if self._parts is not None or later._parts is not None:
            raise ValueError("a fold can take another of the same kinds only")
        for key, value in later._table.items():
            self._fold(key, value)
        self._aside += later._aside

    def deal(self, count: int, /) -> None:
        """Deal the entries out to partitions, once. Raises ValueError unless 1 <= count < 2**32."""
        if not 1 <= count < 1 << 32 or self._parts is not None:
            raise ValueError("a fold is dealt out once, to 1 to 2**32 - 1 partitions")
        self._parts = [([], []) for _ in range(count)]
        for key, value in self._table.items():
            part = self._parts[hash_key(key) % count]
            part[0].append(key)
            part[1].append(value)

    def part(self, number: int, /) -> tuple[list[Any], list[Any]]:
        """Return keys and values of a partition. Raises ValueError if there is none of the number."""
        keys, values = self._part(number)
        return list(keys), list(values)

    def encoded(self, number: int, start: int, most: int, /) -> tuple[int, bytes, bytes] | None:
        """Return a run of a partition: its entries, and their keys and values as encoded columns.

        The run starts at entry `start` of what `part` returns, and has `most` entries, or what is left.
        The bytes are those of `encode_column`. Return None if a sum in the run does not fit 64 bits
        with a sign: the caller then takes the lists.

        Raises ValueError as `part`, and for a run outside of the partition, or of less than one entry.
        """
        keys, values = self._part(number)
        if not 0 <= start <= len(keys) or most < 1:
            raise ValueError("a run must start in its partition, and be of 1 entry at least")
        keys, values = keys[start : start + most], values[start : start + most]
        encoded_keys, encoded_values = encode_column(keys), encode_column(values)
        if encoded_keys is None or encoded_values is None:
            return None
        return len(keys), encoded_keys, encoded_values

    def _part(self, number: int) -> tuple[list[Any], list[Any]]:
        if self._parts is None or not 0 <= number < len(self._parts):
            raise ValueError("there is no such partition, or the fold was not dealt out")
        return self._parts[number]

    def _fold(self, key: Any, value: Any) -> None:
        table, op = self._table, self._op
        if key not in table:
            table[key] = value
            return
        present = table[key]
        if op in (_SUM, _COUNT):
            table[key] = present + value
            if type(value) is int and not _MIN_INT64 <= present + value <= _MAX_INT64:
                self._aside += 1
        elif (op == _MIN and value < present) or (op == _MAX and value > present):
            table[key] = value


def _checked(column: Any, kind: str) -> memoryview:
    view = memoryview(column)
    if view.ndim == 1 and view.format in _FORMATS[kind]:
        return view
    wanted = "floats" if kind == "real" else "ints"
    raise ValueError(f"a column must be a buffer of {wanted} in one dimension, got format {view.format}")


def _fits(numbers: list[Any]) -> bool:
    return (
        not numbers or math.isnan(largest := max(numbers)) or type(largest) is float or largest <= _MAX_INT64
    )
