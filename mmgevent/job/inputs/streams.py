"""Streams: standard input, pipes, and other inputs that can be read only once, from the start.

The driver reads them. Workers never open them: what they contain travels. A stream is `-` (standard
input), a FIFO, or a name of an open file of this process, such as /dev/fd/63, which is what a shell
makes of `<(command)`.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.pieces import Piece, whole_lines
from mmgevent.job.inputs.window import ForwardWindow

#: The path that is standard input, as for other commands. A file of that name is `./-`.
STDIN = "-"

#: Bytes that are read at once, and the size that a pipe is given, if the system allows.
READ_BYTES = 1024 * 1024

#: Lines that travel together, bytes: a tenth of a second of work.
LINES_BYTES = 1024 * 1024

#: Time after which fewer lines travel together, seconds.
PATIENCE_S = 0.25

#: Bytes from which the kind of a stream is known.
_HEAD_BYTES = 64

_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")

#: (device, inode) of open files of this process that were read
_read_before: set[tuple[int, int]] = set()


def is_stream(path: str) -> bool:
    """Return whether a path is a stream."""
    if _descriptor_of(path) is not None:
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_streams(paths: Iterable[str]) -> None:
    """Raise DatasourceError for a stream that is closed, was read before, or is named twice."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        identity = _identity_of(path)
        if identity in _read_before and _descriptor_of(path) is not None:
            raise used_up(path)
        if identity in seen:
            raise DatasourceError(
                f"{name_of(path)} is named twice, and can be read only once; save it to a file, and name that"
            )
        seen.add(identity)


def name_of(path: str) -> str:
    """Return what to call a stream in a message."""
    return "standard input" if path == STDIN else path


def used_up(path: str) -> DatasourceError:
    """Return the error for a stream that was read before."""
    return DatasourceError(
        f"{name_of(path)} was read before, and can be read only once; save it to a file, and name that"
    )


class InputStream(ForwardWindow):
    """A stream, as a window that only goes forward. Its `read` raises DatasourceError."""

    def __init__(self, path: str):
        """Open the stream, and wait for its first bytes. Raise DatasourceError if that fails."""
        super().__init__(sys.maxsize)
        self.path = path
        identity = _identity_of(path)
        descriptor = _descriptor_of(path)
        self._is_open = True
        self._is_over = False
        try:
            if descriptor is None:  # it waits for a writer
                self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            else:
                if identity in _read_before:
                    raise used_up(path)
                _read_before.add(identity)
                self._descriptor = os.dup(descriptor)
            if os.isatty(self._descriptor):
                _say_how_to_end()
            _enlarge(self._descriptor)
        except OSError as error:
            raise _cannot_read(path, error) from error
        self.head = self.read(0, _HEAD_BYTES)

    def read_all(self, limit: int) -> bytes:
        """Return everything. Raise DatasourceError if that is more than `limit` bytes."""
        data = self.read(0, limit + 1)
        if len(data) > limit:
            raise DatasourceError(
                f"{name_of(self.path)} has more than {limit:,} bytes, which cannot be sent as one item; use Lines"
            )
        return data

    def lines(self, pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, whole lines), of LINES_BYTES or what came in PATIENCE_S, if not more."""
        blocks: list[bytes] = []
        n_bytes = first = 0
        since = time.monotonic()
        for offset, data in whole_lines(_located(pieces), is_first=True):
            if not blocks:
                first = offset
            blocks.append(data)
            n_bytes += len(data)
            now = time.monotonic()
            if n_bytes >= LINES_BYTES or now - since > PATIENCE_S:
                yield first, b"".join(blocks)
                blocks.clear()
                n_bytes, since = 0, time.monotonic()
        if blocks:
            yield first, b"".join(blocks)

    def bytes_as_they_are(self) -> Iterator[bytes]:
        """Yield everything in pieces."""
        yield bytes(self._kept)
        self._kept.clear()
        while data := self._read_some():
            yield data

    def close(self) -> None:
        """Close it. Standard input itself stays open."""
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)

    def _read_some(self) -> bytes:
        while not self._is_over:
            try:
                data = os.read(self._descriptor, READ_BYTES)
                self._is_over = not data  # a terminal would go on after its end
                return data
            except BlockingIOError:  # somebody made it so, for all who share it
                import select

                select.select([self._descriptor], [], [])
            except OSError as error:
                raise _cannot_read(self.path, error) from error
        return b""


def _located(pieces: Iterator[bytes]) -> Iterator[Piece]:
    offset = 0
    for data in pieces:
        yield Piece(offset, data)
        offset += len(data)


def _descriptor_of(path: str) -> int | None:
    """Return the number of the open file that a path names, or None."""
    if path in (STDIN, "/dev/stdin"):
        return 0
    found = _DESCRIPTOR.fullmatch(path)
    if found is None or (path.startswith("/proc/") and path.split("/")[2] not in _ours()):
        return None
    return int(found[1])


def _ours() -> tuple[str, ...]:
    return "self", "thread-self", str(os.getpid())


def _identity_of(path: str) -> tuple[int, int]:
    """Return (device, inode) of a stream. Raise DatasourceError if there is none."""
    descriptor = _descriptor_of(path)
    try:
        if descriptor == 0 and sys.__stdin__ is None:  # its number may be another file's
            raise DatasourceError("standard input is closed; name files, or pipe something into this program")
        status = os.stat(path) if descriptor is None else os.fstat(descriptor)
    except OSError as error:
        raise _cannot_read(path, error) from error
    return status.st_dev, status.st_ino


def _cannot_read(path: str, error: OSError) -> DatasourceError:
    return DatasourceError(f"cannot read {name_of(path)}: {error.strerror or error}")


def _say_how_to_end() -> None:
    from mmgevent.machine.logs import get_log

    get_log(__name__).warning("reading standard input; end with Ctrl-D")


def _enlarge(descriptor: int) -> None:
    """Give a pipe room, so that its writer waits less often."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ") and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, READ_BYTES)
        except OSError:
            return  # the user has many large pipes: it works as it is
