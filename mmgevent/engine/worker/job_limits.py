"""Which limit of its job an executor exceeds now: the time of an item or of setupfn, or memory.

The rule of our own worker and of the box. It looks at no process and at no clock by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from mmgevent.executor.status_page import Position

#: Share of the memory limit at which the user is warned, once.
WARN_SHARE = 0.9


class LimitedJob(Protocol):
    """The limits of a job, None where it has none."""

    @property
    def task_timeout_s(self) -> float | None: ...

    @property
    def memory_limit_bytes(self) -> int | None: ...

    @property
    def setup_timeout_s(self) -> float | None: ...


class Excess(NamedTuple):
    """A limit that is exceeded, or nearly so."""

    #: "timeout" or "memory" if the executor is to be killed; None if it is near its memory limit
    limit: str | None
    #: why it is killed, or the warning
    text: str


def find_excess(job: LimitedJob, position: Position, count_bytes: Callable[[], int]) -> Excess | None:
    """Return which limit an executor at this position exceeds; None if it keeps them all.

    `count_bytes()` returns its memory. It is called only if the job limits that.
    """
    limit_s = job.setup_timeout_s if position.is_setup else job.task_timeout_s
    if limit_s is not None and position.running_s > limit_s:
        return Excess("timeout", f"{'its setupfn' if position.is_setup else 'an item'} took too long")
    limit_bytes = job.memory_limit_bytes
    if limit_bytes is None:
        return None
    used = count_bytes()
    if used > limit_bytes:
        return Excess("memory", "it had grown too large")
    if used > WARN_SHARE * limit_bytes:
        return Excess(None, f"it uses {used >> 20} MiB of memory_limit, {limit_bytes >> 20} MiB")
    return None
