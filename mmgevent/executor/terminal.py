"""Stand for the terminal that an executor does not have: whoever wants to read from it is told what to do.

Descriptor 0 of an executor is /dev/null.  A function that reads its end there would quietly give other
results than inline, and a debugger that reads it quits without a word.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from mmgevent.errors import NoTerminalError

#: Values of PYTHONBREAKPOINT that mean pdb, which needs a terminal; others name debuggers that may do without.
_PDB = ("", "pdb.set_trace")


class _NoInput(io.RawIOBase):
    """A stream that cannot be read, and is stdin in every other way."""

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
