"""Open the place to which results are written: a stream, or a file that replaces another one.

1. A descriptor of this process (`/dev/stdout`, `/dev/fd/63`), a FIFO or a device is a stream.
   Results are written to it at once, and it is never replaced.
2. A regular file is replaced when all is written. Until then the new file has no name if the system
   allows that (`O_TMPFILE`), so nothing is left behind however the process ends. Otherwise it has a
   temporary name in the same folder.
3. The new file takes over owner, group, mode, ACL and user attributes of the old one. One warning
   names what it cannot take over. It never grants more than the old file did.
4. A file that cannot be replaced is refused before the job runs.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import stat
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mmgevent.errors import OutputError
from mmgevent.job.outputs.attributes import take_over
from mmgevent.job.outputs.descriptors import descriptor_of, open_descriptor
from mmgevent.job.remote.urls import is_remote
from mmgevent.machine import leftovers

#: Most names tried for a temporary file. Each has 64 random bits, so a second is hardly ever
#: needed.
MAX_NAMES = 100

#: What the temporary name of a single file begins with.
TEMPORARY_PREFIX = ".mmg-"

#: What a temporary name ends in.
_SUFFIX = ".tmp"

#: The temporary names of single files.
_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{16}" + re.escape(_SUFFIX), re.ASCII)

#: Error numbers of open() on file systems without unnamed files.
_NO_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}

_USE_STDOUT = "or let the shell write it: > PATH instead of -o PATH"


class RawFile(Protocol):
    """An unbuffered file, or an object with its methods, to which results are written."""

    def write(self, data: Any, /) -> int | None:
        """Write some of the data; return how many bytes, or None if it can take none now."""

    def flush(self) -> None:
        """Write what the object has buffered."""

    def fileno(self) -> int:
        """Return the descriptor. Only called for raw files."""


class Destination(Protocol):
    """Where results go. A `Sink` writes to it."""

    #: the path as the user wrote it, or None for stdout
    name: str | None
    is_terminal: bool

    def write(self, data: memoryview) -> None:
        """Write all of the data; raise OSError."""

    def commit(self) -> None:
        """Make what was written final; raise OSError."""

    def abort(self) -> None:
        """Drop what can be dropped. After `commit` this does nothing."""


class WholeFile(Destination, Protocol):
    """A file that has its name when it is whole."""

    #: its bytes, once all is written
    size: int


class Stream:
    """Results are written to it at once, and cannot be taken back."""

    def __init__(self, file: RawFile, name: str | None = None, *, closes: bool = False):
        self.name = name
        isatty = getattr(file, "isatty", None)
        self.is_terminal = bool(isatty and isatty())
        self._file = file
        self._closes = closes
        self._is_over = False

    def write(self, data: memoryview) -> None:
        _write_all(self._file, data)

    def commit(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._file.flush()
        if self._closes:
            self._file.close()  # type: ignore[attr-defined] # it is a file of ours

    def abort(self) -> None:
        if self._closes and not self._is_over:
            self._is_over = True
            with contextlib.suppress(OSError):  # its content is of no use anyway
                self._file.close()  # type: ignore[attr-defined]


class Replacement:
    """A file that replaces `target` once it is whole."""

    is_terminal = False

    def __init__(
        self,
        name: str,
        target: str,
        warn: Callable[[str], None],
        *,
        is_new: bool = False,
        before_naming: Callable[[], None] | None = None,
        temporary_prefix: str = TEMPORARY_PREFIX,
    ):
        """Create it. Raise OSError if that fails, OutputError if `target` cannot be replaced.

        `is_new`: it takes nothing over from what is there, and `commit` waits until the data is on
        the disk.
        `before_naming`: called by `commit` when all is written, before the file gets its name.
        `temporary_prefix`: what its temporary name begins with, if it has one.
        """
        self.name: str | None = name
        self._target = target
        self._folder = os.path.dirname(target)
        self._warn = warn
        self._is_new = is_new
        self._before_naming = before_naming
        self._temporary_prefix = temporary_prefix
        self._before = None if is_new else _stat_or_none(target)
        if self._before is not None:
            _check_replaceable(name, target, self._before)
        # Until then, nobody may read the results who could not read the old file.
        mode = 0o666 if self._before is None else 0o600
        descriptor = _create_unnamed(self._folder, mode)
        #: its name in the folder, or None while it has none
        self._temporary: str | None = None
        #: its bytes, once all is written
        self.size = 0
        if descriptor is None:
            self._temporary, descriptor = _create_named(self._folder, mode, temporary_prefix)
        self._file: io.FileIO | None = io.FileIO(descriptor, "r+b")
        #: keeps its lock until it has no temporary name any more
        self._lock: int | None = None
        if not is_new:  # who makes a new one in a folder has a lock on the folder
            leftovers.remove_files(self._folder, _TEMPORARY)
            leftovers.hold(descriptor)
            self._lock = os.dup(descriptor)

    def write(self, data: memoryview) -> None:
        assert self._file is not None, "nothing can be written after the end"
        _write_all(self._file, data)

    def commit(self) -> None:
        """Give the file its attributes and its name.

        If that fails, OutputError says where whole results are.
        """
        if self._file is None:
            return
        if not self._is_new:
            with contextlib.suppress(OSError):  # it has been removed since
                self._before = os.stat(self._target)
        lost = [] if self._before is None else take_over(self._file.fileno(), self._target, self._before)
        if self._is_new:
            os.fsync(self._file.fileno())
        if self._temporary is None:
            self._temporary = _link(self._file, self._folder, self._temporary_prefix)
        self.size = os.fstat(self._file.fileno()).st_size
        file, self._file = self._file, None
        file.close()  # some file systems report a full disk only here
        if self._before_naming is not None:
            self._before_naming()
        try:
            os.replace(self._temporary, self._target)
        except OSError as error:
            if self._is_new:  # nobody looks for a part elsewhere: `abort` removes it
                raise
            left, self._temporary = _kept(self._temporary), None
            self._unlock()
            raise OutputError(
                f"cannot write {self.name}: {error.strerror or error}; the results are whole in {left}"
            ) from error
        self._temporary = None
        self._unlock()
        if lost:
            self._warn(f"{self.name} was replaced, but {'; '.join(lost)}")

    def abort(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # its content is of no use anyway
                self._file.close()
            self._file = None
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._temporary = None
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def open_destination(path: str, warn: Callable[[str], None]) -> Destination:
    """Open what `path` names; `warn` gets a sentence about what a new file could not take over.

    Raise OutputError for a path that cannot be written to, or a file that cannot be replaced.
    """
    if not path:
        raise OutputError("the output path is empty; name a file, or - for stdout")
    if is_remote(path):
        from mmgevent.job.outputs.remote_objects import open_object  # rarely needed

        return open_object(path)
    try:
        descriptor = descriptor_of(path)
        if descriptor is not None:
            return Stream(open_descriptor(descriptor, path), path, closes=True)
        target = os.path.realpath(path)  # a link stays a link; its target is written
        folder = os.path.dirname(target)
        if os.path.isdir(target) or path.endswith(os.sep):
            raise OutputError(
                f"cannot write {path}: it is a folder; name a file in it, or end it with / for parts"
            )
        if not os.path.isdir(folder):
            raise OutputError(f"cannot write {path}: the folder {folder} does not exist; make it first")
        if _is_special(target):
            # O_NOCTTY: a terminal must not begin to control this process because it is written to.
            number = os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            return Stream(io.FileIO(number, "wb"), path, closes=True)
        return Replacement(path, target, warn)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _write_all(file: RawFile, rest: memoryview) -> None:
    while rest:
        taken = file.write(rest)  # a raw stream may take only part
        if taken is None:  # it does not block: a parent has set that
            select.select([], [file], [])
        else:
            rest = rest[taken:]


# -- files


def _stat_or_none(target: str) -> os.stat_result | None:
    try:
        return os.stat(target)
    except FileNotFoundError:
        return None


def _is_special(target: str) -> bool:
    found = _stat_or_none(target)
    return found is not None and not stat.S_ISREG(found.st_mode)


def _check_replaceable(name: str, target: str, before: os.stat_result) -> None:
    """Raise OutputError for a file that could be written to but not replaced."""
    folder = os.path.dirname(target)
    if not os.access(target, os.W_OK):
        raise OutputError(f"cannot write {name}: the file that is there is read-only")
    why = None
    if not os.access(folder, os.W_OK | os.X_OK):
        why = f"its folder {folder} cannot be written to"
    elif _is_kept_by_others(os.stat(folder), before):
        why = f"it belongs to somebody else, and in {folder} only owners may replace files"
    elif target in _mount_points():
        why = "it is a mount point"
    if why is not None:
        raise OutputError(
            f"cannot write {name}: results replace a file, they never change it, and {why}; "
            f"name a file elsewhere, {_USE_STDOUT}"
        )


def _is_kept_by_others(folder: os.stat_result, file: os.stat_result) -> bool:
    """Return whether a sticky bit, as of /tmp, keeps this user from replacing the file."""
    user = os.geteuid()
    return bool(folder.st_mode & stat.S_ISVTX) and user not in (0, folder.st_uid, file.st_uid)


def _mount_points() -> set[str]:
    """Return the mount points, as files of a container may be; none if the system does not say."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            points = {line.split(" ")[4] for line in file}
    except OSError:
        return set()
    for character in " \t\n\\":  # they are escaped: \\040
        points = {point.replace(f"\\{ord(character):03o}", character) for point in points}
    return points


