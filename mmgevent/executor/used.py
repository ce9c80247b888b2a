"""What a task uses of its machine: processor time, and the most memory of its process.

Asking the system takes 1 µs at the start and at the end of a task.
"""

from __future__ import annotations

from resource import RUSAGE_SELF, getrusage
from time import process_time_ns

#: Bytes of the unit of `ru_maxrss` on Linux.
_KIB = 1024
#: Nanoseconds of a microsecond.
_NS = 1000


class Used:
    """What this process has used since this was made."""

    def __init__(self) -> None:
        self._began_ns = process_time_ns()

    def fields(self) -> dict[str, int]:
        """Return the fields of the message `done`: `cpu_us` since the start, `peak_bytes` of the process."""
        return {
            "cpu_us": max(0, process_time_ns() - self._began_ns) // _NS,
            "peak_bytes": getrusage(RUSAGE_SELF).ru_maxrss * _KIB,
        }
