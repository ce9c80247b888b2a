"""Run a job on Spark: two stages of one query, over data frames of bytes.

Spark knows the tasks of a stage before the stage begins.  So the whole datasource is read first,
and a task cannot ask for anything while it runs:

- a datasource without an end is refused, and one that is too large for a driver;
- files go as paths at first; if the workers do not have them there, all is mapped again with their
  contents;
- the limit of `max_skipped` is judged at the end of the query.

The results of the reduce tasks are kept by Spark (`persist`), so that reading them partition by
partition runs nothing again.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from mmgevent.box.box import BoxedJob
from mmgevent.box.boxes import end_job
from mmgevent.driver.input.batching import YOUNG_BATCH_S, Speed
from mmgevent.driver.input.encoding import EncodedBatch
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.runners import spark_tasks
from mmgevent.driver.runners.boxed_runner import BoxedRunner
from mmgevent.driver.runners.decoding import decode_segments
from mmgevent.driver.runners.spark_errors import ENGINE
from mmgevent.driver.runners.spark_sessions import OpenSession
from mmgevent.driver.runners.spark_tasks import DATA, REDUCE_REPORT, SparkRow
from mmgevent.engine.server.partitioning import choose_partitions
from mmgevent.errors import JobError, UsageError
from mmgevent.job.job import Job
from mmgevent.machine.logs import get_log

if TYPE_CHECKING:
    from mmgevent.job.outputs.record import Made

log = get_log(__name__)

#: Map tasks for each slot: while one slot works on a slow one, others do the rest.
TASKS_PER_SLOT = 8

#: Parts of the input read so far that one batch is, for each slot.  Items may be slow, and nobody
#: knows: the first ones get batches of their own.
PARTS_PER_SLOT = 16

#: Groups of partitions for each slot, at least.
GROUPS_PER_SLOT = 2

#: The same for a job that sets the number of its partitions: its output may be much more than its
#: input, which nobody knows before Spark has cut its stages.
MOST_GROUPS_PER_SLOT = 16

#: Input for which there is one more group, bytes.  A group has to fit into a worker's memory.
GROUP_BYTES = 64 * 1024 * 1024

#: Largest input that travels through the driver, bytes.  Driver and JVM hold it once each.
MAX_INPUT_BYTES = 512 * 1024 * 1024

#: Results that are fetched at once, bytes. Larger ones come partition by partition, in a job each.
AT_ONCE_BYTES = 32 * 1024 * 1024

#: Time after which a user learns that Spark waits for the end of the datasource, seconds.
PATIENCE_S = 10.0


class SparkRunner(BoxedRunner):
    """One job on a Spark session."""

    def __init__(
        self,
        job: Job[Any, Any],
        opened: OpenSession,
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """Pack the job. Raises UsageError if Spark cannot run it, and as `OpenSession.workers`."""
        _refuse_endless(job)
        self._opened = opened
        self._workers = opened.workers()
        self._lease: str | None = None
        self._job_id = f"{job.name}-{uuid.uuid4().hex}"
        super().__init__(
            job, ENGINE, is_local=self._workers.are_local, on_progress=on_progress, on_notice=on_notice
        )

    def leave_out(self, made: Made) -> None:
        """Raise UsageError: all results are there before the first is read."""
        raise UsageError(
            f"{ENGINE} gives no results before all are made, so there is nothing to resume; leave --resume away, and "
            f"begin anew with --overwrite"
        )

    def run(self) -> Generator[tuple[Any, Any], None, None]:
        """Read everything, then map and reduce.  See `Runner.run`."""
        began_s = time.monotonic()
        self.wait_for_check()
        self.state.id = self._job_id
        slots = self._workers.slots
        partitions = self.job.options.partitions or choose_partitions(slots)
        self.state.partitions = partitions
        try:
            batches = self._read()
            if batches:
                n_bytes = sum(batch.weight for batch in batches.values())
                per_slot = MOST_GROUPS_PER_SLOT if self.job.options.partitions else GROUPS_PER_SLOT
                groups = min(partitions, max(per_slot * slots, n_bytes // GROUP_BYTES))
                if self._workers.are_local:
                    self._lease = tempfile.mkdtemp(prefix="mmgevent-job-")
                options = self.state.options_for(self._packed.options)
                boxed = BoxedJob(self._job_id, options, partitions, groups, self._packed.context, self._lease)
                yield from self._query(boxed, batches)
            self._accounts.end_map()
        finally:
            self.state.stats = self._accounts.stats(time.monotonic() - began_s, slots)

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon, and end the boxes of this machine. Idempotent."""
        super().cancel()
        self._end_boxes()

    def leave(self) -> None:
        """End the boxes. The query ends when its thread sees that the job is over."""
        self._end_boxes()

    def close(self) -> None:
        """Release what belongs to a job that is over or never ran. Idempotent."""
        super().close()
        self._end_boxes()

    def _end_boxes(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            shutil.rmtree(lease, ignore_errors=True)
        end_job(self._job_id)

    def _look(self) -> None:
        self.state.check_cancelled()
        self.state.before_wait()

    # Reading.

    def _read(self) -> dict[int, EncodedBatch]:
        """Return all batches by number. Raises UsageError if they are too large."""
        feeder = self._feeder
        assert feeder is not None
        batches: dict[int, EncodedBatch] = {}
        entries = weight = n_bytes = 0
        slots = self._workers.slots
        told_s = time.monotonic() + PATIENCE_S
        # As if each of these parts had taken as long as a young batch should take.
        seconds = PARTS_PER_SLOT * slots * YOUNG_BATCH_S
        while True:
            numbered = feeder.next_batch(Speed(entries, weight, seconds, slots))
            self.state.check_cancelled()
            if numbered is None:
                return batches
            number, batch = numbered
            batches[number] = batch
            self._accounts.add_batch(batch)
            entries += batch.items
            weight += batch.weight
            n_bytes += len(batch.data)
            if n_bytes > MAX_INPUT_BYTES:
                raise UsageError(
                    f"{ENGINE} needs the whole input before its first task, and the datasource has given "
                    f"{n_bytes >> 20:,} MiB so far, at most {MAX_INPUT_BYTES >> 20} MiB can pass through the driver: "
                    f"{_PATH_RULE}, or run the job on another engine"
                )
            if time.monotonic() > told_s:
                told_s = float("inf")
                self.state.notice(
                    f"{ENGINE} starts when the datasource has ended; it has given {entries:,} items so far"
                )
            self._tell("map", 0, None, 0, slots)

    def _with_contents(self, batches: dict[int, EncodedBatch], numbers: set[int]) -> dict[int, EncodedBatch]:
        """Return the batches, these with the contents of their files. Raises UsageError."""
        assert self._feeder is not None
        full = dict(batches)
        n_bytes = 0
        for number in sorted(numbers):
            self.state.check_cancelled()
            full[number] = self._feeder.content_of(number)
            n_bytes += len(full[number].data)
            if n_bytes > MAX_INPUT_BYTES:
                raise UsageError(
                    f"the workers of {ENGINE} do not have the job's files, and their contents are more than the "
                    f"{MAX_INPUT_BYTES >> 20} MiB that can pass through the driver: {_PATH_RULE}"
                )
        return full

    # The query.

    def _query(self, boxed: BoxedJob, batches: dict[int, EncodedBatch]) -> Iterator[tuple[Any, Any]]:
        """Run the query, twice if workers lack files, and yield the records."""
        while True:
            frame = self._run(partial(self._make_frame, boxed, batches))
            try:
                reports = self._run(partial(_fetch, frame.where(f"kind < {DATA}")))
                lacking = self._lacking(reports)
                if not lacking:
                    self._take_reports(batches, reports)
                    size = sum(row.batch for row in reports if row.kind == REDUCE_REPORT)
                    for row in self._results(frame.where(f"kind = {DATA}"), size):
                        self.state.before_wait()
                        yield from decode_segments(row, self.plain)
                    return
            finally:
                self._run_last(frame.unpersist)
            for row in reports:
                self._accounts.take_repeated(spark_tasks.decode_report(row.data))
            batches = self._with_contents(batches, lacking)

    def _make_frame(self, boxed: BoxedJob, batches: dict[int, EncodedBatch]) -> Any:
        """Return the data frame of reports and results, which nothing has computed yet."""
        from pyspark import StorageLevel

        code, labels = self._packed.code, spark_tasks.labels_for(boxed.groups)
        with_refs = frozenset(number for number, batch in batches.items() if batch.has_refs)
        table = spark_tasks.to_table(
            SparkRow(DATA, 0, number, batch.items, batch.data) for number, batch in batches.items()
        )
        tasks = min(len(batches), TASKS_PER_SLOT * self._workers.slots)
        frame = self._opened.session.createDataFrame(table).repartition(tasks)
        frame = frame.mapInArrow(spark_tasks.map_task(boxed, code, labels, with_refs), spark_tasks.COLUMNS)
        frame = frame.repartition(boxed.groups, "target").sortWithinPartitions("kind", "batch", "seq")
        frame = frame.mapInArrow(spark_tasks.reduce_task(boxed, code), spark_tasks.COLUMNS)
        return frame.persist(StorageLevel.DISK_ONLY)

    def _lacking(self, reports: list[SparkRow]) -> set[int]:
        """Return the batches whose files the workers do not have."""
        return {
            row.batch
            for row in reports
            if row.kind == spark_tasks.MAP_REPORT and spark_tasks.decode_report(row.data).needs_content
        }

    def _take_reports(self, batches: dict[int, EncodedBatch], reports: list[SparkRow]) -> None:
        """Enter all reports into the books. Raises JobError if the job has failed."""
        mapped = sorted((row for row in reports if row.kind == spark_tasks.MAP_REPORT), key=lambda r: r.batch)
        for row in mapped:
            self._accounts.take_map(row.batch, batches[row.batch], spark_tasks.decode_report(row.data))
        slots = self._workers.slots
        self._tell("map", self._accounts.items, self._accounts.total, 0, slots)
        self._accounts.end_map()
        reduced = [row for row in reports if row.kind == REDUCE_REPORT]
        for done, row in enumerate(reduced, 1):
            self._accounts.take_reduce(spark_tasks.decode_report(row.data), done)
            self._tell("reduce", done, len(reduced), 0, slots)

    def _results(self, frame: Any, size: int) -> Iterator[bytes]:
        """Yield the results row by row.  Spark runs queries until the last one has come."""
        if size <= AT_ONCE_BYTES:
            for row in self._run(partial(_fetch, frame)):
                yield row.data
            return
        rows = self._run(partial(frame.select("data").toLocalIterator, prefetchPartitions=True))
        while (row := self._run(partial(next, rows, None))) is not None:
            yield bytes(row.data)

    def _run(self, action: Callable[[], Any]) -> Any:
        try:
            return self._opened.run(action, self._look, f"mmgevent-{self._job_id}")
        except JobError:
            self.state.check_cancelled()  # what follows from the end is no news
            raise

    def _run_last(self, action: Callable[[], Any]) -> None:
        """Let Spark free something.  If it cannot, it is over, or frees it at its end."""
        try:
            action()
        except Exception as error:
            log.info("%s does not answer at the end of a job: %r", ENGINE, error)


_PATH_RULE = "give it as files that all workers have under the same paths (a shared file system)"


def _refuse_endless(job: Job[Any, Any]) -> None:
    """Raise UsageError for a datasource that is known to have no end."""
    source = job.datasource
    kind = type(source)
    is_endless = kind in (itertools.count, itertools.cycle)
    if kind is itertools.repeat:
        try:
            source.__length_hint__()
        except TypeError:  # it repeats for ever
            is_endless = True
    if is_endless:
        raise UsageError(
            f"the datasource, itertools.{kind.__name__}, has no end, and {ENGINE} needs the whole input before its "
            f"first task: cut it with itertools.islice, or run the job on an mmg-server"
        )


def _fetch(frame: Any) -> list[SparkRow]:
    return list(spark_tasks.read_rows(frame.toArrow()))
