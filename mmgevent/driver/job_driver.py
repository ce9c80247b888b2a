"""One job in its driver: pack it, submit it, resubmit it if its server or engine is lost.

`JobDriver.records` is a generator that does the work of the whole job in the thread that reads it.
When the engine, or the server behind it, ends before the job does, the job is submitted again.  The
driver sends the new server the partitions that were given out, so they are not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mmgevent.driver.engine_link import EngineProcess
from mmgevent.driver.feeding import Feeder
from mmgevent.driver.job_state import JobState, Progress
from mmgevent.driver.submission import EngineLost, PackedJob, Submission
from mmgevent.engine.start import start_error
from mmgevent.errors import (
    ConnectError,
    EngineError,
    JobCancelled,
    JobError,
    StartError,
    TooLargeError,
    UsageError,
)
from mmgevent.job.job import Job
from mmgevent.job.shipping.pack import pack_functions
from mmgevent.job.shipping.surroundings import read_surroundings
from mmgevent.job.shipping.trial import Trial
from mmgevent.machine import environment, interpreter
from mmgevent.wire.limits import MAX_CONTEXT_BYTES, MAX_OPTIONS_BYTES

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

#: Times a job is submitted again before it is given up.
MAX_RESUBMITS = 5
#: Time for an engine to start, and for a node's engine to find a server, seconds.
START_S = 120.0
#: Time after which a wait for the engine or a server is shown to the user, seconds.
SILENCE_S = 2.0
#: Time between two looks at whether the job was cancelled, seconds.  A user does not notice it.
LOOK_S = 0.25


class JobDriver:
    """The driver's side of one job.

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
        job.check()
        self.job = job
        plain = _find_rules(job)
        self.state = JobState(job.name, job.options.partitions, on_progress, on_notice, plain)
        left: list[str] = []
        # What is too large to be sent fails when the job runs: other jobs of the program go on.
        self._packed: PackedJob | TooLargeError
        try:
            self._packed = _pack(job, left.append, plain, is_local=is_local, stays_here=stays_here)
        except TooLargeError as error:
            self._packed = error
        self._feeder = Feeder(job, on_notice=self.state.notice)
        self._submission: Submission | None = None  # the last one
        self._get_engine = get_engine
        self._next_number = next_number
        self._max_resubmits = MAX_RESUBMITS if max_resubmits is None else max_resubmits
        for text in left:
            self.state.notice(text)
        # Started last: from here on the owner of this object ends it, by `records` or `abandon`.
        self._check: Trial | None = None
        if isinstance(self._packed, PackedJob):
            try:
                self._check = Trial(self._packed.code)
            except OSError as error:
                raise start_error("the process that tries to load the job's code", error) from error

    def records(self) -> Generator[tuple[Any, Any], None, None]:
        """Run the job and yield its records, before finishfn.

        Raises JobError, JobCancelled, ConnectError, EngineError, and errors of code or datasource.
        """
        try:
            yield from self._run()
            self.state.end_progress("done")
            self.state.notice_skipped_count()
        except (JobCancelled, GeneratorExit):
            self.state.end_progress("cancelled")
            raise
        except BaseException:
            self.state.end_progress("failed")
            raise
        finally:
            self.abandon()

    def _run(self) -> Iterator[tuple[Any, Any]]:
        """Submit the job until it has ended somewhere."""
        if isinstance(self._packed, TooLargeError):
            raise self._packed
        lost: str | None = None
        for _ in range(1 + self._max_resubmits):
            if lost is not None:
                self.state.notice(f"{lost}; the job is resubmitted")
                self._feeder.restart()
                self.state.restart()
            engine = self._get_engine(lost)
            try:
                self._wait_ready(engine)
            except EngineError as error:
                is_final = lost is None or isinstance(error, StartError) or not engine.has_ended
                if is_final and not engine.was_killed:
                    raise
                lost = str(error)  # it ended as the one before it did, or was killed
                continue
            self.state.check_cancelled()
            self._submission = Submission(self.state, self._packed, self._feeder, engine)
            try:
                with closing(self._submission) as submission:
                    submission.open(self._next_number)
                    self._wait_for_check()  # meanwhile the code is sent; items are not
                    yield from submission.records()
                return
            except EngineLost as error:
                lost = str(error)
        raise JobError(f"given up: {lost}, {self._max_resubmits + 1} times", {"kind": "lost"})

    def abandon(self) -> None:
        """Release what belongs to a job that is over or never ran; idempotent."""
        self._feeder.close()
        if self._check is not None:
            self._check.cancel()

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon; idempotent.

        If its thread waits in the user's code, that has to return first, see `leave_behind`.
        """
        self.state.cancel()
        self._feeder.stop()

    def leave_behind(self) -> None:
        """End a job that was cancelled or has failed while its thread waits in the user's code.

        Called from another thread.
        """
        self.state.drop_callbacks()
        submission = self._submission
        if submission is not None:
            submission.leave()
        self.state.end_progress("cancelled" if self.state.is_cancelled else "failed")

    def skipped_items(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) of the items that were set aside so far."""
        return self.state.set_aside.items(self._feeder.read_again)

    def _wait_for_check(self) -> None:
        """Wait until the code has loaded in a process of its own.

        Raises ShippingError if it did not load, and JobCancelled.
        """
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


