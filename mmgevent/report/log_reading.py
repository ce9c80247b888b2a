"""Read a job log again: what a report would have had of the job, also if the log was cut."""

from __future__ import annotations

import json
from typing import Any

from mmgevent.errors import UsageError
from mmgevent.report.digest import Digest
from mmgevent.shown_text import shown

#: Longest line that is read, bytes. Ours have some thousand.
MAX_LINE_BYTES = 1024 * 1024


#: How each job log of ours begins.
_BEGIN = b'{"event":"job"'


def is_log(path: str) -> bool:
    """Return whether a file begins as a job log does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_BEGIN)) == _BEGIN
    except (OSError, ValueError):
        return False


def read_log(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the data of a report, and what is to be said of the log: that it ends too early.

    A log whose program was killed lacks its end, and its last line may be cut.

    Raises UsageError for what is no job log.
    """
    digest = Digest()
    said: list[str] = []
    number = 0
    try:
        with open(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    said.append(f"{shown(path)}: line {number}, the last one, is cut, and left out")
                    break
                digest.add(json.loads(line))
        data = digest.data()
    except OSError as error:
        raise UsageError(f"the job log {shown(path)} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"line {number} of {shown(path)} is none of a job log: expected a file of --job-log"
        ) from error
    if not digest.end:
        said.append(f"{shown(path)} has no line of its end: the job runs, or its program was killed")
    return data, said
