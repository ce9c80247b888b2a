"""The driver's side of a chain on our own engine: results of a stage stay on the server.

Each stage is a job of its own there. All but the last keep their results (`submit` with `keep`),
and all but the first take those of the stage before (`source`). What was kept is lost with its
server or engine, so the whole chain is submitted again then. It fails if results were given out
already: the order of values is unspecified from the second stage on, so the same key need not be in
the same partition again, and results could come twice or never.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from mmgevent.driver.engine_link import EngineProcess
from mmgevent.driver.job_driver import JobDriver
from mmgevent.driver.runners.chained import ChainRunner
from mmgevent.driver.runners.runner import Record
from mmgevent.driver.submission import EngineLost
from mmgevent.errors import JobError
from mmgevent.wire.messages import control


class ChainDriver(ChainRunner):
    """One job of several stages on our own engine."""

    def _items_for(self, number: int) -> Any:
        """Return no items: the server has them."""
        return []

    def run(self) -> Generator[Record, None, None]:
        """Run the stages, all of them again when a server or engine is lost."""
        self.wait_for_check()
        try:
            yield from self._drivers()[0].resubmit(self._run_on, self._restart, self.state)
        finally:
            self.note_stats()

    def _drivers(self) -> list[JobDriver]:
        drivers = [runner for runner in self._runners if isinstance(runner, JobDriver)]
        assert len(drivers) == self._count
        return drivers

    def _run_on(self, engine: EngineProcess) -> Generator[Record, None, None]:
        drivers = self._drivers()
        kept: list[int] = []  # numbers of the jobs whose results the server may have
        try:
            for number, driver in enumerate(drivers, 1):
                self._begin(number)
                source = kept[-1] if kept else None
                keeps = number < self._count
                with (
                    self._naming(number),
                    closing(driver.run_on(engine, keeps=keeps, source=source)) as records,
                ):
                    yield from records
                kept.append(driver.number)  # first: the user's callback may raise
                driver.end_skipped()
        except EngineLost as error:
            if drivers[-1].state.delivered:
                raise JobError(
                    f"{error}; results of the last stage were given out already, and those of a second run "
                    "may be in other partitions: run the job again",
                    {"kind": "lost"},
                ) from error
            raise
        finally:
            for each in kept[: self._count - 1]:  # a server where it is over ignores this
                engine.send(control("cancel", each, reason="the stage is over"))

    def _restart(self) -> None:
        for driver in self._drivers():
            driver.restart()
