"""What a handle tells of the functions of its job: what they counted."""

from __future__ import annotations

from mmgevent.driver.runners.runner import Runner


class Telling:
    """The part of a `JobHandle` that tells what the functions of the job say."""

    _runner: Runner

    def counters(self) -> dict[str, int]:
        """Return what the job's functions have counted so far, {name: count}; see `mmgevent.counter`.

        Each item that counts has counted once, and so has each reduce task.
        """
        return self._runner.counters()
