"""How a process ended, in words. It needs no gevent: other engines' workers report ends, too."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from mmgevent.executor.exit_codes import LIMITS_CODE

#: How a template ended by itself: user code of its executors can change the limits of their parent.
LIMITS_CHANGED = "another process changed its limits (prlimit)"


class Exit(NamedTuple):
    """How an executor ended."""

    status: int | None  #: from `os.wait`; None if its template died, or if it was never forked
    maxrss_kb: int  #: largest resident size, KiB
    error: str | None = None  #: why it was never forked
    template: str | None = None  #: how its template ended, if that is why it ended
    is_fact: bool = True  #: False if the template ended by a fault of our own, or for its silence alone

    def __str__(self) -> str:
        if self.status is None:
            return self.error or f"its template process ended: {self.template or 'nobody knows how'}"
        return describe_status(self.status)


def describe_status(status: int) -> str:
    """Return in words how a process ended, from its status of `os.wait`."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"signal {number} ({_name_of_signal(number)})"
    if os.WIFEXITED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    return f"wait status {status}"


def describe_return_code(code: int | None) -> str:
    """Return the same from a return code of `subprocess`: signals are negative."""
    if code is None:
        return "it has not ended"
    return f"signal {-code} ({_name_of_signal(-code)})" if code < 0 else f"exit code {code}"


def describe_template_end(code: int | None) -> str:
    """Return in words how a template ended, from its return code of `subprocess`."""
    return LIMITS_CHANGED if code == LIMITS_CODE else describe_return_code(code)


def _name_of_signal(number: int) -> str:
    """Return the name of a signal.

    Most real-time signals are named by their distance from the first.
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        first = getattr(signal, "SIGRTMIN", None)
        return "of no known name" if first is None or number < first else f"SIGRTMIN+{number - first}"
