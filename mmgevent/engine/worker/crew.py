"""The executors of one worker: fork them, watch their limits, notice that no more can be forked.

A fork may fail because descriptors, processes or memory are short; others may free some. Then
nothing is forked for a while, and the attempts that needed the executor are returned to the server.
The pause doubles with each failure in a row. The worker closes when too many forks in a row have
failed and no executor is left.

A job whose executors lost their template rests before it gets others (see `template_deaths`).
"""

from __future__ import annotations

from typing import Protocol

import gevent

from mmgevent.engine.greenlets import Greenlets
from mmgevent.engine.net.link import Link
from mmgevent.engine.worker.exits import Exit
from mmgevent.engine.worker.forkers import Forkers
from mmgevent.engine.worker.held import CachedJob, HeldAttempt
from mmgevent.engine.worker.printed import PrintedLines
from mmgevent.engine.worker.slot import ExecutorSlot, Post
from mmgevent.engine.worker.supervisor import Supervisor
from mmgevent.engine.worker.template_deaths import TemplateDeaths, rest_s
from mmgevent.errors import EngineError, MmgeventError, StartError
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import Frame
from mmgevent.wire.messages import control

log = get_log(__name__)

#: Most forks that fail in a row before the worker gives up, while no executor is left.
MAX_FORK_FAILURES = 8

#: The same for a driver's own engine that never had an executor: its user waits for the error.
MAX_FIRST_FAILURES = 4

#: First pause after a fork that failed, seconds. It doubles with each failure in a row.
FORK_PAUSE_S = 0.05

#: Time between two looks at executors whose jobs have limits, seconds.
WATCH_S = 0.1


class Employer(Protocol):
    """Who needs the executors, and learns what becomes of them."""

    def on_frame(self, executor: Supervisor, frame: Frame) -> None:
        """Act on a frame that an executor sent. Called by the hub, so it must not block."""

    def on_death(self, executor: Supervisor, slot: ExecutorSlot, end: Exit) -> None:
        """Act on the end of an executor, after its last frame."""

    def on_template_death(
        self, executor: Supervisor, slot: ExecutorSlot, end: Exit, *, is_blamed: bool
    ) -> None:
        """Act on the end of an executor that died with its template, maybe because of its job."""

    def on_near_limit(self, executor: Supervisor, slot: ExecutorSlot, warning: str) -> None:
        """Warn the user of an executor that is about to exceed a limit of its job."""

    def on_pause_end(self, wanted_by: list[HeldAttempt]) -> None:
        """Try again to fork. `wanted_by`: the attempts for which it failed before the pause."""

    def on_hopeless(self, reason: str) -> None:
        """Close the worker: it will have no executors."""


