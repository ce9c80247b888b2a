"""The files of a folder of parts, by their names in it: what a folder asks of them, and those on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from mmgevent.job.outputs.destinations import Replacement
from mmgevent.job.outputs.folder_lock import LOCK, lock_folder, make_folder, sync_folder
from mmgevent.job.outputs.folder_names import is_leftover
from mmgevent.job.outputs.parts_plan import TEMPORARY_PREFIX, PartsPlan
from mmgevent.job.outputs.record import RECORD, FolderRecord, Unit, encode_unit, read_lines


class Entry(NamedTuple):
    """What is under a name in a folder."""

    #: size of a regular file, bytes; None for anything else
    size: int | None
    is_folder: bool = False


class FolderFiles(Protocol):
    """The files of a folder. All methods raise OSError."""

    def enter(self) -> None: ...

    def leave(self, *, has_parts: bool) -> None: ...

    def sync(self) -> None: ...

    def entries(self) -> dict[str, Entry]: ...

    def left_behind(self, plan: PartsPlan) -> list[str]: ...

    def create(self, name: str) -> None: ...

    def size(self, name: str) -> int: ...

    def read(self, name: str) -> bytes: ...

    def open_part(self, name: str) -> contextlib.AbstractContextManager[Any]: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def read_record(self) -> FolderRecord | None: ...

    def write_record(self, record: FolderRecord) -> None: ...

    def add_unit(self, unit: Unit) -> None: ...

    def remove_record(self) -> None: ...


class LocalFiles:
    """What `FolderObjects` does for a folder of an object store."""

    def __init__(self, folder: str, name: str, warn: Callable[[str], None]):
        """`name`: the folder as the user wrote it."""
        self._folder = folder
        self._name = name
        self._warn = warn
        self._is_new = False
        self._lock: int | None = None

    def enter(self) -> None:
        """Make the folder if it is not there, and lock it. Raise OutputError if others write there."""
        self._is_new = make_folder(self._folder)
        self._lock = lock_folder(self._folder, self._name, self._warn)

    def leave(self, *, has_parts: bool) -> None:
        """Remove the lock, and a new folder in which nothing is."""
        lock, self._lock = self._lock, None
        if lock is not None:
            try:
                self.remove(LOCK)
            finally:
                os.close(lock)
        if self._is_new and not has_parts:
            with contextlib.suppress(OSError):  # others have put something there
                os.rmdir(self._folder)

    def sync(self) -> None:
        """Wait until the names in the folder are safe."""
        sync_folder(self._folder)

    def entries(self) -> dict[str, Entry]:
        """Return what is in the folder."""
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since
                    is_file = entry.is_file(follow_symlinks=False)
                    size = entry.stat(follow_symlinks=False).st_size if is_file else None
                    found[entry.name] = Entry(size, entry.is_dir(follow_symlinks=False))
        return found

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

    def read(self, name: str) -> bytes:
        """Return what is in a file. Raise OSError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._path(name), flags), "rb") as file:
            return file.read()

    def open_part(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Return a context manager for what pyarrow opens."""
        return contextlib.nullcontext(self._path(name))

    def rename(self, old: str, new: str) -> None:
        """Give a file another name. Raise OSError."""
        os.replace(self._path(old), self._path(new))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raise OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def read_record(self) -> FolderRecord | None:
        """Return the record, None if there is none that can be understood. Raise OSError."""
        try:
            return read_lines(self.read(RECORD).split(b"\n")[:-1])
        except FileNotFoundError:
            return None

    def write_record(self, record: FolderRecord) -> None:
        """Write a whole record in place of the one that is there. Raise OSError."""
        file = Replacement(
            f"{self._name}{RECORD}",
            self._path(RECORD),
            self._warn,
            is_new=True,
            temporary_prefix=TEMPORARY_PREFIX,
        )
        try:
            file.write(memoryview(record.encode()))
            file.commit()
        finally:
            file.abort()

    def add_unit(self, unit: Unit) -> None:
        """Add a unit to the record that is there, and wait until it is on the disk. Raise OSError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(self._path(RECORD), flags), "wb", buffering=0) as file:
            line = memoryview(encode_unit(unit))
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())

    def remove_record(self) -> None:
        """Remove the record, if it is there. Raise OSError."""
        self.remove(RECORD)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)
