"""Show the progress of a job of a program: `progress=True` of `submit` and `run`.

A notebook gets one output that changes, and stays with how the job ended. Elsewhere it is what
mmg-run shows: a block on a terminal, lines now and then in a log, and a closing line, on stderr.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.driver.progress import reporters
from mmgevent.errors import JobCancelled, UsageError

if TYPE_CHECKING:
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.job_state import JobState
    from mmgevent.driver.progress.progress import Progress

OnProgress = Callable[["Progress"], None]
OnNotice = Callable[[str], None]


def open_reporter(name: str) -> reporters.Reporter:
    """Return a reporter for stderr, whose lines begin with `name`: a block, or plain lines."""
    try:
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except (AttributeError, ValueError):  # stderr is closed
        return reporters.Reporter(name)
    if not is_terminal:
        return reporters.PlainReporter(name)
    from mmgevent.driver.progress.live_block import BlockReporter

    return BlockReporter(name)


class Shown:
    """What shows one job, beside the callbacks of the program."""

    def __init__(self, name: str, on_progress: OnProgress | None, on_notice: OnNotice | None):
        """`on_progress` and `on_notice`: the program's own, which are called as well.

        Without `on_notice` notices are shown with the progress.
        """
        self._name = name
        self._on_progress = on_progress
        self._began_s = time.monotonic()
        self._display = _find_display()
        self._reporter = reporters.Reporter(name)
        if self._display is None:
            self._reporter = open_reporter(name)
        #: for the runner of the job; None: notices go to the log, as they do without progress
        self.on_notice = on_notice
        if on_notice is None and self._display is None:
            self.on_notice = self._reporter.notice

    def on_progress(self, progress: Progress) -> None:
        """Show the progress, and call the program's callback."""
        self._reporter.update(progress)
        if self._display is not None:
            self._display.update(self._name, progress)
        if self._on_progress is not None:
            self._on_progress(progress)

    def watch(self, handle: JobHandle[Any, Any]) -> None:
        """Show how the job of a handle ends. The block goes first: the program may print at once."""
        handle.state.on_end = self._reporter.close
        handle.add_done_callback(lambda done: self.end(done.state, done.exception()))

    def end(self, state: JobState, error: BaseException | None) -> None:
        """Show how the job ended."""
        from mmgevent.driver.progress.closing_line import describe_end

        self._reporter.close()
        how = "done" if error is None else "failed"
        if isinstance(error, (JobCancelled, GeneratorExit, KeyboardInterrupt)):
            how = "cancelled"
        figures, seconds = state.figures(), time.monotonic() - self._began_s
        if self._display is not None:
            self._display.end(self._name, state.progress, how, {**figures, "seconds": seconds})
            return
        words = {"done": "done in", "failed": "failed after", "cancelled": "cancelled after"}[how]
        reporters.say(self._name, describe_end(words, seconds, figures))


def check_progress(progress: object) -> None:
    """Raise UsageError for what is neither True nor False."""
    if isinstance(progress, bool):
        return
    raise UsageError(
        f"progress is True, to show how far the job is, or a function that gets it; got {progress!r}"
    )


def _find_display() -> Any:
    """Return what shows HTML in the notebook that this program is, or None if it is none."""
    module = sys.modules.get("IPython")  # a notebook has imported it
    shell = module.get_ipython() if module is not None else None
    if shell is None or not hasattr(shell, "kernel"):  # a terminal has no kernel
        return None
    from mmgevent.driver.progress.notebook import NotebookDisplay

    return NotebookDisplay()
