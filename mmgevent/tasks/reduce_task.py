"""Run one reduce task: segments of some partitions in, flushes of results out.

A partition is merged into groups, on disk if it is larger than memory (`scratch`), and reduced
group by group:

    sort_values                         the values of each group are sorted first; nothing is folded
    reducefn is a fold, no collectfn    the merged groups are the results
    no reducefn, or list_values         the merged groups are the results: lists of values
    pair form                           called key by key
    iterator form                       called once a task, with a lazy iterator over all groups

Results are emitted as FLAT segments of about a MiB. The results of a partition may span several
flushes. What the iterator form yields is emitted under the partition that is being read at that
time. That says nothing about the keys: only the output of the whole task makes sense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from mmgevent.job.functions import Functions
from mmgevent.reducers import FOLD_OPS, fold_of, list_values
from mmgevent.tasks.blame import NO_KEY, TaskFailure, blame_exception
from mmgevent.tasks.counters import TaskTally
from mmgevent.tasks.items import Mark
from mmgevent.tasks.map_task import Emit, TaskStats
from mmgevent.tasks.ordered_values import OrderedValues
from mmgevent.tasks.results import (
    MAX_STEP,
    MAX_STEP_IN_MEMORY,
    ChunkRoom,
    MakeWriter,
    ResultWriter,
)
from mmgevent.tasks.returned import blame_records, no_pair, pairs_of
from mmgevent.tasks.scratch import Merger

if TYPE_CHECKING:
    from mmgevent.tasks.item_clock import ItemClock
    from mmgevent.tasks.plain_rules import PlainRules
    from mmgevent.tasks.value_order import ValueOrder

#: Depth of containers in a record of the iterator form in which values on disk are looked for: the
#: record itself, and two in it, as in (key, {name: [values, ...]}).
MAX_HELD_DEPTH = 3

ReducePart = tuple[int, int, Iterable[Any]]


class ReduceTask:
    """One run of one reduce task; see `tasks.run_reduce` for the arguments."""

    def __init__(
        self,
        functions: Functions,
        parts: Iterable[ReducePart],
        *,
        partitions: int,
        memory_bytes: int,
        emit: Emit,
        mark: Mark,
        scratch_dir: str | None = None,
        plain: PlainRules | None = None,
        make_writer: MakeWriter = ResultWriter,
        clock: ItemClock | None = None,
    ):
        order = _order_of(functions.sort_values)
        fold = None if functions.collectfn is not None or order is not None else fold_of(functions.reducefn)
        self._reducefn: Any = functions.reducefn
        self._is_merged = fold is not None or functions.reducefn in (None, list_values)
        self._order = order
        self._makes_arrays = functions.arrays is True
        self._is_iterator_form = functions.reduce_form == "iterator"
        self._parts = iter(parts)
        self._clock = clock
        self._counts_values = clock is not None and fold is None
        if clock is not None:
            clock.begin()
            if not self._is_merged:  # else no function is called, and nothing timed
                mark = clock.marking(mark)
        self._mark = mark
        self._merger = Merger(
            partitions=partitions,
            bound_bytes=max(1, memory_bytes),
            fold_op=None if fold is None else FOLD_OPS[fold],
            scratch_dir=scratch_dir,
            plain=plain,
            order=order,
            on_failure=self._note_failure,
            note_key=lambda key: mark(self._index, key),
        )
        self._index = 0  # index of the current key, from 0
        self._key: Any = NO_KEY
        self._values: Any = None  # of that key, for the iterator form
        self._partition = 0  # being read
        self._is_on_disk = False  # whether the iterator form got values on disk
        self._input_error: BaseException | None = None  # raised by what the user's code reads from us
        self.stats = TaskStats()
        #: what the functions count
        self.tally = TaskTally()
        self._writer = make_writer(emit, self.stats, plain)
        is_in_memory = self._is_merged and order is None
        self._room = ChunkRoom(MAX_STEP_IN_MEMORY if is_in_memory else MAX_STEP)

    def run(self) -> TaskStats:
        try:
            if self._is_merged:
                self._put_out_merged()
            elif self._is_iterator_form:
                self._reduce_all()
            else:
                self._reduce_each()
            self._writer.flush()
        except BaseException:
            self._writer.abort()
            raise
        return self.stats

    def _merged(self) -> Iterator[dict[Any, Any]]:
        """Yield the groups of all partitions. `_partition` is that of the last ones."""
        for partition, n_bytes, segments in self._parts:
            self._partition = partition
            for groups in self._merger.merge(partition, n_bytes, iter(segments)):
                self.stats.groups += len(groups)
                if self._clock is not None:
                    self._clock.stop()  # merging belongs to no key
                    if self._counts_values:
                        self._clock.count_values(groups)
                yield groups

    def _put_out_merged(self) -> None:
        function = None if self._reducefn is None else "reducefn"
        for groups in self._merged():
            entries = iter(groups), iter(groups.values())
            while (chunk := self._take_merged(*entries))[0]:
                self._writer.write(self._partition, *chunk, function)

    def _take_merged(self, keys: Iterator[Any], values: Iterator[Any]) -> tuple[list[Any], list[Any]]:
        """Take some groups as results."""
        all_keys: list[Any] = []
        all_results: list[Any] = []
        self._room.begin(self._writer.chunk)
        while (step := self._room.step()) and (some := list(islice(keys, step))):
            self._mark(self._index, some[0])
            results = list(islice(values, len(some)))
            if self._order is not None:
                for i, key in enumerate(some):
                    self._mark(self._index + i, key)
                    results[i] = _in_memory(self._in_order(key, results[i]))
            self._index += len(some)
            self._room.took(results)
            all_keys += some
            all_results += results
        return all_keys, all_results

    def _in_order(self, key: Any, values: Any) -> Any:
        """Return the values of a key as the job wants them. Those on disk are in order already."""
        if self._order is not None and type(values) is list:
            self._order.sort(key, values)
        return values

    def _for_user(self, key: Any, values: Any) -> Any:
        """Return the values of a key as reducefn gets them."""
        values = self._in_order(key, values)
        if not self._makes_arrays:
            return values
        from mmgevent.tasks.number_arrays import array_for_reducefn  # few jobs need it

        return array_for_reducefn(key, values)

    def _note_failure(self, error: BaseException) -> None:
        self._input_error = error

    # -- pair form

    def _reduce_each(self) -> None:
        for groups in self._merged():
            pairs = iter(groups.items())
            while True:
                keys, values = self._reduce_some(pairs)
                if not keys:
                    break
                self._writer.write(self._partition, keys, values, "reducefn")

    def _reduce_some(self, groups: Iterator[tuple[Any, list[Any]]]) -> tuple[list[Any], list[Any]]:
        """Reduce as many groups as make a chunk; return their keys and results."""
        reducefn, mark, index = self._reducefn, self._mark, self._index
        is_plain = self._order is None and not self._makes_arrays
        room = self._room
        keys: list[Any] = []
        results: list[Any] = []
        key: Any = NO_KEY
        values: Any = None
        room.begin(self._writer.chunk)
        try:
            while step := room.step():
                done = len(keys)
                for key, values in islice(groups, step):
                    mark(index, key)
                    index += 1
                    if is_plain:
                        results.append(reducefn(key, values))
                    else:
                        results.append(_in_memory(reducefn(key, self._for_user(key, values))))
                    keys.append(key)
                room.took(results[done:])
                if len(keys) < done + step:
                    break
        except TaskFailure:
            raise
        except BaseException as error:
            if self._input_error is None:
                failure = blame_exception(error, "reducefn", key)
                if key is not NO_KEY:
                    failure.given = key, values
                raise failure from error
        if self._input_error is not None:  # the function may have swallowed it
            raise self._input_error
        self._index = index
        if self._clock is not None:
            self._clock.stop()
        return keys, results

    # -- iterator form

    def _reduce_all(self) -> None:
        groups = self._groups_for_user()
        first = next(groups, None)  # otherwise it could yield before there is a partition
        if first is None:
            return
        records = self._call_users(lambda: pairs_of(self._reducefn(_chained(first, groups)), "reducefn"))
        if self._order is not None:
            records = self._held(records)
        while True:
            chunk = self._call_users(lambda: self._take_records(records))
            if not chunk:
                return
            keys, values = [], []
            for record in chunk:
                if not isinstance(record, (tuple, list)) or len(record) != 2:
                    raise TaskFailure(no_pair(record, "reducefn", self._key))
                keys.append(record[0])
                values.append(record[1])
            self._writer.write(self._partition, keys, values, "reducefn")

    def _take_records(self, records: Iterator[Any]) -> list[Any]:
        """Take as many records of the user's as make a chunk."""
        chunk: list[Any] = []
        self._room.begin(self._writer.chunk)
        while (step := self._room.step()) and (some := list(islice(records, step))):
            self._room.took(some)
            chunk += some
        return chunk

    def _held(self, records: Iterator[Any]) -> Iterator[Any]:
        """Yield records whose values are in memory: those on disk are gone with the next groups."""
        for record in records:
            yield _in_memory(record, MAX_HELD_DEPTH) if self._is_on_disk else record

    def _groups_for_user(self) -> Iterator[tuple[Any, list[Any]]]:
        try:
            for groups in self._merged():
                for key, values in groups.items():
                    self._key, self._values = key, values
                    self._mark(self._index, key)
                    self._index += 1
                    self._is_on_disk = self._is_on_disk or isinstance(values, OrderedValues)
                    yield key, self._for_user(key, values)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._input_error = error
            raise

    def _call_users(self, action: Any) -> Any:
        """Call user code that reads from us. What our side raises below it passes unchanged."""
        try:
            result = action()
        except BaseException as error:
            if self._input_error is not None:
                raise self._input_error from None
            failure = blame_records(error, "reducefn", self._key)
            if self._key is not NO_KEY:
                failure.given = self._key, self._values
            raise failure from error
        if self._input_error is not None:  # the function swallowed it
            raise self._input_error
        return result


def _order_of(sort_values: Any) -> ValueOrder | None:
    """Return the order that a job wants for the values of a key, or None."""
    if not sort_values:
        return None
    from mmgevent.tasks.value_order import ValueOrder  # few jobs need it

    return ValueOrder(None if sort_values is True else sort_values)


def _in_memory(result: Any, depth: int = 0) -> Any:
    """Return a result, with lists in the place of values on disk.

    `depth`: that of tuples, lists and dicts in which they are looked for.
    """
    if isinstance(result, OrderedValues):
        return list(result)
    if not depth:
        return result
    if type(result) is dict:
        return {key: _in_memory(part, depth - 1) for key, part in result.items()}
    if type(result) in (tuple, list):
        return type(result)(_in_memory(part, depth - 1) for part in result)
    return result


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
