"""What the functions of one job print, in its driver: the last lines, and those that wait for `logs`.

Lines arrive in the thread that reads from the engine, or in the job's thread. `deliver` is called in
the job's thread, like all callbacks of a job.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mmgevent.driver.callbacks import call_back
from mmgevent.errors import ProtocolError
from mmgevent.shown_text import MAX_NAME_CHARS, shown
from mmgevent.wire.frames import Frame
from mmgevent.wire.messages import decode_message

#: Lines that a job keeps for `handle.logs()`: some pages of a terminal.
MAX_KEPT_LINES = 1000

#: Lines that wait for the callback `logs`. While it, or the job's thread, is busy, others are
#: dropped and counted.
MAX_WAITING_LINES = 10_000

#: A record of `logging` in its usual format.
_RECORD = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):([^\s:]+):")


class LogLine(NamedTuple):
    """A line that a function of a job printed or logged. Its text has no control characters."""

    text: str
    #: name of the worker, "host/pid"; "" for what is said of several
    worker: str = ""
    #: key of the item that ran, as written in Python, or "setupfn"; "" if it is not known
    item: str = ""
    #: level and name of the logger, if the text is of `logging` in its usual format; else ""
    level: str = ""
    logger: str = ""

    def __str__(self) -> str:
        """Return the text behind worker and item."""
        at = f" at {self.item}" if self.item else ""
        return f"{self.worker}{at}: {self.text}" if self.worker else self.text


OnLog = Callable[[LogLine], object]


class JobLogs:
    """The lines of one job."""

    def __init__(self) -> None:
        #: called with each line in the job's thread; None if nobody wants them
        self.on_line: OnLog | None = None
        self._kept: deque[LogLine] = deque(maxlen=MAX_KEPT_LINES)
        self._waiting: deque[LogLine] = deque()
        self._dropped = 0
        self._lock = threading.Lock()

    def add(self, worker: str, rows: Iterable[tuple[str, str]], dropped: int = 0) -> bool:
        """Take (item, text) of lines of a worker, and how many were dropped before them.

        Return whether `deliver` should be called: nothing waited before.
        """
        worker = shown(worker, max_line_chars=MAX_NAME_CHARS)
        lines = [_line_of(worker, item, text) for item, text in rows]
        if dropped:
            lines.insert(0, _told(dropped))
        with self._lock:
            self._kept.extend(lines)
            if self.on_line is None:
                return False
            had_some = bool(self._waiting)
            room = MAX_WAITING_LINES - len(self._waiting)
            self._waiting.extend(lines[:room])
            self._dropped += len(lines[room:])
            return not had_some

    def take_frame(self, frame: Frame) -> bool:
        """Take a message `printed` of the server; return whether `deliver` should be called.

        Raises ProtocolError if it makes no sense.
        """
        message = decode_message(frame.payload)
        lines, items = message["lines"], message["items"]
        if len(lines) != len(items):
            raise ProtocolError(f"{len(lines)} printed lines of {len(items)} items")
        return self.add(message.get("worker", ""), zip(items, lines, strict=True), message.get("dropped", 0))

    def deliver(self) -> None:
        """Call `on_line` with what waits."""
        while self._waiting:
            with self._lock:
                line = self._waiting.popleft()
                dropped = 0
                if not self._waiting:
                    dropped, self._dropped = self._dropped, 0
            self._call(line)
            if dropped:
                self._call(_told(dropped))

    def lines(self) -> list[LogLine]:
        """Return the last lines, oldest first."""
        with self._lock:
            return list(self._kept)

    def _call(self, line: LogLine) -> None:
        if self.on_line is not None:
            call_back("the callback logs", self.on_line, line)


def _line_of(worker: str, item: str, text: str) -> LogLine:
    record = _RECORD.match(text)
    level, logger = record.groups() if record else ("", "")
    item = shown(item, max_line_chars=MAX_NAME_CHARS)
    return LogLine(shown(text.replace("\t", "    ")), worker, item, level, shown(logger))


def _told(dropped: int) -> LogLine:
    return LogLine(f"{dropped:,} printed lines were dropped")
