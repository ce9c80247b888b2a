"""Turn records into bytes and back.

A *segment* is a run of records as two columns, keys and values (`columns`). Servers store and
forward segments, and read the header at most. All integers are little-endian:

    offset  size  field
         0     4  magic b"MMGS"
         4     1  version, 2
         5     1  flags: GROUPED 1, HASHED 2
         6     2  reserved, 0
         8     8  count: entries in each column
        16     8  bytes of the key column
        24     8  bytes of the value column
        32     8  checksum: xxh3_64(both columns, seed=xxh64(bytes 0 to 31))
        40        key column, then value column, of `count` elements each

- FLAT (no flag): `values[i]` is the value of `keys[i]`.
- GROUPED: `values[i]` is a non-empty list, the values of `keys[i]` in order.
- HASHED: the partition of some key came from `hash()` of a user's class. Reduce tasks check it
  again.

A *batch* is a FLAT segment of items. A *flush* is segments of several partitions behind one table
(`wire.flushes`).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from xxhash import xxh3_64_intdigest, xxh64_intdigest

from mmgevent.tasks.columns import SegmentError as SegmentError
from mmgevent.tasks.columns import load, pickler_for, read_column, write_column
from mmgevent.tasks.unpicklable import PICKLE_PROTOCOL, find_culprit
from mmgevent.wire.flushes import FLUSH_HEAD, FLUSH_MAGIC, FLUSH_ROW

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

SEGMENT_MAGIC = b"MMGS"
SEGMENT_VERSION = 2
GROUPED = 1
HASHED = 2

_HEADER = struct.Struct("<4sBBHQQQ")  # all but the checksum
_CHECKSUM = struct.Struct("<Q")
#: Bytes before the columns of a segment.
SEGMENT_HEADER_BYTES = _HEADER.size + _CHECKSUM.size

#: Most bytes of one character in a pickled text; a lone surrogate takes three.
_MAX_BYTES_A_CHARACTER = 4
#: Most bytes that the pickle of a str or of bytes has besides its content.
_PICKLE_BYTES = 32


class Segment(NamedTuple):
    """One decoded segment; the lists belong to the caller."""

    keys: list[Any]
    values: list[Any]
    grouped: bool
    hashed: bool
    #: offset of the first byte after the segment
    end: int


def encode_segment(
    keys: list[Any],
    values: list[Any],
    *,
    grouped: bool = False,
    hashed: bool = False,
    plain: PlainRules | None = None,
) -> bytes:
    """Encode two columns of equal length as one segment; with rules, one of plain data.

    Raise RecordError for the first record that cannot be pickled, or is not plain. MemoryError
    passes unchanged, and so do exceptions that are no `Exception`.
    """
    if len(keys) != len(values):
        raise ValueError(f"a segment needs as many values as keys, got {len(values)} and {len(keys)}")
    buffer = BytesIO()
    buffer.write(bytes(SEGMENT_HEADER_BYTES))
    try:
        write_column(buffer, keys, plain)
        key_end = buffer.tell()
        write_column(buffer, values, plain)
    except MemoryError:
        raise
    except Exception as error:
        raise find_culprit(keys, values, grouped, error, _plain_dumper(plain)) from error
    end = buffer.tell()
    flags = (GROUPED if grouped else 0) | (HASHED if hashed else 0)
    header = _HEADER.pack(
        SEGMENT_MAGIC, SEGMENT_VERSION, flags, 0, len(keys), key_end - SEGMENT_HEADER_BYTES, end - key_end
    )
    with buffer.getbuffer() as view:
        view[: _HEADER.size] = header
        view[_HEADER.size : SEGMENT_HEADER_BYTES] = _CHECKSUM.pack(
            _checksum(header, view[SEGMENT_HEADER_BYTES:])
        )
    return buffer.getvalue()


def decode_segment(data: Any, offset: int = 0, plain: PlainRules | None = None) -> Segment:
    """Decode the segment at `offset`. Bytes may follow it. Raise SegmentError.

    With rules, a segment that holds anything but plain data is an error, and nothing of it runs.
    """
    view = memoryview(data)
    flags, count, key_bytes, value_bytes, checksum = _read_header(view, offset)
    keys_at = offset + SEGMENT_HEADER_BYTES
    values_at = keys_at + key_bytes
    end = values_at + value_bytes
    if end > len(view):
        raise SegmentError(f"a segment of {end - offset} bytes is cut short after {len(view) - offset}")
    if _checksum(view[offset : offset + _HEADER.size], view[keys_at:end]) != checksum:
        raise SegmentError(f"a segment of {end - offset} bytes does not match its checksum")
    keys = read_column(view[keys_at:values_at], count, "keys", plain)
    values = read_column(view[values_at:end], count, "values", plain)
    return Segment(keys, values, bool(flags & GROUPED), bool(flags & HASHED), end)


def segment_size(data: Any, offset: int = 0) -> int:
    """Return the length of the segment at `offset`, bytes, from its header. Raise SegmentError."""
    _, _, key_bytes, value_bytes, _ = _read_header(memoryview(data), offset)
    return SEGMENT_HEADER_BYTES + key_bytes + value_bytes


def segment_count(data: Any, offset: int = 0) -> int:
    """Return the number of entries of the segment at `offset`, from its header.

    Raise SegmentError.
    """
    return _read_header(memoryview(data), offset)[1]


def measure_segment(data: Any, offset: int = 0) -> tuple[int, int]:
    """Return the number of entries of the segment at `offset`, and the offset of its end.

    Only its header is read. Raise SegmentError if it is none, or is cut short.
    """
    _, count, key_bytes, value_bytes, _ = _read_header(memoryview(data), offset)
    end = offset + SEGMENT_HEADER_BYTES + key_bytes + value_bytes
    if end > len(data):
        raise SegmentError(f"a segment is cut short: {end - len(data)} bytes are missing")
    return count, end


def encode_items(items: list[tuple[Any, Any]]) -> bytes:
    """Encode a batch of items. Raise RecordError for one that cannot be pickled."""
    return encode_segment([key for key, _ in items], [value for _, value in items])


def decode_items(data: Any) -> list[tuple[Any, Any]]:
    """Decode a batch. Raise SegmentError, also if bytes follow it or if it is grouped."""
    segment = decode_segment(data)
    if segment.grouped or segment.end != len(data):
        raise SegmentError(f"{len(data)} bytes are not one batch of items")
    return list(zip(segment.keys, segment.values))  # noqa: B905 - decode_segment holds them equal; strict= costs


def decode_results(data: Any, plain: PlainRules | None = None) -> list[tuple[Any, Any]]:
    """Decode results of reduce tasks: FLAT segments that follow one another. Raise SegmentError."""
    items: list[tuple[Any, Any]] = []
    offset = 0
    while offset < len(data):
        segment = decode_segment(data, offset, plain)
        if segment.grouped:
            raise SegmentError("results are grouped, which no reduce task gives")
        items += zip(segment.keys, segment.values, strict=True)
        offset = segment.end
    return items


def encode_value(value: Any, limit_bytes: int, plain: PlainRules | None = None) -> bytes | None:
    """Encode one value by itself. Return None if that takes more than `limit_bytes` or fails."""
    if isinstance(value, (str, bytes)):
        if len(value) > limit_bytes:
            return None
        if len(value) < limit_bytes // _MAX_BYTES_A_CHARACTER - _PICKLE_BYTES and type(value) in (str, bytes):
            return pickle.dumps(value, PICKLE_PROTOCOL)
    file = _Bounded(limit_bytes)
    try:
        pickler_for(file, plain).dump(value)
    except Exception:  # a `__reduce__` of the user's may raise anything
        return None
    return file.getvalue()


def decode_value(data: bytes, plain: PlainRules | None = None) -> Any:
    """Decode what `encode_value` returned. What unpickling raises passes unchanged."""
    return load(data, plain)


def _plain_dumper(plain: PlainRules | None) -> Callable[[Any], object] | None:
    """Return what raises NotPlainError for an object that is not plain, or None without rules."""
    if plain is None:
        return None
    from mmgevent.tasks.plain_data import dump_plain

    return lambda obj: dump_plain(obj, plain)


class _Bounded(BytesIO):
    """A file that refuses to outgrow a limit."""

    def __init__(self, limit_bytes: int):
        super().__init__()
        self._limit_bytes = limit_bytes

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._limit_bytes:
            raise ValueError(f"more than {self._limit_bytes} bytes")
        return super().write(data)


def encode_flush(segments: Mapping[int, bytes]) -> bytes:
    """Join `{partition: segment}` under one table, in ascending order of partitions."""
    ordered = sorted(segments.items())
    table = [FLUSH_HEAD.pack(FLUSH_MAGIC, len(ordered))]
    for partition, segment in ordered:
        table.append(FLUSH_ROW.pack(partition, segment_count(segment), len(segment)))
    return b"".join([*table, *(segment for _, segment in ordered)])


def decode_flush(data: Any) -> list[tuple[int, memoryview]]:
    """Split one or more whole flushes into (partition, segment bytes), without copies.

    Raise SegmentError.
    """
    view = memoryview(data)
    parts = []
    offset = 0
    while offset < len(view):
        table_at = offset + FLUSH_HEAD.size
        if table_at > len(view):
            raise SegmentError("a flush is cut short in its header")
        magic, count = FLUSH_HEAD.unpack_from(view, offset)
        if magic != FLUSH_MAGIC:
            raise SegmentError(f"a flush begins with {FLUSH_MAGIC!r}, not {magic!r}")
        offset = table_at + count * FLUSH_ROW.size
        if offset > len(view):
            raise SegmentError("a flush is cut short in its table")
        for partition, _, n_bytes in FLUSH_ROW.iter_unpack(view[table_at:offset]):
            if offset + n_bytes > len(view):
                raise SegmentError("a flush is cut short in its segments")
            parts.append((partition, view[offset : offset + n_bytes]))
            offset += n_bytes
    return parts


def _checksum(header: Any, columns: Any) -> int:
    return xxh3_64_intdigest(columns, seed=xxh64_intdigest(header))


def _read_header(view: memoryview, offset: int) -> tuple[int, int, int, int, int]:
    """Return flags, count, key bytes, value bytes and checksum."""
    if len(view) - offset < SEGMENT_HEADER_BYTES:
        raise SegmentError(f"a segment has at least {SEGMENT_HEADER_BYTES} bytes, not {len(view) - offset}")
    magic, version, flags, _, count, key_bytes, value_bytes = _HEADER.unpack_from(view, offset)
    if magic != SEGMENT_MAGIC:
        raise SegmentError(f"a segment begins with {SEGMENT_MAGIC!r}, not {magic!r}")
    if version != SEGMENT_VERSION:
        raise SegmentError(
            f"a segment of version {version} came, this mmgevent reads version {SEGMENT_VERSION}"
        )
    return flags, count, key_bytes, value_bytes, _CHECKSUM.unpack_from(view, offset + _HEADER.size)[0]
