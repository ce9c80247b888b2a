"""What runs on another engine: one map task, one reduce task, on bytes.

The engine imports these functions by name in its workers.  They never raise for a fault of the
user's code: what became of the task is in its `Report`.  So the retries of the engine do not
multiply those of the job.  They raise JobCancelled if the job has ended meanwhile, and EngineError
if this machine cannot start processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mmgevent.box.box import BoxedJob
from mmgevent.box.boxes import use_box
from mmgevent.box.portions import map_portions
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.box.trials import Trials
from mmgevent.tasks.records import decode_flush, encode_flush
from mmgevent.wire.frames import Payload
from mmgevent.wire.hello import PYTHON_VERSION, VERSION, dill_version


def map_batch(
    job: BoxedJob, code: bytes, batch: GuestBatch, *, is_wanted: Callable[[], bool] | None = None
) -> tuple[Report, *tuple[bytes, ...]]:
    """Map a batch.  Returns the report, and a piece for each group of partitions.

    A piece is a number of flushes with the segments of that group's partitions.  Pieces are empty
    unless the task is done, and if the report carries them.  `is_wanted()` is asked now and then, in
    this thread: once it is False, the executor is killed and JobCancelled is raised.
    """
    report, output = use_box(job, code, lambda box: map_portions(box, batch), is_wanted)
    is_done = report.failure is None and not report.needs_content
    is_small = is_done and sum(map(len, output)) <= job.carried_bytes
    pieces = [bytearray() for _ in range(job.groups)]
    rows, shuffled = _cut_output(output, job, pieces)
    report = report._replace(rows=bytes(rows), shuffled_bytes=shuffled)
    if is_small:
        return (report._replace(carried=tuple(map(bytes, pieces))), *([b""] * job.groups))
    return (report, *map(bytes, pieces))


def reduce_group(
    job: BoxedJob, code: bytes, *pieces: Payload, is_wanted: Callable[[], bool] | None = None
) -> tuple[Report, bytes]:
    """Reduce the partitions of a group.  `pieces`: those of the group, in the order of batches.

    Returns the report, and flushes with the results, which are empty if the report carries them.
    `is_wanted`: as above.
    """
    wanted = None if job.reduced is None else frozenset(job.partitions_of(job.reduced))
    parts: dict[int, list[memoryview]] = {}
    for piece in pieces:
        for partition, segment in decode_flush(piece):
            if wanted is None or partition in wanted:
                parts.setdefault(partition, []).append(segment)
    if not parts:
        return Report(), b""
    report, output = use_box(job, code, lambda box: Trials(box).reduce(parts), is_wanted)
    if len(output) <= job.carried_bytes:
        return report._replace(carried=(output,)), b""
    return report, output


def versions() -> dict[str, str]:
    """Return the versions that must be the same in driver and workers."""
    return {"mmgevent": VERSION, "Python": PYTHON_VERSION, "dill": dill_version()}


def _cut_output(outputs: Iterable[bytes], job: BoxedJob, pieces: list[bytearray]) -> tuple[bytearray, int]:
    """Put the segments of flushes into the pieces of their groups.

    Return the rows set aside, and the bytes of all segments.
    """
    rows = bytearray()
    n_bytes = 0
    groups: list[dict[int, Any]] = [{} for _ in pieces]
    for output in outputs:
        last = -1
        for partition, segment in decode_flush(output):
            if partition <= last:  # the next flush begins
                _take_flush(groups, pieces)
            last = partition
            if partition == job.partitions:
                rows += segment
            else:
                groups[partition % job.groups][partition] = segment
                n_bytes += len(segment)
        _take_flush(groups, pieces)
    return rows, n_bytes


def _take_flush(groups: list[dict[int, Any]], pieces: list[bytearray]) -> None:
    for group, piece in zip(groups, pieces, strict=True):
        if group:
            piece += encode_flush(group)
            group.clear()
