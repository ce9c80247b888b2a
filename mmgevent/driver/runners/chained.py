"""Run a chain: one runner for each stage, one stage after another.

A stage begins when the one before it is done, so nothing of it runs if that fails. Its items are
the results of the one before, which a `StageResults` holds meanwhile. Errors, notices and progress
name the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmgevent.driver.input.total import InputTotal
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.runners.runner import Record, Runner
from mmgevent.driver.stage_results import StageResults
from mmgevent.errors import DatasourceError, JobCancelled, JobError, MmgeventError, UsageError
from mmgevent.job.job import Job
from mmgevent.wire.deaths import MAX_REMEMBERED

if TYPE_CHECKING:
    from mmgevent.driver.failures.error_groups import ErrorGroup
    from mmgevent.driver.log.job_log import JobLog
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.job.outputs.record import Made

#: Makes the runner of one stage.
MakeRunner = Callable[
    [Job[Any, Any], Callable[[Progress], None] | None, Callable[[str], None] | None], Runner
]

#: Figures of a job that add up over its stages.
_SUMS = (
    "seconds",
    "map_seconds",
    "spilled_bytes",
    "mapped_records",
    "retries",
    "shuffled_bytes",
    "slot_seconds",
    "cpu_seconds",
)
#: Figures of a job that say what went in: those of the first stage.
_FIRST = ("items", "input_bytes")


class ChainRunner(Runner):
    """One job of several stages."""

    def __init__(
        self,
        job: Job[Any, Any],
        make_runner: MakeRunner,
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """Make the runners of all stages, so that what is wrong with one is found before any runs.

        Raises UsageError.
        """
        super().__init__(job, on_progress, on_notice)
        stages = job.stages
        self._count = len(stages)
        self._results: list[StageResults] = []  # of each stage but the last
        self._runners: list[Runner] = []
        try:
            for number, stage in enumerate(stages, 1):
                with self._naming(number):
                    self._add_runner(number, stage, make_runner)
        except BaseException:
            self.close()
            raise

    def _add_runner(self, number: int, stage: Job[Any, Any], make_runner: MakeRunner) -> None:
        datasource = None if number == 1 else self._items_for(number)

        def pass_progress(progress: Progress) -> None:
            self._pass_progress(number, progress)

        def pass_notice(text: str) -> None:
            self.state.notice(f"stage {number} of {self._count}: {text}")

        runner = make_runner(stage.as_stage(number, self._count, datasource), pass_progress, pass_notice)
        self._runners.append(runner)
        runner.state.deaths = self.state.deaths
        runner.state.signals.logs = self.state.signals.logs
        self.state.signals.counters.include(runner.state.signals.counters)
        runner.state.before_wait = lambda: self.state.before_wait()
        runner.state.on_failure = lambda: self._pass_failure(number)

    def _items_for(self, number: int) -> Any:
        """Return the datasource of a stage behind the first."""
        self._results.append(StageResults())
        return self._results[-1]

    def check(self) -> None:
        """Raise what prevents a stage from running here."""
        for number, runner in enumerate(self._runners, 1):
            with self._naming(number):
                runner.check()

    def wait_for_check(self) -> None:
        """Wait until the code of every stage has loaded: nothing runs if that of one does not."""
        for number, runner in enumerate(self._runners, 1):
            with self._naming(number):
                runner.wait_for_check()

    def leave_out(self, made: Made) -> None:
        """Refuse: results of an earlier run say nothing of the stages before the last."""
        raise UsageError(
            f"job {self.job.name} has {self._count} stages, and such a job cannot continue an earlier run: begin anew"
        )

    def write_parts(self, plan: PartsPlan) -> None:
        """Let executors of the last stage write parts of the results."""
        self._runners[-1].write_parts(plan)
        self.parts_plan = self._runners[-1].parts_plan

    def keep_log(self, log: JobLog) -> None:
        """Note what happens in any stage in one log."""
        super().keep_log(log)
        for number, runner in enumerate(self._runners, 1):
            runner.keep_log(log.of_stage(number))

    def run(self) -> Generator[Record, None, None]:
        """Run the stages; yield the records of the last one. See `Runner.run`."""
        self.wait_for_check()
        try:
            for number, runner in enumerate(self._runners, 1):
                self._begin(number)
                if number > 1:
                    runner.state.input_total = InputTotal.of_results(self._results[number - 2].count)
                with self._naming(number), closing(runner.records()) as records:
                    if number == self._count:
                        yield from records
                    else:
                        self._results[number - 1].add_all(records)
                if number > 1:
                    self._results[number - 2].close()
        finally:
            self.note_stats()

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon, and stop the stage that runs."""
        super().cancel()
        for runner in self._runners:
            runner.cancel()

    def leave(self) -> None:
        """End what runs elsewhere, without the job's thread."""
        for runner in self._runners:
            runner.give_up()

    def close(self) -> None:
        """Release what belongs to the stages. Idempotent."""
        for runner in self._runners:
            runner.close()
        for results in self._results:
            results.close()

    def stage_of(self, error: JobError) -> Runner:
        """Return the runner of the stage that an error is about; this one for finishfn."""
        return self if error.stage is None else self._runners[error.stage - 1]

    def end_skipped(self) -> None:
        """Say how many items were set aside in all: each stage has said why."""
        self.state.notice_skipped_count()

    def errors(self) -> list[ErrorGroup]:
        """Return the errors that have set items aside so far, each with its stage."""
        return [
            replace(group, stage=number)
            for number, runner in enumerate(self._runners, 1)
            for group in runner.errors()
        ]

    def skipped(self) -> list[dict[str, Any]]:
        """Return the failures of the last items of all stages, each with its `stage`."""
        found = [
            {**failure, "stage": number}
            for number, runner in enumerate(self._runners, 1)
            for failure in runner.skipped()
        ]
        return found[-MAX_REMEMBERED:]

    def skipped_items(self) -> Iterator[Record]:
        """Yield (key, value) of the items that were set aside so far, stage after stage."""
        for runner in self._runners:
            yield from runner.skipped_items()

    def _begin(self, number: int) -> None:
        """Note that a stage begins. Raises JobCancelled."""
        self.state.check_cancelled()
        self.state.input_total = self._runners[number - 1].state.input_total if number == 1 else None
        self.state.progress = Progress(stage=number, stages=self._count)

    def _pass_progress(self, number: int, progress: Progress) -> None:
        skipped = self.state.set_aside.count = sum(runner.state.set_aside.count for runner in self._runners)
        self.state.death_count = sum(runner.state.death_count for runner in self._runners)
        self.state.id = self._runners[number - 1].state.id
        self.state.report(replace(progress, stage=number, stages=self._count, skipped=skipped))

    def _pass_failure(self, number: int) -> None:
        """Note a failure that a stage learned of in another thread than the job's."""
        failure = self._runners[number - 1].state.failure
        if isinstance(failure, MmgeventError):
            self._name(failure, number)
        self.state.failure = failure
        self.state.on_failure()

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Let errors name the stage."""
        try:
            yield
        except JobCancelled:
            self.state.check_cancelled()  # the job was, not one stage of it
            raise
        except DatasourceError as error:
            if number == 1:
                self._name(error, number)
                raise
            # The items are results of the stage before: that job ran.
            failed = JobError(str(error), {"kind": "record"})
            self._name(failed, number)
            raise failed from error
        except MmgeventError as error:
            self._name(error, number)
            raise

    def _name(self, error: MmgeventError, number: int) -> None:
        """Let an error name the stage, and say whose result the item at fault is."""
        if error.stage is not None:
            return
        error.name_stage(number, self._count)
        if number > 1 and isinstance(error, JobError) and error.function == "mapfn" and error.key:
            text = f"{error.args[0]}\nthe item is the result of stage {number - 1} for the key {error.key}"
            error.args = (text, *error.args[1:])

    def note_stats(self) -> None:
        """Note the figures of the last stage, with sums, and those of each stage."""
        state = self.state
        states = [runner.state for runner in self._runners]
        state.set_aside.count = sum(each.set_aside.count for each in states)
        state.death_count = sum(each.death_count for each in states)
        stages = [each.figures() for each in states]
        sums = {
            name: sum(figures.get(name, 0) for figures in stages)
            for name in _SUMS
            if any(name in figures for figures in stages)
        }
        first = {name: stages[0][name] for name in _FIRST if name in stages[0]}
        peaks = [figures["peak_bytes"] for figures in stages if "peak_bytes" in figures]
        most = {"peak_bytes": max(peaks)} if peaks else {}
        state.stats = {**states[-1].stats, **sums, **first, **most, "stages": stages}