class Crew:
    """Every executor of one worker that has not ended."""

    def __init__(
        self,
        employer: Employer,
        link: Link,
        greenlets: Greenlets,
        forkers: Forkers,
        name: str,
        size: int,
        *,
        scratch_dir: str | None,
        is_local: bool,
    ):
        """`name` and `size` (slots) are those of the worker, whose `link` leads to its server.

        `is_local`: its server is in this engine.
        """
        #: whether an executor ever answered for an attempt
        self.has_run = False
        #: whether the worker closes since this machine lets it start no executor
        self.is_short = False
        self._employer = employer
        self._link = link
        self._greenlets = greenlets
        self._forkers = forkers
        self._name = name
        self._size = size
        self._scratch_dir = scratch_dir
        self._is_local = is_local
        self._posts: dict[Supervisor, Post] = {}
        #: forks that failed since the last answer of an executor
        self._failures = 0
        #: whether the user knows that some slots have no executor
        self._has_warned = False
        #: pauses that have not ended; nothing is forked while there are any
        self._pauses = 0
        #: jobs that rest: none of their executors is forked
        self._resting: set[CachedJob] = set()
        #: job -> its template deaths at its last rest: executors of one template may end far apart
        self._rested: dict[CachedJob, int] = {}
        #: jobs that may have templates of their own
        self._owners: set[CachedJob] = set()
        self._template_deaths = TemplateDeaths()
        self._watcher: gevent.Greenlet | None = None

    def __bool__(self) -> bool:
        """Return whether there is an executor."""
        return bool(self._posts)

    def start(self, slot: ExecutorSlot, job: CachedJob, wanted_by: list[HeldAttempt]) -> Supervisor | None:
        """Fork an executor for a job in a slot; return None if that is impossible now.

        `wanted_by`: the attempts that it is for, which are returned if it cannot be had.
        """
        if self._pauses or job in self._resting:
            return None
        try:
            executor = Supervisor(
                self._forkers.get(job.greenlets, job.flags, job if job.template_deaths else None),
                f"{self._name} slot {slot.index} job {job.number}",
                self._scratch_dir,
                self._employer.on_frame,
                self._on_death,
                self._on_printed,
                executors=self._size,
                on_fault=self._greenlets.on_fault,
            )
        except (OSError, StartError) as error:  # others may give back what is missing
            self.pause(wanted_by, f"no executor can be started: {error}")
            return None
        except EngineError as error:
            log.error("worker closes: no executor can be started: %s", error)
            self._employer.on_hopeless(str(error))
            return None
        self._posts[executor] = Post(slot, job)
        slot.executors[job.number] = executor
        if job.is_complete:
            executor.send_job(job.frame, job.code)
        if job.has_limits and self._watcher is None:
            self._watcher = self._greenlets.spawn(self._watch)
        for idle in slot.surplus_executors():
            slot.forget_executor(idle)
            idle.kill("its slot serves other jobs")
        return executor

    def send_code(self, job: CachedJob) -> None:
        """Send a job, whose code has arrived, to the executors that were forked for it."""
        for executor, post in list(self._posts.items()):
            if post.job is job:
                executor.send_job(job.frame, job.code)

    def dismiss(self, job: CachedJob) -> None:
        """Kill the executors of a job that has ended."""
        for executor, post in list(self._posts.items()):
            if post.job is job:
                post.slot.forget_executor(executor)
                executor.kill("its job ended")
        self._rested.pop(job, None)
        if job.template_deaths:
            self._forkers.release(job)
            self._owners.discard(job)

    def executors(self) -> list[Supervisor]:
        """Return all executors that have not ended."""
        return list(self._posts)

    def posts(self) -> list[tuple[Supervisor, Post]]:
        """Return all executors that have not ended, and what each was forked for."""
        return list(self._posts.items())

    def find(self, pid: int) -> Supervisor:
        """Return the executor that is this process. Raises MmgeventError if none is."""
        for executor in self._posts:
            if pid and executor.pid == pid:
                return executor
        raise MmgeventError(f"no executor here is process {pid}: it may have ended")

    def note_answer(self) -> None:
        """Note that an executor answered for an attempt: executors work here."""
        self._failures = 0
        self.has_run = True

    def pause(self, wanted_by: list[HeldAttempt], error: str) -> None:
        """Fork nothing for a while, or close the worker after too many failures in a row."""
        self._failures += 1
        has_others = any(executor.child.pid is not None for executor in self._posts)
        if has_others and not self._has_warned:
            self._has_warned = True
            log.warning("%s has fewer executors than slots: %s", self._name, error)
        log.info("executor not started: %s: %s", self._name, error)
        may_recover = self.has_run or not self._is_local
        most = MAX_FORK_FAILURES if may_recover else MAX_FIRST_FAILURES
        if self._failures >= most and not has_others:
            self.is_short = True
            self._employer.on_hopeless(error)
            return
        self._pauses += 1
        doublings = min(self._failures, MAX_FORK_FAILURES - 1)
        self._greenlets.spawn(self._end_pause, wanted_by, delay_s=FORK_PAUSE_S * 2**doublings)

    def end(self) -> None:
        """Kill all executors and wait for their ends (blocks)."""
        executors = list(self._posts)
        for executor in executors:
            executor.kill("the worker leaves")
        for executor in executors:
            executor.join()
        for owner in self._owners:
            self._forkers.release(owner)

    def _end_pause(self, wanted_by: list[HeldAttempt]) -> None:
        self._pauses -= 1
        self._employer.on_pause_end(wanted_by)

    def _on_death(self, executor: Supervisor, end: Exit) -> None:
        slot, job = self._posts[executor]
        slot.forget_executor(executor)
        is_blamed = (
            end.template is not None
            and self._template_deaths.judge(executor, self._posts)
            and end.is_fact  # a guess may slow a job down, but not fail it
        )
        del self._posts[executor]
        if end.template is None:
            self._employer.on_death(executor, slot, end)
            return
        if job not in self._resting and self._rested.get(job) != job.template_deaths:
            self._rested[job] = job.template_deaths
            self._resting.add(job)
            self._owners.add(job)
            self._greenlets.spawn(self._end_rest, job, delay_s=rest_s(job.template_deaths))
        self._employer.on_template_death(executor, slot, end, is_blamed=is_blamed)

    def _on_printed(self, executor: Supervisor, lines: PrintedLines) -> bool:
        job = self._posts[executor].job
        return job.is_silent or self._link.send_if_room(control("printed", job.number, **lines.fields()))

    def _end_rest(self, job: CachedJob) -> None:
        self._resting.discard(job)
        self._employer.on_pause_end([])

    def _watch(self) -> None:
        """Kill executors that exceed a limit of their job, and warn of those near it.

        Ends when no executor's job has a limit.
        """
        while any(post.job.has_limits for post in self._posts.values()):
            gevent.sleep(WATCH_S)
            for executor, (slot, job) in list(self._posts.items()):
                warning = executor.enforce(job)
                if warning is not None:
                    self._employer.on_near_limit(executor, slot, warning)
        self._watcher = None
