"""Stop in pdb at an exception of the user's, after an inline run: `mmg-run --inline --pdb`, or a replay.

The debugger sees frames of the user and of libraries, none of ours. It starts in the innermost
frame of the user's own code. `down` leads to the line where a library raised, `up` to the callers.
"""

from __future__ import annotations

import bdb
import os
import pdb
import stat
import sys
import sysconfig
from types import TracebackType
from typing import Any

from mmgevent.cli.exits import leave_sigint_to_debugger, say
from mmgevent.errors import JobError, MmgeventError
from mmgevent.tasks.blame import is_ours


class _PostMortem(pdb.Pdb):
    """pdb that starts in the user's frame."""

    def get_stack(self, f: Any, t: TracebackType | None) -> tuple[list[tuple[Any, int]], int]:
        stack, innermost = super().get_stack(f, t)
        own = [at for at, (frame, _) in enumerate(stack) if not _is_installed(frame.f_code.co_filename)]
        return stack, own[-1] if own else innermost


def why_not() -> str | None:
    """Return why a debugger cannot read commands, or None if it can."""
    try:
        status = os.fstat(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):
        return "stdin is closed"
    if stat.S_ISCHR(status.st_mode) and not sys.stdin.isatty():
        return "stdin is no terminal, and nothing can be read from it"
    return None


def cause_of(error: BaseException) -> BaseException:
    """Return the user's exception that caused one of ours, or `error` itself if there is none."""
    while isinstance(error, MmgeventError):
        behind = error.__cause__ or error.__context__
        if behind is None:
            break
        error = behind
    return error


def find_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback of an exception without our frames, or None if it has only ours."""
    return _drop_our_frames(error.__traceback__)


def has_quit(error: BaseException) -> bool:
    """Return whether the user raised the exception by leaving a debugger."""
    return isinstance(error, bdb.BdbQuit)


def stop_at(trace: TracebackType) -> None:
    """Run pdb on a traceback until the user leaves it."""
    leave_sigint_to_debugger()
    debugger = _PostMortem()
    debugger.reset()
    debugger.interaction(None, trace)


def debug(name: str, error: MmgeventError) -> int:
    """Say what failed, stop in pdb where it was raised, and return the exit code of the failure."""
    cause = cause_of(error)
    trace = find_traceback(cause)
    if has_quit(cause) or (trace is None and not isinstance(error, JobError)):
        raise error
    say(name, str(error))
    reason = why_not()
    if trace is None:
        say(name, "--pdb has nowhere to stop: no line of the job raised this")
    elif reason is not None:
        say(name, f"--pdb has nothing to read commands from: {reason}")
    else:
        stop_at(trace)
    return error.exit_code


def _drop_our_frames(trace: TracebackType | None) -> TracebackType | None:
    kept = []
    while trace is not None:
        if not is_ours(trace.tb_frame.f_code.co_filename):
            kept.append(trace)
        trace = trace.tb_next
    chain: TracebackType | None = None
    for each in reversed(kept):
        chain = TracebackType(chain, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return chain


def _is_installed(path: str) -> bool:
    """Return whether a file is part of the standard library or installed, or is no file at all."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return path.startswith("<") or any(path.startswith(folder + os.sep) for folder in folders if folder)
