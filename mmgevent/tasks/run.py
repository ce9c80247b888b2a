"""Run one task of a job: items to segments, segments to results.

These are plain functions on plain iterables. Nothing here knows of links, schedules or processes,
so whatever can provide bytes in order can run a job. `map_task` and `reduce_task` do the work. They
promise:

- What a task emits depends on its arguments alone, so all attempts of a task give the same.
- Records take at most `memory_bytes`. The user's functions may take more. Files are made in
  `scratch_dir` only.
- Whatever the user's code raises, even SystemExit, becomes a `TaskFailure`. What `emit` or the
  input raises passes unchanged, and so do errors of damaged bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Container, Iterable
from typing import TYPE_CHECKING, Any

from mmgevent.job.functions import Functions
from mmgevent.tasks.blame import blame_exception, blame_segment
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.counters import counting
from mmgevent.tasks.items import Mark
from mmgevent.tasks.map_task import Decode, Emit, MapTask, MarkFlush, TaskStats
from mmgevent.tasks.mapping import MapItems
from mmgevent.tasks.records import SegmentError, decode_items, decode_results
from mmgevent.tasks.reduce_task import ReducePart, ReduceTask
from mmgevent.tasks.results import MakeWriter, ResultWriter
from mmgevent.tasks.skipping import Skipping
from mmgevent.wire.positions import ALL, Part

if TYPE_CHECKING:
    from mmgevent.tasks.item_clock import ItemClock
    from mmgevent.tasks.plain_rules import PlainRules

#: Thresholds of the cyclic garbage collector during a task, as `gc.set_threshold` takes them. The
#: first is the number of new containers between two collections. With the usual 700, building
#: groups takes twice as long. Without collections, a function that leaves cycles (a parser's trees)
#: fills the memory.
TASK_GC_THRESHOLDS = (2_000_000, 1000, 1000)

#: Share of a process's memory, or of the job's memory_limit, for the records of a task. The rest is
#: for their encoded copy, the input, the user's own objects, and the error of the estimate.
RECORD_SHARE = 0.25


def run_map(
    functions: Functions,
    items: Iterable[tuple[Any, Any]],
    *,
    partitions: int,
    memory_bytes: int,
    emit: Emit,
    mark: Mark,
    first_index: int = 0,
    skip: Collection[int] = (),
    map_items: MapItems | None = None,
    mark_flush: MarkFlush | None = None,
    part: Part = ALL,
    skipping: Skipping | None = None,
    decode: Decode | None = None,
    tunes_gc: bool = True,
    plain: PlainRules | None = None,
    unwanted: Container[int] = (),
    calls: CallRules | None = None,
    clock: ItemClock | None = None,
) -> TaskStats:
    """Map items, group and combine the records, and emit them as flushes of segments.

    items: entries `(key, value)` of a batch. A value that is a Ref stands for items of its file.
    partitions: number of partitions of the job.
    memory_bytes: most records to hold at once, as the core estimates them; the encoded copy of a
        flush, the input and the functions' own objects come on top.
    emit, mark: called as `emit(flush)` for each flush, and `mark(position, key)` before each item.
    first_index, skip: index of the first entry, from which positions count; those to leave out.
    map_items: see `mapping.MapItems`; maps several items at once, and calls `mark` itself.
    mark_flush: called with None before a flush of several items' records, and with the position of
        the last item when that continues, or None for a call of several.
    part: which part of a single entry to map.
    skipping, decode: what to do about items that fail (None: the task ends), `items` once more.
    tunes_gc: whether the cyclic garbage collector may run rarely meanwhile: False if it is shared.
    plain, unwanted: the rules for records that must be plain data; partitions to drop.
    calls, clock: how mapfn gets many items at once, not with `map_items`; what times single items.
    Raise TaskFailure, and ContentNeeded if a file has changed. What `emit` raises passes unchanged.
    """
    if map_items is None and calls is None:
        mark, mark_flush = _timed(clock, mark, mark_flush)
    task = MapTask(
        functions,
        items,
        partitions=partitions,
        memory_bytes=memory_bytes,
        emit=emit,
        mark=mark,
        first_index=first_index,
        skip=skip,
        map_items=map_items,
        mark_flush=mark_flush,
        part=part,
        skipping=skipping,
        decode=decode,
        plain=plain,
        unwanted=unwanted,
        calls=calls,
    )
    return _run(task, tunes_gc)


def run_reduce(
    functions: Functions,
    parts: Iterable[ReducePart],
    *,
    partitions: int,
    memory_bytes: int,
    emit: Emit,
    mark: Mark,
    scratch_dir: str | None = None,
    tunes_gc: bool = True,
    plain: PlainRules | None = None,
    make_writer: MakeWriter = ResultWriter,
    clock: ItemClock | None = None,
) -> TaskStats:
    """Merge and reduce partitions, and emit the results as flushes of FLAT segments.

    parts: yields (partition, bytes, iterable of its segments in (task, flush) order). The bytes are
        a hint, 0 if unknown. One segment is read at a time, and the next part after the last one.
    mark: called as `mark(index, key)` before each call of a reducefn of pair form and before each
        group that an iterator form receives, and now and then if there is no function. The index
        counts keys.
    scratch_dir: folder of the unlinked file for a partition that outgrows `memory_bytes`. None: the
        system's folder for temporary files.
    make_writer: makes what takes the results, if they are not all emitted.
    The others are those of `run_map`.

    Raise TaskFailure, without an item, and SegmentError for damaged bytes. What `parts` and `emit`
    raise passes unchanged.
    """
    task = ReduceTask(
        functions,
        parts,
        partitions=partitions,
        memory_bytes=memory_bytes,
        emit=emit,
        mark=mark,
        scratch_dir=scratch_dir,
        plain=plain,
        make_writer=make_writer,
        clock=clock,
    )
    try:
        return _run(task, tunes_gc)
    except MemoryError as error:
        raise blame_exception(error, None) from error


def read_batch(
    data: Any, *, is_results: bool = False, plain: PlainRules | None = None
) -> list[tuple[Any, Any]]:
    """Decode the items of a batch.

    is_results: whether it is results of reduce tasks, with `plain` as their rules, rather than
        items of a driver.

    Raise TaskFailure if they cannot be unpickled here, since a class or module is missing. Raise
    SegmentError for damaged bytes.
    """
    try:
        return decode_results(data, plain) if is_results else decode_items(data)
    except SegmentError as error:
        if error.__cause__ is None:
            raise
        raise blame_segment(error) from error
    except MemoryError as error:
        raise blame_exception(error, None) from error


def _timed(
    clock: ItemClock | None, mark: Mark, mark_flush: MarkFlush | None
) -> tuple[Mark, MarkFlush | None]:
    if clock is None:
        return mark, mark_flush
    clock.begin()
    return clock.marking(mark), clock.marking_flush(mark_flush or _mark_no_flush)


def _mark_no_flush(item: int | None) -> None:
    pass


def _run(task: MapTask | ReduceTask, tunes_gc: bool) -> TaskStats:
    """Run a task.

    With `tunes_gc` the garbage collector runs rarely meanwhile, or not at all if it was off.
    Without, others share the process, and its threads count for themselves.
    """
    if not tunes_gc:
        with counting(task.tally, takes_threads=False):
            stats = task.run()
    else:
        thresholds = gc.get_threshold()
        gc.set_threshold(*TASK_GC_THRESHOLDS)
        try:
            with counting(task.tally):
                stats = task.run()
        finally:
            gc.set_threshold(*thresholds)  # what this task left is collected before the next
    stats.counters = task.tally.counts()
    return stats
