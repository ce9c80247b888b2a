"""Temporary files and folders that a killed process leaves: whose they are, and who removes them.

1. A temporary file is locked for as long as its process, or a fork of it, lives. So is a file in a
   temporary folder.
2. Whoever makes the next one of a kind at the same place removes those that are old and that nobody
   locks. Where there are no locks nothing is removed, and no folder of another machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time

#: Age from which on a folder may be a leftover, seconds. A new one has no lock yet for a moment.
FOLDER_LEFT_S = 60.0

#: The same of a file. It may belong to another machine, whose locks some shared folders do not show.
FILE_LEFT_S = 24 * 3600.0

#: The file in a temporary folder that its process locks.
_OWNER = ".owner"

#: Longest name of a machine that is read, bytes.
_MAX_HOST_BYTES = 1024


def hold(descriptor: int) -> None:
    """Lock a file that this process has just made, if the file system has locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_files(folder: str, name: re.Pattern[str]) -> None:
    """Remove the files with such names in a folder that killed processes have left. Raise nothing."""
    for path in _find(folder, name):
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.lstat(path).st_mode) and _is_left(path, FILE_LEFT_S):
                os.unlink(path)


class TemporaryFolder:
    """A new folder for temporary files of this process."""

    def __init__(self, prefix: str, folder: str | None = None):
        """Make it in `folder`, or where temporary files are; remove what others left. Raise OSError."""
        place = tempfile.gettempdir() if folder is None else folder
        _remove_folders(place, re.compile(re.escape(prefix) + ".*", re.DOTALL))
        self.path = tempfile.mkdtemp(prefix=prefix, dir=place)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._owner: int | None = os.open(os.path.join(self.path, _OWNER), flags, 0o600)
        except OSError:
            os.rmdir(self.path)
            raise
        os.write(self._owner, os.uname().nodename.encode())
        hold(self._owner)

    def remove(self) -> None:
        """Remove it with all that is in it. Any thread may call this. Idempotent.

        It is renamed first, so that nobody sees half of it.
        """
        owner, self._owner = self._owner, None
        if owner is None:
            return
        gone = f"{self.path}.gone"
        with contextlib.suppress(OSError):
            os.rename(self.path, gone)
        shutil.rmtree(gone, ignore_errors=True)
        os.close(owner)


def _remove_folders(place: str, name: re.Pattern[str]) -> None:
    for path in _find(place, name):
        owner = os.path.join(path, _OWNER)
        with contextlib.suppress(OSError):
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                continue
            if not os.path.lexists(owner) and _is_left(path, FOLDER_LEFT_S):
                os.rmdir(path)  # if it is empty: its process was killed before it had an owner
            elif _is_left(owner, FOLDER_LEFT_S) and _is_of_this_machine(owner):
                shutil.rmtree(path, ignore_errors=True)


def _find(folder: str, name: re.Pattern[str]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if name.fullmatch(entry.name)]
    except OSError:
        return []


def _is_of_this_machine(owner: str) -> bool:
    with open(owner, "rb") as file:
        return file.read(_MAX_HOST_BYTES) == os.uname().nodename.encode()


def _is_left(path: str, least_s: float) -> bool:
    """Return whether a file or folder of this user is old, and nobody locks it. Raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or time.time() - found.st_mtime < least_s:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    finally:
        os.close(descriptor)
