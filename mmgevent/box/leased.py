"""Tasks whose boxes end with their job, on an engine that cannot reach its processes one by one.

The lease of a job is an empty file on each machine that ran a task of it.  The first task there
makes it, and `release` deletes it once the job is over.  The boxes of that machine end within
`boxes.LEASE_LOOK_S`.  They end at once if the engine ends their process.

A driver that is killed, or whose engine is lost, releases nothing.  Then its processes end, and the
file is left.  Each process that ran a task of a job holds a lock on its lease.  So a lease without a
lock is left over, and the next job on that machine deletes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
from typing import Any

from mmgevent.box import guest
from mmgevent.box.box import BoxedJob
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.wire.frames import Payload

#: Name of a lease, in front of the number of its job.
PREFIX = "mmgevent-lease-"

#: Attempts to lock a lease: each time another process may have deleted it in between.
_ATTEMPTS = 10


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
    leases.sweep()


class Leases:
    """The leases that this process holds.  Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: {path: descriptor with the lock}
        self._held: dict[str, int] = {}

    def hold(self, path: str) -> None:
        """Make a lease, or join the processes that hold it. Raises OSError if that is impossible."""
        with self._lock:
            if path in self._held and _is_same(self._held[path], path):
                return
        self.sweep()
        for _ in range(_ATTEMPTS):
            fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(OSError):  # without locks nobody takes it for left over
                fcntl.flock(fd, fcntl.LOCK_SH)
            if _is_same(fd, path):
                break
            os.close(fd)
        else:
            raise OSError(f"{path} is deleted again and again")
        with self._lock:
            before = self._held.get(path)
            self._held[path] = fd
        if before is not None:
            os.close(before)

    def sweep(self) -> None:
        """Let go of leases that were released, and delete those that nobody holds."""
        with self._lock:
            for path in [path for path, fd in self._held.items() if not _is_same(fd, path)]:
                os.close(self._held.pop(path))
            held = set(self._held)
        folder = tempfile.gettempdir()
        with contextlib.suppress(OSError):  # the folder cannot be read
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                if name.startswith(PREFIX) and path not in held:
                    _delete_if_left(path)


def _delete_if_left(path: str) -> None:
    """Delete a lease that no process holds."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it is gone, or another user's
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(fd, path):
            os.unlink(path)
    except OSError:  # somebody holds it
        return
    finally:
        os.close(fd)


def _is_same(fd: int, path: str) -> bool:
    """Return whether the file of this descriptor is still at this path."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


#: The leases of this process.
leases = Leases()


def _with_lease(job: BoxedJob) -> Any:
    path = _path(job.id)
    leases.hold(path)
    return job._replace(lease=path)


def _path(job_id: str) -> str:
    """Return the path of a lease: a job's name may have slashes, the number behind it has none."""
    return os.path.join(tempfile.gettempdir(), f"{PREFIX}{job_id.rpartition('-')[2]}")
