"""What logs call a job that has no name, and the stages of a chain."""

from __future__ import annotations

import functools
from typing import Any

from mmgevent.job.options import MAX_JOB_NAME_CHARS


def name_after(*functions: Any) -> str:
    """Name a job after the first of its functions that has a name."""
    for fn in functions:
        while isinstance(fn, functools.partial):
            fn = fn.func
        name = fn if isinstance(fn, str) else getattr(fn, "__name__", None)
        if isinstance(name, str) and name.isidentifier():
            return name[:MAX_JOB_NAME_CHARS]
    return "job"


def name_of_stage(name: str, number: int, count: int) -> str:
    """Return the name of one stage, for logs."""
    suffix = f" (stage {number} of {count})"
    return name[: MAX_JOB_NAME_CHARS - len(suffix)] + suffix
