"""Columns of plain values as bytes: every element comes back as it was, and damaged bytes are refused."""

import gc
import math
import random
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgevent._speedups import _column, _fallback
from tests.kinds import IMPLEMENTATIONS, Number, Point, Text, Word, native, needs_native


@pytest.fixture(params=IMPLEMENTATIONS)
def core(request):
    return request.param


def facts_of(value):
    """Return what tells a value from all others, its class and the bits of a float included."""
    if type(value) in (list, tuple):
        return type(value), [facts_of(part) for part in value]
    return type(value), struct.pack("<d", value) if type(value) is float else value


def float_of(bits):
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


PATHS = [f"/corpus/part-{number:02}.txt" for number in range(20)]
SAME_TUPLE = ("one object", 1)

#: name -> (column, first byte)
PLAIN = {
    "nothing": ([], _column.NOTHING),
    "one int": ([5], _column.INTS),
    "ints": ([3, -1, 7, 0], _column.INTS),
    "ends of 64 bits": ([-(1 << 63), (1 << 63) - 1, 0], _column.INTS),
    "far from 0": ([10**18 + n * n for n in range(5)], _column.INTS),
    "equal ints": ([1 << 40] * 9, _column.INTS),
    "rising ints": ([n * 1000 + n % 3 for n in range(100)], _column.STEPS),
    "falling ints": ([-n * 1000 for n in range(100)], _column.STEPS),
    "steps around the ends": ([(1 << 63) - 2, (1 << 63) - 1] * 8, _column.INTS),
    "floats": ([0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324], _column.FLOATS),
    "NaNs": (
        [math.nan, -math.nan, float_of(0x7FF8000000001234), float_of(0xFFF8DEADBEEF0001)],
        _column.FLOATS,
    ),
    "bools": ([True, False, True], _column.BOOLS),
    "texts": (["", "a", "é", "€", "\U0001f600", "\0", "word" * 90], _column.TEXTS),
    "Latin-1": (["é" * 30, "ÿ"], _column.TEXTS),
    "bytes": ([b"", b"\x80\xff", b"a" * 300], _column.BYTES),
    "tuples": ([("a", 1, 2.5), ("b", 2, -0.0)], _column.TUPLES),
    "nested tuples": ([(("a", (1,)), True), (("b", (2,)), False)], _column.TUPLES),
    "lists": ([[1, 2], [], [3]], _column.LISTS),
    "empty lists": ([[], [], []], _column.LISTS),
    "lists of lists": ([[[1], []], [[2, 3]]], _column.LISTS),
    "lists of tuples": ([[("a", 1)], [("b", 2), ("c", 3)]], _column.LISTS),
    "few texts": ([PATHS[n % 2] for n in range(50)], _column.SHARED),
    "some texts": ([PATHS[n % 20] for n in range(100)], _column.SHARED),
    "300 texts": ([f"text {n % 300}" for n in range(1000)], _column.SHARED),
    "few bytes": ([b"a", b"a", b"b", b"a"], _column.SHARED),
    "half of them distinct": (["a", "b", "a", "b"], _column.SHARED),
    "more than half of them distinct": (["a", "b", "c", "a"], _column.TEXTS),
    "too many distinct at first": ([f"{n}" for n in range(3000)] + ["same"] * 9000, _column.TEXTS),
    "one tuple many times": ([SAME_TUPLE] * 10, _column.SHARED),
    "equal tuples": ([("equal", n) for n in (1, 1, 1, 1)], _column.TUPLES),
    "long texts, equal": (["".join(["x" * 299, "y"]) for _ in range(8)], _column.TEXTS),
    "a long text, one object": (["x" * 300] * 8, _column.SHARED),
    "lists of few texts": ([[PATHS[0]] * 9, [PATHS[1]] * 40], _column.LISTS),
    "tuples of few texts": ([(PATHS[n % 2], n) for n in range(50)], _column.TUPLES),
}

CYCLIC = [1]
CYCLIC.append(CYCLIC)
SHARED_LIST = [1, 2]

