"""Give the results stdout to themselves: whatever else is printed to it goes to stderr.

The job file, its functions and the libraries they use print as they like: with print(), through
sys.__stdout__ or descriptor 1, from C, from processes they start, while they are loaded and after the last
result. So descriptor 1 itself becomes a copy of stderr, for good, and the results get a descriptor that
only their sink knows.  It is done before the engine or any other process is started.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NamedTuple

from mmgevent.errors import OutputError
from mmgevent.job.outputs.destinations import descriptor_of, open_descriptor
from mmgevent.machine import working_directory

STDIN, STDOUT, STDERR = 0, 1, 2

#: What stands for stdout as the path of the results.
DASH = "-"


class Results(NamedTuple):
    """Where results go."""

    #: as the user wrote it; None: stdout
    path: str | None
    #: the working directory when the command began
    folder: str
    #: what is open already; None: `path` names a file, to be opened once the job is known
    stream: io.FileIO | None

    def current_path(self) -> str | None:
        """Return a path that means what the user meant, whatever folder the job file has changed to."""
        if not self.path or self.folder == working_directory.find():
            return self.path
        return os.path.join(self.folder, self.path)


def claim_results(output: str | None) -> Results:
    """Find out where results that go to `output` (None: stdout) are to be written.

    From then on descriptor 1 and sys.stdout are stderr.  Raises OutputError for a descriptor that is not open.
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
    """Open 0, 1 and 2 on nothing where they are closed, or what is opened next would get their numbers; return those."""
    closed: set[int] = set()
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(number, True)
        closed.add(number)
    os.close(number)
    return closed


def _print_to_stderr() -> None:
    """Make sys.stdout anew, like sys.stderr: every line is there at once, and no character is refused.

    The old one remembers whether stdout could seek, which need not be true of stderr.
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
