"""The jobs of a server, and the memory that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gevent.event import Event

from mmgevent.engine.net.link import Link
from mmgevent.engine.net.threads import run_in_thread
from mmgevent.engine.server.history.history import Histories
from mmgevent.engine.server.hosted import HostedJob, too_much_code
from mmgevent.engine.server.intake import SHARE, Intake
from mmgevent.engine.server.spill import Memory
from mmgevent.engine.server.store import JobStore
from mmgevent.errors import MmgeventError
from mmgevent.wire.limits import MAX_CODE_BYTES, MAX_CONTEXT_BYTES, MAX_OPTIONS_BYTES
from mmgevent.wire.numbers import next_number

#: Jobs of one server at once. Each one costs some KiB, and progress messages four times a second.
MAX_JOBS = 10_000

#: Jobs of one driver at once, if there are few others.
MAX_DRIVER_JOBS = 1000

#: A driver may have one job for so many that the server could still take. So ten drivers with as
#: many jobs as they may have leave room for the eleventh.
FREE_JOBS_PER_JOB = 8


class Jobs:
    """The jobs of one server, by number."""

    def __init__(self, server_name: str, memory_bytes: int, spill_folder: str | None):
        """`memory_bytes` limits the segments of all jobs in memory, and once more their batches."""
        self._server_name = server_name
        self._spill_folder = spill_folder
        self._jobs: dict[int, HostedJob] = {}
        self._last_number = 0
        self._count = 0  # jobs so far, for their names
        #: Memory of segments.
        self.memory = Memory(memory_bytes)
        #: Memory of batches.
        self.intake = Intake(memory_bytes)
        #: Memory of code and options. The smallest server takes the largest job.
        largest = max(memory_bytes, MAX_CODE_BYTES + MAX_CONTEXT_BYTES + MAX_OPTIONS_BYTES)
        self._code_intake = Intake(largest * (SHARE + 1) // SHARE)
        #: What is remembered of them, and of those that are over.
        self.histories = Histories()
        #: Set while there are no jobs.
        self.idle = Event()
        self.idle.set()

    def admit(
        self,
        link: Link,
        driver_job: int,
        submit: dict[str, Any],
        on_failure: Callable[[HostedJob, dict[str, Any]], None],
    ) -> HostedJob:
        """Make a job of a driver's `submit` message.

        Raises MmgeventError if the server cannot take the job; the message says why.
        """
        if len(self._jobs) >= MAX_JOBS:
            raise MmgeventError(f"this server has {MAX_JOBS} jobs already: try again later")
        share = self._code_intake.share_of(link)
        number = next_number(self._last_number, self._jobs)
        id_ = f"{self._server_name}-{self._count + 1}"
        store = JobStore(self.memory, self._spill_folder, run_in_thread)
        history = self.histories.begin(number, id_, submit["name"])
        job = HostedJob(history, link, driver_job, submit, store, self.intake, share, on_failure)
        if job.code.size > share.room_bytes:
            job.code.close()
            raise too_much_code(share)
        self._last_number = number
        self._count += 1
        self._jobs[number] = job
        self.idle.clear()
        return job

    def most_of_one(self) -> int:
        """Return how many jobs one driver may have now."""
        return min(MAX_DRIVER_JOBS, max(1, (MAX_JOBS - len(self._jobs)) // FREE_JOBS_PER_JOB))

    def remove(self, job: HostedJob) -> None:
        """Forget a job and free what it holds."""
        del self._jobs[job.number]
        self.histories.end(job.history)
        try:
            job.close()
        finally:
            if not self._jobs:
                self.idle.set()

    def take_kept(self, job: HostedJob, source: HostedJob, slots: int) -> None:
        """Give a job the kept results of another one as its input.

        They are freed, and their job is forgotten, when the taker is done. So of a chain at most
        two stages are here, however long it is.
        """
        assert source.kept is not None
        job.input.close()

        def release() -> None:
            if source in self:
                self.remove(source)

        job.input = source.kept.take(job.link, job.driver_job, self.intake, slots, release)

    def get(self, number: int) -> HostedJob | None:
        """Return the job of a number, or None if it is over."""
        return self._jobs.get(number)

    def __getitem__(self, number: int) -> HostedJob:
        return self._jobs[number]

    def __contains__(self, job: HostedJob) -> bool:
        """Return whether this job is not over."""
        return self._jobs.get(job.number) is job

    def __iter__(self) -> Iterator[HostedJob]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)
