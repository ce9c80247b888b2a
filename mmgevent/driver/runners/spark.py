"""Run jobs on Spark, classic or Connect: `connect("spark://HOST:7077")`, `connect(spark)`.

| WHERE | |
|---|---|
| `spark://HOST:7077` | a standing Spark master |
| `spark-local:N` | Spark on this machine, N tasks at a time |
| `sc://HOST[:15002]` | a Spark Connect server |
| a `SparkSession` | any of these and YARN or Kubernetes, as the caller made it; it stays open |
"""

from __future__ import annotations

from typing import Any

from mmgevent.driver.base_cluster import OnNotice, OnProgress
from mmgevent.driver.runners.elsewhere import ForeignCluster
from mmgevent.driver.runners.runner import Runner
from mmgevent.driver.runners.spark_errors import ENGINE
from mmgevent.driver.runners.spark_runner import SparkRunner
from mmgevent.driver.runners.spark_sessions import OpenSession, start_session, use_session
from mmgevent.job.job import Job


def open_spark(where: Any) -> SparkCluster:
    """Return a cluster on Spark: a WHERE, whose session is ours, or a SparkSession.

    Raises UsageError if pyspark, pyarrow or Java is missing here, ConnectError if nobody answers.
    """
    return SparkCluster(start_session(where) if isinstance(where, str) else use_session(where))


class SparkCluster(ForeignCluster):
    """A cluster on a Spark session."""

    def __init__(self, opened: OpenSession):
        super().__init__(ENGINE, opened.close)
        self._opened = opened

    def _make_runner(
        self, job: Job[Any, Any], on_progress: OnProgress | None, on_notice: OnNotice | None
    ) -> Runner:
        return SparkRunner(job, self._opened, on_progress, on_notice)
