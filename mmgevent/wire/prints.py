"""Limits on what functions print: how much of it goes on, and in which messages.

Each executor, and each server for each job, passes on as much as a `Budget` allows. The rest is
counted. So a function that prints without end costs its job no memory, and others no bandwidth.
"""

from __future__ import annotations

import re

from mmgevent.wire.frames import CONTROL, Frame

#: Longest printed line that goes on, bytes. The rest of a longer one is left out.
MAX_LINE_BYTES = 2000

#: Lines of one message, and bytes of them: the message fits a frame, whatever JSON makes of them.
MAX_MESSAGE_LINES = 200
MAX_MESSAGE_BYTES = 16 * 1024

#: Bytes that a line costs beside its text: its place in messages and lists.
LINE_COST_BYTES = 64

#: Bytes a second of one executor that go on, and how many at once after a silence: some pages of a
#: terminal.
EXECUTOR_BYTES_A_S = 64 * 1024
EXECUTOR_BURST_BYTES = 256 * 1024

#: The same for all executors of a job together. Nobody reads as much, and a slow link can carry it.
JOB_BYTES_A_S = 256 * 1024
JOB_BURST_BYTES = 1024 * 1024


_PRINTED = b'"type":"printed"}'  # `messages` writes the type last


#: A record of `logging` in its usual format.
_RECORD = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):([^\s:]+):")


def find_record(text: str) -> tuple[str, str]:
    """Return level and logger of a line that `logging` wrote in its usual format, else ("", "")."""
    record = _RECORD.match(text)
    return (record[1], record[2]) if record else ("", "")


def is_printed(frame: Frame) -> bool:
    """Return whether a frame is a message `printed`."""
    return frame.kind == CONTROL and bytes(frame.payload[-len(_PRINTED) :]) == _PRINTED


class Budget:
    """Bytes that may go on: so many a second, and a number at once. It reads no clock."""

    def __init__(self, bytes_a_s: float, burst_bytes: float):
        self._bytes_a_s = bytes_a_s
        self._burst_bytes = burst_bytes
        self._left_bytes = burst_bytes
        self._at_s: float | None = None

    def left_bytes(self, now_s: float) -> float:
        """Return how many bytes may go on now."""
        since_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self._left_bytes = min(self._burst_bytes, self._left_bytes + since_s * self._bytes_a_s)
        return self._left_bytes

    def spend(self, n_bytes: int, now_s: float) -> bool:
        """Return whether a line of so many bytes may go on; if so, it has its bytes."""
        cost = n_bytes + LINE_COST_BYTES
        if cost > self.left_bytes(now_s):
            return False
        self._left_bytes -= cost
        return True
