"""Which errors of a job can be replayed on this machine: those of which its driver kept a bundle here.

A driver keeps bundles in its user's cache folder, on its own machine, when its job is over. If that is
the user and the machine of this dashboard, the page can name the command. Only headers are read,
which are JSON, and only of files that are this user's alone.
"""

from __future__ import annotations

import shlex

from mmgevent.job.bundle import default_folder, read_headers
from mmgevent.shown_text import shown
from mmgevent.wire.failures import Cause, cause_of
from mmgevent.wire.listings import cut_text, shown_name


def find_commands(job: str, since_s: float) -> dict[Cause, str]:
    """Return {cause: command} of the bundles of jobs of this name since a time (reads files).

    The cause is as a row about errors shows it.
    """
    folder = default_folder()
    if folder is None:
        return {}
    commands: dict[Cause, str] = {}
    for path, written_s, header in read_headers(folder):
        failure = header.get("failure")
        if _as_listed(str(header.get("job"))) != job or written_s < since_s or not isinstance(failure, dict):
            continue
        function, error_type, line = cause_of(failure)
        cause = function and _as_listed(function), _as_listed(error_type), line and _as_listed(line)
        commands[cause] = f"mmg-run --replay {shown(shlex.quote(path))}"
    return commands


def _as_listed(text: str) -> str:
    return shown_name(cut_text(text))
