"""What a job that runs inline writes into its log: its tasks, as servers report those of a cluster."""

from __future__ import annotations

import time
from typing import Any

from mmgevent.driver.job_state import JobEvents
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.item_clock import ItemClock
from mmgevent.tasks.map_task import TaskStats


class InlineTask:
    """One run of one task: made when it begins, told how it ended."""

    def __init__(self, log: JobEvents, phase: str, task: int, attempt: int, **about: Any):
        """`about`: further fields of `wire.task_ends`."""
        self._log = log
        self._row = {"phase": phase, "task": task, "attempt": attempt, **about}
        self._began_s = time.monotonic()
        self.clock = ItemClock()

    def done(self, stats: TaskStats, skipped: int = 0) -> None:
        """Note that it is done."""
        found = {name: rows for name, rows in self.clock.found().items() if rows}
        self._log.ran(
            self._began_s,
            **self._row,
            items=stats.items - skipped,
            skipped=skipped or None,
            records=stats.records,
            keys=stats.groups,
            bytes_out=stats.bytes,
            **found,
        )

    def failed(self, failure: TaskFailure) -> None:
        """Note that it failed."""
        known = {name: failure.failure.get(name) for name in ("function", "key", "kind", "error")}
        self._log.ran(self._began_s, **self._row, **known, outcome="failed", item=failure.item)
