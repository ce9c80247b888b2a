"""What the executors of a box print, until a report takes it along."""

from __future__ import annotations

from typing import Protocol

from mmgevent.engine.worker.printed import PrintedLines
from mmgevent.wire.prints import LINE_COST_BYTES

#: Bytes of printed lines in one report. Reports of all tasks of a job are in its driver's memory.
MAX_REPORT_BYTES = 64 * 1024


class Printing(Protocol):
    """An executor that prints."""

    def take_printed(self) -> PrintedLines | None:
        """Return lines that it has printed; None if there are no more."""


class BoxPrints:
    """Lines for one report."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []
        self._bytes = 0
        self._dropped = 0

    def take_from(self, executor: Printing) -> None:
        """Take what an executor has printed; count what a report has no room for."""
        while (lines := executor.take_printed()) is not None:
            self._dropped += lines.dropped
            for text, item in zip(lines.lines, lines.items, strict=True):
                self._bytes += len(text) + len(item) + LINE_COST_BYTES
                if self._bytes <= MAX_REPORT_BYTES:
                    self._rows.append((item, text))
                else:
                    self._dropped += 1

    def take(self) -> tuple[tuple[tuple[str, str], ...], int]:
        """Return (item, text) of each line so far, and how many were dropped; begin anew."""
        rows, dropped = tuple(self._rows), self._dropped
        self._rows, self._bytes, self._dropped = [], 0, 0
        return rows, dropped