#: name -> column that a pickle must hold
OTHER = {
    "None": [None, None],
    "mixed": [1, 2.0],
    "bools among ints": [1, True],
    "ints beyond 64 bits": [1, 1 << 63],
    "ints below 64 bits": [-1, -(1 << 63) - 1],
    "a subclass of int": [Number.ONE],
    "a subclass of str": [Text("a"), Text("b")],
    "a str among its subclass": ["a", Word.A],
    "a lone surrogate": ["a", "\ud800"],
    "a lone surrogate among few": ["\udc80", "a"] * 9,
    "a named tuple": [Point(1, 2)],
    "empty tuples": [(), ()],
    "tuples of many items": [tuple(range(9))],
    "tuples of different lengths": [(1,), (1, 2)],
    "tuples of different kinds": [(1,), ("a",)],
    "a tuple of None": [(1, None), (2, None)],
    "lists of different kinds": [[1], ["a"]],
    "one list in two places": [SHARED_LIST, SHARED_LIST],
    "one list in many tuples": [(SHARED_LIST, n) for n in range(3)],
    "a list that holds itself": [CYCLIC],
    "deep lists": [[[[[[1]]]]]],
    "dicts": [{}],
    "sets": [{1}],
    "bytearrays": [bytearray(b"a")],
    "complex": [1j],
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_column_comes_back_as_it_was(core, name):
    column, kind = PLAIN[name]
    data = core.encode_column(column)
    assert data[0] == kind
    back = core.decode_column(data, len(column))
    assert facts_of(back) == facts_of(column)
    assert facts_of(core.decode_column(memoryview(b"x" + data)[1:], len(column))) == facts_of(column)


@pytest.mark.parametrize("name", OTHER)
def test_any_other_column_is_left_to_the_pickler(core, name):
    assert core.encode_column(OTHER[name]) is None


@needs_native
@pytest.mark.parametrize("name", PLAIN)
def test_both_write_the_same_bytes(name):
    assert native.encode_column(PLAIN[name][0]) == _fallback.encode_column(PLAIN[name][0])


def test_equal_texts_come_back_as_one_object(core):
    column = [f"{n % 3} is a file" for n in range(30)]
    back = core.decode_column(core.encode_column(column), 30)
    assert back == column
    assert len(set(map(id, back))) == 3


def test_lists_come_back_as_lists_of_their_own(core):
    column = [["a"] for _ in range(5)]
    back = core.decode_column(core.encode_column(column), 5)
    back[0].append("b")
    assert back[1:] == [["a"]] * 4


@pytest.mark.parametrize(
    ("column", "n_bytes"),
    [
        ([n * 7919 % 1_000_000 for n in range(1000)], 3010),
        ([n * 64 for n in range(1000)], 1017),
        ([PATHS[0]] * 8000, 1 + 8 + (1 + 9 + 1 + 19) + 1 + 1000),
        (["word"] + [f"{n:04}" for n in range(999)], 1 + 9 + 1000 + 4000),
        ([1.0] * 1000, 8001),
    ],
    ids=["three bytes", "steps", "one bit", "texts", "floats"],
)
def test_a_column_takes_as_many_bytes_as_the_page_of_the_protocol_says(core, column, n_bytes):
    assert len(core.encode_column(column)) == n_bytes


plain = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-9, 9),
    st.floats(),
    st.booleans(),
    st.text(),
    st.binary(),
)
columns = st.recursive(
    st.one_of(
        *(
            st.lists(element, max_size=12)
            for element in (
                *(st.integers(-(1 << bits), 1 << bits) for bits in (3, 12, 40, 64)),
                st.floats(),
                st.booleans(),
                st.text(max_size=4),
                st.sampled_from(PATHS[:3]),
                st.binary(max_size=4),
                plain,
            )
        )
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=9).map(lambda parts: list(zip(*parts, strict=False))),
        st.lists(inner, max_size=6),
        inner.map(lambda column: column * 3),
    ),
    max_leaves=6,
)


@needs_native
@settings(max_examples=400, deadline=None)
@given(columns)
def test_both_agree_on_any_column(column):
    data = native.encode_column(column)
    assert data == _fallback.encode_column(column)
    if data is not None:
        for twin in (native, _fallback):
            assert facts_of(twin.decode_column(data, len(column))) == facts_of(column)


def answers(data, count):
    found = []
    for twin in (native, _fallback):
        try:
            found.append(facts_of(twin.decode_column(data, count)))
        except ValueError as error:
            found.append(str(error))
    return found


@needs_native
@pytest.mark.parametrize("name", PLAIN)
def test_both_refuse_the_same_damage(name):
    draw = random.Random(name)
    column, _ = PLAIN[name]
    data = native.encode_column(column)
    for end in range(min(len(data), 300)):
        first, second = answers(data[:end], len(column))
        assert first == second == "the bytes of a column are damaged"
    for count in (-1, 0, 1, len(column) + 1, len(column) - 1, len(column) + 8, 1 << 40, sys.maxsize):
        first, second = answers(data, count)
        assert first == second
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(min(len(data), 60))] = draw.choice([0, 1, 2, 5, 7, 8, 9, 16, 0x7F, 0xFF])
        first, second = answers(bytes(damaged), len(column))
        assert first == second, bytes(damaged)


def packed(width, least, numbers=b""):
    return bytes([width]) + struct.pack("<q", least) + numbers


