"""Show on stderr how far a job is: one line that changes on a terminal, else a plain line now and then.

`update` and `notice` are called from the job's thread, the rest from the main one.  rich
is imported only once a job on a terminal has run for a while: it costs more time than a
small job takes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from mmgevent.cli.exits import say

if TYPE_CHECKING:
    from mmgevent.driver.job_state import Progress

#: seconds that a job runs before the changing line appears
LINE_AFTER_S = 0.6
#: seconds before the first plain line, and between two
FIRST_PLAIN_S = 5.0
PLAIN_EVERY_S = 10.0
#: of mapping, before its rate means anything
RATE_S = 1.0


def open_reporter(command: str, is_quiet: bool) -> Reporter:
    """Return what fits stderr: a changing line, plain lines, or nothing with -q."""
    if is_quiet:
        return Reporter(command)
    try:
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except (AttributeError, ValueError):  # stderr is closed
        return Reporter(command)
    return LineReporter(command) if is_terminal else PlainReporter(command)


def describe(progress: Progress, map_s: float | None) -> str:
    """Say in one line how far a job is; `map_s` are the seconds since its map phase began, if known."""
    if not progress.workers:
        return f"{progress.phase}: waiting for workers"
    of_total = f"/{progress.total}" if progress.total else ""
    parts = [f"{progress.phase} {progress.done}{of_total} {'items' if progress.phase == 'map' else 'tasks'}"]
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
    """Say nothing; the base of those that say something."""

    def __init__(self, command: str):
        self._command = command
        self._lock = threading.Lock()
        self._started_s = time.monotonic()
        self._map_started_s: float | None = None
        self._is_closed = False
        #: the most workers seen at one time
        self.most_workers = 0

    def update(self, progress: Progress) -> None:
        """Take note of how far the job is, and perhaps show it."""
        with self._lock:
            self.most_workers = max(self.most_workers, progress.workers)
            if progress.phase == "map" and progress.workers and self._map_started_s is None:
                self._map_started_s = time.monotonic()
            if not self._is_closed:
                self._show(progress)

    def notice(self, text: str) -> None:
        """Show one thing that the user should know."""

    def close(self) -> None:
        """Show nothing from now on; idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._clear()

    def _show(self, progress: Progress) -> None:
        """Show progress; called with the lock held."""

    def _clear(self) -> None:
        """Take away what is shown; called with the lock held."""

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
                    f"{self._command}: {text}", markup=False, highlight=False, soft_wrap=True
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
            redirect_stdout=True,  # what the job prints, for results have a descriptor of their own
        )
        self._task = self._line.add_task("", total=None, facts="")
        self._line.start()

    def _clear(self) -> None:
        if self._line is not None:
            self._line.stop()
