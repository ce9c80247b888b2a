"""The log of one job: what happened, as events in the order in which the driver learned of it.

docs/job-log.md lists every event and field. Events go to a `LogFile`, which may write them, and
pass them on to a report. A job without a log has None in the place of this.

Times are those of the driver's wall clock at the start of the job, plus seconds of its monotonic
clock. So they never go back, and durations are right even if somebody sets the clock.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mmgevent.driver.callbacks import call_back
from mmgevent.driver.log.file import Event, LogFile
from mmgevent.errors import JobError
from mmgevent.wire.hello import VERSION
from mmgevent.wire.positions import entry_of
from mmgevent.wire.task_ends import MAX_TEXT_CHARS, SLOW_MS, check_rows, clean_lists

if TYPE_CHECKING:
    from mmgevent.box.reports import Report
    from mmgevent.driver.job_state import JobState
    from mmgevent.driver.progress.progress import Progress
    from mmgevent.job.job import Job

#: Version of the format, in the first line. It rises when a field changes its meaning.
FORMAT = 1

#: Microseconds in a second, and milliseconds.
US = 1_000_000
MS = 1000

#: Names of skipped or failed items are shortened to this, and their errors, characters.
_MAX_CHARS = MAX_TEXT_CHARS

#: What the last line counts.
_COUNTED = ("tasks", "items", "records", "failed", "duplicates", "deaths", "skipped", "resubmitted")


class JobLog:
    """The log of one job, or of one stage of it."""

    def __init__(self, out: LogFile, notice: Callable[[str], None] | None = None):
        """`notice(text)` shows the user that the log cannot be written."""
        self._out = out
        self._notice = notice
        self._stage: int | None = None
        self._clock = _Clock()
        self._lock = threading.RLock()  # the engine's reading thread tells of tasks
        self._phase = ""
        self._phases: set[tuple[str, int | None]] = set()  # those that have a line
        #: totals of all stages
        self._totals: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self._end = {"is_over": False, "is_told": False}

    def of_stage(self, number: int) -> JobLog:
        """Return the log of one stage of a chain, which is part of this one."""
        stage = JobLog(self._out, self._notice)
        stage._stage = number
        stage._clock, stage._totals, stage._end = self._clock, self._totals, self._end
        stage._phases, stage._lock = self._phases, self._lock
        return stage

    # The job as a whole.

    def begin(self, job: Job[Any, Any], runner: str) -> None:
        """Write the first line."""
        self._put(
            "job",
            format=FORMAT,
            name=job.name,
            runner=runner,
            versions={
                "mmgevent": VERSION,
                "python": platform.python_version(),
                "implementation": platform.python_implementation(),
                "system": platform.platform(),
            },
            options=_options_of(job),
            stages=len(job.stages),
            time_zone_s=time.localtime().tm_gmtoff,
        )

    def end(self, state: JobState, error: BaseException | None) -> None:
        """Write the last line, and close the file. Idempotent."""
        with self._lock:
            self._end_now(state, error)

    def _end_now(self, state: JobState, error: BaseException | None) -> None:
        if self._end["is_over"]:
            return
        outcome = "done" if error is None else "failed"
        if state.is_cancelled or isinstance(error, (KeyboardInterrupt, GeneratorExit)):
            outcome = "cancelled"
        skipped = max(state.set_aside.count, self._totals["skipped"])
        self._put(
            "end",
            outcome=outcome,
            error=None if error is None else _cut(f"{type(error).__name__}: {error}", 10 * _MAX_CHARS),
            seconds=self._clock.elapsed(),
            totals={**self._totals, "skipped": skipped},
            stats=dict(state.stats) or None,
        )
        self._end["is_over"] = True
        self._out.close()
        if self._out.fault is not None:
            self._tell(
                f"the job log {self._out.path} lacks its last {self._out.missing} lines: {self._out.fault}"
            )

    def resubmitted(self, why: str) -> None:
        """Note that the job is submitted again. What its tasks did so far is done again."""
        self._phase = ""
        self._phases.clear()
        self._totals["resubmitted"] += 1
        self._put("resubmitted", error=_cut(why))

    def progress(self, progress: Progress) -> None:
        """Note a phase when it begins."""
        if progress.phase != self._phase and self._stage is None:
            self._phase = progress.phase
            stage = progress.stage if progress.stages > 1 else None
            self._begin_phase(
                _cut(progress.phase), stage, self._clock.now(), progress.workers, progress.slots
            )

    def _begin_phase(
        self,
        phase: str,
        stage: int | None,
        start: float,
        workers: int | None = None,
        slots: int | None = None,
    ) -> None:
        """Write the line of a phase, unless there is one."""
        with self._lock:
            if (phase, stage) not in self._phases:
                self._phases.add((phase, stage))
                named = {} if stage is None else {"stage": stage}
                self._put("phase", **named, phase=phase, start=start, workers=workers, slots=slots)

    def notice(self, text: str) -> None:
        """Note what the user was told. Notices of a stage reach the log of the whole job."""
        if self._stage is not None:
            return
        self._put("notice", text=_cut(text, 10 * _MAX_CHARS))

    def death(self, death: Mapping[str, Any]) -> None:
        """Note the death of an executor or a worker."""
        self._totals["deaths"] += 1
        known = {name: _cut(value) for name, value in death.items() if type(value) in (str, int)}
        self._put("death", **{name: value for name, value in known.items() if name not in ("event", "at")})

    # Tasks.

    def tasks(self, rows: list[Any], lost: int) -> None:
        """Note attempts that ended, as the server says. Raises ProtocolError for what none may say."""
        now = self._clock.now()
        events: list[Event] = []
        for row in check_rows(rows):
            events += self._events_of(row, round(now - row["ago_us"] / US, 3))
        if lost:
            events.append(self._event("lost_lines", tasks=lost))
        self._put_all(events)

    def report(self, report: Report, phase: str, task: int, batch: int | None, bytes_in: int | None) -> None:
        """Note a task of another engine, by what its box reports. It ended about now, or before."""
        if report.needs_content:
            return
        us = round(report.seconds * US)
        row: dict[str, Any] = {
            "phase": phase,
            "task": task,
            "worker": report.worker,
            "outcome": "done" if report.failure is None else "failed",
            "us": us,
            "items": report.items,
            "records": report.records,
            "bytes_in": bytes_in,
            **clean_lists({"slow": list(report.slow), "largest": list(report.largest)}),
        }
        if batch is not None:
            row["batch"] = batch
        if report.failure is not None:
            row |= {name: report.failure.get(name) for name in ("function", "key", "kind", "error")}
        self._put_all(self._events_of(row, round(self._clock.now() - report.seconds, 3)))

    def ran(self, began_s: float, **row: Any) -> None:
        """Note a task that ran in this thread since `began_s`, seconds of the monotonic clock."""
        seconds = time.monotonic() - began_s
        row = {"outcome": "done", "worker": "inline", "slot": 0, "us": round(seconds * US), **row}
        self._put_all(self._events_of(row, round(self._clock.now() - seconds, 3)))

    def skipped(
        self, failures: Iterable[dict[str, Any]], batch: int, worker: str | None
    ) -> Iterator[dict[str, Any]]:
        """Note items that were set aside, and return their failures again, with what reading them raises."""
        kept: list[dict[str, Any]] = []
        error: JobError | None = None
        try:
            kept.extend(failures)
        except JobError as raised:  # whoever reads as far gets it
            error = raised
        for failure in kept:
            self._totals["skipped"] += 1
            self._put(
                "item",
                outcome="skipped",
                phase="map",
                key=_text(failure.get("key")),
                batch=batch,
                item=None,
                seconds=None,
                function=_text(failure.get("function")),
                error=_text(failure.get("error")),
                worker=_text(worker),
            )
        return _again(kept, error)

    def _sum_of(self, row: Mapping[str, Any], start: float, slow: Iterable[Any]) -> list[Event]:
        """Return the event of short tasks that have one row together."""
        self._totals["tasks"] += row["count"] - 1  # one is counted
        event = self._event(
            "tasks",
            tasks=row["count"],
            start=start,
            span=row.get("span_us", 0) / US,
            seconds=row["us"] / US,
            **{
                name: row.get(name)
                for name in ["phase", "worker", "slot", "items", "records", "keys", "bytes_out"]
            },
            slowest=[{"key": _cut(key), "seconds": ms / MS} for ms, key, _ in slow],
        )
        return [event]

    def _events_of(self, row: Mapping[str, Any], start: float) -> list[Event]:
        """Return the event of an attempt that ended, and those of its items."""
        outcome, totals = row["outcome"], self._totals
        self._begin_phase(row["phase"], self._stage, start)
        if outcome == "done":
            totals["tasks"] += 1
            totals["items"] += row.get("items") or 0
            totals["records"] += row.get("records") or 0 if row["phase"] == "map" else 0
        elif outcome == "duplicate":
            totals["duplicates"] += 1
        elif outcome != "revoked":
            totals["failed"] += 1
        slow = row.get("slow") or ()
        if row.get("count") is not None:
            return self._sum_of(row, start, slow)
        names = "phase task attempt worker slot batch entries partitions items skipped records keys bytes_in bytes_out"
        event = self._event(
            "task",
            start=start,
            seconds=row["us"] / US,
            outcome=outcome,
            **{name: row.get(name) for name in names.split()},
            is_duplicate=bool(row.get("duplicate")),
            error=_text(row.get("error")),
            slowest=[{"key": _cut(slow[0][1]), "seconds": slow[0][0] / MS}] if slow else [],
            largest=[{"key": _cut(key), "values": count} for count, key in row.get("largest") or ()],
        )
        events = [event]
        about = {"phase": row["phase"], "batch": row.get("batch"), "worker": row["worker"]}
        for ms, key, position in slow:
            if ms >= SLOW_MS and outcome == "done":
                facts = {"item": entry_of(position), "seconds": ms / MS, "function": None, "error": None}
                events.append(self._event("item", outcome="slow", key=_cut(key), **about, **facts))
        if outcome == "failed" or (row.get("key") is not None and outcome != "done"):
            position = row.get("item")
            facts = {
                "function": _text(row.get("function")),
                "error": _text(row.get("error")),
                "seconds": None,
            }
            item = None if position is None else entry_of(position)
            key = _text(row.get("key"))
            if key is not None or item is not None:
                events.append(self._event("item", outcome="failed", key=key, item=item, **about, **facts))
        return events

    def _event(self, event: str, **fields: Any) -> Event:
        stage = {} if self._stage is None else {"stage": self._stage}
        return {"event": event, "at": self._clock.now(), **stage, **fields}

    def _put(self, event: str, **fields: Any) -> None:
        self._put_all([self._event(event, **fields)])

    def _put_all(self, events: list[Event]) -> None:
        with self._lock:
            if not events or self._end["is_over"]:
                return
            self._out.put_all(events)
        if self._out.fault is not None and not self._end["is_told"]:
            self._end["is_told"] = True
            self._tell(
                f"the job log {self._out.path} cannot be written ({self._out.fault}); the job goes on without it"
            )

    def _tell(self, text: str) -> None:
        if self._notice is not None:
            call_back("the notice of a job log", self._notice, text)


class _Clock:
    """The wall clock as it was at the start, and the monotonic clock since."""

    def __init__(self) -> None:
        self._wall_s = time.time()
        self._began_s = time.monotonic()

    def now(self) -> float:
        """Return seconds since 1970, to the millisecond."""
        return round(self._wall_s + time.monotonic() - self._began_s, 3)

    def elapsed(self) -> float:
        """Return seconds since the start."""
        return round(time.monotonic() - self._began_s, 3)


def _options_of(job: Job[Any, Any]) -> dict[str, Any]:
    """Return the options of a job as JSON has them. Of `pass_env` there are names only."""
    options = job.options.to_wire()
    options |= {"py_files": list(job.options.py_files), "pass_env": list(job.options.pass_env)}
    return options | {"results": job.options.results}


def _again(kept: list[dict[str, Any]], error: JobError | None) -> Iterator[dict[str, Any]]:
    yield from kept
    if error is not None:
        raise error


def _text(value: Any) -> str | None:
    return None if value is None else _cut(str(value))


def _cut(value: Any, limit: int = _MAX_CHARS) -> Any:
    """Return a text of at most so many characters, or the number that this is."""
    if type(value) is not str or len(value) <= limit:
        return value
    return value[: limit - 3] + "..."
