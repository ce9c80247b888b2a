"""The file of a job log: lines of JSON, each written by one call of the system.

A process that is killed between two calls leaves whole lines. Linux ends a call at a page when
SIGKILL meets it, so then the last line may be cut. Of a line for which the disk has no room nothing
stays. From then on nothing is written, so what is there has no gap, and the job goes on.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.shown_text import shown

Event = dict[str, Any]


class LogFile:
    """Takes events in order, from any thread: writes them, and passes them on."""

    def __init__(
        self, path: str | os.PathLike[str] | None = None, on_event: Callable[[Event], None] | None = None
    ):
        """Open the file. It is emptied with the first event.

        `path`: None if the events are only passed on. `on_event(event)` gets each of them.

        Raises OutputError if the file cannot be written.
        """
        self.path = None if path is None else os.fspath(path)
        #: why nothing more is written, or None
        self.fault: str | None = None
        #: events that were not written
        self.missing = 0
        self._on_event = on_event
        self._lock = threading.RLock()
        self._fd = -1
        self._is_new = False
        self._has_begun = False
        self._size = 0
        if self.path is not None:
            self._open(self.path)

    def put(self, event: Event) -> None:
        """Write an event and pass it on. A fault of the file is kept in `fault`."""
        self.put_all([event])

    def put_all(self, events: list[Event]) -> None:
        """Write events by one call of the system, and pass them on."""
        with self._lock:
            if self._fd >= 0 or self.fault is not None:
                self._write(events)
            if self._on_event is not None:
                for event in events:
                    self._on_event(event)

    def close(self) -> None:
        """Close the file. A file that this made for a job that never began is removed. Idempotent."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            os.close(fd)
            if self._is_new and not self._has_begun and self.path is not None:
                os.unlink(self.path)

    def _open(self, path: str) -> None:
        self._is_new = not os.path.lexists(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(path, flags, 0o666)
        except (OSError, ValueError) as error:  # a path with a null character
            why = getattr(error, "strerror", None) or error
            raise OutputError(
                f"the job log {shown(path)} cannot be written ({why}): give a file in a folder that is there"
            ) from error
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            os.close(fd)
            raise OutputError(f"the job log {shown(path)} is no file and no device: give the path of a file")
        self._fd = fd

    def _write(self, events: list[Event]) -> None:
        if self.fault is not None:
            self.missing += len(events)
            return
        import json

        lines = "".join(json.dumps(event, separators=(",", ":"), default=repr) + "\n" for event in events)
        data = lines.encode("ascii")
        try:
            if not self._has_begun:
                self._has_begun = True
                if stat.S_ISREG(os.fstat(self._fd).st_mode):
                    os.ftruncate(self._fd, 0)
            written = os.write(self._fd, data)
            if written < len(data):
                self._drop_part()
                raise OSError(0, "there is no room for a whole line")
            self._size += written
        except OSError as error:
            self.fault = error.strerror or str(error)
            self.missing += len(events)

    def _drop_part(self) -> None:
        """Remove the part of the lines that was written."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, self._size)
