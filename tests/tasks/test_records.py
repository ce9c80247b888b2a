"""Tests of mmgevent.tasks.records: segments, batches, flush tables."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections import namedtuple
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest, xxh64_intdigest

from mmgevent.tasks import columns
from mmgevent.tasks.records import (
    SegmentError,
    decode_flush,
    decode_items,
    decode_segment,
    encode_flush,
    encode_items,
    encode_segment,
    segment_count,
    segment_size,
)
from mmgevent.tasks.unpicklable import RecordError
from mmgevent.wire.flushes import FlushReader

Point = namedtuple("Point", "x y")


class Refuses:
    def __reduce__(self):
        raise ValueError("not today")


class Exits:
    def __reduce__(self):
        raise SystemExit(3)


class VanishingModule:
    """Pickles as something that cannot be imported."""

    def __reduce__(self):
        return (pickle.loads, (b"cno_such_module_at_all\nThing\n.",))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(plain, plain), max_size=30), st.booleans(), st.booleans())
def test_a_segment_comes_back_as_it_was(pairs, grouped, hashed):
    keys, values = [k for k, _ in pairs], [[v] if grouped else v for _, v in pairs]
    data = encode_segment(keys, values, grouped=grouped, hashed=hashed)
    segment = decode_segment(data)
    assert (segment.keys, segment.values) == (keys, values)
    assert (segment.grouped, segment.hashed, segment.end) == (grouped, hashed, len(data))
    assert segment_size(data) == len(data)
    assert segment_count(data) == len(pairs)


def test_segments_are_decoded_at_an_offset_and_before_trailing_bytes():
    first, second = encode_segment(["a"], [1]), encode_segment(["b"], [2], hashed=True)
    data = b"xyz" + first + second + b"tail"
    one = decode_segment(data, 3)
    two = decode_segment(memoryview(data), one.end)
    assert (one.keys, two.keys, two.end) == (["a"], ["b"], len(data) - 4)


def test_every_cut_of_a_segment_is_refused():
    data = encode_segment(["key", Point(1, 2)], [Decimal("1.5"), "text"])
    for end in range(len(data)):
        with pytest.raises(SegmentError):
            decode_segment(data[:end])


def test_every_flipped_byte_of_a_segment_is_noticed():
    data = encode_segment(["key", "other"], ["value", 7])
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        with pytest.raises(SegmentError) as caught:
            decode_segment(damaged)
        assert caught.value.__cause__ is None


def sealed(keys, values, count):
    """A segment of any columns, with the right checksum."""
    header = struct.pack("<4sBBHQQQ", b"MMGS", 2, 0, 0, count, len(keys), len(values))
    checksum = xxh3_64_intdigest(keys + values, seed=xxh64_intdigest(header))
    return header + struct.pack("<Q", checksum) + keys + values


@pytest.mark.parametrize(
    "column", [b"", b"\0", b"\x04\2", b"\x08", b"\x7f", b"\x01\1" + bytes(8), b"\x04\0\0"]
)
@pytest.mark.parametrize("count", [1, 1 << 33, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_columns_that_are_none_are_refused_behind_a_right_checksum(column, count):
    ones = b"\x04\1"
    assert decode_segment(sealed(ones, ones, 1)).keys == [True]
    for data in (sealed(column, ones, count), sealed(ones, column, count)):
        with pytest.raises(
            SegmentError, match=r"of a segment (are no column of|cannot be unpickled)"
        ) as caught:
            decode_segment(data)
        assert caught.value.__cause__ is None or column == b""


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_a_segment_error(data):
    with pytest.raises(SegmentError):
        decode_segment(data)
    with pytest.raises(SegmentError):
        decode_flush(b"?" + data)


@pytest.mark.parametrize("depth", [60, 300])
def test_deeply_nested_and_cyclic_values_fall_back_to_the_memo(depth):
    nested: list = []
    for _ in range(depth):
        nested = [nested]
    cyclic: list = ["self"]
    cyclic.append(cyclic)
    values = [str(i) for i in range(100)] + [nested, cyclic]
    back = decode_segment(encode_segment(list(range(102)), values)).values
    assert back[:101] == values[:101]
    assert back[101][1] is back[101]


@pytest.mark.parametrize(
    "values",
    [
        [frozenset([n]) for n in range(100)],
        [(n, frozenset([frozenset([n])])) for n in range(60)],
        [[{frozenset([n]), n}] for n in range(60)],
    ],
    ids=["frozensets", "nested", "in-sets"],
)
def test_any_number_of_frozensets_fits_a_column(values):
    keys = list(range(len(values)))
    assert decode_segment(encode_segment(keys, values)).values == values
    assert decode_segment(encode_segment(values, keys)).keys == values


def test_shared_objects_are_stored_once_and_distinct_ones_without_memo():
    name = "a file name that many postings share"
    shared = encode_segment(list(range(2000)), [name] * 2000)
    assert len(shared) < 20_000
    assert columns.is_shared([name] * 2000)
    assert columns.is_shared([(name, i) for i in range(2000)])
    assert columns.is_shared([[name, "x" * i] for i in range(2000)])
    assert columns.is_shared([Path(str(i)) for i in range(100)])
    names = [f"file {i}" for i in range(500)]
    assert columns.is_shared([[names[(i * 7 + j * 13) % 500] for j in range(10)] for i in range(5000)])
    assert not columns.is_shared([str(i) for i in range(2000)])
    assert not columns.is_shared(list(range(2000)))
    assert not columns.is_shared([(str(i), i) for i in range(2000)])
    assert not columns.is_shared([])


@pytest.mark.parametrize(
    ("keys", "values", "words"),
    [
        (["a", "b"], [1, lambda: 0], ["value of key 'b'", "<lambda>", "top level"]),
        (["a", (i for i in ())], [1, 2], ["key <generator", "generator", "list"]),
        (["a"], [{"x": [1, Refuses()]}], ["value of key 'a'", "Refuses", "in a dict", "not today"]),
        (["a"], [(1, open)], []),
    ],
)
def test_what_cannot_be_pickled_is_named(keys, values, words):
    if not words:
        assert decode_segment(encode_segment(keys, values)).values == values
        return
    with pytest.raises(RecordError) as caught:
        encode_segment(keys, values)
    text = f"{caught.value} {caught.value.advice}"
    for word in words:
        assert word in text
    assert caught.value.key is keys[-1]


def test_instances_of_classes_made_in_functions_are_explained():
    class Local:
        pass

    with pytest.raises(RecordError, match=r"key 'k' cannot be pickled: .*<locals>\.Local") as caught:
        encode_segment(["k"], [[3, Local()]], grouped=True)
    assert "define Local at the top level" in caught.value.advice


def test_exceptions_beyond_exception_pass_through_encoding():
    with pytest.raises(SystemExit):
        encode_segment(["k"], [Exits()])


def test_a_missing_class_is_a_segment_error_with_its_cause():
    data = encode_segment(["k"], [VanishingModule()])
    with pytest.raises(SegmentError, match="values of a segment cannot be unpickled") as caught:
        decode_segment(data)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="as many values as keys"):
        encode_segment([1], [])


def test_a_batch_comes_back_as_tuples():
    items = [("a", [1]), (("b", 2), None)]
    assert decode_items(encode_items(items)) == items
    assert decode_items(encode_items([])) == []
    with pytest.raises(SegmentError, match="not one batch"):
        decode_items(encode_items(items) + b"x")
    with pytest.raises(SegmentError, match="not one batch"):
        decode_items(encode_segment([1], [[2]], grouped=True))


def test_flushes_split_into_their_segments_as_the_server_sees_them():
    segments = {p: encode_segment([p] * (p + 1), ["v"] * (p + 1)) for p in (5, 0, 3)}
    flush = encode_flush(segments)
    both = flush + encode_flush({1: segments[0]})
    parts = decode_flush(both)
    assert [p for p, _ in parts] == [0, 3, 5, 1]
    assert all(bytes(data) == segments[p if p != 1 else 0] for p, data in parts)
    reader = FlushReader()
    reader.feed(both)
    assert reader.is_whole
    assert list(reader.partitions) == [0, 3, 5, 1]
    assert list(reader.records) == [1, 4, 6, 1]
    for offset, n_bytes, (_, data) in zip(reader.offsets, reader.lengths, parts, strict=True):
        assert both[offset : offset + n_bytes] == bytes(data)


def test_every_cut_of_a_flush_is_refused():
    flush = encode_flush({1: encode_segment(["a"], [1]), 2: encode_segment(["b"], [2])})
    for end in range(1, len(flush)):
        with pytest.raises(SegmentError):
            decode_flush(flush[:end])
    assert decode_flush(b"") == []


def test_records_and_tasks_load_neither_gevent_nor_dill():
    code = (
        "import sys, mmgevent.tasks.run, mmgevent.tasks.records;"
        "print([m for m in ('gevent', 'greenlet', 'dill', 'ssl', 'socket') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
