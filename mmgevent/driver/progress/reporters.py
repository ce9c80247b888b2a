"""Show how far a job is, on whatever stderr is.

A terminal gets a block that changes (`live_block`). Anything else gets a line now and then. The
job's thread calls `update` and `notice`, the thread that writes results `note_output`, and a thread
of the reporter's own shows what has not changed for a while.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

from mmgevent.driver.progress.text import count, describe
from mmgevent.errors import StartError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread
from mmgevent.shown_text import MAX_LINES, shown

if TYPE_CHECKING:
    from mmgevent.driver.progress.progress import Progress

log = get_log(__name__)

#: Time before the block appears, seconds. Shorter jobs need none.
BLOCK_AFTER_S = 0.6
#: Time before the first plain line, seconds. Logs of short jobs stay free of them.
FIRST_PLAIN_S = 5.0
#: Time between two plain lines, seconds. A log of an hour gets 360 lines.
PLAIN_EVERY_S = 10.0
#: Time between two looks of the reporter's own thread, seconds.
TICK_S = 0.3


def say(name: str, text: str) -> None:
    """Print one message on stderr."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is closed
        sys.stderr.write(f"{name}: {shown(text, MAX_LINES)}\n")
        sys.stderr.flush()


class Reporter:
    """Show nothing; the base of the other reporters."""

    #: whether a thread looks now and then, even if nothing is reported
    ticks = False

    def __init__(self, name: str):
        self._name = name
        self._lock = threading.Lock()
        self._started_s = time.monotonic()
        self._map_started_s: float | None = None
        self._progress: Progress | None = None
        #: what is done with the results: "sorting", "writing" or "finishing"; None before the first
        self._output: str | None = None
        #: how many results there were so far; whoever reads them counts here
        self.results = 0
        self._is_closed = threading.Event()
        self._ticker: threading.Thread | None = None
        #: The largest number of workers that there were at one time.
        self.most_workers = 0

    def update(self, progress: Progress) -> None:
        """Note the progress of the job, and show it if it is time."""
        with self._lock:
            self.most_workers = max(self.most_workers, progress.workers)
            last = self._progress
            if last is not None and progress.stage != last.stage:
                self._map_started_s = None
            self._progress = progress
            if progress.phase == "map" and progress.workers and self._map_started_s is None:
                self._map_started_s = time.monotonic()
            self._show_if_open()

    def note_output(self, what: str) -> None:
        """Note what is done with results from now on: "sorting", "writing" or "finishing"."""
        with self._lock:
            self._output = what
            self._show_if_open()

    def notice(self, text: str) -> None:
        """Show one message to the user."""

    def close(self) -> None:
        """Show nothing from now on; idempotent."""
        with self._lock:
            if not self._is_closed.is_set():
                self._is_closed.set()
                self._clear()

    def _show_if_open(self) -> None:
        if self._is_closed.is_set():
            return
        if self.ticks and self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="mmgevent-progress", daemon=True)
            try:
                start_thread(self._ticker)
            except StartError as error:
                log.debug("progress is shown only when it changes: %s", error)
        self._show()

    def _tick(self) -> None:
        while not self._is_closed.wait(TICK_S):
            with self._lock:
                if not self._is_closed.is_set():
                    self._show()

    def _show(self) -> None:
        """Show what is known; the caller holds the lock."""

    def _clear(self) -> None:
        """Remove what is shown; the caller holds the lock."""

    def _describe(self) -> str:
        """Return one line about the job and its results."""
        parts = []
        progress = self._progress
        if progress is not None:
            parts.append(describe(progress, self._map_seconds()))
        if self._output is not None:
            parts.append(self._describe_output())
        return "; ".join(parts)

    def _describe_output(self) -> str:
        if self._output == "finishing":
            return f"finishing the output of {count(self.results, 'result')}"
        return f"{self._output} results, {self.results:,} so far"

    def _map_seconds(self) -> float | None:
        since = self._map_started_s
        return None if since is None else time.monotonic() - since


class PlainReporter(Reporter):
    """Write a line now and then, for logs and pipes."""

    ticks = True

    def __init__(self, name: str):
        super().__init__(name)
        self._next_s = self._started_s + FIRST_PLAIN_S

    def notice(self, text: str) -> None:
        say(self._name, text)

    def _show(self) -> None:
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + PLAIN_EVERY_S
            say(self._name, self._describe())
