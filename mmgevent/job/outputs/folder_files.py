"""The files of a folder of parts on this machine, by their names in it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from mmgevent.job.outputs.folder_names import is_leftover
from mmgevent.job.outputs.parts_plan import PartsPlan


class LocalNames:
    """Names, sizes, new names: what `RemoteNames` does for a folder of an object store."""

    def __init__(self, folder: str):
        self._folder = folder

    def left_behind(self, plan: PartsPlan) -> list[str]:
        """Return the names of temporary files, once the run is over. Raise OSError.

        Those of other runs, too: the folder is locked, so they were killed. An executor of theirs may
        have lived a little longer.
        """
        return [name for name in os.listdir(self._folder) if is_leftover(name)]

    def create(self, name: str) -> None:
        """Make an empty file. Raise OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(self._path(name), flags, 0o644))

    def size(self, name: str) -> int:
        """Return the size of a regular file of this user's, bytes. Raise OSError."""
        found = os.stat(self._path(name), follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(errno.EINVAL, "it is no regular file, or belongs to another user")
        return found.st_size

    def rename(self, old: str, new: str) -> None:
        """Give a file another name. Raise OSError."""
        os.replace(self._path(old), self._path(new))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raise OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)