def _create_unnamed(folder: str, mode: int) -> int | None:
    """Return the descriptor of a new file without a name, or None if that is not possible."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return None
    try:
        descriptor = os.open(folder, flag | os.O_RDWR | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in _NO_UNNAMED:
            return None
        raise
    if os.path.exists(f"/proc/self/fd/{descriptor}"):
        return descriptor
    os.close(descriptor)
    return None


def _create_named(folder: str, mode: int, prefix: str) -> tuple[str, int]:
    for path in _free_names(folder, prefix):
        with contextlib.suppress(FileExistsError):
            return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    raise FileExistsError(errno.EEXIST, f"no free name for a temporary file in {folder}")


def _free_names(folder: str, prefix: str) -> Iterator[str]:
    for _ in range(MAX_NAMES):  # few parts need a second one
        yield os.path.join(folder, f"{prefix}{os.urandom(8).hex()}{_SUFFIX}")


def _kept(path: str) -> str:
    """Give whole results a name that is not that of a leftover, if that is possible; return it."""
    kept = f"{path.removesuffix(_SUFFIX)}.whole"
    try:
        os.rename(path, kept)
    except OSError:
        return path
    return kept


def _link(file: io.FileIO, folder: str, prefix: str) -> str:
    """Give an unnamed file a temporary name in its folder; return the name."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in _free_names(folder, prefix):
            with contextlib.suppress(FileExistsError):
                # With `src_dir_fd` only, os.link calls linkat() and so follows the link in /proc.
                os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=at, follow_symlinks=True)
                return path
    finally:
        os.close(at)
    raise FileExistsError(errno.EEXIST, f"no free name for a temporary file in {folder}")
