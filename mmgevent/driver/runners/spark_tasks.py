"""What runs in Spark's Python workers: batches of a job come in as rows, and pieces go out as rows.

Every data frame of a job has the columns of COLUMNS.  A row is a batch, a piece of a map task, a
report, or results.  A map task that fails raises nothing: its report says so, with `HALT` rows for
every group, so that no group is reduced.

Spark cuts data at rows, and keeps whole rows in memory.  So pieces and results are cut into rows of
at most about ROW_BYTES.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mmgevent.box import guest
from mmgevent.box.box import BoxedJob
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.tasks.records import decode_flush

#: Weight of a row, bytes. A larger segment has a row of its own.
ROW_BYTES = 1024 * 1024

#: Rows that Spark passes to Python at a time. With Spark's own 10,000, 10 GB could meet in memory.
ROWS_AT_A_TIME = 32

#: Rows of the first question: no cluster has more tasks at a time.
PROBE_ROWS = 100_000

#: Kinds of rows, in the order in which a reduce task reads them.
HALT, MAP_REPORT, REDUCE_REPORT, DATA = range(4)

#: The columns of every data frame, for Spark.  `target` chooses the reduce task, see `labels_for`.
COLUMNS = "kind int, target int, batch long, seq int, data binary"

#: Starting value of Spark's hash function for columns.
_HASH_SEED = 42

Batches = Iterator[Any]


class SparkRow(NamedTuple):
    """A row of any data frame of a job."""

    kind: int
    target: int = 0
    batch: int = 0
    #: place of a row among those of the same piece; for input, the number of entries
    seq: int = 0
    data: bytes = b""


def labels_for(groups: int) -> list[int]:
    """Return the number that Spark's hash function puts into partition g, for each group g.

    With 0, 1, 2... some partitions would get two groups and others none.  If Spark had another
    hash function, the results would still be right.
    """
    found: dict[int, int] = {}
    number = 0
    while len(found) < groups:
        found.setdefault(_hash_int(number) % groups, number)
        number += 1
    return [found[group] for group in range(groups)]


def make_probe(folder: str, boot_id: str) -> Callable[[Batches], Batches]:
    """Return a function that tells what each worker has: versions as JSON, a row for each task.

    It is sent by value, since a worker may lack mmgevent.
    """

    def probe(batches: Any) -> Any:
        import json  # it travels alone

        import pyarrow

        for _ in batches:
            pass
        try:
            from mmgevent.driver.runners.spark_tasks import describe_worker
        except ImportError as error:
            found = {"missing": str(error)}
        else:
            found = describe_worker(folder, boot_id)
        yield pyarrow.RecordBatch.from_pydict({"data": [json.dumps(found).encode()]})

    return probe


def describe_worker(folder: str, boot_id: str) -> dict[str, Any]:
    """Return versions of this worker, and whether it is on the machine that made the folder."""
    import os

    return {"versions": guest.versions(), "is_local": boot_id == read_boot_id() and os.path.isdir(folder)}


def read_boot_id() -> str:
    """Return what names the machine of this process since it was started, or ""."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def map_task(job: BoxedJob, code: bytes, labels: list[int], with_refs: frozenset[int]) -> Any:
    """Return the function for `mapInArrow` that maps rows of input."""

    def run(batches: Batches) -> Batches:
        return _map_rows(job, code, labels, with_refs, batches)

    return run


def reduce_task(job: BoxedJob, code: bytes) -> Any:
    """Return the function for `mapInArrow` that reduces the rows of a group."""

    def run(batches: Batches) -> Batches:
        return _reduce_rows(job, code, batches)

    return run


