"""Decode what executors send a driver: the one place where a runner's records become objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mmgevent.driver.failures.set_aside import unreadable
from mmgevent.errors import JobError
from mmgevent.tasks.blame import short_repr
from mmgevent.tasks.records import (
    SEGMENT_HEADER_BYTES,
    SegmentError,
    decode_flush,
    decode_segment,
    segment_size,
)

if TYPE_CHECKING:
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.job.outputs.receipts import Receipt
    from mmgevent.tasks.plain_rules import PlainRules

_RECORD = {"kind": "record"}
_WHAT = "results cannot be read here"


def decode_segments(data: Any, plain: PlainRules | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield the records of segments that follow one another. `plain`: their rules, if they have any.

    Raises JobError (kind "record") for bytes that cannot be read here.
    """
    offset = 0
    while offset < len(data):
        try:
            segment = decode_segment(data, offset, plain)
        except SegmentError as error:
            raise unreadable(_WHAT, error) from error
        yield from zip(segment.keys, segment.values)  # noqa: B905 - a segment's columns are equally long
        offset = segment.end


def decode_flushes(data: Any, plain: PlainRules | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield the records of whole flushes that follow one another. Raises JobError as above."""
    try:
        parts = decode_flush(data)
    except SegmentError as error:
        raise unreadable(_WHAT, error) from error
    for _, segments in parts:
        yield from decode_segments(segments, plain)


def find_receipt(data: Any, plan: PartsPlan, partitions: tuple[int, ...], of: int) -> Receipt | None:
    """Return the receipt in the results of some partitions, `of` all; None if these are records.

    Raises JobError (kind "record") for one that no executor of this run has written.
    """
    from mmgevent.job.outputs.receipts import ReceiptError, decode_receipt, is_receipt  # rarely needed

    if not is_receipt(data):
        return None
    try:
        receipt = decode_receipt(data)
    except ReceiptError as error:
        raise JobError(
            f"the receipt of a worker for parts in {plan.name} is damaged: {error}", _RECORD
        ) from None
    for file in receipt.files:
        if not plan.is_temporary(file.name):
            raise JobError(
                f"a worker says that it wrote {short_repr(file.name)}, which is no part of this run", _RECORD
            )
    return receipt._replace(partitions=partitions, of=of)


def find_receipt_in_flush(data: Any, plan: PartsPlan, partitions: tuple[int, ...], of: int) -> Receipt | None:
    """Return the receipt in whole flushes. Raises JobError as above."""
    try:
        parts = decode_flush(data)
    except SegmentError as error:
        raise unreadable(_WHAT, error) from error
    return find_receipt(parts[0][1], plan, partitions, of) if len(parts) == 1 else None


def whole_segments(pieces: Iterable[Any]) -> Iterator[bytes]:
    """Yield the segments of a partition, whole; a store gives pieces of them."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= SEGMENT_HEADER_BYTES and len(buffer) >= (size := segment_size(buffer)):
            yield bytes(memoryview(buffer)[:size])
            del buffer[:size]
