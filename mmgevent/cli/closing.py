"""The last words of mmg-run about a job: a closing line, and a summary for scripts.

Both come behind every other message, also when the job failed or a signal ended it. Nothing is said
of a job that was never submitted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.cli import exits
from mmgevent.cli.exits import say
from mmgevent.cli.options import Arguments, Option
from mmgevent.errors import UsageError
from mmgevent.machine import working_directory

if TYPE_CHECKING:
    from mmgevent.driver.job_state import JobState

#: What `--summary` is for an object on stderr, and what the name of a file ends in.
ON_STDERR, SUFFIX = "json", ".json"

#: {exit code: (state in the summary, words of the closing line)}; all others: failed
_ENDINGS = {
    0: ("done", "done in"),
    exits.HUNG_UP: ("terminated", "terminated after"),
    exits.INTERRUPTED: ("interrupted", "interrupted after"),
    exits.TERMINATED: ("terminated", "terminated after"),
    exits.BROKEN_PIPE: ("stopped", "stopped by the reader after"),
}
_FAILED = ("failed", "failed after")
#: Exit codes that mean that nothing ran, unless figures say that something did.
_NOTHING_RAN = (2, 3, 4, 5, 7)

#: Figures that concern the engine and nobody else.
_INTERNAL = ("results",)


def _summary(text: str) -> str:
    if text != ON_STDERR and not (text.endswith(SUFFIX) and os.path.basename(text) != SUFFIX):
        raise UsageError(
            f"expected json, for the last line on stderr, or the path of a file that ends in {SUFFIX}"
        )
    return text


SUMMARY = Option(
    ("--summary",),
    "json|FILE.json",
    "say at the end what the job did as one JSON object: json on the last line of stderr, also with -q and in place "
    "of the closing line; a path that ends in .json to that file",
    _summary,
)


class Closing:
    """What is said when the command ends."""

    def __init__(self, command: str, arguments: Arguments):
        """Note the time. Nothing is said before `watch` was called."""
        self._command = command
        self._is_quiet = bool(arguments.quiet)
        self._summary: str | None = arguments.summary
        self._folder = working_directory.find()
        self._output: str | None = arguments.output
        self._started_s = time.monotonic()
        #: number of results that were written
        self.written = 0

    def watch(self, state: JobState) -> None:
        """Say at the end what became of this job."""
        figures: Callable[[], dict[str, Any]] = state.figures
        exits.at_end(lambda code: self._end(code, state.name, figures()))

    def _end(self, code: int, name: str, figures: dict[str, Any]) -> int:
        import json

        from mmgevent.driver.progress.closing_line import cpu_share, describe_end

        seconds = time.monotonic() - self._started_s
        state, how = _ENDINGS.get(code, _FAILED)
        figures = {key: value for key, value in figures.items() if key not in _INTERNAL}
        has_run = code not in _NOTHING_RAN or bool(figures.get("items"))
        if has_run and self._summary != ON_STDERR and not self._is_quiet:
            place = self._output if code == 0 and self._output != "-" else None
            results = self.written if code == 0 else None
            say(self._command, describe_end(how, seconds, figures, results=results, place=place))
        if self._summary is None:
            return code
        share = cpu_share(figures)
        fields = {
            "state": state,
            "exit_code": code,
            "job": name,
            **figures,
            "seconds": round(seconds, 3),
            "written": self.written,
            "output": self._output,
            **({} if share is None else {"cpu_share": round(share, 4)}),
        }
        return self._write(json.dumps(fields), code)

    def _write(self, line: str, code: int) -> int:
        """Write the summary; return the exit code."""
        if self._summary == ON_STDERR:
            exits.print_error_line(line)
            return code
        assert self._summary is not None
        path = os.path.join(self._folder, self._summary)
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(f"{line}\n")
        except OSError as error:
            say(self._command, f"cannot write the summary {self._summary}: {error.strerror or error}")
            return code or 1
        return code
