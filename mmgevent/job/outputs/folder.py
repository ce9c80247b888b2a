"""Write results into a folder: part files of bounded size, and `_SUCCESS` once all are there.

1. A part appears under its name when it is whole, and is never changed afterwards.
2. `_SUCCESS` is written last. It says how many parts and records there are, and what made them.
   Without it the folder is not complete.
3. Results that were there are removed when the first new part is whole, and not before. `_SUCCESS`
   is removed first. Only parts, `_SUCCESS` and leftovers of this module are ever removed.
4. A lock on `.mmg-lock` keeps other runs away. It ends with its process, however that ends.
5. Parts reach the disk before `_SUCCESS` does, so that no power cut leaves `_SUCCESS` alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.compression import Compressed
from mmgevent.job.outputs.destinations import Destination, Replacement
from mmgevent.job.outputs.formats import OutputFormat, short
from mmgevent.job.outputs.sinks import Encoder, Sink, log_warning

SUCCESS = "_SUCCESS"
LOCK = ".mmg-lock"

#: Size of a part before it is compressed, bytes. Tools that read parts in parallel like such sizes.
PART_BYTES = 128 * 1024 * 1024

#: Most parts: their numbers have five digits, and sort as their names do.
MAX_PARTS = 100_000

#: Times that a lock is tried again because its file was removed meanwhile.
_MAX_LOCK_TRIES = 100

#: Error numbers of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

#: Names of files that a run leaves or may have left.
_PART = re.compile(r"part-\d{5}\.(tsv|jsonl|csv|pkl|parquet)(\.(gz|bz2|xz|zst))?", re.ASCII)
#: Of temporary files of folders alone. A run that writes a single file into the folder has others.
_TEMPORARY_PREFIX = ".mmg-part-"
_LEFTOVER = re.compile(r"\.mmg-part-[0-9a-f]{16}\.tmp", re.ASCII)


class FolderSink(Sink):
    """Takes records one by one, and writes them to the parts of a folder."""

    def __init__(
        self,
        name: str,
        chosen: OutputFormat,
        encode: Encoder,
        header: bytes,
        *,
        part_bytes: int = PART_BYTES,
        overwrite: bool = False,
        about: Mapping[str, Any] | None = None,
        warn: Callable[[str], None] | None = None,
    ):
        """Make the folder if it is not there, and lock it.

        `name`: the folder as the user wrote it, with a / at its end. `about`: more for `_SUCCESS`.

        Raise OutputError for a folder that is not empty, is in use or cannot be written to.
        """
        self._name = name
        self._folder = os.path.realpath(name)
        self._chosen = chosen
        self._encode = encode
        self._header = header
        self._part_bytes = part_bytes
        self._about = about or {}
        self._warn = warn or log_warning
        self._part: Sink | None = None
        self._records = 0  # of this part
        self._written_bytes = 0  # of this part, before they are compressed
        self._parts: list[dict[str, Any]] = []
        self._old: list[str] = []  # parts that were there, and what killed runs left
        self._is_over = False
        with self._explained():
            self._is_new = _make_folder(self._folder)
            self._lock = _lock(self._folder, name, self._warn)
        try:
            with self._explained():
                self._check_contents(overwrite)
        except BaseException:
            self._release()
            raise

    @property
    def is_terminal(self) -> bool:
        """Return that results do not go to a terminal."""
        return False

    def write(self, key: Any, value: Any) -> None:
        """Write one record; raise OutputError as `Sink` does."""
        data = self._encode(key, value)
        if self._records and self._written_bytes + len(data) > self._part_bytes:
            self._finish_part()
        if self._part is None:
            self._part = self._open_part()
        self._part.write_encoded(data)
        self._records += 1
        self._written_bytes += len(data)

    def commit(self) -> None:
        """Finish the last part, and write `_SUCCESS`. A folder without results has one empty part."""
        if self._is_over:
            return
        if self._part is not None or not self._parts:
            self._part = self._part or self._open_part()
            self._finish_part()
        with self._explained(SUCCESS):
            _sync_folder(self._folder)
            success = self._open_file(SUCCESS)
            try:
                success.write(memoryview(self._describe()))
                success.commit()
            finally:
                success.abort()
            _sync_folder(self._folder)
        self._is_over = True
        self._release()

    def abort(self) -> None:
        """Drop the part that is not whole. The others stay, without `_SUCCESS`."""
        if self._is_over:
            return
        self._is_over = True
        if self._part is not None:
            self._part.abort()
        self._release()
        if self._parts:
            self._warn(f"{self._name} is not complete: it has {len(self._parts)} parts, and no {SUCCESS}")

    # parts

    def _open_part(self) -> Sink:
        number = len(self._parts)
        if number >= MAX_PARTS:
            raise OutputError(
                f"cannot write {self._name}: the results need more than {MAX_PARTS} parts; choose a larger part size"
            )
        with self._explained():
            destination = self._open_file(
                f"part-{number:05}{self._chosen.suffix}", None if self._parts else self._clear
            )
        if self._chosen.compression:
            destination = Compressed(destination, self._chosen.compression)
        return Sink(self._encode, destination, self._header)

    def _finish_part(self) -> None:
        assert self._part is not None
        self._part.commit()
        name = f"part-{len(self._parts):05}{self._chosen.suffix}"
        n_bytes = os.path.getsize(os.path.join(self._folder, name))
        self._parts.append({"name": name, "records": self._records, "bytes": n_bytes})
        self._part, self._records, self._written_bytes = None, 0, 0

    def _open_file(self, name: str, before_naming: Callable[[], None] | None = None) -> Destination:
        path = os.path.join(self._folder, name)
        return Replacement(
            f"{self._name}{name}",
            path,
            self._warn,
            is_new=True,
            before_naming=before_naming,
            temporary_prefix=_TEMPORARY_PREFIX,
        )

    def _describe(self) -> bytes:
        """Return the text of `_SUCCESS`."""
        from mmgevent.wire.hello import VERSION, describe_python  # not needed before

        told = {
            "records": sum(part["records"] for part in self._parts),
            "parts": self._parts,
            "format": self._chosen.suffix[1:],
            "mmgevent": VERSION,
            "python": describe_python(),
            **self._about,
        }
        return (json.dumps(told, indent=1, default=repr) + "\n").encode()

    # the folder

    def _check_contents(self, overwrite: bool) -> None:
        """Raise OutputError if something is there that may not be removed."""
        with os.scandir(self._folder) as entries:
            names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        for name in sorted(names):
            if _is_ours(name) and names[name]:
                raise OutputError(f"cannot write {self._name}: {name} in it is a folder; remove it first")
        found = [name for name in sorted(names) if name != LOCK and not _LEFTOVER.fullmatch(name)]
        if found and not overwrite:
            raise OutputError(
                f"cannot write {self._name}: the folder is not empty ({short(found[0])}); name another, or overwrite "
                f"the results in it: --overwrite, overwrite=True"
            )
        self._old = [name for name in sorted(names) if _is_ours(name) and name not in (LOCK, SUCCESS)]

    def _clear(self) -> None:
        """Remove the results that were there, first of all what makes them look complete."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, SUCCESS))
            _sync_folder(self._folder)
        for name in self._old:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, name))

    def _release(self) -> None:
        """Remove the lock, and a new folder in which nothing is."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, LOCK))
            os.close(lock)
        if self._is_new and not self._parts:
            with contextlib.suppress(OSError):  # others have put something there
                os.rmdir(self._folder)

    @contextlib.contextmanager
    def _explained(self, file: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self._name}{file}: {error.strerror or error}") from error


def _is_ours(name: str) -> bool:
    return name in (SUCCESS, LOCK) or bool(_PART.fullmatch(name) or _LEFTOVER.fullmatch(name))


def _make_folder(folder: str) -> bool:
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


def _lock(folder: str, name: str, warn: Callable[[str], None]) -> int | None:
    """Return the descriptor that holds the lock, or None where there are no locks."""
    path = os.path.join(folder, LOCK)
    for _ in range(_MAX_LOCK_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
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


def _sync_folder(folder: str) -> None:
    """Write the names in a folder to the disk, if the file system does that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some have nothing to write
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
