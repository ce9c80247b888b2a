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
from mmgevent.job.inputs.compressed import is_undecided
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

#: Most bytes from which the kind of a stream is known.
_HEAD_BYTES = 64

_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")

#: {(device, inode): where reading stopped} of open files of this process that were read. The place
#: is -1 while it is read, and if it was left before its end and cannot say where it is.
_read_before: dict[tuple[int, int], int] = {}

#: The place of a pipe that was read to its end
_AT_END = sys.maxsize


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
        descriptor = _descriptor_of(path)
        if descriptor is not None and _was_read(descriptor, identity):
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
        descriptor = _descriptor_of(path)
        #: what it is known by, if it is an open file of this process; else None
        self._identity = None if descriptor is None else _identity_of(path)
        self._is_open = False
        self._is_over = False
        try:
            if descriptor is None:  # it waits for a writer
                self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            else:
                assert self._identity is not None
                if _was_read(descriptor, self._identity):
                    raise used_up(path)
                self._descriptor = os.dup(descriptor)
                _read_before[self._identity] = -1
            self._is_open = True
            if os.isatty(self._descriptor):
                _say_how_to_end()
            _enlarge(self._descriptor)
            self.head = self._read_head()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _cannot_read(path, error) from error
            raise

    def _read_head(self) -> bytes:
        """Return the first bytes, _HEAD_BYTES at most. Wait for no more than show what they are."""
        head = self.read(0, 1)
        while 0 < len(head) < _HEAD_BYTES and is_undecided(head):
            n_bytes = len(head) + 1
            head = self.read(0, max(n_bytes, len(self._kept)))[:_HEAD_BYTES]
            if len(head) < n_bytes:
                break
        return head

    def read_all(self, limit: int) -> bytes:
        """Return everything. Raise DatasourceError if that is more than `limit` bytes."""
        data = self.read(0, limit + 1)
        if len(data) > limit:
            raise DatasourceError(
                f"{name_of(self.path)} has more than {limit:,} bytes, which cannot be sent as one item; use Lines"
            )
        return data

    def lines(self, pieces: Iterator[bytes], *, are_decompressed: bool) -> Iterator[tuple[int, bytes | None]]:
        """Yield (offset, whole lines), of LINES_BYTES or what came in PATIENCE_S, if not more.

        (offset, None) stands for one line that is too long, as for `whole_lines`.

        are_decompressed: whether `pieces` may have more that came without anything to read.
        """
        blocks: list[bytes] = []
        n_bytes = first = 0
        since = time.monotonic()
        for offset, data in whole_lines(_located(pieces), is_first=True):
            if data is None:
                if blocks:
                    yield first, b"".join(blocks)
                yield offset, None
                blocks.clear()
                n_bytes, since = 0, time.monotonic()
                continue
            if not blocks:
                first = offset
            blocks.append(data)
            n_bytes += len(data)
            left_s = since + PATIENCE_S - time.monotonic()
            if n_bytes >= LINES_BYTES or left_s < 0 or not (are_decompressed or self._comes_in(left_s)):
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
            if self._identity is not None:
                _read_before[self._identity] = _place_of(self._descriptor, is_over=self._is_over)
            os.close(self._descriptor)

    def _comes_in(self, timeout_s: float | None) -> bool:
        """Wait until there is something to read, or the end, for some time. Return whether there is."""
        import select

        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return self._is_over or bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def _read_some(self) -> bytes:
        while not self._is_over:
            try:
                data = os.read(self._descriptor, READ_BYTES)
                self._is_over = not data  # a terminal would go on after its end
                return data
            except BlockingIOError:  # somebody made it so, for all who share it
                self._comes_in(None)
            except OSError as error:
                raise _cannot_read(self.path, error) from error
        return b""


def _was_read(descriptor: int, identity: tuple[int, int]) -> bool:
    """Return whether an open file of this process was read before, and nobody has moved it since.

    Numbers of inodes are used again: another pipe may have that of one that is gone. A pipe that
    was read to its end, and has data or a writer again, is another one, or has another writer.
    """
    place = _read_before.get(identity)
    if place is None:
        return False
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) and place >= 0:
        return place == _place_of(descriptor, is_over=False)
    if stat.S_ISFIFO(mode) and place == _AT_END:
        return _is_at_end(descriptor)
    return True


def _place_of(descriptor: int, *, is_over: bool) -> int:
    """Return the place that `_read_before` has for an open file."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    return _AT_END if is_over else -1


def _is_at_end(descriptor: int) -> bool:
    """Return whether a pipe has no data and no writer."""
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    events = dict(poll.poll(0)).get(descriptor, 0)
    return bool(events & select.POLLHUP) and not events & select.POLLIN


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
