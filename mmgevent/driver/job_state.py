"""What a driver knows of one job, from the first submission to the end.

A job is submitted again when its server or engine is lost.  Each `Submission` works on the same
`JobState`, so a later one knows which partitions were delivered and which items were set aside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from mmgevent.driver.failures.set_aside import SetAside
from mmgevent.driver.notices import Notices
from mmgevent.driver.progress.progress import PhaseClock, Progress, complete
from mmgevent.driver.signals import JobSignals
from mmgevent.errors import JobCancelled
from mmgevent.machine.logs import get_log
from mmgevent.tasks.skipping import MAX_NAMED
from mmgevent.wire.deaths import MAX_REMEMBERED, describe_death
from mmgevent.wire.failures import name_skipped
from mmgevent.wire.frames import Frame

if TYPE_CHECKING:
    from mmgevent.box.reports import Report
    from mmgevent.driver.input.total import InputTotal
    from mmgevent.tasks.plain_rules import PlainRules

log = get_log(__name__)


class JobEvents(Protocol):
    """What the log of a job is told, see `driver.log.job_log`."""

    def progress(self, progress: Progress) -> None: ...
    def notice(self, text: str) -> None: ...
    def death(self, death: Mapping[str, Any]) -> None: ...
    def tasks(self, rows: list[Any], lost: int) -> None: ...
    def ran(self, began_s: float, **row: Any) -> None: ...
    def report(
        self, report: Report, phase: str, task: int, batch: int | None, bytes_in: int | None
    ) -> None: ...
    def skipped(
        self, failures: Iterable[dict[str, Any]], batch: int, worker: str | None
    ) -> Iterator[dict[str, Any]]: ...
    def resubmitted(self, why: str) -> None: ...
    def end(self, state: JobState, error: BaseException | None) -> None: ...


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
        #: the figures of whatever runs the job, see `figures`
        self.stats: dict[str, Any] = {}
        #: what the job's functions counted and printed
        self.signals = JobSignals()
        #: how large the input is; None where nobody knows
        self.input_total: InputTotal | None = None
        self._clock = PhaseClock()
        #: the items that were set aside
        self.set_aside = SetAside(plain)
        #: the last deaths of executors and workers, see `wire.deaths`
        self.deaths: deque[dict[str, Any]] = deque(maxlen=MAX_REMEMBERED)
        #: number of all deaths
        self.death_count = 0
        #: what the job's thread waits for: a frame; a str, why the engine is lost; None after
        #: `cancel`
        self.inbox: SimpleQueue[Frame | str | None] = SimpleQueue()
        self.is_cancelled = False
        #: the log of the job, if it keeps one
        self.job_log: JobEvents | None = None
        #: the error that has ended the job; its thread may not know yet
        self.failure: Exception | None = None
        #: called when `failure` is set, in another thread than the job's
        self.on_failure: Callable[[], None] = _do_nothing
        #: called with partitions, and the number of all, once every record of theirs was given out
        self.on_partitions: Callable[[tuple[int, ...], int], None] = _ignore_partitions
        #: called when the job ends, before anybody else learns of it
        self.on_end: Callable[[], None] = _do_nothing
        #: called when the job's thread is about to wait for the engine
        self.before_wait: Callable[[], None] = _do_nothing
        #: what the user is told beside progress
        self.notices = Notices(name, on_notice)
        self._on_progress = on_progress
        self._named = 0  # items set aside that were named in a notice

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
        self._on_progress = None
        self.notices.drop_callback()
        self.signals.logs.on_line = None

    def notice(self, text: str) -> None:
        """Show a text to the user."""
        if self.job_log is not None and not self.notices.are_held:
            self.job_log.notice(text)
        self.notices.show(text)

    def show_held_notices(self) -> None:
        """Show what another thread has kept; called by the job's thread when no other keeps notices."""
        for text in self.notices.take_held():
            self.notice(text)

    def notice_of_others(self, text: str, once: str | None = None) -> None:
        """Show a text of the server or a worker, unless there were too many; see `Notices.pick`."""
        shown = self.notices.pick(text, once)
        if shown is not None:
            self.notice(shown)

    def report(self, progress: Progress) -> None:
        """Note how far the job is, and call the user's callback."""
        self.progress = self._completed(progress)
        self.signals.logs.deliver()
        if self.job_log is not None:
            self.job_log.progress(self.progress)
        if self._on_progress is not None:
            if self.input_total is not None:
                self.input_total.look()
            self._on_progress(self.progress)

    def look(self) -> Progress:
        """Return how far the job is, with what is known of its input by now."""
        if self.input_total is not None and self.progress.phase in ("starting", "map"):
            self.input_total.look()
            return self._completed(self.progress)
        return self.progress

    def _completed(self, progress: Progress) -> Progress:
        deaths = max(progress.deaths, self.death_count)
        return complete(progress, self.input_total, self._clock, deaths)

    def figures(self) -> dict[str, Any]:
        """Return what is known in numbers of the job, now or at its end; see `JobHandle.stats`."""
        figures = {**self.stats, "skipped": self.set_aside.count, "deaths": self.death_count}
        if counters := self.signals.counters.counts():
            figures["counters"] = counters
        total, progress = self.input_total, self.progress
        n_bytes = progress.bytes
        is_mapped = progress.phase in ("reduce", "done") or "shuffled_bytes" in self.stats
        if is_mapped and total is not None and total.bytes_read is not None:
            n_bytes = total.bytes_read
        if n_bytes:
            figures.setdefault("input_bytes", n_bytes)
        for name, value in (
            ("items", progress.items),
            ("retries", progress.retries),
            ("spilled_bytes", progress.spilled_bytes),
            ("peak_bytes", progress.peak_bytes),
        ):
            if value is not None:
                figures.setdefault(name, value)
        return figures

    def end_progress(self, phase: str) -> None:
        """Note how the job ended.

        A job that was cancelled or has failed stays so, whatever its thread does later.
        """
        if self.progress.phase not in ("cancelled", "failed"):
            self.progress = replace(
                self.progress,
                phase=phase,
                waiting=0,
                running=0,
                skipped=self.set_aside.count,
                deaths=self.death_count,
                fraction=1.0 if phase == "done" else self.progress.fraction,
                seconds_left=None,
            )
            self.on_end()

    def add_death(self, death: dict[str, Any]) -> None:
        """Remember the death of an executor or worker, and show it unless another message does."""
        self.death_count += 1
        self.deaths.append(death)
        if self.job_log is not None:
            self.job_log.death(death)
        text = describe_death(death)
        if text is not None:
            self.notice_of_others(text)

    @property
    def unnamed_count(self) -> int:
        """Number of items set aside that may still be named."""
        return max(0, MAX_NAMED - self._named)

    @property
    def are_all_named(self) -> bool:
        """Return whether a notice has named each item that was set aside."""
        return self.set_aside.count <= MAX_NAMED

    def notice_skipped(self, name: str | None, failure: dict[str, Any]) -> None:
        """Name an item that was set aside, unless MAX_NAMED were named before."""
        if self.unnamed_count:
            self._named += 1
            self.notice(name_skipped(name, failure))

    def notice_skipped_count(self) -> None:
        """Say how many items were set aside, if not all of them were named."""
        if self.set_aside.count > MAX_NAMED:
            self.notice(f"{self.set_aside.count} items were set aside in all")

    def options_for(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the job for those who run it: they time items if it keeps a log."""
        return options if self.job_log is None else {**options, "logs": True}

    def note_skipped(
        self, failures: Iterator[dict[str, Any]], batch: int, worker: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Log items of a batch that were set aside, if the job keeps a log; return their failures."""
        return failures if self.job_log is None else self.job_log.skipped(failures, batch, worker)

    def end_partitions(self, partitions: tuple[int, ...]) -> None:
        """Note that every record of these partitions was given out."""
        if partitions:
            self.on_partitions(partitions, self.partitions or 0)

    def restart(self) -> None:
        """Forget what belongs to the submission that was lost: its items are mapped again."""
        self.set_aside.clear()
        self.signals.counters.take_server({})
        self._named = 0


def _do_nothing() -> None:
    pass


def _ignore_partitions(partitions: tuple[int, ...], of: int) -> None:
    pass
