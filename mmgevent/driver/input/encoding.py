"""Encoded batches: items of a datasource as bytes, none larger than a server accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.refs import Ref
from mmgevent.shown_text import shown
from mmgevent.tasks.blame import short_repr
from mmgevent.tasks.records import encode_items
from mmgevent.tasks.unpicklable import RecordError
from mmgevent.wire.limits import MAX_BATCH_BYTES

#: Characters of a key that are shown in an error.  Longer keys would hide the rest of the message.
_KEY_CHARS = 60


class EncodedBatch(NamedTuple):
    items: int
    #: Bytes that the items stand for, the measure by which a batch is filled.  An encoded size has
    #: fixed parts: bytes per second that included them would make batches smaller and smaller.
    weight: int
    data: bytes
    #: its values are refs, each of which may stand for any number of items
    has_refs: bool = False


def encode_cut(items: list[tuple[Any, Any]], weight: int) -> Iterator[EncodedBatch]:
    """Encode items as one batch, or as several if one would be too large.

    Raises DatasourceError for a single item that is too large.
    """
    data = _encode_items(items)
    if len(data) <= MAX_BATCH_BYTES or len(items) == 1:
        yield _checked(items, weight, data)
        return
    del data
    half = len(items) // 2
    half_weight = weight * half // len(items)
    yield from encode_cut(items[:half], half_weight)
    yield from encode_cut(items[half:], weight - half_weight)


def encode_batch(items: list[tuple[Any, Any]], weight: int) -> EncodedBatch:
    """Encode items as one batch. Raises DatasourceError if it is too large."""
    return _checked(items, weight, _encode_items(items))


def _checked(items: list[tuple[Any, Any]], weight: int, data: bytes) -> EncodedBatch:
    if len(data) <= MAX_BATCH_BYTES:
        return EncodedBatch(len(items), weight, data, isinstance(items[0][1], Ref))
    key, value = max(items, key=lambda item: item[1].weight if isinstance(item[1], Ref) else 0)
    if isinstance(value, Ref):
        raise _too_large_to_send(value, len(data))
    raise DatasourceError(
        f"the item of the datasource with the key {short_repr(key, _KEY_CHARS)} has {len(data):,} bytes when it is encoded, "
        f"{len(data) - MAX_BATCH_BYTES:,} more than an item may have ({MAX_BATCH_BYTES:,}); put it into a file and pass "
        f"Files or Lines, give its path as the item and read it in mapfn, or cut it into several items"
    )


def _encode_items(items: list[tuple[Any, Any]]) -> bytes:
    try:
        return encode_items(items)
    except RecordError as error:
        raise DatasourceError(f"an item of the datasource cannot travel: {error}") from error


def encoded_bytes(item: tuple[Any, Any]) -> int:
    """Return the size of an item that is encoded alone. Raises DatasourceError if it cannot be."""
    return len(_encode_items([item]))


def digest(item: tuple[Any, Any]) -> int:
    """Return a number by which an item can be recognized."""
    from xxhash import xxh3_64_intdigest

    return xxh3_64_intdigest(_encode_items([item]))


def with_content(ref: Ref) -> Ref:
    """Return the ref with its content. Raises DatasourceError if that is too large to be sent."""
    if ref.weight > MAX_BATCH_BYTES:
        raise _too_large_to_send(ref, ref.weight)
    return ref.with_content()


def _too_large_to_send(ref: Ref, n_bytes: int) -> DatasourceError:
    return DatasourceError(
        f"{shown(ref.path)} is not on a worker as it is here, and has {n_bytes:,} bytes, {n_bytes - MAX_BATCH_BYTES:,} more than "
        f"can be sent at once ({MAX_BATCH_BYTES:,}); put it under the same path on all workers, or use Lines, which sends "
        f"a file in pieces"
    )
