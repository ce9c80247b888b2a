"""Windows into remote objects: parts of one that has ranges, and the stream of one that has none."""

from __future__ import annotations

import contextlib
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.window import UNKNOWN_BYTES, Changed, ForwardWindow, Window
from mmgevent.job.remote import web
from mmgevent.job.remote.deadlines import ANSWER_S, TooLateError, within
from mmgevent.job.remote.objects import RemoteLook, RemoteObject, cannot_read, is_web, look_at, version_of
from mmgevent.job.remote.systems import RemoteError, check_url, explain, open_system, turn

#: Most bytes of one request. It has ANSWER_S, so 100 KB a second are enough.
REQUEST_BYTES = 8 * 1024 * 1024

#: Bytes that are read ahead, so that readers of small parts need few requests.
AHEAD_BYTES = 256 * 1024

#: Bytes of a stream that are read at once.
STREAM_BYTES = 1024 * 1024


class RemoteWindow(Window):
    """Parts of an object, each read when it is needed."""

    def __init__(self, url: str, size: int, version: int):
        """Open the file system. Raise Changed for another version, and RemoteError."""
        super().__init__(size)
        self._url = url
        self._version = version
        self._buffer = b""
        self._buffer_offset = 0
        self._system, self._path = _answered(0, open_system, url)
        self._is_web = is_web(self._system)
        if not self._is_web:  # or every answer says it
            _answered(0, self._check)

    @property
    def has_all(self) -> bool:
        return True

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes`; fewer only at the end of the object.

        Raise Changed if the object is another one by now, and RemoteError with the offset.
        """
        n_bytes = max(0, min(n_bytes, self.size - offset))
        self.reached = max(self.reached, offset + n_bytes)
        start = offset - self._buffer_offset
        if start < 0 or start + n_bytes > len(self._buffer):
            known = self._buffer[start:] if 0 <= start < len(self._buffer) else b""
            self._buffer = self._fetch(offset + len(known), n_bytes - len(known), known)
            self._buffer_offset, start = offset, 0
        if start == 0 and n_bytes == len(self._buffer):
            return self._buffer
        return self._buffer[start : start + n_bytes]

    def _fetch(self, offset: int, n_bytes: int, known: bytes) -> bytes:
        """Return the known bytes, those that are asked for, and some after them."""
        end = min(self.size, offset + n_bytes + AHEAD_BYTES)
        parts = [known]
        while offset < end:
            part = _answered(offset, self._request, offset, min(REQUEST_BYTES, end - offset))
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _request(self, offset: int, n_bytes: int) -> bytes:
        if self._is_web:
            return web.read_range(self._system, self._path, offset, n_bytes, self.size, self._version)
        with turn(self._system):
            data: bytes = self._system.cat_file(self._path, start=offset, end=offset + n_bytes)
        if len(data) < n_bytes:
            raise Changed(f"it ended after {offset + len(data)} of {self.size} bytes")
        return data

    def _check(self) -> None:
        with turn(self._system):
            self._system.invalidate_cache()
            info = self._system.info(self._path)
        web.check_version(info.get("size"), version_of(info), self.size, self._version)


class RemoteStream(ForwardWindow):
    """All of an object, from its start: one without a length, or without ranges."""

    def __init__(self, url: str, size: int, version: int):
        """Open the object. Raise Changed for another version, and RemoteError."""
        super().__init__(size)
        self._known_size = size
        self._at = 0
        self._file = _answered(0, self._open, url, version)

    def read_all(self, limit: int) -> bytes:
        """Return everything. Raise RemoteError if that is more than can be sent."""
        data = self.read(0, limit + 1)
        if len(data) > limit:
            raise RemoteError(f"it has more than {limit:,} bytes, which cannot be sent at once")
        return data

    def close(self) -> None:
        with contextlib.suppress(TooLateError):  # a call that was given up has its turn for ever
            within(ANSWER_S, self._shut)

    def _shut(self) -> None:
        with turn(self._system):
            self._file.close()

    def _open(self, url: str, version: int) -> Any:
        look = look_at(RemoteObject(url, {}), 0)
        web.check_version(size_of(look), look.version, self._known_size, version)
        self._system, path = open_system(url)
        if is_web(self._system):
            return web.open_stream(self._system, path)
        with turn(self._system):
            return self._system.open(path, "rb")

    def _read_some(self) -> bytes:
        data: bytes = _answered(self._at, self._take)
        self._at += len(data)
        if not data and self._known_size != UNKNOWN_BYTES and self._at < self._known_size:
            raise RemoteError(f"at byte {self._at}: it ends there, and has {self._known_size} bytes")
        return data

    def _take(self) -> bytes:
        with turn(self._system):
            data: bytes = self._file.read(STREAM_BYTES)
        return data


def size_of(look: RemoteLook) -> int:
    """Return the size of an object, or UNKNOWN_BYTES."""
    return UNKNOWN_BYTES if look.size is None else look.size


def open_window(url: str, size: int, version: int, *, is_whole: bool) -> Window:
    """Return a window into an object. Raise Changed if it is not the same version, and RemoteError.

    is_whole: whether it can be read only as a whole.
    """
    return RemoteStream(url, size, version) if is_whole else RemoteWindow(url, size, version)


def _answered(offset: int, function: Any, *args: Any) -> Any:
    """Return what a call gives. Raise Changed, and RemoteError with the offset for anything else."""
    try:
        return within(ANSWER_S, function, *args)
    except Changed:
        raise
    except RemoteError as error:
        raise RemoteError(f"at byte {offset}: {explain(error)}") from error
    except Exception as error:  # each file system has exceptions of its own
        raise RemoteError(f"at byte {offset}: {explain(error)}") from error


def read_object(url: str, limit: int) -> bytes:
    """Return an object, for the driver. Raise DatasourceError if that fails, or it is over `limit` bytes."""
    check_url(url, DatasourceError)
    try:
        look: RemoteLook = _answered(0, look_at, RemoteObject(url, {}), 0)
        with RemoteStream(url, size_of(look), web.hash_of(look.version)) as stream:
            return stream.read_all(limit)
    except (Changed, RemoteError) as error:
        raise cannot_read(url, error) from error
