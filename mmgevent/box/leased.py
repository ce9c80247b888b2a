"""Tasks whose boxes end with their job, on an engine that cannot reach its processes one by one.

The lease of a job is an empty file on each machine that ran a task of it.  The first task there
makes it, and `release` deletes it once the job is over.  The boxes of that machine end within
`boxes.LEASE_LOOK_S`.  They end at once if the engine ends their process.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

from mmgevent.box import guest
from mmgevent.box.box import BoxedJob
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.wire.frames import Payload


def map_batch(job: BoxedJob, code: bytes, batch: GuestBatch) -> tuple[Report, *tuple[bytes, ...]]:
    """Map a batch, see `guest.map_batch`."""
    return guest.map_batch(_with_lease(job), code, batch)


def reduce_group(job: BoxedJob, code: bytes, *pieces: Payload) -> tuple[Report, bytes]:
    """Reduce the partitions of a group, see `guest.reduce_group`."""
    return guest.reduce_group(_with_lease(job), code, *pieces)


def release(job_id: str) -> None:
    """End the boxes of a job on this machine. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(job_id))


def _with_lease(job: BoxedJob) -> Any:
    path = _path(job.id)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return job._replace(lease=path)


def _path(job_id: str) -> str:
    """Return the path of a lease: a job's name may have slashes, the number behind it has none."""
    return os.path.join(tempfile.gettempdir(), f"mmgevent-lease-{job_id.rpartition('-')[2]}")
