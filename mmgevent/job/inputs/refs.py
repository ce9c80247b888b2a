"""Stand for the content of a file, or of a part of one, until it is needed.

A driver sends refs instead of contents. A worker that expands a ref must see the file that the
driver saw: of the same size, with the same hash of its first 64 KiB. Times differ between copies,
so they do not count. If the worker sees another file, `ContentNeeded` asks the driver for
`with_content()`, the same ref with the bytes inside.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import xxhash

from mmgevent.errors import DatasourceError, MmgeventError
from mmgevent.job.inputs.compressed import FORMATS, advice_for, find_kind
from mmgevent.job.inputs.window import UNKNOWN_BYTES, Changed, Window
from mmgevent.wire.limits import MAX_BATCH_BYTES

#: Hashed start of a file, bytes. Different files mostly differ there, and one read gets it.
HEAD_BYTES = 64 * 1024

#: Largest content of a file whose size does not say how much there is, bytes. The driver reads it,
#: and it travels with its ref.
MAX_UNSIZED_BYTES = 16 * 1024 * 1024


class ContentNeeded(MmgeventError):
    """The file of a ref is missing here or is another one, so its content must be sent."""


class DecodeError(DatasourceError, ValueError):
    """A file is not text in the encoding it was said to have."""


class Unreadable:
    """Replaces the value of an item if that item alone cannot be read."""

    __slots__ = ("error",)

    def __init__(self, error: DatasourceError):
        #: what to raise, or to show if the item is set aside
        self.error = error


@dataclass(frozen=True, slots=True)
class Ref:
    """What all refs know about their file."""

    #: the path as the user wrote it, or as it was found; keys are made of it
    path: str
    #: the absolute path, which a change of the working directory does not affect; of a remote object
    #: its address
    location: str
    size: int
    #: only the driver compares it: copies of a file have other times
    mtime_ns: int
    #: xxh3_64 of the first HEAD_BYTES; of a remote object that of its version
    head_hash: int
    #: what its first bytes say it is, as `compressed.find_kind` names it
    kind: str
    encoding: str
    errors: str
    #: whether the bytes are read as they are, even if they are compressed
    raw: bool = field(default=False, kw_only=True)
    #: whether it is remote and can only be read as a whole: it has no length, or no ranges
    is_whole: bool = field(default=False, kw_only=True)

    @property
    def is_of_stream(self) -> bool:
        """Return whether its content was read from what can be read only once."""
        return not self.location

    @property
    def is_remote(self) -> bool:
        """Return whether fsspec reads it."""
        return self.location[:1] not in ("", os.sep)

    @property
    def is_decompressed(self) -> bool:
        """Return whether the items are made of what the file contains, not of its bytes."""
        return not self.raw and self.kind in FORMATS

    @property
    def key(self) -> Any:
        """Return the key of this ref as one item of the datasource."""
        raise NotImplementedError

    @property
    def weight(self) -> int:
        """Return how many bytes this ref stands for."""
        raise NotImplementedError

    def units(self) -> Iterator[tuple[Any, Any]]:
        """Read the file and yield `(key, value)`. A value that cannot be read is Unreadable.

        Raise ContentNeeded if the file cannot be read or is another one.
        """
        raise NotImplementedError

    @property
    def unit_count(self) -> int | None:
        """Return the number of units, or None if it is not known before they are read."""
        return None

    def units_between(self, low: int, high: int) -> Iterator[tuple[Any, Any]]:
        """Yield the units from number `low` on, and before number `high`. Raise as `units` does."""
        return islice(self.units(), low, high)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Read the file and yield its `(key, value)` items.

        Raise ContentNeeded if the file cannot be read or is another one. Raise DecodeError if it is
        not text in its encoding.
        """
        for key, value in self.units():
            if type(value) is Unreadable:
                raise value.error
            yield key, value

    @property
    def encoded(self) -> str | None:
        """Return the name of the codec, if this is one item of text whose bytes `pieces` gives."""
        return None

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the text of its item. Called where `encoded` is set. Raise as `units` does."""
        raise NotImplementedError

    @property
    def joins_values(self) -> bool:
        """Return whether a call of many items (`items_per_call`) gets what `join_values` makes."""
        return False

    def join_values(self, values: list[Any]) -> Any:
        """Return the values of some of its items as one object, such as an arrow table.

        Called where `joins_values` is set. All values are of this ref.
        """
        raise NotImplementedError

    def with_content(self) -> Ref:
        """Return this ref with the bytes that it stands for inside; for the driver.

        A file that has grown since is read up to its former end. Raise DatasourceError if it is
        lost or was changed in any other way.
        """
        raise NotImplementedError

    def _check_stat(self, file: Any, *, at_driver: bool) -> None:
        stat = os.fstat(file.fileno())
        if stat.st_size != self.size and not (at_driver and stat.st_size > self.size):
            raise Changed(f"it had {self.size} bytes and now has {stat.st_size}")
        rewritten = stat.st_size == self.size > HEAD_BYTES and stat.st_mtime_ns != self.mtime_ns
        if at_driver and rewritten:
            raise Changed("it was written to")

    def _check_head(self, head: bytes | memoryview) -> None:
        if xxhash.xxh3_64_intdigest(head) != self.head_hash:
            raise Changed("its first bytes are not what they were")

    def _open(self, *, at_driver: bool) -> Window:
        """Return a window into the file. Raise OSError or Changed if it is not the driver's."""
        if self.is_remote:
            from mmgevent.job.remote.windows import open_window

            return open_window(self.location, self.size, self.head_hash, is_whole=self.is_whole)
        with ExitStack() as opened:
            file = opened.enter_context(open(self.location, "rb", buffering=0))
            window = Window(self.size, file)
            self._check_stat(file, at_driver=at_driver)
            self._check_head(window.read(0, HEAD_BYTES))
            opened.pop_all()  # the window closes it
        return window

    def _read_all(self) -> bytes:
        """Return all bytes of the file, for the driver. Raise OSError or Changed, and if they are too many."""
        with self._open(at_driver=True) as window:
            return window.read_all(MAX_BATCH_BYTES) if self.is_whole else window.read(0, self.size)

    def open_to_cut(self) -> Window:
        """Return a window for the driver, which has just looked at the file. Raise OSError or Changed."""
        if self.is_remote:
            return self._open(at_driver=True)
        return Window(self.size, open(self.location, "rb", buffering=0))

    def _content_needed(self, error: Exception) -> ContentNeeded:
        if self.is_remote:
            note_unread(self.path, _reason(error))
        return ContentNeeded(f"{self.location} is not the driver's: {_reason(error)}")

    def _content_lost(self, error: Exception) -> DatasourceError:
        if self.is_remote and isinstance(error, OSError):
            return DatasourceError(f"cannot read {self.path}: {_reason(error)}")
        return DatasourceError(
            f"{self.path} changed or went away while the job was reading it: {_reason(error)}; "
            f"submit again once nobody writes to it"
        )

    def _decode(self, data: bytes, offset: int, advice: str) -> str:
        try:
            return data.decode(self.encoding, self.errors)
        except UnicodeDecodeError as error:
            place = self._place_of(offset, error.start)
            hint = "" if self.is_decompressed else advice_for(self.kind)
            raise DecodeError(
                f"{self.path}: {place} is not {self.encoding} ({error.reason}); "
                + (hint or f'pass the right encoding=..., errors="replace"{advice}')
            ) from error

    def _place_of(self, offset: int, index: int) -> str:
        """Return what to call the byte `index` bytes after an offset."""
        return f"byte {offset + index}" + (" of its content" if self.is_decompressed else "")


