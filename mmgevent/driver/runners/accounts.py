"""The books of a job on another engine: what reports of its tasks say, and when it has failed.

Our own server keeps these books for jobs on our engine.  Whoever runs a job without it (futures, or
stages of a data frame) passes each report to `take_map` or `take_reduce`, and calls `end_map` in
between.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from mmgevent.box.reports import Report
from mmgevent.driver.input.batching import Speed
from mmgevent.driver.input.encoding import EncodedBatch
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.job_state import JobState
from mmgevent.errors import JobError, TooManySkippedError
from mmgevent.job.options import JobOptions
from mmgevent.tasks.blame import short_repr
from mmgevent.tasks.records import encode_value
from mmgevent.tasks.skipping import MAX_VALUE_BYTES
from mmgevent.wire.failures import advise_on_skips
from mmgevent.wire.positions import entry_of

#: Microseconds of a second.
US = 1_000_000
#: Ratio of the output of a job to its output so far that is taken for likely while its end is unknown.
UNKNOWN_GROWTH = 4


class Accounts:
    """Takes the reports of one job's tasks, in any order."""

    def __init__(self, state: JobState, options: JobOptions, feeder: Feeder):
        self._state = state
        self._max_skipped = options.max_skipped
        self._feeder = feeder
        self._last_failure: dict[str, Any] | None = None
        self._entries = 0  # mapped
        self._known_entries = 0
        self._has_refs = False
        self._seconds = 0.0
        self._records = 0
        self._mapped_records = 0
        self._keys = 0
        self._cpu_us = 0
        self._shuffled_bytes = 0
        self._result_tasks = 0
        self._is_mapped = False
        #: times that items or tasks were tried again after an exception
        self.retries = 0
        #: most memory of an executor so far, bytes
        self.peak_bytes = 0
        #: items mapped and set aside so far
        self.items = 0
        #: weight of the batches that were mapped
        self.mapped_bytes = 0

    @property
    def total(self) -> int | None:
        """The number of items of the job, or None while it is not known."""
        return self._known_entries if self._feeder.has_ended and not self._has_refs else None

    def speed(self, slots: int) -> Speed:
        """Return what is known of the speed of mapping, for the size of the next batch."""
        return Speed(self._entries, self.mapped_bytes, self._seconds, slots, self._shuffled_bytes)

    def expected_output_bytes(self) -> int:
        """Return how large the output of all map tasks will be, as far as is known."""
        if not self._entries:
            return 0
        if self.total is None:
            return self._shuffled_bytes * UNKNOWN_GROWTH
        return self._shuffled_bytes * self._known_entries // self._entries

    def add_batch(self, batch: EncodedBatch) -> None:
        """Count a batch that was read from the datasource."""
        self._known_entries += batch.items
        self._has_refs |= batch.has_refs

    def take_map(self, number: int, batch: EncodedBatch, report: Report) -> None:
        """Take the report of a map task that needs no content.

        Raises JobError, or TooManySkippedError, if the job has failed.
        """
        state = self._state
        if state.job_log is not None:
            state.job_log.report(report, "map", number, number, len(batch.data))
        self._take(report)
        if report.rows:
            failures = list(state.set_aside.add_rows(number, report.worker, report.rows))
            state.note_skipped(iter(failures), number, report.worker)
            self.items += len(failures)
            self._last_failure = failures[-1]
            for failure in islice(failures, state.unnamed_count):
                state.notice_skipped(failure["key"], failure)
        for position, failure in report.killers:
            self._set_aside(number, position, failure)
        self._entries += batch.items
        self.items += report.items
        state.signals.counters.add(dict(report.counters))
        self._mapped_records += report.records
        self._shuffled_bytes += report.shuffled_bytes
        self.mapped_bytes += batch.weight
        self._seconds += report.seconds
        if isinstance(self._max_skipped, int):
            self._check_limit(self._max_skipped)

    def take_repeated(self, report: Report) -> None:
        """Take the report of a map task that is done again from the beginning, with contents.

        What was said and which executors died in it is true, and is not told again.
        """
        if report.printed or report.printed_dropped:
            self._state.signals.logs.add(report.worker, report.printed, report.printed_dropped)
        for text, once in report.notices:
            self._state.notice_of_others(text, once)
        for death in report.deaths:
            self._state.add_death(death)

    def end_map(self) -> None:
        """Note that every batch was mapped. Raises TooManySkippedError."""
        limit = self._max_skipped
        self._check_limit(limit if isinstance(limit, int) else limit * self.items)
        self._is_mapped = True

    def take_reduce(self, report: Report, number: int) -> None:
        """Take the report of a reduce task. Raises JobError if the job has failed."""
        if self._state.job_log is not None:
            self._state.job_log.report(report, "reduce", number, None, None)
        self._take(report)
        self._state.signals.counters.add(dict(report.counters))
        self._records += report.records
        self._keys += report.keys
        self._result_tasks += 1

    def stats(self, seconds: float, slots: int) -> dict[str, Any]:
        """Return the figures of a job, as our server has them, on so many slots.

        What the engine writes to disks is not known.
        """
        known = {
            "results": self._result_tasks,
            "records": self._records,
            "seconds": seconds,
            "map_seconds": self._seconds,
            "items": self.items - self._state.set_aside.count,
            "mapped_records": self._mapped_records,
            "retries": self.retries,
            "slot_seconds": slots * seconds,
            "cpu_seconds": self._cpu_us / US,
        }
        if self._is_mapped:
            known |= {"keys": self._keys, "shuffled_bytes": self._shuffled_bytes}
        return {**known, "peak_bytes": self.peak_bytes} if self.peak_bytes else known

    def _take(self, report: Report) -> None:
        self.take_repeated(report)
        self.retries += report.retries
        self._cpu_us += report.cpu_us
        self.peak_bytes = max(self.peak_bytes, report.peak_bytes)
        if report.failure is None:
            return
        if report.is_over_limit:
            raise self._too_many(report.failure)
        raise JobError.from_failure(report.failure)

    def _set_aside(self, batch: int, position: int, failure: dict[str, Any]) -> None:
        """Note an item that killed the executors that mapped it, or made them fail unnamed."""
        item = None
        if self._feeder.reads_again_quickly:
            for _, (key, value) in self._feeder.read_again([(batch, position)]):
                item = key, encode_value(value, MAX_VALUE_BYTES)
                failure = {**failure, "key": short_repr(key)}  # the executor may not have known it
        self._state.set_aside.add_item(batch, position, failure, item)
        self._state.note_skipped(iter([failure]), batch, failure.get("worker"))
        self._state.notice_skipped(
            failure.get("key") or f"item {entry_of(position)} of batch {batch}", failure
        )
        self._last_failure = failure
        self.items += 1

    def _check_limit(self, limit: float) -> None:
        if self._state.set_aside.count > limit and self._last_failure is not None:
            raise self._too_many(self._last_failure)

    def _too_many(self, failure: dict[str, Any]) -> JobError:
        known = max(self.items, self._known_entries)
        return TooManySkippedError.from_failure(advise_on_skips(failure, known, self._max_skipped))
