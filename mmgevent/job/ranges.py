"""The ranges of the job options that executors act on.

A driver checks options where they are given. A worker checks them again, since it believes no peer.
Both use what stands here.
"""

from __future__ import annotations

import math
from typing import Any

#: Smallest `memory_limit`, bytes. Python with the user's modules needs this much before it does anything.
MIN_MEMORY_BYTES = 16 * 1024 * 1024

#: Largest `memory_limit`, bytes. Larger numbers do not fit the system calls that set limits.
MAX_MEMORY_BYTES = 2**63 - 1

#: Most items at once in one executor. It is far beyond what one process does well.
MAX_GREENLETS = 100_000

#: Range of `greenlets` in words, for error messages.
GREENLETS_RANGE = f"an int from 0 to {MAX_GREENLETS}"

#: Range of `task_timeout` and `setup_timeout` in words, for error messages.
SECONDS_RANGE = "a number of seconds above 0"


def is_int(value: Any) -> bool:
    """Return whether this is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether this is a finite number."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


def is_greenlets(value: Any) -> bool:
    """Return whether this is a number of items at once; 0 is one after the other."""
    return is_int(value) and 0 <= value <= MAX_GREENLETS


def is_seconds(value: Any) -> bool:
    """Return whether this is a limit of time."""
    return is_number(value) and value > 0


def is_memory_limit(value: Any) -> bool:
    """Return whether this is a limit of an executor's memory, in bytes."""
    return is_int(value) and MIN_MEMORY_BYTES <= value <= MAX_MEMORY_BYTES
