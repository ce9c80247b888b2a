"""Show the progress of a job on stderr: one changing line on a terminal, otherwise plain lines.

The job's thread calls `update` and `notice`, the main thread calls the others. rich is imported
only if a job on a terminal has run for a while: the import takes longer than a small job.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from mmgevent.cli.exits import say
from mmgevent.shown_text import MAX_LINES, MAX_NAME_CHARS, shown

if TYPE_CHECKING:
    from mmgevent.driver.progress import Progress

#: Time before the changing line appears, seconds. Shorter jobs need none.
LINE_AFTER_S = 0.6
#: Time before the first plain line, seconds. Logs of short jobs stay free of them.
FIRST_PLAIN_S = 5.0
#: Time between two plain lines, seconds. A log of an hour gets 360 lines.
PLAIN_EVERY_S = 10.0
#: Time of mapping before the line shows a rate, seconds. Earlier rates are mostly start-up.
RATE_S = 1.0


def open_reporter(command: str, is_quiet: bool) -> Reporter:
    """Return a reporter for stderr: a changing line, plain lines, or nothing if `is_quiet`."""
    if is_quiet:
        return Reporter(command)
    try:
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except (AttributeError, ValueError):  # stderr is closed
        return Reporter(command)
    return LineReporter(command) if is_terminal else PlainReporter(command)


def describe(progress: Progress, map_s: float | None) -> str:
    """Return one line about the progress of a job.

    `map_s` is the time since mapping began, or None if that is not known.
    """
    phase = shown(progress.phase, max_line_chars=MAX_NAME_CHARS)
    if progress.stages > 1:
        phase = f"stage {progress.stage} of {progress.stages}: {phase}"
    if not progress.workers:
        return f"{phase}: waiting for workers"
    of_total = f"/{progress.total}" if progress.total else ""
    parts = [f"{phase} {progress.done}{of_total} {'items' if progress.phase == 'map' else 'tasks'}"]
    if progress.bytes:
        parts.append(f"{progress.bytes / 1e6:,.1f} MB")
    parts.append(
        f"{progress.workers} worker{'s' * (progress.workers != 1)} with "
        f"{progress.slots} slot{'s' * (progress.slots != 1)}"
    )
    if progress.phase == "map" and progress.bytes and map_s and map_s >= RATE_S:
        parts.append(f"{progress.bytes / 1e6 / map_s:,.1f} MB/s")
    return ", ".join(parts)


class Reporter:
    """Show nothing; the base of the other reporters."""

    def __init__(self, command: str):
        self._command = command
        self._lock = threading.Lock()
        self._started_s = time.monotonic()
        self._map_started_s: float | None = None
        self._stage = 1
        self._is_closed = False
        #: The largest number of workers that there were at one time.
        self.most_workers = 0

    def update(self, progress: Progress) -> None:
        """Note the progress of the job, and show it if it is time."""
        with self._lock:
            self.most_workers = max(self.most_workers, progress.workers)
            if progress.stage != self._stage:
                self._stage, self._map_started_s = progress.stage, None
            if progress.phase == "map" and progress.workers and self._map_started_s is None:
                self._map_started_s = time.monotonic()
            if not self._is_closed:
                self._show(progress)

    def notice(self, text: str) -> None:
        """Show one message to the user."""

    def close(self) -> None:
        """Show nothing from now on; idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._clear()

    def _show(self, progress: Progress) -> None:
        """Show progress; the caller holds the lock."""

    def _clear(self) -> None:
        """Remove what is shown; the caller holds the lock."""

    def _describe(self, progress: Progress) -> str:
        since = self._map_started_s
        return describe(progress, None if since is None else time.monotonic() - since)


class PlainReporter(Reporter):
    """Write a line now and then, for logs and pipes."""

    def __init__(self, command: str):
        super().__init__(command)
        self._next_s = self._started_s + FIRST_PLAIN_S

    def notice(self, text: str) -> None:
        say(self._command, text)

    def _show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + PLAIN_EVERY_S
            say(self._command, self._describe(progress))


class LineReporter(Reporter):
    """Keep one line of a terminal up to date."""

    def __init__(self, command: str):
        super().__init__(command)
        self._line: Any = None
        self._task: Any = None

    def notice(self, text: str) -> None:
        with self._lock:
            if self._line is not None and not self._is_closed:
                self._line.console.print(
                    f"{self._command}: {shown(text, MAX_LINES)}",
                    markup=False,
                    emoji=False,
                    highlight=False,
                    soft_wrap=True,
                )
            else:
                say(self._command, text)

    def _show(self, progress: Progress) -> None:
        if self._line is None:
            if time.monotonic() - self._started_s < LINE_AFTER_S:
                return
            self._open()
        self._line.update(
            self._task, completed=progress.done, total=progress.total or None, facts=self._describe(progress)
        )

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._line = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=5,
            redirect_stdout=True,  # prints of the job; results have a descriptor of their own
        )
        self._task = self._line.add_task("", total=None, facts="")
        self._line.start()

    def _clear(self) -> None:
        if self._line is not None:
            self._line.stop()
