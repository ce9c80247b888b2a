"""Paths that name a descriptor of this process: `/dev/stdout`, `/dev/fd/63`."""

from __future__ import annotations

import fcntl
import io
import os

from mmgevent.errors import OutputError

#: Most links followed from a path to a descriptor. Linux follows as many.
MAX_LINKS = 40


def descriptor_of(path: str) -> int | None:
    """Return the number of this process's descriptor that `path` names: 1 for `/dev/stdout`.

    Links are followed. None for any other path.
    """
    own = {"/dev/fd", "/proc/self/fd", f"/proc/{os.getpid()}/fd"}
    for _ in range(MAX_LINKS):
        folder, name = os.path.split(path)
        try:
            folder = os.path.realpath(folder)
        except OSError:  # the working directory no longer exists
            return None
        parts = folder.split(os.sep)
        is_own_thread = parts[:4] == ["", "proc", str(os.getpid()), "task"] and parts[5:] == ["fd"]
        if (folder in own or is_own_thread) and name.isascii() and name.isdigit():
            return int(name)
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            return None
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:  # it belongs to another process, or was removed
            return None
    return None


def open_descriptor(number: int, name: str) -> io.FileIO:
    """Return a file on a copy of a descriptor that this process was started with.

    Both share position and flags, so `3>> log` is appended to. Raise OutputError if there is none.
    """
    try:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        is_inherited = os.get_inheritable(number)  # ours are not: Python makes them so
    except (OSError, OverflowError):
        is_inherited = False
    if not is_inherited:
        raise OutputError(f"cannot write {name}: descriptor {number} is not open; add {number}> PATH")
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise OutputError(f"cannot write {name}: descriptor {number} is open for reading only")
    return io.FileIO(os.dup(number), "wb")
