"""Put records into the groups of a task: fold their values, or list them.

The C core does the work. The reducefn alone decides which of its functions are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmgevent import _speedups

Groups = dict[Any, Any]
#: Groups that are folded may be in a table that makes no objects for ints.
AnyGroups = Groups | _speedups.FoldTable


class Grouping:
    """Groups records by key: `{key: [value, ...]}`, or `{key: folded value}`."""

    def __init__(self, fold_op: int | None):
        """fold_op: a number of `reducers.FOLD_OPS`, or None to keep lists."""
        self.fold_op = fold_op

    def make(self) -> AnyGroups:
        """Return empty groups, for `add` only."""
        return {} if self.fold_op is None else _speedups.FoldTable(self.fold_op)

    def add(self, records: Iterator[Any], groups: AnyGroups, budget: int) -> tuple[bool, int, int]:
        """Consume records until the groups have grown by `budget` estimated bytes.

        Return (whether the records are exhausted, bytes, records). What the records raise passes
        unchanged.
        """
        if isinstance(groups, _speedups.FoldTable):
            return groups.fold(records, budget)
        if self.fold_op is not None:
            return _speedups.fold(records, groups, self.fold_op, budget)
        return _speedups.group(records, groups, budget)

    def merge(self, later: Groups, groups: Groups) -> int:
        """Append groups of later records to those of earlier ones; return the bytes added.

        Takes the lists over.
        """
        keys, values = list(later), list(later.values())
        if self.fold_op is not None:
            return _speedups.merge_fold(groups, keys, values, self.fold_op)
        return _speedups.merge_grouped(groups, keys, values)
