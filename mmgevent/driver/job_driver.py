"""One job in its driver: pack it, submit it, resubmit it if its server or engine is lost.

`JobDriver.records` is a generator that does the work of the whole job in the thread that reads it.
When the engine, or the server behind it, ends before the job does, the job is submitted again.  The
driver sends the new server the partitions that were given out, so they are not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mmgevent.driver.engine_link import EngineProcess
from mmgevent.driver.failures.set_aside import Found, Place
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.job_state import JobState
from mmgevent.driver.packing import PackedJob, pack_job, with_parts
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.runners.runner import LOOK_S, Record, Runner
from mmgevent.driver.submission import EngineLost, Submission
from mmgevent.engine.start import start_error
from mmgevent.errors import (
    ConnectError,
    EngineError,
    JobError,
    StartError,
    TooLargeError,
)
from mmgevent.job.job import Job
from mmgevent.job.shipping.trial import Trial

if TYPE_CHECKING:
    from mmgevent.job.outputs.parts_plan import PartsPlan

#: Times a job is submitted again before it is given up.
MAX_RESUBMITS = 5
#: Time for an engine to start, and for a node's engine to find a server, seconds.
START_S = 120.0
#: Time after which a wait for the engine or a server is shown to the user, seconds.
SILENCE_S = 2.0


class JobDriver(Runner):
    """The runner of our own engine: the driver's side of one job.

    Its generator runs in one thread; `cancel` may be called from any.
    """

    def __init__(
        self,
        job: Job[Any, Any],
        get_engine: Callable[[str | None], EngineProcess],
        next_number: Callable[[], int],
        *,
        is_local: bool,
        stays_here: bool = False,
        max_resubmits: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """Pack the job's functions and claim its datasource.

        Raises UsageError if something is wrong with the job.

        `is_local`: the server and its first executors are processes of this one.
        `stays_here`: no worker of another machine can join.
        `get_engine(reason)` returns a live engine; `reason`: why the last one was lost, or None.
        """
        super().__init__(job, on_progress, on_notice)
        left: list[str] = []
        # What is too large to be sent fails when the job runs: other jobs of the program go on.
        self._packed: PackedJob | TooLargeError
        try:
            self._packed = pack_job(job, left.append, self.plain, is_local=is_local, stays_here=stays_here)
        except TooLargeError as error:
            self._packed = error
        self._feeder = Feeder(job, on_notice=self.state.notice)
        self.state.input_total = self._feeder.total
        self._submission: Submission | None = None  # the last one
        self._get_engine = get_engine
        self._next_number = next_number
        self._max_resubmits = MAX_RESUBMITS if max_resubmits is None else max_resubmits
        for text in left:
            self.state.notice(text)
        # Started last: from here on the owner of this object ends it, by `records` or `close`.
        self._check: Trial | None = None
        if isinstance(self._packed, PackedJob):
            try:
                self._check = Trial(self._packed.code)
            except OSError as error:
                raise start_error("the process that tries to load the job's code", error) from error

    def write_parts(self, plan: PartsPlan) -> None:
        """Let executors write parts of the results."""
        if isinstance(self._packed, PackedJob) and (packed := with_parts(self._packed, plan)) is not None:
            self._packed, self.parts_plan = packed, plan

    def run(self) -> Generator[tuple[Any, Any], None, None]:
        """Submit the job until it has ended somewhere.

        Raises JobError, JobCancelled, ConnectError, EngineError, and errors of code or datasource.
        """
        yield from self.resubmit(self.run_on, self.restart, self.state)

    def restart(self) -> None:
        """Begin anew, for a server that has seen nothing yet."""
        self._feeder.restart()
        self.state.restart()

    def resubmit(
        self,
        run_on: Callable[[EngineProcess], Generator[Record, None, None]],
        restart: Callable[[], None],
        state: JobState,
    ) -> Generator[Record, None, None]:
        """Yield the records of `run_on(engine)`; call `restart`, and it again, when an engine is lost.

        `state`: that of the whole job, which may have several stages.
        """
        lost: str | None = None
        for _ in range(1 + self._max_resubmits):
            if lost is not None:
                state.notice(f"{lost}; the job is resubmitted")
                if state.job_log is not None:
                    state.job_log.resubmitted(lost)
                restart()
            engine = self._get_engine(lost)
            try:
                self._wait_ready(engine)
            except EngineError as error:
                is_final = lost is None or isinstance(error, StartError) or not engine.has_ended
                if is_final and not engine.was_killed:
                    raise
                lost = str(error)  # it ended as the one before it did, or was killed
                continue
            state.check_cancelled()
            try:
                yield from run_on(engine)
                return
            except EngineLost as error:
                lost = str(error)
        raise JobError(f"given up: {lost}, {self._max_resubmits + 1} times", {"kind": "lost"})

    def run_on(
        self, engine: EngineProcess, *, keeps: bool = False, source: int | None = None
    ) -> Generator[Record, None, None]:
        """Run the job on an engine; yield its records.

        `keeps`: they stay on the server instead. `source`: number of the job that kept the input.

        Raises EngineLost, and the errors of `run`.
        """
        if isinstance(self._packed, TooLargeError):
            raise self._packed
        packed, state, feeder = self._packed, self.state, self._feeder
        if source is not None:
            state.input_total = None  # the server knows
        self._submission = Submission(
            state, packed, feeder, engine, keeps=keeps, source=source, plan=self.parts_plan
        )
        with closing(self._submission) as submission:
            submission.open(self._next_number)
            self.wait_for_check()  # meanwhile the code is sent; items are not
            yield from submission.records()

    @property
    def number(self) -> int:
        """Return the number that the job was submitted under last, 0 before."""
        return 0 if self._submission is None else self._submission.number

    def close(self) -> None:
        """Release what belongs to a job that is over or never ran; idempotent."""
        self._feeder.close()
        if self._check is not None:
            self._check.cancel()

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon; idempotent.

        If its thread waits in the user's code, that has to return first, see `give_up`.
        """
        super().cancel()
        self._feeder.stop()

    def leave(self) -> None:
        """Leave the engine."""
        submission = self._submission
        if submission is not None:
            submission.leave()

    def pack_code(self) -> bytes:
        """Return the payload that executors got."""
        return self._packed.code if isinstance(self._packed, PackedJob) else super().pack_code()

    def find_item(self, batch: int, position: int) -> Record | None:
        """Return an item of the datasource if it can be read again at once, or None."""
        return self._feeder.find_item(batch, position)

    def read_again(self, places: list[Place]) -> Found:
        """Read items of the datasource again."""
        return self._feeder.read_again(places)

    def wait_for_check(self) -> None:
        """Wait until the code has loaded in a process of its own.

        Raises ShippingError if it did not load, TooLargeError, and JobCancelled.
        """
        if isinstance(self._packed, TooLargeError):
            raise self._packed
        check = self._check
        if check is None:
            return
        while not check.is_over(LOOK_S):
            self.state.check_cancelled()
        self._check = None
        check.result()

    def _wait_ready(self, engine: EngineProcess) -> None:
        """Wait until the engine runs, or `cancel` is called.

        Raise what keeps the engine from starting.
        """
        self.state.before_wait()
        why = ""
        for look in range(round(START_S / LOOK_S)):
            try:
                engine.wait_ready(LOOK_S)
                return
            except TimeoutError as late:
                self.state.check_cancelled()
                if look * LOOK_S >= SILENCE_S and str(late) != why:
                    why = str(late)
                    self.state.notice(f"waits up to {START_S:g} s: {why}")
        error_class = ConnectError if engine.was_ready else EngineError
        raise error_class(f"the job could not be submitted for {START_S:g} s: {why}")
