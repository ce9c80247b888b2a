"""Stand-ins for the terminal that an executor does not have. They say what to do instead.

Descriptor 0 of an executor is /dev/null. A function that reads an end of file there would give
other results than inline, without a word. A debugger would quit.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from mmgevent.errors import NoTerminalError

#: Values of PYTHONBREAKPOINT that mean pdb, which needs a terminal. Other debuggers may not need
#: one.
_PDB = ("", "pdb.set_trace")


class _NoInput(io.RawIOBase):
    """A stream that cannot be read. In every other way it is like stdin."""

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0

    def readinto(self, buffer: Any) -> int:
        raise NoTerminalError(
            "something wanted to read stdin, as input() and debuggers do; an executor has none"
        )


def install() -> None:
    """Make sys.stdin and breakpoint() of this process say that there is no terminal."""
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(_NoInput()))  # type: ignore[misc]
    sys.breakpointhook = _refuse_breakpoint


def _refuse_breakpoint(*args: Any, **kwargs: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT", "") not in _PDB:
        return sys.__breakpointhook__(*args, **kwargs)
    raise NoTerminalError("breakpoint() was called in an executor, which has no terminal")
