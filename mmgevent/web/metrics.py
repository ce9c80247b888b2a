"""The state of a server for Prometheus, by its own client library, which is the extra `metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmgevent.web.board import Board

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Most jobs that have series of their own. There are totals for all.
MAX_JOBS = 1000

_PHASE_NUMBERS = ("done", "waiting", "running", "skipped", "spilled_bytes")


class MissingClient(Exception):
    """The client library is not installed."""


def render(board: Board) -> bytes:
    """Return the text that Prometheus scrapes. Raises MissingClient."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError:
        raise MissingClient("metrics need prometheus-client: pip install 'mmgevent[metrics]'") from None
    registry = CollectorRegistry()
    registry.register(_Collector(board))
    text: bytes = generate_latest(registry)
    return text


class _Collector:
    """Makes the series from the rows of a board, at each scrape."""

    def __init__(self, board: Board):
        self._board = board

    def describe(self) -> list[Any]:
        """Return no series: their names need not be checked against others."""
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        board = self._board
        yield _gauge("mmgevent_up", "Whether the server answers.", int(board.is_connected))
        if not board.is_connected:
            return
        workers, jobs = board.rows("workers"), board.rows("jobs")
        yield _gauge("mmgevent_workers", "Workers that are connected.", len(workers))
        yield _gauge("mmgevent_slots", "Slots of all workers.", sum(row["slots"] for row in workers))
        yield _gauge(
            "mmgevent_slots_busy", "Slots that run something.", sum(row.get("busy", 0) for row in workers)
        )
        yield _gauge("mmgevent_deaths", "Executors that died under the workers.",
                     sum(row.get("deaths", 0) for row in workers))  # fmt: skip
        yield _gauge("mmgevent_jobs", "Jobs that are not over.", len(jobs))
        for name in ("segment_bytes", "batch_bytes"):
            yield _gauge(f"mmgevent_{name}", f"Memory of the server: {name.replace('_', ' ')}.",
                         board.server.get(name, 0))  # fmt: skip
        labels = ("id", "name", "user", "phase")
        for number in (*_PHASE_NUMBERS, "total"):
            family = GaugeMetricFamily(
                f"mmgevent_job_{number}", f"Of a job: {number.replace('_', ' ')}.", labels=labels
            )
            for row in jobs[:MAX_JOBS]:
                if number in row:
                    family.add_metric([str(row.get(label, "")) for label in labels], row[number])
            yield family


def _gauge(name: str, help: str, value: float) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, help, value=value)
