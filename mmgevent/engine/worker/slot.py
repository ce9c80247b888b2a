"""One slot of a worker: the attempts given to it, in order, and the executors that run them.

A slot runs one attempt at a time, of whichever job, and has one executor for each job. Attempts
behind the first one wait here, where they can be returned. When tasks of a job are so short that an
executor would idle between them, some of its attempts are sent ahead.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from mmgevent.engine.worker.held import MAX_ATTEMPTS, AttemptRunner, CachedJob, HeldAttempt
from mmgevent.errors import ProtocolError

if TYPE_CHECKING:
    from mmgevent.engine.worker.supervisor import Supervisor

#: Executors of other jobs that a slot keeps, for the next attempts of those jobs.
IDLE_EXECUTORS = 2


class ExecutorSlot:
    """Attempts in the order of their arrival, and executors in the order of their use."""

    def __init__(self, index: int, *, sends_ahead: bool = True):
        """`sends_ahead`: executors may get attempts before they are free."""
        self.index = index
        self._sends_ahead = sends_ahead
        #: attempts that were sent to an executor, oldest first
        self.sent: deque[HeldAttempt] = deque()
        #: attempts that wait behind those, oldest first
        self.waiting: deque[HeldAttempt] = deque()
        #: job number -> the executor that may get its attempts, longest unused first
        self.executors: dict[int, Supervisor] = {}

    def add(self, attempt: HeldAttempt) -> None:
        """Put an attempt behind the others.

        Raises ProtocolError if there are MAX_ATTEMPTS already.
        """
        if len(self.sent) + len(self.waiting) >= MAX_ATTEMPTS:
            raise ProtocolError(f"slot {self.index} has {MAX_ATTEMPTS} attempts already")
        self.waiting.append(attempt)

    def remove(self, attempt: HeldAttempt) -> None:
        """Remove an attempt that has ended or is returned."""
        (self.waiting if attempt.executor is None else self.sent).remove(attempt)

    def clear(self) -> None:
        """Remove all attempts and executors."""
        self.sent.clear()
        self.waiting.clear()
        self.executors.clear()

    def next_to_send(self) -> HeldAttempt | None:
        """Return the attempt that should go to an executor now, or None if there is none."""
        if not self.waiting:
            return None
        attempt = self.waiting[0]
        if self.sent and not (self._sends_ahead and _may_follow(attempt, self.sent[-1], len(self.sent))):
            return None
        return attempt if attempt.job.is_complete else None

    def send(self, attempt: HeldAttempt, executor: AttemptRunner) -> None:
        """Send an attempt that waits here to this executor."""
        self.waiting.remove(attempt)
        self.sent.append(attempt)
        attempt.send_to(executor)

    def attempts_of(self, executor: Supervisor) -> list[HeldAttempt]:
        """Return the attempts that were sent to this executor, in order."""
        return [attempt for attempt in self.sent if attempt.executor is executor]

    def attempts_behind(self, executor: Supervisor, job: CachedJob) -> list[HeldAttempt]:
        """Return the attempts of this job that were sent to this executor, or to none yet."""
        mine = (executor, None)
        return [a for a in (*self.sent, *self.waiting) if a.job is job and a.executor in mine]

    def find_executor(self, job: CachedJob) -> Supervisor | None:
        """Return the executor of this job, now the last used one, or None if none can take work."""
        executor = self.executors.pop(job.number, None)
        if executor is None or executor.is_doomed:
            return None
        self.executors[job.number] = executor
        return executor

    def forget_executor(self, executor: Supervisor) -> None:
        """Give this executor no more work."""
        for number, known in list(self.executors.items()):
            if known is executor:
                del self.executors[number]

    def surplus_executors(self) -> list[Supervisor]:
        """Return the idle executors beyond IDLE_EXECUTORS, the longest unused first."""
        busy = {attempt.executor for attempt in self.sent}
        idle = [executor for executor in self.executors.values() if executor not in busy]
        return idle[: max(0, len(self.executors) - IDLE_EXECUTORS - 1)]


class Post(NamedTuple):
    """What an executor was forked for."""

    slot: ExecutorSlot
    job: CachedJob


def _may_follow(attempt: HeldAttempt, last: HeldAttempt, sent_count: int) -> bool:
    """Return whether an attempt may be sent although `last`, the one sent before it, has not ended.

    Both must run in one executor and have comparable durations, and the executor must be able to
    take more.
    """
    if (last.job, last.is_map, last.is_offered) != (attempt.job, attempt.is_map, attempt.is_offered):
        return False
    if last.is_revoked or last.executor is None or last.executor.is_doomed:
        return False
    return sent_count < last.job.most_sent(last.is_map)
