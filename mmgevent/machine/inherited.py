"""What a process has from whoever started it, apart from its arguments."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import NamedTuple

#: Limits of a process, those that this system has.
_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})


class Inherited(NamedTuple):
    """What a process would have that this thread started now."""

    environ: tuple[tuple[str, str], ...]
    #: working directory; None if it was deleted
    folder: str | None
    #: resource limits: (soft, hard) of each
    limits: tuple[tuple[int, int], ...]
    #: mask of new files, in octal; "" where the system does not say
    umask: str
    #: cores that it may use; none where the system does not say. A thread has its own.
    cpus: frozenset[int]
    #: priority. On Linux a thread has its own.
    niceness: int
    #: user, group, and the other groups
    ids: tuple[int, ...]

    @classmethod
    def of_now(cls) -> Inherited:
        """Return what this thread passes on now."""
        try:
            folder = os.getcwd()
        except OSError:
            folder = None
        return cls(
            tuple(os.environ.items()),
            folder,
            _read_limits(),
            _read_umask(),
            frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset(),
            os.getpriority(os.PRIO_PROCESS, 0),
            (os.geteuid(), os.getegid(), *sorted(os.getgroups())),
        )

    def pass_on(self, pid: int) -> None:
        """Give a process that another thread has just started what threads have of their own.

        Without the right to do so it keeps what it has.
        """
        with contextlib.suppress(OSError):
            if self.cpus and os.sched_getaffinity(pid) != self.cpus:
                os.sched_setaffinity(pid, self.cpus)
        with contextlib.suppress(OSError):
            if os.getpriority(os.PRIO_PROCESS, pid) != self.niceness:
                os.setpriority(os.PRIO_PROCESS, pid, self.niceness)


def _read_limits() -> tuple[tuple[int, int], ...]:
    try:
        return tuple(resource.getrlimit(number) for number in _LIMITS)
    except OSError:  # a sandbox forbids it
        return ()


def _read_umask() -> str:
    """Return the mask.  `os.umask` would change it for a moment, for all threads."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return line.split()[1].decode("ascii")
    except OSError:
        pass
    return ""
