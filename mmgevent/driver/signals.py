"""What a job tells its program while it runs: what its functions counted and printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmgevent.driver.log.prints import JobLogs
from mmgevent.errors import ProtocolError
from mmgevent.tasks.counters import Totals, check_names, sum_counts
from mmgevent.wire.shapes import COUNTERS


class JobSignals:
    """What the functions of one job say."""

    def __init__(self) -> None:
        #: what they counted
        self.counters = JobCounters()
        #: what they printed and logged
        self.logs = JobLogs()


class JobCounters:
    """The counts of one job.

    Our server adds up the counts of map tasks. If it is lost, they are done again. Those of reduce
    tasks come with the results, and are not: what was delivered is not reduced again.
    """

    def __init__(self) -> None:
        self._server: dict[str, int] = {}
        self._totals = Totals()
        self._stages: list[JobCounters] = []

    def include(self, stage: JobCounters) -> None:
        """Count what a stage of the job counts."""
        self._stages.append(stage)

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of a task. Raises JobError if the job has too many counters."""
        if counts:
            self._totals.add(counts)
            check_names(self.counts())

    def take_server(self, counts: dict[str, int] | None) -> None:
        """Take the sums of a server in the place of those before.

        None changes nothing. Raises JobError if there are too many.
        """
        if counts is not None:
            self._server = counts
            check_names(self.counts())

    def take_figures(self, stats: dict[str, Any]) -> None:
        """Take the sums out of the server's figures of a job that is done."""
        counts = stats.pop("counters", {})
        if not COUNTERS.fits(counts):
            raise ProtocolError("the counters of a job that is done are no counts by name")
        self.take_server(counts)

    def counts(self) -> dict[str, int]:
        """Return all counts so far, sorted by name."""
        return sum_counts(self._server, self._totals.counts(), *(each.counts() for each in self._stages))