class Identity(NamedTuple):
    """What distinguishes a file from others."""

    location: str
    size: int
    mtime_ns: int
    head_hash: int
    kind: str


def identify(path: str) -> tuple[Identity, bytes | None]:
    """Return the identity of a file, and its content if the size does not say how much there is.

    The size of most files of /proc and /sys says nothing about their content. They are read here,
    on the driver's machine. Raise DatasourceError if a path is no regular file or cannot be read.
    """
    location = os.path.abspath(path)
    try:
        status = os.stat(location)
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its other end
            raise DatasourceError(
                f"{path} is not a regular file; read it in your program, and pass its items as the datasource"
            )
        with open(location, "rb", buffering=0, opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            expected = min(HEAD_BYTES, status.st_size)
            head = read_up_to(file, expected or HEAD_BYTES, HEAD_BYTES)
            if len(head) == expected:
                digest = xxhash.xxh3_64_intdigest(head)
                kind = find_kind(head)
                return Identity(location, status.st_size, status.st_mtime_ns, digest, kind), None
            content = head + read_up_to(file, MAX_UNSIZED_BYTES, HEAD_BYTES)
    except OSError as error:
        raise DatasourceError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > MAX_UNSIZED_BYTES:
        raise DatasourceError(
            f"{path} has more than {MAX_UNSIZED_BYTES:,} bytes, though its size is {status.st_size}; read it in your "
            f"program, and pass its items as the datasource"
        )
    digest = xxhash.xxh3_64_intdigest(content[:HEAD_BYTES])
    return Identity(location, len(content), status.st_mtime_ns, digest, find_kind(content)), content


def bounded(n_bytes: int) -> int:
    """Return a number of bytes as what batches count: that of what has no known size is MAX_UNSIZED_BYTES."""
    return n_bytes if n_bytes < UNKNOWN_BYTES // 2 else MAX_UNSIZED_BYTES


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


#: What `note_unread` has said in this process.
_unread: set[str] = set()


def note_unread(path: str, reason: str) -> None:
    """Log a warning, once for each file system, about a remote object that cannot be read here."""
    place = "/".join(path.split("/", 3)[:3])
    if place not in _unread:
        _unread.add(place)
        from mmgevent.machine.logs import get_log

        get_log(__name__).warning("cannot read %s here (%s); the driver reads it, and sends it", path, reason)


def read_exactly(file: Any, n_bytes: int) -> bytes:
    """Read `n_bytes`. Raise Changed if the file ends before."""
    data = read_up_to(file, n_bytes)
    if len(data) < n_bytes:
        raise Changed(f"it ended after {len(data)} of {n_bytes} bytes")
    return data


def read_up_to(file: Any, n_bytes: int, at_once: int = sys.maxsize) -> bytes:
    """Read `n_bytes`, or all there is. One unbuffered read may return less, and 2 GiB at most.

    at_once: most bytes of one read. Files of /proc/sys give all or nothing on the first read, and
        refuse one of megabytes.
    """
    data = _read_some(file, min(n_bytes, at_once))
    if len(data) == n_bytes:
        return data
    parts = [data]
    missing = n_bytes - len(data)
    while missing and parts[-1]:
        parts.append(_read_some(file, min(missing, at_once)))
        missing -= len(parts[-1])
    return b"".join(parts)


def _read_some(file: Any, n_bytes: int) -> bytes:
    data: bytes | None = file.read(n_bytes)
    if data is None:  # /proc/kmsg and the like
        raise BlockingIOError(errno.EAGAIN, "it has no end: more may come at any time")
    return data


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)) or type(error).__name__
