"""The limits of executors that the owner of a worker sets, beside those of each job."""

from __future__ import annotations

from typing import Any, NamedTuple


class ExecutorLimits(NamedTuple):
    """What each executor of a worker may use, whatever its job is."""

    #: memory in RAM, bytes; None for no limit but the job's
    memory_bytes: int | None = None
    #: Items after which an executor is replaced, once its task has ended. None for no limit.
    max_items: int | None = None

    def apply(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a job with the lower of both memory limits.

        Options out of range stay as they are, for the check of options to find.
        """
        given = options.get("memory_limit")
        if self.memory_bytes is None or not (given is None or type(given) is int):
            return options
        if given is not None and given <= self.memory_bytes:
            return options
        return {**options, "memory_limit": self.memory_bytes}


NO_LIMITS = ExecutorLimits()
