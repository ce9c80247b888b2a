"""Put records into the groups of a task: fold their values, or list them.

The C core does the work. The reducefn alone decides which of its functions are called.

Blocks of numbers are folded as columns, in a `ColumnFold` beside the dict. It holds records that came
after all those in the dict: it is poured into the dict before any other record reaches the groups. So
the values of each key keep their order. Every other block is grouped as the pairs that it stands for.
So is a block that comes after pairs, if it is added up: sums of floats depend on how they are grouped.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from mmgevent import _speedups
from mmgevent._speedups import COUNT, SUM, Block

#: What stands for no record.
_END: Any = object()


class Groups(dict[Any, Any]):
    """`{key: [value, ...]}` or `{key: folded value}`, with the columns of later records beside it.

    With a table it is empty: the table holds its place, and makes no objects for ints.
    """

    __slots__ = ("columns", "kinds", "table")

    def __init__(self, table: _speedups.FoldTable | None = None) -> None:
        self.table = table
        self.columns: _speedups.ColumnFold | None = None
        #: kinds of the keys and values in the columns
        self.kinds: tuple[str, str] | None = None

    def __bool__(self) -> bool:
        return self.has_earlier or self.columns is not None

    @property
    def has_earlier(self) -> bool:
        """Whether there are records before those in the columns."""
        return len(self) > 0 or (self.table is not None and len(self.table) > 0)

    def clear(self) -> None:
        super().clear()
        self.columns = self.kinds = None
        if self.table is not None:
            self.table.clear()

    def take(self) -> dict[Any, Any]:
        """Return keys and values as one dict, and forget those of the table. Needs `columns` to be None."""
        return self if self.table is None else self.table.take()


class _Rest:
    """What is left of a block that has not been grouped yet."""

    def __init__(self, block: Block):
        self.block = block
        self.start = 0
        #: its records as pairs, once they are not folded as columns
        self.pairs: Iterator[Any] | None = None


class Grouping:
    """Groups records by key: `{key: [value, ...]}`, or `{key: folded value}`."""

    def __init__(self, fold_op: int | None):
        """fold_op: a number of `reducers.FOLD_OPS`, or None to keep lists."""
        self.fold_op = fold_op
        #: an iterator whose last block is not grouped yet, and the rest of that block
        self._unfinished: tuple[Iterator[Any], _Rest] | None = None

    def make(self) -> Groups:
        """Return empty groups, for `add` only."""
        return Groups(None if self.fold_op is None else _speedups.FoldTable(self.fold_op))

    def add(self, records: Iterator[Any], groups: Groups, budget: int) -> tuple[bool, int, int]:
        """Consume records until the groups have grown by `budget` estimated bytes.

        Return (whether the records are exhausted, bytes, records). What the records raise passes
        unchanged. Of an iterator that is not exhausted, a block may be left: the next call begins
        with it.
        """
        used = count = 0
        rest = self._take_rest(records)
        while True:
            if rest is None:
                found, added, more = self._add_pairs(records, groups, budget - used)
                used, count = used + added, count + more
                if not isinstance(found, Block):
                    return found, used, count
                rest = _Rest(found)
            is_done, added, more = self._add_block(rest, groups, budget - used)
            used, count = used + added, count + more
            if not is_done:
                self._unfinished = records, rest
            if not is_done or used >= budget:
                return False, used, count
            rest = None

    def merge(self, later: Groups, groups: Groups) -> int:
        """Append groups of later records to those of earlier ones; return the bytes added.

        Takes the lists over.
        """
        if later.columns is not None and not later.has_earlier:
            if groups.columns is not None and groups.kinds == later.kinds:
                before = groups.columns.n_bytes
                groups.columns.absorb(later.columns)
                return groups.columns.n_bytes - before
            self.pour(groups)
            groups.columns, groups.kinds = later.columns, later.kinds
            return later.columns.n_bytes
        self.pour(groups)
        self.pour(later)
        keys, values = list(later), list(later.values())
        if self.fold_op is not None:
            return _speedups.merge_fold(groups, keys, values, self.fold_op)
        return _speedups.merge_grouped(groups, keys, values)

    def pour(self, groups: Groups) -> None:
        """Move what the columns of groups hold into the dict, or the table in its place."""
        columns, groups.columns, groups.kinds = groups.columns, None, None
        if columns is not None and self.fold_op is not None:
            columns.deal(1)
            if groups.table is not None:
                groups.table.merge_lists(*columns.part(0))
            else:
                _speedups.merge_fold(groups, *columns.part(0), self.fold_op)

    def _take_rest(self, records: Iterator[Any]) -> _Rest | None:
        """Return what is left of the last block of these records, or None."""
        unfinished, self._unfinished = self._unfinished, None
        return unfinished[1] if unfinished is not None and unfinished[0] is records else None

    def _add_pairs(
        self, records: Iterator[Any], groups: Groups, budget: int
    ) -> tuple[bool | Block, int, int]:
        """Group the records before the next block, and return that block in the first place."""
        if groups.columns is not None:
            first = next(records, _END)
            if first is _END or isinstance(first, Block):
                return (True if first is _END else first), 0, 0
            self.pour(groups)
            records = chain((first,), records)
        return self._put(records, groups, budget)

    def _put(self, pairs: Iterator[Any], groups: Groups, budget: int) -> tuple[bool | Block, int, int]:
        """Group pairs until a block comes, which is returned in the first place."""
        if groups.table is not None:
            return groups.table.fold(pairs, budget)
        if self.fold_op is not None:
            return _speedups.fold(pairs, groups, self.fold_op, budget)
        return _speedups.group(pairs, groups, budget)

    def _add_block(self, rest: _Rest, groups: Groups, budget: int) -> tuple[bool, int, int]:
        """Group what is left of a block, whole or until the groups are full."""
        used = count = 0
        if rest.pairs is None and self.fold_op is not None:
            used, count = self._fold_columns(rest, groups, budget)
            if rest.start == len(rest.block):
                return True, used, count
            if groups.columns is not None and groups.columns.is_full:
                return False, max(used, budget), count
        self.pour(groups)
        if rest.pairs is None:
            rest.pairs = rest.block.pairs(rest.start)
        is_done, added, more = self._put(rest.pairs, groups, budget)
        if isinstance(is_done, Block):
            raise TypeError("a Block holds a Block")
        return is_done, used + added, count + more

    def _fold_columns(self, rest: _Rest, groups: Groups, budget: int) -> tuple[int, int]:
        """Fold records of a block as columns, if it has numbers. Return bytes and records."""
        assert self.fold_op is not None
        keys = rest.block.plain_keys()
        values = keys if self.fold_op == COUNT else rest.block.plain_values()
        if keys is None or values is None:
            return 0, 0
        kinds = keys[1], values[1]
        if groups.columns is None or groups.kinds != kinds:
            self.pour(groups)
            if groups.has_earlier and self.fold_op == SUM:
                return 0, 0
            groups.columns = _speedups.ColumnFold(*kinds, self.fold_op, budget)
            groups.kinds = kinds
            before = 0
        else:
            before = groups.columns.n_bytes
        start, rest.start = rest.start, groups.columns.add(keys[0], values[0], rest.start)
        return groups.columns.n_bytes - before, rest.start - start
