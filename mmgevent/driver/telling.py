"""What a handle tells of the functions of its job: what they counted and printed."""

from __future__ import annotations

from mmgevent.driver.log.prints import LogLine
from mmgevent.driver.runners.runner import Runner


class Telling:
    """The part of a `JobHandle` that tells what the functions of the job say."""

    _runner: Runner

    def counters(self) -> dict[str, int]:
        """Return what the job's functions have counted so far, {name: count}; see `mmgevent.counter`.

        Each item that counts has counted once, and so has each reduce task.
        """
        return self._runner.state.signals.counters.counts()

    def logs(self) -> list[LogLine]:
        """Return what the job's functions printed and logged: the last 1,000 lines.

        What an inline job prints is not among them: it goes where the program prints.
        """
        return self._runner.state.signals.logs.lines()
