"""How an executor ended, in words. It needs no gevent: other engines' workers report ends, too."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple


class Exit(NamedTuple):
    """How an executor ended."""

    status: int | None  #: from `os.wait`; None if its template died, or if it was never forked
    maxrss_kb: int  #: largest resident size, KiB
    error: str | None = None  #: why it was never forked

    def __str__(self) -> str:
        if self.status is None:
            return self.error or "its template process ended"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return f"signal {number} ({_name_of_signal(number)})"
        if os.WIFEXITED(self.status):
            return f"exit code {os.WEXITSTATUS(self.status)}"
        return f"wait status {self.status}"


def _name_of_signal(number: int) -> str:
    """Return the name of a signal.

    Most real-time signals are named by their distance from the first.
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        first = getattr(signal, "SIGRTMIN", None)
        return "of no known name" if first is None or number < first else f"SIGRTMIN+{number - first}"
