"""Run one task of a job: items to segments, segments to results.

Plain functions on plain iterables: nothing here knows of links, schedules or processes, so whatever can hand out bytes
in order can run a job.  `map_task` and `reduce_task` do the work; this module is how they are called, and what they
promise:

- what they emit depends on their arguments alone, so any attempt of a task is as good as another;
- memory is bounded by `memory_bytes`, the user's functions excepted, and disk is used only below `scratch_dir`;
- whatever the user's code does comes out as `TaskFailure`, be it SystemExit; what `emit`, the input or the bytes
  themselves do wrong comes out as it is.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable
from typing import Any

from mmgevent.job.functions import Functions
from mmgevent.tasks.blame import blame_exception, blame_segment
from mmgevent.tasks.map_task import Decode, Emit, MapTask, Mark, MarkFlush, TaskStats
from mmgevent.tasks.mapping import MapItems
from mmgevent.tasks.records import SegmentError, decode_items
from mmgevent.tasks.reduce_task import Part as ReducePart
from mmgevent.tasks.reduce_task import ReduceTask
from mmgevent.tasks.skipping import Skipping
from mmgevent.wire.positions import ALL, Part

#: as `gc.set_threshold` takes them; the first: net new containers between two runs of the cyclic garbage collector in
#: a task.  At the usual 700 it doubles the cost of building groups; quite off, a function that leaves cycles behind (a
#: parser's trees) would fill the memory.
GC_THRESHOLDS = (2_000_000, 1000, 1000)


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
) -> TaskStats:
    """Map items, group and combine the records, and emit them as flushes of segments.

    `items` are the entries `(key, value)` of a batch; a value that is a `refs.Ref` is expanded into the items of its
    file.  Entries count from `first_index`; items whose positions (see `positions`) are in `skip` are passed over.
    `part`: of a single entry, which of its parts to map.
    `skipping`: what to do about items that fail; None: they end the task.
    `decode()` gives `items` anew, for the next try of one that a function has changed; needed with `skipping`.
    `partitions`: the number of partitions of the job.  `memory_bytes`: of records the task may hold at once, as the
    core estimates them; what it encodes of them, the input and the functions' own objects come on top.
    `emit(flush)` takes the bytes of one flush; zero or more come.  `mark(position, key)` is called before each item.
    `map_items(fn, triples)`, if given, applies `fn(position, key, value)` to each of the triples, perhaps several at a
    time, and returns an iterator of its results in their order; exceptions of `fn` must come out of it.  `mark` is then
    left to it.
    `mark_flush(None)` is called before a flush of what several items gave, `mark_flush(position)` when the last of them goes on.
    `tunes_gc`: the cyclic garbage collector of this process may run rarely meanwhile; False where others use it too.

    Raises TaskFailure, with the item where one is to blame; ContentNeeded where a file of an item is not the driver's;
    and whatever `emit` raises.
    """
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
) -> TaskStats:
    """Merge and reduce partitions, and emit the results as flushes of FLAT segments.

    `parts` gives (partition, bytes, iterable of its segments in (task, flush) order); the bytes are a hint, 0 if
    unknown.  It is read one segment at a time, the next part only after the last.
    `mark(index, key)` is called before each call of a reducefn of pair form, before each group an iterator form
    receives, and now and then where no function is called; the index counts keys.
    A partition that outgrows `memory_bytes` is split in an unlinked file in `scratch_dir` (None: the
    system's temporary folder).
    `tunes_gc`: as in `run_map`.

    Raises TaskFailure, with no item; SegmentError for damaged bytes; whatever `parts` and `emit` raise.
    """
    task = ReduceTask(
        functions,
        parts,
        partitions=partitions,
        memory_bytes=memory_bytes,
        emit=emit,
        mark=mark,
        scratch_dir=scratch_dir,
    )
    try:
        return _run(task, tunes_gc)
    except MemoryError as error:
        raise blame_exception(error, None) from error


def read_batch(data: Any) -> list[tuple[Any, Any]]:
    """Decode the items of a batch.

    Raises TaskFailure where they cannot be unpickled here (a class or module is missing), SegmentError for damaged
    bytes.
    """
    try:
        return decode_items(data)
    except SegmentError as error:
        if error.__cause__ is None:
            raise
        raise blame_segment(error) from error
    except MemoryError as error:
        raise blame_exception(error, None) from error


def _run(task: MapTask | ReduceTask, tunes_gc: bool) -> TaskStats:
    """Run a task; with `tunes_gc` the garbage collector looks rarely meanwhile, and not at all if it was off."""
    if not tunes_gc:
        return task.run()
    thresholds = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        return task.run()
    finally:
        gc.set_threshold(*thresholds)  # so that what the last task left is looked at before the next
