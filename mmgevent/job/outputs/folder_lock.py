"""Make a folder, keep other runs away from it, and get its names to the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable

from mmgevent.errors import OutputError

LOCK = ".mmg-lock"

#: Times that a lock is tried again because its file was removed meanwhile.
_MAX_LOCK_TRIES = 100

#: Error numbers of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def make_folder(folder: str) -> bool:
    """Make a folder unless it is there; return whether it is new."""
    if os.path.isdir(folder):
        return False
    if os.path.exists(folder):
        raise OSError(
            errno.ENOTDIR, "it is a file, not a folder; remove it, or leave the / away to replace it"
        )
    if not os.path.isdir(os.path.dirname(folder)):
        raise OSError(errno.ENOENT, f"the folder {os.path.dirname(folder)} does not exist; make it first")
    try:
        os.mkdir(folder)
    except FileExistsError:  # another run was faster
        return False
    return True


def lock_folder(folder: str, name: str, warn: Callable[[str], None]) -> int | None:
    """Return the descriptor that holds the lock, or None where there are no locks."""
    path = os.path.join(folder, LOCK)
    for _ in range(_MAX_LOCK_TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if not os.path.islink(path):
                raise
            raise OSError(error.errno, f"{LOCK} in it is a link: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return descriptor
            os.close(descriptor)  # its holder has removed it since
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another process"
            os.close(descriptor)
            raise OutputError(
                f"cannot write {name}: {holder} writes results there; wait for it, or name another folder"
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            os.unlink(path)
            warn(f"{name} cannot be locked ({error.strerror}): make sure that no other run writes there")
            return None
    raise OSError(errno.EBUSY, "its lock changes hands all the time; try again")


def _is_same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def sync_folder(folder: str) -> None:
    """Write the names in a folder to the disk, if the file system does that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some have nothing to write
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
