"""What runs in a Dask worker.  The workers import this module by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.box import guest
from mmgevent.box.box import BoxedJob
from mmgevent.box.reports import GuestBatch, Report


def keep(data: bytes) -> bytes:
    """Return it: a key that Dask can compute again."""
    return data


def map_batch(job: BoxedJob, code: bytes, batch: GuestBatch) -> Report | tuple[Report, *tuple[bytes, ...]]:
    """Map a batch, until Dask no longer wants it. See `guest.map_batch`.

    Returns the report alone if it carries the pieces.
    """
    answer = guest.map_batch(job, code, batch, is_wanted=_current_task())
    return answer[0] if answer[0].carried else answer


def reduce_group(job: BoxedJob, code: bytes, *pieces: bytes) -> Report | tuple[Report, bytes]:
    """Reduce a group, until Dask no longer wants it. See `guest.reduce_group`.

    Returns the report alone if it carries the results.
    """
    answer = guest.reduce_group(job, code, *pieces, is_wanted=_current_task())
    return answer[0] if answer[0].carried else answer


def pick(answer: Any, place: int) -> Any:
    """Return the report of a task (place 0), or a piece of its output."""
    return answer if isinstance(answer, Report) else answer[place]


def _current_task() -> Callable[[], bool]:
    """Return a function that says whether the scheduler still wants the task of this thread.

    It no longer does when the driver has ended, even by a kill: Dask notices and drops its tasks.
    A task that runs is not stopped by Dask, so its box asks.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    tasks = worker.state.tasks

    def is_wanted() -> bool:
        task = tasks.get(key)
        return task is not None and task.state != "cancelled"

    return is_wanted
