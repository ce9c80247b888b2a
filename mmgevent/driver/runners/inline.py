"""Run a whole job in this process and thread, for debuggers and as the oracle of the tests.

The functions are called as they are, so breakpoints work.  Items, records and results pass through
the same encoding, tasks and store as on a cluster.  So what works here works there, and tests
compare the results of both. One task runs at a time: each batch is one map task, each partition one
reduce task.  `task_timeout`, `setup_timeout`, `greenlets` and `retransmit` have no effect here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from mmgevent.driver.failures.set_aside import Found, Place
from mmgevent.driver.job_state import JobState
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.results import results_of
from mmgevent.driver.runners.inline_run import InlineRun
from mmgevent.driver.runners.runner import Record, Runner
from mmgevent.errors import UsageError
from mmgevent.job.arguments import items_showing, list_to_show
from mmgevent.job.job import Job
from mmgevent.machine.logs import get_log

if TYPE_CHECKING:
    from mmgevent.driver.log.file import LogFile
    from mmgevent.driver.log.job_log import JobLog
    from mmgevent.job.outputs.sinks import Sink

log = get_log(__name__)


def run_inline(
    job: Job[Any, Any],
    sink: Sink | None = None,
    *,
    watch: Callable[[JobState], None] | None = None,
    job_log: str | os.PathLike[str] | LogFile | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Check a job and return an iterator that runs it and yields its results, after finishfn.

    `sink`: what they are written to one by one; it learns where partitions end. `watch`: called with
    what is known of the job, before it runs. `job_log` is as in `BaseCluster.submit`.

    A UsageError of the job is raised at once.  The iterator raises JobError and TooManySkippedError
    as a cluster does, with the user's exception as `__cause__`, and DatasourceError.
    KeyboardInterrupt passes unchanged.
    """
    if job_log is None:
        runner = _make_runner(job, sink, watch)
        return _finished(runner)
    from mmgevent.driver.log.kept import opened_log, start_log

    with opened_log(job_log) as out:
        runner = _make_runner(job, sink, watch)
    return _logged(start_log(out, runner, "inline"), runner)


def _make_runner(job: Job[Any, Any], sink: Sink | None, watch: Callable[[JobState], None] | None) -> Runner:
    runner: Runner
    if job.previous is None:
        runner = InlineRunner(job, on_notice=_warn)
    else:
        from mmgevent.driver.runners.chained import ChainRunner

        runner = ChainRunner(job, InlineRunner, on_notice=_warn)
    if sink is not None:
        if sink.made is not None:
            runner.leave_out(sink.made)
        if job.finish_form != "iterator":
            runner.state.on_partitions = sink.note_partitions
    runner.check()
    if watch is not None:
        watch(runner.state)
    return runner


def _logged(job_log: JobLog, runner: Runner) -> Iterator[tuple[Any, Any]]:
    from mmgevent.driver.log.kept import ending

    with ending(job_log, runner.state):
        yield from _finished(runner)


def _finished(runner: Runner) -> Iterator[tuple[Any, Any]]:
    return results_of(runner, runner.records())


def _warn(text: str) -> None:
    log.warning("%s", text)


class InlineRunner(Runner):
    """One job in this process, in the thread that reads its records."""

    def __init__(
        self,
        job: Job[Any, Any],
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """Claim the datasource."""
        super().__init__(job, on_progress, on_notice)
        self._run: InlineRun | None = None

    def check(self) -> None:
        """Raise UsageError for a job with functions that nodes offer."""
        functions = self.job.functions()
        if functions.offered_names:
            name = min(functions.offered_names)
            raise UsageError(
                f"the function {name!r} is given by name and offered by nodes, of which an inline run has none; "
                f"pass the function itself"
            )
        self._run = InlineRun(self.job, functions, self.state, self.plain)

    def run(self) -> Generator[tuple[Any, Any], None, None]:
        """Run the job here. Cancelling takes effect between two tasks."""
        assert self._run is not None
        yield from items_showing(list_to_show(self.job.argv), self._run.records())

    def cancel(self) -> None:
        """Make `records` raise JobCancelled behind the task that runs now."""
        super().cancel()
        if self._run is not None:
            self._run.feeder.stop()

    def close(self) -> None:
        """Release what belongs to the job. Idempotent."""
        if self._run is not None:
            self._run.close()

    @property
    def shuffle_bytes(self) -> int:
        """Return the bytes of all records between map and reduce."""
        return 0 if self._run is None else self._run.shuffle_bytes

    def find_item(self, batch: int, position: int) -> Record | None:
        """Return an item of the datasource if it can be read again at once, or None."""
        assert self._run is not None
        return self._run.feeder.find_item(batch, position)

    def read_again(self, places: list[Place]) -> Found:
        """Read items of the datasource again."""
        assert self._run is not None
        return self._run.feeder.read_again(places)
