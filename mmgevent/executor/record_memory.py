"""How much memory of an executor records may take."""

from __future__ import annotations

from mmgevent.machine.resources import (
    OTHERS_BYTES,
    count_default_executors,
    process_memory_bytes,
    total_memory_bytes,
)
from mmgevent.tasks.run import RECORD_SHARE


def record_memory_bytes(limit_bytes: int | None, executors: int = 1) -> int:
    """Return how many bytes of records a task may hold at once.

    It is a share of the job's limit. Without a limit it is a share of the machine's memory, divided
    by `executors`, or by the default number of executors if that is larger.
    """
    if limit_bytes is None:
        total = total_memory_bytes()
        # On a small machine the others never need all of OTHERS_BYTES at once.
        available = max(total - OTHERS_BYTES, total // 2)
        limit_bytes = available // max(count_default_executors(), executors)
    own_limit = process_memory_bytes()
    if own_limit is not None:
        limit_bytes = min(limit_bytes, own_limit)
    return int(limit_bytes * RECORD_SHARE)
