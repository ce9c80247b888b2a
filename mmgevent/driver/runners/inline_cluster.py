"""A cluster that runs every job in this process: what `connect("inline")` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmgevent.driver.base_cluster import OnNotice, OnProgress
from mmgevent.driver.runners.elsewhere import ForeignCluster

if TYPE_CHECKING:
    from mmgevent.driver.runners.runner import Runner
    from mmgevent.job.job import Job


class InlineCluster(ForeignCluster):
    """Runs jobs in this process: `run` in the calling thread, `submit` in one of its own."""

    def __init__(self) -> None:
        super().__init__("inline")

    def _make_runner(
        self, job: Job[Any, Any], on_progress: OnProgress | None, on_notice: OnNotice | None
    ) -> Runner:
        from mmgevent.driver.runners.inline import InlineRunner

        return InlineRunner(job, on_progress, on_notice)
