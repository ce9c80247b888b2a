"""Decode what executors send a driver: the one place where a runner's records become objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmgevent.errors import JobError
from mmgevent.tasks.records import SegmentError, decode_flush, decode_segment


def decode_segments(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the records of segments that follow one another.

    Raises JobError (kind "record") for bytes that cannot be read here.
    """
    offset = 0
    while offset < len(data):
        try:
            segment = decode_segment(data, offset)
        except SegmentError as error:
            raise _unreadable(error) from error
        yield from zip(segment.keys, segment.values)  # noqa: B905 - a segment's columns are equally long
        offset = segment.end


def decode_flushes(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the records of whole flushes that follow one another. Raises JobError as above."""
    try:
        parts = decode_flush(data)
    except SegmentError as error:
        raise _unreadable(error) from error
    for _, segments in parts:
        yield from decode_segments(segments)


def _unreadable(error: SegmentError) -> JobError:
    return JobError(f"results cannot be read here: {error}", {"kind": "record"})
