"""How long a worker without a driver stays, and how it is set up.

A worker drains before it leaves: it takes no more tasks, and tasks that run get the grace. The
grace is the same after SIGTERM as before the end of the lifetime. What still runs then is done
elsewhere, which is no death and costs no retry.
"""

from __future__ import annotations

from typing import NamedTuple

from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.engine.worker.limits import NO_LIMITS, ExecutorLimits

#: Time for running tasks after SIGTERM and before the end of a lifetime, seconds. Most tasks take
#: up to 2 s, and whoever stops a machine waits for this.
GRACE_S = 2.0

#: Share of a lifetime that the default grace may take. Otherwise a worker of 2 s would never work.
MAX_GRACE_SHARE = 0.5


class Stay(NamedTuple):
    """How long a worker stays."""

    #: time from its start to its end, seconds; None for no end
    lifetime_s: float | None = None
    #: time without a task after which it leaves, seconds; None for never
    idle_timeout_s: float | None = None
    #: time for running tasks at the end, seconds; None for the default
    grace_s: float | None = None

    @property
    def end_grace_s(self) -> float:
        """Return the time for running tasks at the end, seconds."""
        if self.grace_s is not None:
            return self.grace_s
        return GRACE_S if self.lifetime_s is None else min(GRACE_S, MAX_GRACE_SHARE * self.lifetime_s)


class WorkerSettings(NamedTuple):
    """What a worker without a driver is, and how long it stays. It does not change."""

    #: executors, at most that many at once
    procs: int
    #: the main password, or a worker password
    password: str
    certificates: Certificates = NO_CERTIFICATES
    #: whether it ends when its server says goodbye
    once: bool = False
    #: what people see of it; None for "host/pid"
    name: str | None = None
    #: niceness of its executors, 0 to 19
    nice: int = 0
    limits: ExecutorLimits = NO_LIMITS
    stay: Stay = Stay()