ONES = packed(1, 1, b"\0\0")
DAMAGED = {
    "no kind": b"",
    "another kind": b"\x0a",
    "a kind of pickles": b"\x80\x05]\x94.",
    "nothing, of two": b"\x00",
    "numbers of no bytes": b"\x01" + packed(0, 1),
    "numbers of nine bytes": b"\x01" + packed(9, 1, bytes(18)),
    "a number too few": b"\x01" + packed(1, 0, b"\1"),
    "a byte too many": b"\x01" + ONES + b"\0",
    "a bool of 2": b"\x04\x01\x02",
    "a text beyond the end": b"\x05" + packed(1, 1, b"\0\1") + b"ab",
    "a text of -1": b"\x05" + packed(1, -1, b"\0\2") + b"a",
    "a text of -1 that another makes up for": b"\x05" + packed(1, -1, b"\0\3") + b"a",
    "sizes whose sum overflows": b"\x05" + packed(8, 0, struct.pack("<QQ", 1 << 63, 1 << 63)),
    "half a character": b"\x05" + ONES + "é".encode(),
    "a surrogate": b"\x05" + packed(1, 3, b"\0\0") + "\ud800".encode("utf-8", "surrogatepass") + b"abc",
    "bytes beyond the end": b"\x06" + packed(1, 1, b"\0\1") + b"ab",
    "tuples of nothing": b"\x07\x00",
    "tuples of nine": b"\x07\x09" + 9 * (b"\x01" + ONES),
    "tuples of texts that take bits": b"\x07\x01\x09"
    + struct.pack("<Q", 1)
    + b"\x05"
    + packed(1, 1, b"\0a")
    + b"\1\0",
    "lists of more than there can be": b"\x08" + packed(2, 0, b"\xff\xff\xff\xff") + b"\x04",
    "lists whose elements are missing": b"\x08" + ONES,
    "an element of nothing": b"\x09" + struct.pack("<Q", 0) + b"\x00\1\0",
    "an element that is not there": b"\x09" + struct.pack("<Q", 1) + b"\x05" + packed(1, 1, b"\0a") + b"\1\2",
    "more elements than places": b"\x09"
    + struct.pack("<Q", 3)
    + b"\x05"
    + packed(1, 1, bytes(3))
    + b"abc\1\0",
    "numbers of three bits": b"\x09" + struct.pack("<Q", 1) + b"\x05" + packed(1, 1, b"\0a") + b"\3\0",
    "numbers of five bytes": b"\x09"
    + struct.pack("<Q", 1)
    + b"\x05"
    + packed(1, 1, b"\0a")
    + b"\x28"
    + bytes(10),
    "lists that are shared": b"\x09" + struct.pack("<Q", 1) + b"\x08" + packed(1, 0, b"\0") + b"\0\1\0",
    "columns too deep": b"\x08" + ONES + (b"\x07\x01") * 4 + b"\x01" + ONES,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_columns_are_refused(core, name):
    with pytest.raises(ValueError, match="the bytes of a column are damaged"):
        core.decode_column(DAMAGED[name], 2)


@pytest.mark.parametrize(
    "data",
    [
        b"\x04",
        b"\x01" + packed(1, 0),
        b"\x02" + bytes(8) + packed(1, 0),
        b"\x03",
        b"\x05" + packed(1, 0),
        b"\x07\x01\x04",
        b"\x08" + packed(1, 0),
        b"\x09" + struct.pack("<Q", 1) + b"\x05" + packed(1, 1, b"\0a") + b"\1",
    ],
)
def test_a_short_column_cannot_become_a_long_list(core, data):
    for count in (1 << 34, 1 << 60, sys.maxsize):
        with pytest.raises(ValueError, match="damaged"):
            core.decode_column(data, count)


def test_no_call_keeps_memory_even_when_it_fails(core):
    rounds = 60
    watched = ["a watched text", ("a watched tuple", 1.25), [2.5, 3.5]]
    good = [column for column, _ in PLAIN.values() if len(column) < 200] + [
        [thing] * 5 for thing in watched[:2]
    ]
    encoded = [(core.encode_column(column), len(column)) for column in good]

    def measure():
        gc.collect()
        before = sys.getallocatedblocks(), *map(sys.getrefcount, watched)
        for _ in range(rounds):
            for column in [*good, *OTHER.values(), [watched, watched]]:
                core.encode_column(column)
            for data, count in encoded:
                core.decode_column(data, count)
                for bad in (data[:-1], data + b"\0"):
                    with pytest.raises(ValueError, match="damaged"):
                        core.decode_column(bad, count)
            for data in DAMAGED.values():
                with pytest.raises(ValueError, match="damaged"):
                    core.decode_column(data, 2)
        gc.collect()
        after = sys.getallocatedblocks(), *map(sys.getrefcount, watched)
        return [now - then for now, then in zip(after, before, strict=True)]

    # The interpreter fills caches at first. A leak grows in every measurement.
    growths = [measure() for _ in range(4)]
    assert min(blocks for blocks, *_ in growths) < rounds
    assert [references for _, *references in growths] == [[0] * len(watched)] * len(growths)
