"""What a driver knows of one job, from the first submission to the end.

A job is submitted again when its server or engine is lost.  Each `Submission` works on the same
`JobState`, so a later one knows which partitions were delivered and which items were set aside.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from mmgevent.driver.job_logs import JobLogs
from mmgevent.driver.set_aside import SetAside
from mmgevent.driver.signals import JobCounters
from mmgevent.errors import JobCancelled
from mmgevent.machine.logs import get_log
from mmgevent.tasks.skipping import MAX_NAMED
from mmgevent.wire.deaths import MAX_REMEMBERED, describe_death
from mmgevent.wire.failures import name_skipped
from mmgevent.wire.frames import Frame

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

log = get_log(__name__)

#: Notices of others that a job shows: some pages of a terminal. A worker that returns every attempt,
#: with a notice, or leaves and joins again, could cause thousands a second.
MAX_NOTICES = 1000


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    #: "starting", "map", "plan" or "reduce"; in the end "done", "failed" or "cancelled"
    phase: str = "starting"
    #: items in the map phase, tasks in the reduce phase
    done: int = 0
    #: The whole, in the unit of `done`; None while it is not known.
    total: int | None = None
    waiting: int = 0
    running: int = 0
    workers: int = 0
    slots: int = 0
    #: bytes of input that were mapped
    bytes: int = 0
    #: items that were set aside
    skipped: int = 0
    #: the stage of a chain that runs, from 1, and their number
    stage: int = 1
    stages: int = 1


class JobState:
    """The facts of one job.  One thread runs the job; `cancel` may be called from any thread."""

    def __init__(
        self,
        name: str,
        partitions: int | None,
        on_progress: Callable[[Progress], None] | None,
        on_notice: Callable[[str], None] | None,
        plain: PlainRules | None = None,
    ):
        self.name = name
        #: the server's name for the job; None before a server has accepted it
        self.id: str | None = None
        #: number of partitions; None before the first server has chosen it
        self.partitions = partitions
        #: partitions whose records were all given out
        self.delivered: set[int] = set()
        self.progress = Progress()
        #: the server's figures of a job that is done
        self.stats: dict[str, Any] = {}
        #: what the job's functions counted
        self.counters = JobCounters()
        #: what the job's functions printed
        self.logs = JobLogs()
        #: the items that were set aside
        self.set_aside = SetAside(plain)
        #: the last deaths of executors and workers, see `wire.deaths`
        self.deaths: deque[dict[str, Any]] = deque(maxlen=MAX_REMEMBERED)
        #: what the job's thread waits for: a frame; a str, why the engine is lost; None after
        #: `cancel`
        self.inbox: SimpleQueue[Frame | str | None] = SimpleQueue()
        self.is_cancelled = False
        #: the error that has ended the job; its thread may not know yet
        self.failure: Exception | None = None
        #: called when `failure` is set, in another thread than the job's
        self.on_failure: Callable[[], None] = _do_nothing
        #: called with partitions, and the number of all, once every record of theirs was given out
        self.on_partitions: Callable[[tuple[int, ...], int], None] = _ignore_partitions
        #: called when the job's thread is about to wait for the engine
        self.before_wait: Callable[[], None] = _do_nothing
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._noticed: set[str] = set()
        self._notices_of_others = 0
        self._named = 0  # items set aside that were named in a notice
        self._held: list[str] = []  # notices for the job's thread to show
        self._holder: int | None = None  # the thread whose notices are held

    def cancel(self) -> None:
        """Make the job's thread raise JobCancelled soon; idempotent."""
        self.is_cancelled = True
        self.inbox.put(None)

    def check_cancelled(self) -> None:
        """Raise JobCancelled if the job was cancelled."""
        if self.is_cancelled:
            raise self.cancelled_error()

    def cancelled_error(self) -> JobCancelled:
        """Return the error of a job that was cancelled."""
        return JobCancelled(f"job {self.name} was cancelled")

    def ending_error(self) -> Exception:
        """Return the error of a job that has ended without its thread."""
        return self.cancelled_error() if self.is_cancelled or self.failure is None else self.failure

    def drop_callbacks(self) -> None:
        """Call the user's callbacks no more: one of them may not return."""
        self._on_progress, self._on_notice = None, log.debug
        self.logs.on_line = None

    def notice(self, text: str) -> None:
        """Show a text to the user."""
        if self._holder == threading.get_ident():
            self._held.append(text)
        elif self._on_notice is None:
            log.warning("%s: %s", self.name, text)
        else:
            self._on_notice(text)

    @contextmanager
    def holding_notices(self) -> Iterator[None]:
        """Keep notices of this thread, which is not the job's: callbacks are called in that one."""
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = None

    def show_held_notices(self) -> None:
        """Show what another thread has kept; called by the job's thread when no other keeps notices."""
        held, self._held = self._held, []
        for text in held:
            self.notice(text)

    def notice_of_others(self, text: str, once: str | None = None) -> None:
        """Show a text of the server or a worker, unless there were MAX_NOTICES.

        Of several texts with the same `once`, only the first is shown.
        """
        if once is not None and once in self._noticed:
            return
        self._notices_of_others += 1
        if self._notices_of_others > MAX_NOTICES:
            if self._notices_of_others == MAX_NOTICES + 1:
                self.notice(f"there were {MAX_NOTICES:,} notices of workers; the next ones are not shown")
            return
        if once is not None:
            self._noticed.add(once)
        self.notice(text)

    def report(self, progress: Progress) -> None:
        """Note how far the job is, and call the user's callback."""
        self.progress = progress
        self.logs.deliver()
        if self._on_progress is not None:
            self._on_progress(progress)

    def end_progress(self, phase: str) -> None:
        """Note how the job ended.

        A job that was cancelled or has failed stays so, whatever its thread does later.
        """
        if self.progress.phase not in ("cancelled", "failed"):
            self.progress = replace(
                self.progress, phase=phase, waiting=0, running=0, skipped=self.set_aside.count
            )

    def add_death(self, death: dict[str, Any]) -> None:
        """Remember the death of an executor or worker, and show it unless another message does."""
        self.deaths.append(death)
        text = describe_death(death)
        if text is not None:
            self.notice_of_others(text)

    @property
    def unnamed_count(self) -> int:
        """Number of items set aside that may still be named."""
        return max(0, MAX_NAMED - self._named)

    def notice_skipped(self, name: str | None, failure: dict[str, Any]) -> None:
        """Name an item that was set aside, unless MAX_NAMED were named before."""
        if self.unnamed_count:
            self._named += 1
            self.notice(name_skipped(name, failure))

    def notice_skipped_count(self) -> None:
        """Say how many items were set aside, if not all of them were named."""
        if self.set_aside.count > MAX_NAMED:
            self.notice(f"{self.set_aside.count} items were set aside in all")

    def end_partitions(self, partitions: tuple[int, ...]) -> None:
        """Note that every record of these partitions was given out."""
        if partitions:
            self.on_partitions(partitions, self.partitions or 0)

    def restart(self) -> None:
        """Forget what belongs to the submission that was lost: its items are mapped again."""
        self.set_aside.clear()
        self.counters.take_server({})
        self._named = 0


def _do_nothing() -> None:
    pass


def _ignore_partitions(partitions: tuple[int, ...], of: int) -> None:
    pass