def _find_rules(job: Job[Any, Any]) -> PlainRules | None:
    if job.options.results != "plain":  # most jobs: they need not import this
        return None
    from mmgevent.tasks.plain_rules import find_rules

    return find_rules(job)


def _pack(
    job: Job[Any, Any],
    on_left: Callable[[str], None],
    plain: PlainRules | None,
    *,
    is_local: bool,
    stays_here: bool,
) -> PackedJob:
    """Return what servers and executors need of a job. `on_left` is called for what stays behind.

    Raises ShippingError and other UsageErrors, and TooLargeError if the code cannot be sent.
    """
    functions = job.functions()
    code = pack_functions(
        functions,
        by_value=job.by_value,
        py_files=job.options.py_files,
        argv=job.argv,
        stays_here=stays_here,
        on_left=on_left,
    )
    options = {**job.options.to_wire(), "needs": sorted(functions.offered_names)}
    if functions.setupfn is None:
        del options["setup_timeout"]
    if flags := interpreter.own_flags():
        options["flags"] = flags
    if (offered := functions.describe_offered()) is not None:
        options["offered"] = offered
    if plain is not None:
        options["plain"] = plain.to_wire()
    _check_options(options)
    # One call of an iterator-form reducefn gives results that belong together, whatever their
    # partitions.  The form of an offered reducefn is not known here.
    takes_whole_tasks = functions.reduce_form == "iterator" or isinstance(functions.reducefn, str)
    return PackedJob(job.name, options, code, _make_context() if is_local else b"", takes_whole_tasks, plain)


def _check_options(options: dict[str, Any]) -> None:
    """Raise TooLargeError, naming the largest part, for options that do not fit one message."""
    sizes = {name: len(json.dumps(value)) for name, value in options.items()}
    if sum(sizes.values()) <= MAX_OPTIONS_BYTES:
        return
    largest = max(sizes, key=sizes.__getitem__)
    what = _PARTS_OF_OPTIONS.get(largest, f"option {largest}")
    raise TooLargeError(
        f"the options of the job have {sum(sizes.values()):,} bytes, at most {MAX_OPTIONS_BYTES:,} can be sent; the "
        f"largest part is {what} with {sizes[largest]:,}: make it shorter"
    )


#: {part of what is sent as options: what the user calls it}
_PARTS_OF_OPTIONS = {
    "needs": "the name of an offered function",
    "offered": "the name of an offered function",
    "flags": "the command line of the interpreter (-X, -W)",
}


def _make_context() -> bytes:
    """Return the surroundings of this process as JSON.

    Raises UsageError if they are too large, which names the large parts.
    """
    surroundings = read_surroundings()
    fault = environment.find_fault(surroundings["environ"])
    if fault is not None:
        raise UsageError(f"executors cannot be given the environment of this process: {fault}")
    context = json.dumps(surroundings).encode("ascii")
    if len(context) > MAX_CONTEXT_BYTES:
        sizes = {name: len(json.dumps(part)) for name, part in surroundings.items()}
        largest = max(sizes, key=sizes.__getitem__)
        raise UsageError(
            f"executors cannot be given the surroundings of this process: as JSON they have {len(context):,} bytes, at "
            f"most {MAX_CONTEXT_BYTES:,} can be sent; the largest part is {largest} with {sizes[largest]:,}"
        )
    return context
