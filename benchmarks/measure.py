"""Run a program as a whole process, and say what it and everything it started took.

This process becomes a subreaper: whatever a program leaves behind (a daemon, a JVM) becomes a child
of this one instead of init's.  So nothing escapes the count, and nothing outlives its measurement.

- wall: from before the start to the exit of the program itself.
- CPU: user and system seconds of all its processes, as the kernel counts them when they are reaped.
- memory: PSS, which shares a page's bytes among those who map it, summed over all processes alive at one
  moment; the highest of the moments looked at.  It is looked at every SAMPLE_S, less often where looking is
  slow: it takes at most one part in COST_PARTS of one core, whichever program is measured.

Linux only.
"""

from __future__ import annotations

import compileall
import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

SAMPLE_S = 0.05
COST_PARTS = 25
#: for processes that a program leaves behind to end by themselves
LINGER_S = 5.0
#: of what a program said on stderr, kept for the error message
TAIL_BYTES = 2000

_PR_SET_CHILD_SUBREAPER = 36


def compile_code() -> None:
    """Keep the byte code of what is measured, as an installed package has it.

    Where PYTHONDONTWRITEBYTECODE is set, a checkout would be compiled anew at each start: 0.1 s of four lines.
    """
    for folder in ("mmgevent", "benchmarks"):
        compileall.compile_dir(ROOT / folder, quiet=1)


class Measurement(NamedTuple):
    """What one run took."""

    wall_s: float
    cpu_s: float
    peak_pss_bytes: int  #: of all processes together
    largest_pss_bytes: int  #: of the largest single process
    exit_code: int  #: negative: the signal that ended it
    timed_out: bool
    left_behind: int  #: processes that had to be killed after LINGER_S
    stderr: str  #: the last of it

    @property
    def error(self) -> str | None:
        """Why the run does not count; None if it does."""
        if self.timed_out:
            return f"took longer than {self.wall_s:.0f} s and was ended"
        if self.exit_code:
            return f"ended with exit code {self.exit_code}: {self.stderr.strip()[-400:]}"
        return None


def measure(command: Sequence[str], *, timeout_s: float = 600.0) -> Measurement:
    """Run a program in the project's folder to its end; it and its children are gone afterwards."""
    become_subreaper()
    others = set(descendants(os.getpid()))
    before_s = _children_cpu_s()
    peak = _Peak(others)
    with tempfile.TemporaryFile(prefix="mmgevent-bench-") as errors:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **environment()},
        )
        try:
            timed_out = not _wait(process, started_s + timeout_s, peak)
            wall_s = time.perf_counter() - started_s
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            left_behind = _end_descendants(others)
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - TAIL_BYTES))
        tail = errors.read().decode("utf-8", "replace")
    return Measurement(
        wall_s=wall_s,
        cpu_s=_children_cpu_s() - before_s,
        peak_pss_bytes=peak.total,
        largest_pss_bytes=peak.largest,
        exit_code=process.returncode,
        timed_out=timed_out,
        left_behind=left_behind,
        stderr=tail,
    )


def environment() -> dict[str, str]:
    """Return the variables every program of the benchmarks gets, so that it finds this package."""
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}


def become_subreaper() -> None:
    """Adopt what the children of this process leave behind, from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(
            ctypes.get_errno(), "this kernel has no PR_SET_CHILD_SUBREAPER; the benchmarks need Linux"
        )


def end_on_sigterm() -> None:
    """Leave by an exception when asked to end, so that what was started is ended too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def descendants(pid: int) -> Iterator[int]:
    """Give the processes that a process started, and they, and so on."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # the thread or the process has ended
            continue
        for child in map(int, found):
            yield child
            yield from descendants(child)


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 once it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a live process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Peak:
    """The highest memory seen so far of all descendants but `others`."""

    def __init__(self, others: set[int]):
        self._others = others
        self.total = 0
        self.largest = 0

    def look(self) -> None:
        sizes = [pss_bytes(pid) for pid in descendants(os.getpid()) if pid not in self._others]
        self.total = max(self.total, sum(sizes))
        self.largest = max(self.largest, max(sizes, default=0))


def _wait(process: subprocess.Popen[bytes], deadline_s: float, peak: _Peak) -> bool:
    """Look at the memory until the process has ended; False if it has not by the deadline."""
    pidfd = os.pidfd_open(process.pid)
    try:
        pause_s = SAMPLE_S
        while not select.select([pidfd], [], [], max(0.0, min(pause_s, deadline_s - time.perf_counter())))[0]:
            began_s = time.perf_counter()
            if began_s >= deadline_s:
                return False
            peak.look()
            pause_s = max(SAMPLE_S, COST_PARTS * (time.perf_counter() - began_s))
    finally:
        os.close(pidfd)
    return True


def _end_descendants(others: set[int]) -> int:
    """Wait for what was left behind, then kill it; return how many had to be."""
    deadline_s = time.monotonic() + LINGER_S
    killed: set[int] = set()
    while left := [pid for pid in descendants(os.getpid()) if pid not in others]:
        for pid in left:
            if time.monotonic() > deadline_s and pid not in killed:
                killed.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # a grandchild: its parent reaps it, or we do later
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    return len(killed)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
