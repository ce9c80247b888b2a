"""An engine as a child process of its driver: wait for its end, and explain it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

from mmgevent.errors import EngineError, StartError
from mmgevent.machine.python_path import VARIABLE
from mmgevent.machine.resources import find_control_groups
from mmgevent.wire.hello import PYTHON_VERSION

#: Time for an engine that closed its link unasked to end, seconds.  Then its end can be explained.
EXPLAIN_S = 0.2


def wait_for_end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Do as `process.wait(timeout_s)`, but return at once when the process ends.

    That needs `pidfd_open`.  `wait` looks after 0.5, 1.5, 3.5, 7.5 ms and so on, and an engine
    takes about 4 ms to end.
    """
    until = time.monotonic() + timeout_s
    if process.poll() is None and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # an old kernel, or another thread reaped it
            fd = os.pidfd_open(process.pid)
            try:
                waiting = select.poll()
                waiting.register(fd, select.POLLIN)
                waiting.poll(timeout_s * 1000)
            finally:
                os.close(fd)
    process.wait(max(0.0, until - time.monotonic()))


def explain_end(process: subprocess.Popen[bytes], reason: str) -> str:
    """Return why an engine ended: `reason`, and whether it was killed at its memory limit."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(EXPLAIN_S)
    if process.returncode != -signal.SIGKILL:
        return reason
    groups = find_control_groups()
    limit = groups.limits.memory_bytes
    if limit is None or not groups.count_memory_kills():
        return reason
    return f"{reason}: the kernel killed it at the memory limit of its container (control group), {limit >> 20} MiB"


def make_start_error(process: subprocess.Popen[bytes], reason: str) -> EngineError:
    """Return the error of an engine that ended before it was ready."""
    python = str(process.args[0])  # type: ignore[index] # a list, by `engine.start`
    if python == sys.executable:
        return EngineError(f"the engine could not start: {reason}")
    return StartError(
        f"the engine could not start: {reason}; it was started with {python}, which must be a Python "
        f"{PYTHON_VERSION} that has mmgevent: set {VARIABLE} to the path of one"
    )
