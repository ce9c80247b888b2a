"""The seam: what runs one job somewhere.

`inline`, our own engine and every other engine are runners.  A `JobHandle` reads the records of
one in a thread of its own.  It learns the rest (progress, deaths, items set aside, the server's
figures) from the runner's `JobState`, so all of that is the same wherever the job runs.

Who adds an engine writes two things, and most engines need neither, since `futures` has both:

- a `Runner`, made for each job by the engine's cluster (see `driver.base_cluster`);
- an entry point of the group `mmgevent.runners` (see `driver.runners.engines`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING, Any

from mmgevent.driver.failures.set_aside import Found, Place
from mmgevent.driver.job_state import JobState
from mmgevent.driver.progress.progress import Progress
from mmgevent.errors import JobCancelled, JobError
from mmgevent.job.job import Job

if TYPE_CHECKING:
    from mmgevent.driver.failures.bundles import FailedJob
    from mmgevent.driver.failures.error_groups import ErrorGroup
    from mmgevent.driver.log.job_log import JobLog
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.job.outputs.record import Made
    from mmgevent.tasks.plain_rules import PlainRules

#: Time between two looks at whether the job was cancelled, seconds.  A user does not notice it.
LOOK_S = 0.25

Record = tuple[Any, Any]


class Runner(ABC):
    """Runs one job.

    The order of calls: `check`, then `records` in one thread, then `close`.  `cancel`, `give_up`
    and `close` may be called from any thread, at any time, also twice.

    A runner writes what it learns into `state`: `report`, `notice`, `add_death`, `set_aside` with
    `notice_skipped`, `stats`.  It looks at `state.is_cancelled` (or calls `check_cancelled`) every
    LOOK_S while it waits, and calls `state.before_wait()` before it waits, so that readers get the
    records that were yielded so far.

    It calls `state.end_partitions` behind the last record of partitions, if it knows where that is,
    and makes none of `state.delivered`.
    """

    def __init__(
        self,
        job: Job[Any, Any],
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """Raises UsageError if something is wrong with the job."""
        job.check()
        self.job = job
        #: the rules for what executors send, if that must be plain data
        self.plain = _find_rules(job)
        #: until when the job's thread may need time to keep a bundle of its failure
        self.keeps_until_s = 0.0
        #: what an earlier run has made, and this one leaves out; None if it makes everything
        self.made: Made | None = None
        #: where executors write parts of the results; None if the driver writes them
        self.parts_plan: PartsPlan | None = None
        #: what is known of the job; also written by the thread that cancels
        self.state = JobState(job.name, job.options.partitions, on_progress, on_notice, self.plain)

    def check(self) -> None:
        """Raise what prevents the job from running here, before anything of it runs.

        One sentence each: the engine is missing, versions differ, mmgevent is not installed there,
        the job needs something that this engine does not have.  The default is that nothing does.
        """
        return

    def wait_for_check(self) -> None:
        """Wait until a process has tried to load the job's code, if one does. Idempotent.

        Raises ShippingError if it did not load, and JobCancelled.
        """
        return

    def leave_out(self, made: Made) -> None:
        """Leave out the partitions that an earlier run of the job has made; called before `check`.

        A runner that cannot raises UsageError.
        """
        self.made = made
        self.state.partitions = made.of
        self.state.delivered = set(made.partitions)

    def write_parts(self, plan: PartsPlan) -> None:
        """Let executors write parts of the results; called before `check`.

        A receipt (see `job.outputs.receipts`) then stands in the place of the records of a task. The
        default is that the driver writes.
        """
        return

    def keep_log(self, log: JobLog) -> None:
        """Note what happens in the log of the job; called before `records`."""
        self.state.job_log = log

    def records(self) -> Generator[Record, None, None]:
        """Run the job and yield its records before finishfn, as partitions finish.

        Raises JobError, JobCancelled, and errors of the engine, of code or datasource.
        """
        try:
            with closing(self.run()) as records:
                yield from records
            self.state.end_progress("done")
            self.end_skipped()
        except (JobCancelled, GeneratorExit):
            self.state.end_progress("cancelled")
            raise
        except BaseException as error:
            self.state.end_progress("failed")
            self.keep_bundle(error)
            raise
        finally:
            self.state.signals.logs.deliver()
            self.close()

    @abstractmethod
    def run(self) -> Generator[Record, None, None]:
        """Do the work of `records`: a generator, whose end leaves nothing running anywhere."""

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon, and stop the user's code wherever it runs.

        Extend this.  If the job's thread waits in the user's code here, that has to return first,
        see `give_up`.
        """
        self.state.cancel()

    def give_up(self) -> None:
        """End a job that was cancelled or has failed while its thread waits in the user's code.

        Called from another thread.
        """
        self.state.drop_callbacks()
        self.leave()
        self.state.end_progress("cancelled" if self.state.is_cancelled else "failed")

    def leave(self) -> None:
        """End what runs of this job elsewhere, without its thread.  Extend this."""
        return

    @abstractmethod
    def close(self) -> None:
        """Release what belongs to a job that is over or never ran.  Idempotent."""

    def read_again(self, places: list[Place]) -> Found:
        """Read items of the datasource again, see `SetAside.items`. The default is: none can be."""
        return iter(())

    def find_item(self, batch: int, position: int) -> Record | None:
        """Return an item of the datasource if it can be read again at once, or None."""
        return None

    def pack_code(self) -> bytes:
        """Return the payload of the job's functions, for a bundle. Raises UsageError if they cannot travel."""
        from mmgevent.driver.packing import pack_code  # rarely needed

        return pack_code(self.job, stays_here=True)

    def as_failed(self) -> FailedJob:
        """Return what a bundle takes of this job."""
        from mmgevent.driver.failures.bundles import FailedJob  # rarely needed

        return FailedJob(self.job, self.state, self.plain, self.find_item, self.pack_code)

    def stage_of(self, error: JobError) -> Runner:
        """Return the runner of the stage that an error is about: this one, unless there are several."""
        return self

    def keep_bundle(self, error: BaseException) -> None:
        """Keep what runs a failed call again, if the job wants that, and let the error name it."""
        if isinstance(error, JobError):
            if self.job.options.bundles and error.bundle is None:
                from mmgevent.driver.failures.bundles import KEEP_S, keep_bundle  # rarely needed

                self.keeps_until_s = monotonic() + KEEP_S
                keep_bundle(self.stage_of(error).as_failed(), error)
                self.keeps_until_s = 0.0
            error.evidence = None  # it may be large

    def end_skipped(self) -> None:
        """Say which errors set items aside, and how many items that were."""
        state = self.state
        if state.set_aside.count and (self.job.options.bundles or not state.are_all_named):
            from mmgevent.driver.failures.bundles import describe_skipped  # rarely needed

            for text in describe_skipped(self.as_failed()):
                state.notice(text)
        state.notice_skipped_count()

    def errors(self) -> list[ErrorGroup]:
        """Return the errors that have set items aside so far, see `driver.failures.error_groups`."""
        from mmgevent.driver.failures.error_groups import group_failures  # rarely needed

        return group_failures(self.state.set_aside.records())

    def skipped(self) -> list[dict[str, Any]]:
        """Return why items were set aside so far, see `SetAside.failures`."""
        return self.state.set_aside.failures()

    def skipped_items(self) -> Iterator[Record]:
        """Yield (key, value) of the items that were set aside so far."""
        return self.state.set_aside.items(self.read_again)


def _find_rules(job: Job[Any, Any]) -> PlainRules | None:
    if job.options.results != "plain":  # most jobs: they need not import this
        return None
    from mmgevent.tasks.plain_rules import find_rules

    return find_rules(job)
