"""What every cluster does, whatever engine is behind it: submit jobs, run them, close.

Imports wait for their turn, to save start-up time: our own engine starts before the rest is
imported.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Any, Self

from mmgevent.errors import StartError, UsageError

if TYPE_CHECKING:
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.listed import JobInfo, WorkerInfo
    from mmgevent.driver.log.file import LogFile
    from mmgevent.driver.log.prints import OnLog
    from mmgevent.driver.progress.progress import Progress
    from mmgevent.driver.progress.showing import Shown
    from mmgevent.driver.runners.runner import Runner
    from mmgevent.driver.watching import OnJoined, OnLeft, OnTell
    from mmgevent.job.job import Job, K, V
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.job.outputs.record import Made


OnProgress = Callable[["Progress"], None]
OnNotice = Callable[[str], None]


class BaseCluster(ABC):
    """Submit and run jobs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the handles and what is behind the cluster
        self._handles: weakref.WeakSet[JobHandle[Any, Any]] = weakref.WeakSet()
        self._is_closed = False
        self._pid = os.getpid()

    def submit(
        self,
        job: Job[K, V],
        *,
        on_progress: OnProgress | None = None,
        on_notice: OnNotice | None = None,
        progress: bool = False,
        resume: str | os.PathLike[str] | Made | None = None,
        parts_plan: PartsPlan | None = None,
        logs: OnLog | None = None,
        job_log: str | os.PathLike[str] | LogFile | None = None,
    ) -> JobHandle[K, V]:
        """Submit a job and return at once; it has a thread of its own.

        `on_progress(Progress)` and `on_notice(text)` are called in the job's thread, and so is
        `logs(LogLine)` with each line that a function prints or logs.
        `progress`: show how far the job is, in the notebook or on stderr.
        `resume`: a folder in which an earlier run of the job has written parts. They are not made
        again; `handle.write(folder, resume=True)` writes the others, and checks that it is the
        same job.
        `parts_plan`: where executors may write parts of the results, see `Sink.plan_parts`.
        `job_log`: a file to which what happens is written, a line of JSON an event (docs/job-log.md).

        Raises UsageError if something is wrong with the job, OutputError for a `job_log` that cannot
        be written, and StartError if no thread can be started.
        """
        from mmgevent.driver.handle import JobHandle

        made = None if resume is None else _find_made(resume)
        shown = _shown(job, on_progress, on_notice) if progress else None
        if shown is not None:
            on_progress, on_notice = shown.on_progress, shown.on_notice
        with _opened(job_log) as out:
            runner = self._checked_runner(job, on_progress, on_notice, made, parts_plan)
        self._start_log(runner, out)
        runner.state.signals.logs.on_line = logs
        handle: JobHandle[K, V] = JobHandle(runner)
        if shown is not None:
            shown.watch(handle)
        with self._lock:
            self._handles.add(handle)
        try:
            handle.start()
        except StartError:
            self._handles.discard(handle)
            raise
        return handle

    def run(
        self,
        job: Job[K, V],
        *,
        progress: OnProgress | bool | None = None,
        on_notice: OnNotice | None = None,
        logs: OnLog | None = None,
        job_log: str | os.PathLike[str] | LogFile | None = None,
    ) -> dict[K, V]:
        """Run a job to its end and return its results as a dict.

        `progress`: True shows how far the job is, in the notebook or on stderr; a function gets it.
        The datasource, finishfn and that function are called in this thread.  `job_log` and
        `logs` are as in `submit`.  Raises UsageError, OutputError, JobError, ConnectError or DuplicateKeyError.
        KeyboardInterrupt cancels the job.
        """
        from mmgevent.driver.results import build_dict, results_of

        if progress is None or callable(progress):  # spares an import
            with _opened(job_log) as out:
                runner = self._checked_runner(job, progress, on_notice)
            runner.state.signals.logs.on_line = logs
            with self._start_log(runner, out), closing(runner.records()) as records:
                return build_dict(results_of(runner, records))
        from mmgevent.driver.progress.showing import check_progress

        check_progress(progress)
        if not progress:
            return self.run(job, on_notice=on_notice, logs=logs, job_log=job_log)
        return self._run_shown(job, on_notice, logs, job_log)

    def _run_shown(
        self,
        job: Job[K, V],
        on_notice: OnNotice | None,
        logs: OnLog | None,
        job_log: str | os.PathLike[str] | LogFile | None,
    ) -> dict[K, V]:
        from mmgevent.driver.results import build_dict, results_of

        shown = _shown(job, None, on_notice)
        with _opened(job_log) as out:
            runner = self._checked_runner(job, shown.on_progress, shown.on_notice)
        runner.state.signals.logs.on_line = logs
        ended: BaseException | None = None
        try:
            with self._start_log(runner, out), closing(runner.records()) as records:
                return build_dict(results_of(runner, records))
        except BaseException as error:
            ended = error
            raise
        finally:
            shown.end(runner.state, ended)

    def _start_log(self, runner: Runner, out: LogFile | None) -> AbstractContextManager[None]:
        """Begin the log of a job, if it keeps one; return a context whose end is that of the log."""
        if out is None:
            return nullcontext()
        from mmgevent.driver.log.kept import ending, start_log

        return ending(start_log(out, runner, self._engine_name()), runner.state)

    def _engine_name(self) -> str:
        """Return what logs call the engine. Override this."""
        return type(self).__name__

    def write(
        self,
        job: Job[Any, Any],
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        columns: str | Iterable[str] | None = None,
        sort: str | None = None,
        top: int | None = None,
        overwrite: bool = False,
        resume: bool = False,
        part_size: int | str | None = None,
        on_progress: OnProgress | None = None,
        on_notice: OnNotice | None = None,
    ) -> int:
        """Run a job to its end, write its results to a file or folder, and return their number.

        As `submit(job).write(path, ...)`, which explains the arguments. But workers that see the folder
        write its parts themselves, and `resume` needs no second mention.

        Raises what `submit` and `write` of a handle raise.
        """
        from mmgevent.job.options import parse_memory
        from mmgevent.job.outputs.opening import open_output
        from mmgevent.job.outputs.order import choose_order

        order = choose_order(sort, top)
        output = open_output(
            path,
            format,
            columns=columns,
            overwrite=overwrite,
            resume=resume,
            part_bytes=parse_memory(part_size),
            job=job,
            sort=sort,
            top=top,
        )
        if output.is_complete:
            return output.made_records
        with output as sink:
            handle = self.submit(
                job,
                on_progress=on_progress,
                on_notice=on_notice,
                resume=sink.made,
                parts_plan=sink.plan_parts(),
            )
            return sink.made_records + handle.write_to(sink, order)

    @property
    @abstractmethod
    def address(self) -> tuple[str, int] | None:
        """(host, port) where mmg-workers may join; None if there is no port."""

    @abstractmethod
    def wait_ready(self) -> None:
        """Wait until jobs can run, or raise what prevents it."""

    @abstractmethod
    def workers(self, *, measure: bool = False) -> list[WorkerInfo]:
        """Return the workers that are present now."""

    def jobs(self) -> list[JobInfo]:
        """Return the jobs that are not over: those of this program."""
        from mmgevent.driver.listed import jobs_of

        self._check_process()
        return jobs_of(self._running())

    @abstractmethod
    def watch(self, on_joined: OnJoined, on_left: OnLeft, on_tell: OnTell) -> None:
        """See workers join and leave, and receive their messages, until this cluster is closed."""

    @abstractmethod
    def tell(self, number: int, data: bytes) -> None:
        """Send bytes to the program of a worker."""

    @abstractmethod
    def dismiss(self, number: int, reason: str) -> None:
        """Close the link to a worker."""

    @abstractmethod
    def close(self) -> None:
        """Wait for running jobs and their callbacks, then end what is behind this. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is not None and os.getpid() != self._pid:
            return  # a child leaves its parent's block, perhaps by sys.exit(): this is not its own
        try:
            if exc_type is None:
                self.close()
                return
        except Exception:
            raise
        except BaseException:  # Ctrl-C while this waits for jobs
            self._give_up()
            self.close()
            raise
        self._give_up()
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._describe()}{self._describe_jobs()}>"

    def _repr_html_(self) -> str:
        from mmgevent.driver.progress.html_text import line_html

        lines = [line_html(type(self).__name__, self._describe() + self._describe_jobs())]
        return "".join([*lines, *(handle._repr_html_() for handle in self._running())])

    def _describe(self) -> str:
        """Return what is behind this, in few words, or "closed"."""
        raise NotImplementedError

    def _describe_jobs(self) -> str:
        running = len(self._running())
        return f", {running} job{'s' * (running != 1)} running" if running else ""

    def _running(self) -> list[JobHandle[Any, Any]]:
        with self._lock:
            return [handle for handle in self._handles if not handle.done()]

    def _give_up(self) -> None:
        """Cancel the running jobs, and end the engine without waiting for them."""
        for handle in self._running():
            try:
                handle.cancel()
            except Exception:  # the others and the engine are to end all the same
                from mmgevent.machine.logs import get_log

                get_log(__name__).exception("%r cannot be cancelled", handle)
        self._end()

    @abstractmethod
    def _end(self) -> None:
        """End what is behind this, without waiting for jobs. Idempotent."""

    @abstractmethod
    def _make_runner(
        self, job: Job[Any, Any], on_progress: OnProgress | None, on_notice: OnNotice | None
    ) -> Runner:
        """Return a new runner for a job. Raises UsageError if something is wrong with the job."""

    def _make_chain(
        self, job: Job[Any, Any], on_progress: OnProgress | None, on_notice: OnNotice | None
    ) -> Runner:
        """Return a new runner for a job of several stages. Raises UsageError as `_make_runner`."""
        from mmgevent.driver.runners.chained import ChainRunner

        return ChainRunner(job, self._make_runner, on_progress, on_notice)

    def _checked_runner(
        self,
        job: Job[Any, Any],
        on_progress: OnProgress | None,
        on_notice: OnNotice | None,
        made: Made | None = None,
        parts_plan: PartsPlan | None = None,
    ) -> Runner:
        from mmgevent.job.job import Job

        self._check_process()
        if self._is_closed:
            raise UsageError("this cluster is closed: make another")
        if not isinstance(job, Job):
            raise UsageError(f"expected a Job, got {type(job).__name__}: make one with mmgevent.Job(...)")
        if job.previous is None:
            runner = self._make_runner(job, on_progress, on_notice)
        else:
            runner = self._make_chain(job, on_progress, on_notice)
        try:
            if made is not None:
                runner.leave_out(made)
            if parts_plan is not None:
                runner.write_parts(parts_plan)
            runner.check()
        except BaseException:
            runner.close()
            raise
        return runner

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            from mmgevent.driver.engine_link import forked_error

            raise forked_error()


def _shown(job: Any, on_progress: OnProgress | None, on_notice: OnNotice | None) -> Shown:
    from mmgevent.driver.progress.showing import Shown  # rarely needed

    return Shown(getattr(job, "name", "job"), on_progress, on_notice)


def _find_made(resume: str | os.PathLike[str] | Made) -> Made | None:
    from mmgevent.job.outputs.record import Made, find_made  # rarely needed

    return resume if isinstance(resume, Made) else find_made(resume)


def _opened(job_log: str | os.PathLike[str] | LogFile | None) -> AbstractContextManager[LogFile | None]:
    if job_log is None:
        return nullcontext()
    from mmgevent.driver.log.kept import opened_log  # rarely needed

    return opened_log(job_log)
