"""Make lines of what an executor prints, and keep those that wait to be sent, in limited memory."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmgevent.executor.prints import MarkedBytes, name_place
from mmgevent.wire.prints import (
    EXECUTOR_BURST_BYTES,
    EXECUTOR_BYTES_A_S,
    MAX_LINE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGE_LINES,
    Budget,
)

#: Bytes that may go on again before lines are read again one by one. Until then they are only
#: counted, which takes a tenth of the time.
FLOOD_ENDS_BYTES = 16 * 1024

#: Bytes of lines that wait to be sent. They go every tenth of a second.
MAX_WAITING_BYTES = 64 * 1024


class PrintedLines(NamedTuple):
    """Lines for one message."""

    lines: list[str]
    #: the item of each line, "" if that is not known
    items: list[str]
    #: lines that were dropped before these
    dropped: int

    def fields(self) -> dict[str, Any]:
        """Return the fields of a message `printed`."""
        return {"lines": self.lines, "items": self.items, "dropped": self.dropped or None}


class PrintReader:
    """What one executor has printed, as lines."""

    def __init__(self, token: bytes):
        self._marked = MarkedBytes(token)
        self._budget = Budget(EXECUTOR_BYTES_A_S, EXECUTOR_BURST_BYTES)
        self._begun = bytearray()  # a line without its end
        self._begun_mark = b""
        self._is_cut = False  # the rest of the begun line is left out
        self._is_lost = False  # the begun line is dropped, since its beginning was
        self._is_flooded = False  # lines are only counted
        self._waiting: list[tuple[str, str]] = []
        self._waiting_bytes = 0
        self._dropped = 0

    def __bool__(self) -> bool:
        """Return whether something waits to be sent."""
        return bool(self._waiting or self._dropped)

    def feed(self, data: bytes, now_s: float) -> None:
        """Take what was read."""
        if self._is_flooded:
            has_room = 2 * self._waiting_bytes <= MAX_WAITING_BYTES
            self._is_flooded = not has_room or self._budget.left_bytes(now_s) < FLOOD_ENDS_BYTES
        if self._is_flooded:
            count, self._is_lost = self._marked.skip(data)
            self._dropped += count
            self._begun.clear()
            return
        for mark, part in self._marked.parts(data):
            if self._is_flooded:
                self._dropped += part.count(b"\n")
                self._is_lost = not part.endswith(b"\n")
                self._begun.clear()
                continue
            if self._begun and mark != self._begun_mark and _are_two_items(mark, self._begun_mark):
                self._end(now_s)  # one item has ended no line, and another has begun one
            first, *others = part.split(b"\n")
            self._begin(mark, first)
            if others:
                self._end(now_s)
                for whole in others[:-1]:
                    self._begin(mark, whole)
                    self._end(now_s)
                self._begin(mark, others[-1])

    def end_line(self, now_s: float) -> None:
        """Take the beginning of a line for a whole one: its task, or its executor, has ended."""
        if self._begun:
            self._end(now_s)

    def take(self) -> PrintedLines:
        """Return lines that wait, for one message."""
        lines: list[str] = []
        items: list[str] = []
        size = 0
        for line, item in self._waiting[:MAX_MESSAGE_LINES]:
            size += len(line) + len(item)
            if lines and size > MAX_MESSAGE_BYTES:
                break
            lines.append(line)
            items.append(item)
        del self._waiting[: len(lines)]
        self._waiting_bytes = sum(len(line) for line, _ in self._waiting)
        dropped, self._dropped = self._dropped, 0
        return PrintedLines(lines, items, dropped)

    def drop(self, lines: PrintedLines) -> None:
        """Count lines that could not be sent: the next message says so."""
        self._dropped += len(lines.lines) + lines.dropped

    def strip(self, data: bytes) -> bytes:
        """Return bytes that were read without marks."""
        return self._marked.strip(data)

    def _begin(self, mark: bytes, data: bytes) -> None:
        """Add to the line that has begun, or begin one."""
        if not data:
            return
        if not self._begun:
            self._begun_mark = mark
        if b"\r" in data or b"\r" in self._begun:  # a terminal shows what was written over the rest
            data = bytes(self._begun) + data
            data = data[data.rstrip(b"\r").rfind(b"\r") + 1 :]
            self._begun.clear()
        room = max(0, MAX_LINE_BYTES - len(self._begun))
        self._is_cut = self._is_cut or len(data) > room
        self._begun += data[:room]

    def _end(self, now_s: float) -> None:
        data, self._begun = self._begun.rstrip(b"\r"), bytearray()
        is_cut, self._is_cut = self._is_cut, False
        is_lost, self._is_lost = self._is_lost, False
        size = len(data)
        if is_lost:
            self._dropped += 1
            return
        if self._waiting_bytes + size > MAX_WAITING_BYTES or not self._budget.spend(size, now_s):
            self._dropped += 1
            self._is_flooded = True
            return
        text = data.decode("utf-8", "replace") + ("..." if is_cut else "")
        self._waiting.append((text, name_place(self._begun_mark)))
        self._waiting_bytes += size


def _are_two_items(mark: bytes, other: bytes) -> bool:
    """Return whether two marks are of items that are known, and are not the same."""
    return bool(mark and other) and name_place(mark) != name_place(other)
