"""The map and reduce tasks of one job that runs inline, one after another.

Each batch is one map task, each partition one reduce task. Its items, records and failures go through
the same code as on a cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from time import monotonic, process_time_ns
from typing import TYPE_CHECKING, Any

from mmgevent.driver.input.batching import Speed
from mmgevent.driver.input.encoding import EncodedBatch
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.job_state import JobState
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.runners.decoding import decode_flushes, whole_segments
from mmgevent.driver.runners.pieces import MapPiece, ended_by, note_item
from mmgevent.engine.server.spill import BLOCK_BYTES, Memory
from mmgevent.engine.server.store import JobStore
from mmgevent.errors import JobError, TooManySkippedError
from mmgevent.job.functions import Functions
from mmgevent.job.inputs.refs import ContentNeeded
from mmgevent.job.job import Job
from mmgevent.machine.resources import total_memory_bytes
from mmgevent.tasks.blame import TaskFailure, blame_exception
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.counters import NOT_IN_SETUP, refusing
from mmgevent.tasks.map_task import TaskStats
from mmgevent.tasks.records import encode_value
from mmgevent.tasks.run import RECORD_SHARE, read_batch, run_map, run_reduce
from mmgevent.tasks.skipping import MAX_NAMED, MAX_VALUE_BYTES, SignalTeller, Skipping
from mmgevent.wire.failures import advise_on_reduce, advise_on_skips, name_skipped
from mmgevent.wire.positions import ALL, MAX_DEPTH, halves_of

if TYPE_CHECKING:
    from mmgevent.driver.runners.inline_log import InlineTask
    from mmgevent.tasks.item_clock import ItemClock
    from mmgevent.tasks.plain_rules import PlainRules

#: Number of partitions: that of the smallest cluster, so that the same keys share a partition.
PARTITIONS = 32

#: Segments in memory, bytes.  More goes to an unlinked file.
STORE_BYTES = 256 * 1024 * 1024

#: Records that a task holds at once, bytes, unless the job has a memory_limit.
RECORD_BYTES = 256 * 1024 * 1024

#: Part of the machine's memory, one in so many, that each of these two may take at most: a
#: container may have 300 MiB in all.
MEMORY_SHARE = 8

#: Nanoseconds of a second.
_NS = 1_000_000_000

#: Name of the worker in failures of items that were set aside.
WORKER = "inline"

#: Speed for which batches are cut: at most 8,000 items each.
_SPEED = Speed(items=4000, seconds=1.0)


class InlineRun:
    """One job from its datasource to its records."""

    def __init__(self, job: Job[Any, Any], functions: Functions, state: JobState, plain: PlainRules | None):
        self._job = job
        self._state = state
        self._functions = functions
        self._setupfn = functions.setupfn
        options = job.options
        self._partitions = state.partitions = state.partitions or PARTITIONS
        share_bytes = total_memory_bytes() // MEMORY_SHARE
        self._record_bytes = min(RECORD_BYTES, share_bytes)
        if options.memory_limit is not None:
            self._record_bytes = int(options.memory_limit * RECORD_SHARE)
        self._store = JobStore(Memory(min(STORE_BYTES, share_bytes)))
        self._calls = (
            None if options.items_per_call is None else CallRules(options.items_per_call, _mark_nothing)
        )
        self._plain = plain
        self.feeder = Feeder(job, may_restart=False, on_notice=state.notice)
        self._signals = SignalTeller()
        #: bytes of all records between map and reduce
        self.shuffle_bytes = 0
        self._is_mapped = False  # whether the map phase is over
        self._attempts = 0
        self._item_count = 0
        self._mapped_bytes = 0
        self._record_count = 0
        self._skipped_count = 0
        self._last_skipped: TaskFailure | None = None
        state.input_total = self.feeder.total
        self._figures = {"results": 0, "mapped_records": 0, "keys": 0, "retries": 0, "cpu_ns": 0}

    def records(self) -> Iterator[tuple[Any, Any]]:
        began_s = monotonic()
        try:
            while (numbered := self.feeder.next_batch(_SPEED)) is not None:
                self._set_up()
                self._map_batch(*numbered)
                self._mapped_bytes += numbered[1].weight
                self._report("map", self._item_count, None)
                if self._job.options.allocation == "oneshot":
                    break  # one item for each worker, and this is the only worker
            self._check_skipped()
            sizes = self._store.partition_sizes()
            sizes.pop(self._partitions, None)  # the items that were set aside
            made = frozenset(self._state.delivered)
            sizes = {partition: n_bytes for partition, n_bytes in sizes.items() if partition not in made}
            self.shuffle_bytes = sum(sizes.values())
            self._is_mapped = True
            for done, (partition, n_bytes) in enumerate(sorted(sizes.items()), 1):
                yield from self._reduce_partition(partition, n_bytes)
                self._state.delivered.add(partition)
                self._state.end_partitions((partition,))
                self._figures["results"] += 1
                self._report("reduce", done, len(sizes))
        finally:
            self._note_stats(monotonic() - began_s)
            self.close()

    def close(self) -> None:
        """Free memory and disk. Idempotent."""
        self.feeder.close()
        self._store.close()

    def _begin_task(self, phase: str, task: int, attempt: int, **about: Any) -> InlineTask | None:
        """Return what logs a task, or None if the job keeps no log."""
        if self._state.job_log is None:
            return None
        from mmgevent.driver.runners.inline_log import InlineTask

        return InlineTask(self._state.job_log, phase, task, attempt, **about)

    def _report(self, phase: str, done: int, total: int | None) -> None:
        self._state.report(
            Progress(
                phase,
                done,
                total,
                running=1,
                workers=1,
                slots=1,
                busy=1,
                bytes=self._mapped_bytes,
                items=self._item_count - self._skipped_count,
                retries=self._figures["retries"],
                spilled_bytes=self._store.spilled_bytes,
                skipped=self._state.set_aside.count,
            )
        )
        self._state.check_cancelled()

    def _note_stats(self, seconds: float) -> None:
        """Note the figures of the job. The memory of this process says nothing: much else is in it."""
        figures = dict(self._figures)
        cpu_seconds = figures.pop("cpu_ns") / _NS
        if self._is_mapped:
            figures["shuffled_bytes"] = self.shuffle_bytes
        else:
            del figures["keys"]  # no task has reduced one
        self._state.stats = {
            "records": self._record_count,
            "seconds": seconds,
            "items": self._item_count - self._skipped_count,
            "spilled_bytes": self._store.spilled_bytes,
            "slot_seconds": seconds,
            "cpu_seconds": cpu_seconds,
            **figures,
        }

    def _set_up(self) -> None:
        """Call setupfn before the first item, as executors do.

        Raises JobError if it fails, without another try.
        """
        setupfn, self._setupfn = self._setupfn, None
        if setupfn is None:
            return
        try:
            with refusing("setupfn", NOT_IN_SETUP):
                setupfn()
        except BaseException as error:
            failure = blame_exception(error, "setupfn")
            failure.__cause__ = error
            self._pass_signal(failure)
            raise ended_by(failure, JobError) from error

    # The map phase.

    def _map_batch(self, number: int, batch: EncodedBatch) -> None:
        pieces = [MapPiece(0, batch.items, ALL, 0)]
        while pieces:
            piece = pieces.pop()
            attempt, skip, named = 0, set[int](), Counter[int]()
            unnamed = piece.failures
            while True:
                self._store.discard(attempt)
                self._attempts += 1
                attempt = self._attempts
                skipping = Skipping(
                    self._job.options.retries,
                    self._job.options.max_skipped,
                    passes=self._signals.is_of_signal,
                )
                entries = piece.hi - piece.lo
                task = self._begin_task("map", number, attempt, batch=number, entries=entries)
                try:
                    stats = self._try_map(
                        attempt, batch, piece, skip, skipping, None if task is None else task.clock
                    )
                except ContentNeeded:  # a file changed after the driver had looked at it
                    batch = self.feeder.content_of(number)
                except TaskFailure as failure:
                    self._pass_signal(failure)
                    if task is not None:
                        task.failed(failure)
                    note_item(failure, number, batch, piece)
                    if failure.skipped:
                        raise self._too_many(failure) from None
                    if failure.item is not None:
                        named[failure.item] += 1
                        if failure.is_spent or named[failure.item] > self._job.options.retries:
                            self._skip(number, failure)
                            skip.add(failure.item)
                        else:
                            self._figures["retries"] += 1
                        continue
                    unnamed += 1
                    if unnamed > self._job.options.retries:
                        self._store.discard(attempt)
                        pieces += reversed(self._halves(piece, failure, batch.has_refs))
                        self._figures["retries"] += 1
                        break
                    self._figures["retries"] += 1
                else:
                    output = self._store.commit_map(attempt, number, piece.lo, piece.part)
                    rows = b"".join(self._store.read_output(output, self._partitions))
                    added = self._state.set_aside.add_rows(number, WORKER, rows)
                    for _ in self._state.note_skipped(added, number, WORKER):
                        pass
                    if task is not None:
                        task.done(stats, skipping.count)
                    self._item_count += stats.items
                    self._state.signals.counters.add(stats.counters)
                    self._figures["mapped_records"] += stats.records
                    self._figures["retries"] += skipping.retried
                    self._count_skipped(skipping)
                    break

    def _try_map(
        self,
        attempt: int,
        batch: EncodedBatch,
        piece: MapPiece,
        skip: Collection[int],
        skipping: Skipping,
        clock: ItemClock | None,
    ) -> TaskStats:
        began_ns = process_time_ns()
        try:
            return run_map(
                self._functions,
                read_batch(batch.data)[piece.lo : piece.hi],
                partitions=self._partitions,
                memory_bytes=self._record_bytes,
                emit=lambda flush: self._keep(attempt, flush),
                mark=_mark_nothing,
                first_index=piece.lo,
                skip=skip,
                part=piece.part,
                skipping=skipping,
                decode=lambda: read_batch(batch.data)[piece.lo : piece.hi],
                plain=self._plain,
                unwanted=self._state.delivered,
                calls=self._calls,
                clock=clock,
            )
        finally:  # a signal may end the only task
            self._figures["cpu_ns"] += process_time_ns() - began_ns

    def _keep(self, attempt: int, flush: bytes) -> None:
        for start in range(0, len(flush), BLOCK_BYTES):
            if not self._store.stage(attempt, flush[start : start + BLOCK_BYTES]):
                self._store.write_pending()

    def _halves(self, piece: MapPiece, failure: TaskFailure, has_refs: bool) -> list[MapPiece]:
        """Halve a piece that failed without naming an item.

        Raises JobError if it cannot be cut, or nothing may be set aside.
        """
        if self._job.options.max_skipped and failure.is_divisible:
            retries = self._job.options.retries  # they are used up: from now on each failure counts
            middle = (piece.lo + piece.hi) // 2
            if middle > piece.lo:
                return [MapPiece(piece.lo, middle, ALL, retries), MapPiece(middle, piece.hi, ALL, retries)]
            if has_refs and piece.part[1] < MAX_DEPTH:
                return [MapPiece(piece.lo, piece.hi, half, retries) for half in halves_of(piece.part)]
        raise ended_by(failure, JobError)

    def _skip(self, batch: int, failure: TaskFailure) -> None:
        """Set an item aside, or end the job if none may be."""
        if not self._job.options.max_skipped:
            raise ended_by(failure, JobError)
        self._skipped_count += 1
        self._item_count += 1
        assert failure.item is not None
        item = None
        if self.feeder.reads_again_quickly:
            for _, (key, value) in self.feeder.read_again([(batch, failure.item)]):
                item = key, encode_value(value, MAX_VALUE_BYTES)
        self._state.set_aside.add_item(batch, failure.item, failure.failure, item)
        self._state.note_skipped(iter([failure.failure]), batch, WORKER)
        self._note_skipped(failure)

    def _count_skipped(self, skipping: Skipping) -> None:
        """Count the items that a task has set aside by itself."""
        for failure in skipping.first_failures:
            self._skipped_count += 1
            self._note_skipped(TaskFailure(failure))
        self._skipped_count += skipping.count - len(skipping.first_failures)

    def _note_skipped(self, failure: TaskFailure) -> None:
        self._last_skipped = failure
        if self._skipped_count <= MAX_NAMED:
            self._state.notice(name_skipped(None, failure.failure))
        allowed = self._job.options.max_skipped
        if isinstance(allowed, int) and self._skipped_count > allowed:
            raise self._too_many(failure)

    def _too_many(self, failure: TaskFailure) -> JobError:
        """Return the error that ends the job: this failure is one more than allowed."""
        known = max(self._item_count, self._skipped_count)
        failure.failure = advise_on_skips(failure.failure, known, self._job.options.max_skipped)
        return ended_by(failure, TooManySkippedError)

    def _check_skipped(self) -> None:
        """End the job if too many items were set aside, now that all are counted."""
        allowed = self._job.options.max_skipped
        limit = allowed if isinstance(allowed, int) else allowed * self._item_count
        if self._skipped_count > limit:
            assert self._last_skipped is not None
            raise self._too_many(self._last_skipped)

    # The reduce phase.

    def _reduce_partition(self, partition: int, n_bytes: int) -> Iterator[tuple[Any, Any]]:
        flushes = self._with_retries(lambda: self._try_reduce(partition, n_bytes))
        for flush in flushes:
            for record in decode_flushes(flush, self._plain):
                self._record_count += 1
                yield record

    def _try_reduce(self, partition: int, n_bytes: int) -> list[bytes]:
        flushes: list[bytes] = []
        self._attempts += 1
        task = self._begin_task("reduce", partition, self._attempts, bytes_in=n_bytes, partitions=1)
        began_ns = process_time_ns()
        stats = run_reduce(
            self._functions,
            [(partition, n_bytes, whole_segments(self._store.read_partition(partition)))],
            partitions=self._partitions,
            memory_bytes=self._record_bytes,
            emit=flushes.append,
            mark=_mark_nothing,
            plain=self._plain,
            clock=None if task is None else task.clock,
        )
        self._state.signals.counters.add(stats.counters)
        self._figures["keys"] += stats.groups
        self._figures["cpu_ns"] += process_time_ns() - began_ns
        if task is not None:
            task.done(stats)
        return flushes

    def _with_retries(self, action: Callable[[], list[bytes]]) -> list[bytes]:
        for tries_left in range(self._job.options.retries, -1, -1):
            try:
                return action()
            except TaskFailure as failure:
                self._pass_signal(failure)
                self._figures["retries"] += tries_left > 0
                last = failure
        if self._job.options.max_skipped:
            last.failure = advise_on_reduce(last.failure)
        raise ended_by(last, JobError)

    def _pass_signal(self, failure: TaskFailure) -> None:
        """Raise again what a signal raised under a function: it is no failure of the function."""
        cause = failure.__cause__
        if cause is not None and self._signals.is_of_signal(cause):
            raise cause


def _mark_nothing(index: int, key: Any) -> None:
    pass
