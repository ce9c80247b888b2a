"""Begin the log of a job where the job begins, and end it with the job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mmgevent.driver.job_state import JobState
from mmgevent.driver.log.file import LogFile
from mmgevent.driver.log.job_log import JobLog
from mmgevent.driver.runners.runner import Runner


@contextmanager
def opened_log(job_log: str | os.PathLike[str] | LogFile) -> Iterator[LogFile]:
    """Give the open file, before anything of the job runs. It is closed if the block raises.

    Raises OutputError for a path that cannot be written.
    """
    out = job_log if isinstance(job_log, LogFile) else LogFile(job_log)
    try:
        yield out
    except BaseException:
        out.close()
        raise


def start_log(out: LogFile, runner: Runner, name: str) -> JobLog:
    """Begin the log of a runner's job, and return it. `name`: what the first line calls the engine."""
    job_log = JobLog(out, runner.state.notice)
    runner.keep_log(job_log)
    job_log.begin(runner.job, name)
    return job_log


@contextmanager
def ending(log: JobLog, state: JobState) -> Iterator[None]:
    """End a log with the block, and with what that raises."""
    try:
        yield
    except BaseException as error:
        log.end(state, error)
        raise
    log.end(state, None)
