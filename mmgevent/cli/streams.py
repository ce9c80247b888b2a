"""Reserve stdout for the results: everything else that is printed to it goes to stderr.

A job file, its functions and their libraries print in many ways: with print(), through
sys.__stdout__ or descriptor 1, from C, from child processes, while they are loaded and after the
last result. So descriptor 1 itself becomes a copy of stderr for good, and the results get a
descriptor that only their sink knows. This is done before the engine or any other process starts.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NamedTuple

from mmgevent.errors import OutputError
from mmgevent.job.outputs.descriptors import descriptor_of, open_descriptor
from mmgevent.job.remote.urls import is_remote
from mmgevent.machine import working_directory

STDIN, STDOUT, STDERR = 0, 1, 2

#: The path of results that means stdout.
DASH = "-"


class Results(NamedTuple):
    """Where results go."""

    #: The path as the user wrote it, or None for stdout.
    path: str | None
    #: The working directory when the command started.
    folder: str
    #: The stream if it is already open. None if `path` is a file: it is opened after the job is
    #: loaded.
    stream: io.FileIO | None

    def current_path(self) -> str | None:
        """Return the path of the file that the user meant, even if the job file has changed the folder."""
        if not self.path or is_remote(self.path) or self.folder == working_directory.find():
            return self.path
        return os.path.join(self.folder, self.path)


def claim_results(output: str | None) -> Results:
    """Return where to write results for the path `output`, None for stdout.

    Afterwards descriptor 1 and sys.stdout are stderr. Raises OutputError for a descriptor that is
    not open.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    closed = _fill_standard_descriptors()
    path = "/dev/stdout" if output is None or output == DASH else output
    number = STDOUT if path == "/dev/stdout" else descriptor_of(path)
    if number in closed:
        name = "stdout" if number == STDOUT else path
        raise OutputError(f"{name} is closed; write the results to a file with -o PATH")
    stream = None if number is None else open_descriptor(number, path)
    os.dup2(STDERR, STDOUT)
    _print_to_stderr()
    return Results(None if output == DASH else output, working_directory.find(), stream)


def _fill_standard_descriptors() -> set[int]:
    """Open /dev/null as 0, 1 and 2 where they are closed, and return those that were.

    Otherwise the next files to be opened would get these numbers.
    """
    closed: set[int] = set()
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(number, True)
        closed.add(number)
    os.close(number)
    return closed


def _print_to_stderr() -> None:
    """Make a new sys.stdout like sys.stderr: it writes each line at once, and any character.

    The old one remembers whether stdout can seek, which may not hold for stderr.
    """
    raw = io.FileIO(STDOUT, "wb", closefd=False)
    is_unbuffered = isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase)  # python -u
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(  # type: ignore[misc] # Final in its stub alone
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding=getattr(sys.stdout, "encoding", None),
        errors="backslashreplace",
        line_buffering=True,
        write_through=is_unbuffered,
    )
