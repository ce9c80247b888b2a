"""Put results in order, outside memory where needed.

1. Records are gathered up to MEMORY_BYTES and sorted. A sorted run that memory does not hold goes
   to a temporary file, and all runs are merged at the end. The file has no name, so nothing is left
   behind however the process ends.
2. Of `top` records, those that cannot be among them are forgotten at once.

`ranking` says what comes first.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mmgevent.errors import UsageError
from mmgevent.job.outputs.formats import short
from mmgevent.job.outputs.ranking import Order, Record, ResultRanking
from mmgevent.job.outputs.runs import Extent, RunFile, estimate_record

#: Estimated memory of the records that are sorted at once, bytes. Ten times more makes sorting
#: little faster.
MEMORY_BYTES = 128 * 1024 * 1024

#: Records that are gathered beyond twice those to keep, before the others are forgotten.
_CUT_RECORDS = 1000

#: Most runs that are merged at once: their chunks need 32 MiB.
MAX_RUNS = 128

#: Words for an order, as users write them.
ORDERS = ("key", "-key", "value", "-value")


def check_order(text: str) -> str:
    """Return the word for an order. Raise UsageError for any other text."""
    if text not in ORDERS:
        raise UsageError(
            f"expected {', '.join(ORDERS[:-1])} or {ORDERS[-1]}, where - means the largest first"
        )
    return text


def choose_order(sort: str | None, top: int | None) -> Order | None:
    """Return the order for the options `sort` and `top`; None if neither is given.

    `top` alone keeps the largest values. Raise UsageError for other words and numbers.
    """
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise UsageError(f"top: expected a whole number of records, at least 1; got {short(top)}")
    if sort is None and top is None:
        return None
    if sort is not None and not isinstance(sort, str):
        raise UsageError(f"sort: expected one of {', '.join(ORDERS)}; got {short(sort)}")
    word = "-value" if sort is None else check_order(sort)
    return Order(word.lstrip("-"), word.startswith("-"), top)


def put_in_order(
    records: Iterable[Record], order: Order, memory_bytes: int = MEMORY_BYTES
) -> Iterator[Record]:
    """Yield all records, or the first `order.top` of them, in order.

    Raise OutputError for what has no order, and if the temporary file cannot be written.
    """
    with contextlib.closing(_Sorter(order, memory_bytes)) as sorter:
        for key, value in records:
            sorter.add(key, value)
        yield from itertools.islice(sorter.sorted(), order.top)


class _Sorter:
    """Gathers records, sorted runs of which may be in a file."""

    def __init__(self, order: Order, memory_bytes: int):
        self._ranking = ResultRanking(order)
        self._top = order.top
        self._memory_bytes = memory_bytes
        self._records: list[Record] = []
        self._used_bytes = 0
        self._file: RunFile | None = None
        self._runs: list[list[Extent]] = []
        self._last: Record | None = None  # the last of the first `top` records so far

    def add(self, key: Any, value: Any) -> None:
        record = (key, value)
        if self._last is not None and self._ranking.is_behind(record, self._last):
            return
        self._records.append(record)
        self._used_bytes += estimate_record(key, value)
        if self._used_bytes > self._memory_bytes:
            self._make_room()
        elif self._top is not None and len(self._records) >= 2 * self._top + _CUT_RECORDS:
            self._cut(self._top)

    def sorted(self) -> Iterator[Record]:
        """Yield the records in order. None can be added afterwards."""
        self._ranking.sort(self._records)
        if self._file is None:
            return iter(self._records)
        return self._ranking.merge([*map(self._open_run, self._runs), lambda: iter(self._records)])

    def close(self) -> None:
        """Remove the file. Idempotent."""
        if self._file is not None:
            self._file.close()
        self._records.clear()

    def _make_room(self) -> None:
        if self._top is not None and len(self._records) > self._top:
            self._cut(self._top)
            if 2 * self._used_bytes <= self._memory_bytes:
                return
        self._ranking.sort(self._records)
        if self._file is None:
            self._file = RunFile()
        self._runs.append(list(self._file.append(self._records)))
        self._records, self._used_bytes = [], 0
        if len(self._runs) >= MAX_RUNS:
            self._merge_runs()

    def _cut(self, top: int) -> None:
        """Forget the records behind the first `top`."""
        self._ranking.sort(self._records)
        del self._records[top:]
        self._last = self._records[-1]
        self._used_bytes = sum(itertools.starmap(estimate_record, self._records))

    def _merge_runs(self) -> None:
        """Make one run of all, in a file of its own."""
        assert self._file is not None
        merged = RunFile()
        try:
            records = self._ranking.merge([self._open_run(run) for run in self._runs])
            self._runs = [list(merged.append(itertools.islice(records, self._top)))]
        except BaseException:
            merged.close()
            raise
        self._file.close()
        self._file = merged

    def _open_run(self, run: list[Extent]) -> Callable[[], Iterator[Record]]:
        assert self._file is not None
        return functools.partial(self._file.read, run)
