"""Decode what executors send a driver: the one place where a runner's records become objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmgevent.driver.set_aside import unreadable
from mmgevent.tasks.records import SegmentError, decode_flush, decode_segment

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

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
