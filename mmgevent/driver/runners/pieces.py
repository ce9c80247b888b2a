"""The pieces of a batch that an inline run maps one after another, and what a failure of one says."""

from __future__ import annotations

from typing import NamedTuple

from mmgevent.driver.input.encoding import EncodedBatch
from mmgevent.errors import JobError
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.given import add_item
from mmgevent.tasks.run import read_batch
from mmgevent.wire.failures import with_place
from mmgevent.wire.positions import Part


class MapPiece(NamedTuple):
    """The part of a batch that one task maps."""

    lo: int  #: first entry
    hi: int  #: one behind the last entry
    part: Part  #: part of the entry, if there is only one
    failures: int  #: failures so far that named no item


def note_item(failure: TaskFailure, number: int, batch: EncodedBatch, piece: MapPiece) -> None:
    """Note in a failure which batch its item is in, and the item as it was."""
    failure.batch = number
    add_item(failure, lambda: read_batch(batch.data)[piece.lo :], piece.lo)


def ended_by(failure: TaskFailure, error: type[JobError]) -> JobError:
    """Return the error that ends the job, with the user's exception as its cause."""
    ended = error.from_failure(failure.failure)
    ended.__cause__ = failure.__cause__
    record = failure.failure
    if failure.batch is not None:
        record = with_place(record, failure.batch, failure.item)
    ended.evidence = record, failure.given
    return ended
