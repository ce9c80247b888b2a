"""What the functions of a job print in an executor, marked with the item that printed it.

stdout and stderr of an executor are one pipe. Whatever is written by Python's own streams stands
between marks, which the reader (`MarkedBytes`) takes out again. A mark begins with a token of this
executor that is in no UTF-8 text:

    token, 1, MARK_BYTES of the status page    what follows was printed at this item
    token, 0                                   what follows was printed at the same item as before
    token, 2                                   end of what was printed there

What C code and child processes write has no marks. Nobody knows which item it is of.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import io
import os
import re
import select
import sys
import termios
from collections.abc import Iterator
from typing import Any

from mmgevent.executor.status_page import MARK_BYTES, Position, StatusPage, decode_mark

_SAME, _NEW, _END = b"\0", b"\1", b"\2"

#: Most bytes of one write that stand between two marks. The stream writes the rest by itself.
_MAX_WRITE_BYTES = 64 * 1024

#: Longest mark, bytes, beside its token.
_MARK_END_BYTES = 1 + MARK_BYTES


class PrintedFile(io.FileIO):
    """Descriptor 1 or 2 of an executor. A line costs 0.5 us more than in a plain file."""

    def __init__(self, fd: int, page: StatusPage):
        super().__init__(fd, "w", closefd=False)
        self._fd = fd
        self._page = page
        self._same, self._new, self._end = (page.token + kind for kind in (_SAME, _NEW, _END))
        #: a child that a function forked has none of its own
        self._has_marks = bool(page.token)

    def write(self, data: Any) -> int:
        """Write bytes between marks; return how many of them were written."""
        size = len(data)
        item = self._page.read_item()
        if not item or not self._has_marks or size > _MAX_WRITE_BYTES:
            return self._write_rest(data)
        if item == self._page.printed_item:
            marked = b"".join((self._same, data, self._end))
        else:
            self._page.printed_item = b""  # if an exception cuts the write off, the next mark is whole
            marked = b"".join((self._new, self._page.read_mark(), data, self._end))
        try:
            written = os.write(self._fd, marked)
        except BlockingIOError:  # a function has made the pipe non-blocking
            return super().write(data) or 0
        while written < len(marked):
            select.select([], [self._fd], [])
            written += os.write(self._fd, marked[written:])
        self._page.printed_item = item
        return size

    def _write_rest(self, data: Any) -> int:
        """Write what is too long for one write, or of a child, which has no marks."""
        if self._has_marks and self._page.read_item():
            return self.write(memoryview(data)[:_MAX_WRITE_BYTES])
        self._has_marks = False
        return super().write(data) or 0


class MarkedBytes:
    """Takes marks out of what was read of an executor."""

    def __init__(self, token: bytes):
        self._marks = re.compile(
            re.escape(token) + b"(?:([\\x00\\x02])|\\x01(.{%d}))" % MARK_BYTES, re.DOTALL
        )
        self._token = token
        self._held = b""  # the beginning of a mark
        self._mark = b""  # of the last item
        self._is_marked = False  # whether what follows is of that item

    def parts(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (mark of an item or b"", bytes) of what was read now."""
        data = self._held + data
        data, self._held = self._cut(data)
        if self._token not in data:
            yield self._current, data
            return
        at = 0
        for found in self._marks.finditer(data):
            if found.start() > at:
                yield self._current, data[at : found.start()]
            at = found.end()
            kind, mark = found.groups()
            if mark is not None:
                self._mark = mark
            self._is_marked = kind != _END
        if at < len(data):
            yield self._current, data[at:]

    def skip(self, data: bytes) -> tuple[int, bool]:
        """Return how many lines ended in what was read now, and whether another one has begun.

        Remembers the last mark.
        """
        data, self._held = self._cut(self._held + data)
        at = data.rfind(self._token + _NEW)
        if at >= 0:
            at += len(self._token) + 1
            mark = data[at : at + MARK_BYTES]
            is_whole = len(mark) == MARK_BYTES and self._token not in mark
            self._mark = mark if is_whole else b""  # an exception cut it off, or a thread wrote between
        at = data.rfind(self._token)
        if at >= 0:
            at += len(self._token)
            self._is_marked = data[at : at + 1] != _END
        if self._token + _NEW in data:
            data = self._marks.sub(b"", data)
        end = data.removesuffix(self._token + _END)
        return data.count(b"\n"), not end.endswith(b"\n")

    def strip(self, data: bytes) -> bytes:
        """Return bytes without any marks. They may begin in the middle of one."""
        return self._marks.sub(b"", data)

    @property
    def _current(self) -> bytes:
        return self._mark if self._is_marked else b""

    def _cut(self, data: bytes) -> tuple[bytes, bytes]:
        """Split behind the last byte that is certainly not of an incomplete mark."""
        at = data.rfind(self._token)
        if at >= 0 and len(data) - at < len(self._token) + _MARK_END_BYTES:
            kind = data[at + len(self._token) : at + len(self._token) + 1]
            if kind in (b"", _NEW):
                return data[:at], data[at:]
        for size in range(min(len(self._token) - 1, len(data)), 0, -1):
            if data.endswith(self._token[:size]):
                return data[:-size], data[-size:]
        return data, b""


def flush_prints() -> bool:
    """Write what functions printed without a line end: this process may be killed next.

    Return whether there is something in the pipe that the worker has not read.
    """
    # A function may have put an object of its own in the place of ours, and hold ours in it.
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):  # closed, or an object of the user that raises anything
            stream.flush()  # type: ignore[union-attr]
    unread = array.array("i", [0])
    try:
        fcntl.ioctl(1, termios.FIONREAD, unread)
    except OSError:  # a function has closed it, or has put a file in its place
        return True
    return unread[0] > 0


def name_place(mark: bytes) -> str:
    """Return in words where an executor was, "" if that is not known."""
    if not mark:
        return ""
    position: Position = decode_mark(mark)
    if position.is_setup:
        return "setupfn"
    if position.call is not None:
        return position.call
    return position.key or "" if position.is_alone else ""