def to_table(rows: Iterable[SparkRow]) -> Any:
    """Return rows as a table of Arrow."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) or [()] * len(SparkRow._fields)
    types = [pa.int32(), pa.int32(), pa.int64(), pa.int32(), pa.binary()]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, list(SparkRow._fields))


def read_rows(batch: Any) -> Iterator[SparkRow]:
    """Yield the rows of a batch or table of Arrow."""
    columns = [batch.column(name).to_pylist() for name in SparkRow._fields]
    return map(SparkRow._make, zip(*columns, strict=True))


def encode_report(report: Report) -> bytes:
    """Return a report as bytes: a line of JSON, then its rows of items that were set aside."""
    fields = report._asdict()
    del fields["rows"], fields["carried"]  # nothing is carried: `BoxedJob.carried_bytes` is 0
    return json.dumps(fields).encode("ascii") + b"\n" + report.rows


def decode_report(data: bytes) -> Report:
    """Return the report in such bytes."""
    line, _, rows = data.partition(b"\n")
    fields = json.loads(line)
    for name in ("killers", "notices", "counters", "printed"):
        fields[name] = tuple(map(tuple, fields[name]))
    for name in ("deaths", "slow", "largest"):
        fields[name] = tuple(fields[name])
    return Report(**{**fields, "rows": rows})


def _map_rows(
    job: BoxedJob, code: bytes, labels: list[int], with_refs: frozenset[int], batches: Batches
) -> Batches:
    for batch in batches:
        for row in read_rows(batch):
            guest_batch = GuestBatch(row.batch, row.seq, row.data, row.batch in with_refs)
            report, *pieces = guest.map_batch(job, code, guest_batch)
            yield from _to_batches(_rows_of_map(row.batch, report, pieces, labels))


def _rows_of_map(number: int, report: Report, pieces: list[bytes], labels: list[int]) -> Iterator[SparkRow]:
    yield SparkRow(MAP_REPORT, labels[0], number, 0, encode_report(report))
    if report.failure is not None or report.needs_content:
        for label in labels:
            yield SparkRow(HALT, label, number)
        return
    for label, piece in zip(labels, pieces, strict=True):
        for seq, start in enumerate(range(0, len(piece), ROW_BYTES)):
            yield SparkRow(DATA, label, number, seq, piece[start : start + ROW_BYTES])


def _reduce_rows(job: BoxedJob, code: bytes, batches: Batches) -> Batches:
    """Reduce a group.  Its rows come sorted by kind, batch and seq."""
    pieces: dict[int, bytearray] = {}
    is_halted = False
    for batch in batches:
        for row in read_rows(batch):
            if row.kind == HALT:
                is_halted = True
            elif row.kind == MAP_REPORT:
                yield from _to_batches([row])
            elif not is_halted:
                pieces.setdefault(row.batch, bytearray()).extend(row.data)
    if not pieces:
        return
    report, output = guest.reduce_group(job, code, *pieces.values())
    del pieces
    yield from _to_batches([SparkRow(REDUCE_REPORT, 0, len(output), 0, encode_report(report))])
    yield from _to_batches(_rows_of_results(output))


def _rows_of_results(output: bytes) -> Iterator[SparkRow]:
    """Yield the segments of a reduce task's output in rows."""
    segments = bytearray()
    for _, segment in decode_flush(output):
        if segments and len(segments) + len(segment) > ROW_BYTES:
            yield SparkRow(DATA, data=bytes(segments))
            segments.clear()
        segments += segment
    if segments:
        yield SparkRow(DATA, data=bytes(segments))


def _to_batches(rows: Iterable[SparkRow]) -> Batches:
    """Yield rows as batches of Arrow of about ROW_BYTES, or one row."""
    held: list[SparkRow] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row.data)
        if size >= ROW_BYTES:
            yield from to_table(held).to_batches()
            held.clear()
            size = 0
    if held:
        yield from to_table(held).to_batches()


def _hash_int(number: int) -> int:
    """Return Spark's hash of an int column: Murmur3 (x86, 32 bits) of its four bytes."""

    def rotated(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) & mask

    mask = 2**32 - 1
    value = _HASH_SEED ^ rotated(number * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
    value = (rotated(value, 13) * 5 + 0xE6546B64 & mask) ^ 4
    value = (value ^ value >> 16) * 0x85EBCA6B & mask
    value = (value ^ value >> 13) * 0xC2B2AE35 & mask
    value ^= value >> 16
    return value - 2**32 if value >= 2**31 else value
