"""What an inline run maps at a time, and how its failures end it."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmgevent.errors import JobError
from mmgevent.tasks.blame import TaskFailure
from mmgevent.wire.positions import Part


class MapPiece(NamedTuple):
    """The part of a batch that one task maps."""

    lo: int  #: first entry
    hi: int  #: one behind the last entry
    part: Part  #: part of the entry, if there is only one
    failures: int  #: failures so far that named no item


def mark_nothing(index: int, key: Any) -> None:
    """Take the mark of an item that nobody watches."""


def end_of_job(failure: TaskFailure, error: type[JobError]) -> JobError:
    """Return the error that ends the job, with the user's exception as its cause."""
    ended = error.from_failure(failure.failure)
    ended.__cause__ = failure.__cause__
    return ended
