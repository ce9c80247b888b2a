"""Columns of numbers that are folded by key: the C core and its twin against a dict."""

import array
import ctypes
import gc
import itertools
import math
import random
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgevent._speedups import COUNT, FIRST, MAX, MIN, SUM, Block, _fallback
from tests.kinds import IMPLEMENTATIONS, native, needs_native

OPS = (SUM, COUNT, MIN, MAX, FIRST)
NO_LIMIT = 1 << 40
MAX_INT64 = (1 << 63) - 1


@pytest.fixture(params=IMPLEMENTATIONS)
def core(request):
    return request.param


def folded(pairs, op):
    table = {}
    _fallback.fold(iter(pairs), table, op, sys.maxsize)
    return table


def entries(columns, count=7):
    columns.deal(count)
    return [columns.part(p) for p in range(count)]


def dict_of(columns):
    size = len(columns)
    found = {key: value for keys, values in entries(columns) for key, value in zip(keys, values, strict=True)}
    assert len(found) == size
    return found


def shown(table):
    """Keys and values with their types and signs; NaN equals NaN."""
    return sorted((repr(key), repr(value)) for key, value in table.items())


def add_all(columns, keys, values):
    assert columns.add(keys, values, 0) == len(keys)


def kind_of(column):
    return "real" if column.typecode in "fd" else "whole"


NUMBERS = {
    "whole": [0, 1, -1, 2, 7, 300, -(1 << 63), MAX_INT64],
    "real": [0.0, -0.0, 1.0, -1.5, 1e308, math.inf, -math.inf, math.nan, -math.nan, 5e-324],
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kinds", list(itertools.product(NUMBERS, NUMBERS)))
def test_columns_fold_to_what_their_pairs_fold_to(core, op, kinds):
    draw = random.Random(op)
    for size in (0, 1, 2, 50, 5000):
        keys = array.array("dq"[kinds[0] == "whole"], draw.choices(NUMBERS[kinds[0]], k=size))
        values = array.array("dq"[kinds[1] == "whole"], draw.choices(NUMBERS[kinds[1]], k=size))
        columns = core.ColumnFold(*kinds, op, NO_LIMIT)
        add_all(columns, keys, values)
        assert shown(dict_of(columns)) == shown(folded(zip(keys, values, strict=True), op))


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_numbers_of_each_size_are_read_as_python_reads_them(core, code):
    size = array.array(code).itemsize
    low = 0 if code in "BHILQfd" else -(1 << (8 * size - 1))
    numbers = array.array(code, [low, low + 1, 0, 1, 100, *range(50)])
    columns = core.ColumnFold(kind_of(numbers), kind_of(numbers), SUM, NO_LIMIT)
    add_all(columns, numbers, numbers)
    assert dict_of(columns) == folded(zip(numbers, numbers, strict=True), SUM)


def test_strides_of_either_sign_are_followed(core):
    numbers = memoryview(array.array("q", range(1000)))
    for keys, values in ((numbers[::3], numbers[1::3][:334]), (numbers[::-1], numbers[:])):
        length = min(len(keys), len(values))
        columns = core.ColumnFold("whole", "whole", SUM, NO_LIMIT)
        add_all(columns, keys[:length], values[:length])
        assert dict_of(columns) == dict(zip(keys[:length].tolist(), values[:length].tolist(), strict=True))


def test_sums_outgrow_64_bits(core):
    keys = array.array("q", [5, 0, 5, 0, 5, 7] * 1000)
    values = array.array("q", [MAX_INT64, -(1 << 63), MAX_INT64, -(1 << 63), -3, 2] * 1000)
    columns = core.ColumnFold("whole", "whole", SUM, NO_LIMIT)
    add_all(columns, keys, values)
    assert dict_of(columns) == folded(zip(keys, values, strict=True), SUM)


@pytest.mark.parametrize("column", ["keys", "values"])
def test_a_number_that_does_not_fit_is_left_with_those_after_it(core, column):
    fitting = array.array("Q", range(10_000))
    large = array.array("Q", [*range(9_000), 1 << 63, *range(999)])
    keys, values = (large, fitting) if column == "keys" else (fitting, large)
    columns = core.ColumnFold("whole", "whole", MAX, NO_LIMIT)
    stop = columns.add(keys, values, 0)
    assert 0 < stop <= 9_000
    assert not columns.is_full
    assert columns.add(keys, values, stop) == stop
    assert dict_of(columns) == folded(itertools.islice(zip(keys, values, strict=True), stop), MAX)


@pytest.mark.parametrize("limit", [-1, 0, 1, 50_000, 200_000])
def test_it_takes_no_more_than_its_limit(core, limit):
    keys = array.array("q", range(20_000))
    start, found, folds = 0, {}, 0
    while start < len(keys):
        columns = core.ColumnFold("whole", "whole", SUM, limit)
        stop = columns.add(keys, keys, start)
        assert stop > start
        assert columns.is_full == (stop < len(keys))
        assert columns.n_bytes <= max(limit, 16 * 1024)
        assert columns.add(keys, keys, stop) == stop or not columns.is_full
        found.update(dict_of(columns))
        start = stop
        folds += 1
    assert found == {n: n for n in keys}
    assert folds > 2


def test_sums_that_are_put_aside_fill_it_too(core):
    keys = array.array("q", [1]) * 100_000
    values = array.array("q", [MAX_INT64]) * 100_000
    columns = core.ColumnFold("whole", "whole", SUM, 0)
    stop = columns.add(keys, values, 0)
    assert columns.is_full
    assert stop < len(keys)
    assert dict_of(columns) == {1: MAX_INT64 * stop}


@needs_native
def test_both_stop_at_the_same_record():
    draw = random.Random(4)
    for limit in (0, 40_000, 100_000, 300_000):
        keys = array.array("q", (int(draw.expovariate(1 / 4000)) for _ in range(60_000)))
        stops = [
            core.ColumnFold("whole", "whole", op, limit).add(keys, keys, 17)
            for core in (_fallback, native)
            for op in (SUM, MIN)
        ]
        assert len(set(stops)) == 1


def test_keys_made_to_collide_are_folded_in_time(core):
    """Keys whose hashes share their upper bits, for the first hash of the core."""
    first = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    second = pow(0xD6E8FEB86659FD93, -1, 1 << 64)
    unsigned = []
    for low in range(1, 30_001):
        mixed = low * second % (1 << 64)
        mixed ^= mixed >> 32
        unsigned.append(mixed * first % (1 << 64))
    keys = array.array("q", [n - (1 << 64) if n >> 63 else n for n in unsigned])
    columns = core.ColumnFold("whole", "whole", SUM, NO_LIMIT)
    add_all(columns, keys, keys)
    assert dict_of(columns) == {n: n for n in keys}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", NUMBERS)
def test_folds_of_later_records_are_absorbed(core, op, kind):
    draw = random.Random(op)
    for _ in range(20):
        halves = [
            [
                array.array("dq"[kind == "whole"], draw.choices(NUMBERS[kind], k=9)) if kind == "whole"
                else array.array("d", draw.choices([0.0, -0.0, 1.0, 2.0, math.inf], k=9))
                for _ in range(2)
            ]
            for _ in range(2)
        ]  # fmt: skip
        earlier, later = (core.ColumnFold(kind, kind, op, NO_LIMIT) for _ in range(2))
        add_all(earlier, *halves[0])
        add_all(later, *halves[1])
        earlier.absorb(later)
        tables = [folded(zip(*half, strict=True), op) for half in halves]
        _fallback.merge_fold(tables[0], list(tables[1]), list(tables[1].values()), op)
        assert shown(dict_of(earlier)) == shown(tables[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-(1 << 63), MAX_INT64))),
    st.sampled_from(OPS),
    st.integers(1, 40),
)
def test_entries_are_dealt_like_those_of_a_dict(pairs, op, count):
    keys, values = array.array("q", [k for k, _ in pairs]), array.array("q", [v for _, v in pairs])
    for core in filter(None, (_fallback, native)):
        columns = core.ColumnFold("whole", "whole", op, NO_LIMIT)
        add_all(columns, keys, values)
        parts, _ = core.scatter(folded(pairs, op), count)
        for (some_keys, some_values), part in zip(entries(columns, count), parts, strict=True):
            expected = {} if part is None else dict(zip(*part, strict=True))
            assert dict(zip(some_keys, some_values, strict=True)) == expected


WHOLE = st.one_of(st.integers(-3, 3), st.integers(-(1 << 63), MAX_INT64))
REAL = st.one_of(
    st.sampled_from(NUMBERS["real"]),
    st.integers(-3, 3).map(float),
    st.binary(min_size=8, max_size=8).map(lambda data: struct.unpack("d", data)[0]),
)


def bits_of(numbers):
    """Numbers with the signs of zeros; NaN equals NaN."""
    return list(map(repr, numbers))


def runs_of(columns, partition, most):
    """The runs of a partition as lists, and whether one was left because of its sums."""
    found = []
    while (run := columns.encoded(partition, sum(map(len, found)), most)) is not None:
        assert run == (run[0], *(bytes(column) for column in run[1:]))
        if run[0] == 0:
            assert run == (0, b"\0", b"\0")
            return found, False
        assert run[0] <= most
        found.append(_fallback.decode_column(run[1], run[0]))
    return found, True


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(OPS), st.sampled_from([1, 2, 7, 4096]), st.sampled_from([1, 3, 1 << 40]))
def test_entries_leave_as_the_columns_of_their_lists(data, op, count, most):
    """Bit for bit, and a key goes to its partition, whatever its bits are."""
    kinds = data.draw(st.tuples(*[st.sampled_from(["whole", "real"])] * 2))
    pairs = data.draw(
        st.lists(st.tuples(*(REAL if kind == "real" else WHOLE for kind in kinds)), max_size=60)
    )
    columns = [
        array.array("d" if kind == "real" else "q", numbers)
        for kind, numbers in zip(kinds, zip(*pairs, strict=True) if pairs else ((), ()), strict=True)
    ]
    facts = []
    for core in filter(None, (_fallback, native)):
        fold = core.ColumnFold(*kinds, op, NO_LIMIT)
        add_all(fold, *columns)
        fold.deal(count)
        facts.append([])
        for partition in range(count):
            keys, values = fold.part(partition)
            if not keys and count > 7:
                continue
            assert {_fallback.partition(key, count) for key in keys} <= {partition}
            for start in range(0, len(keys) + 1, min(most, len(keys) + 1)):
                some = keys[start : start + most], values[start : start + most]
                expected = len(some[0]), *map(_fallback.encode_column, some)
                assert fold.encoded(partition, start, most) == (None if None in expected else expected)
            facts[-1] += zip([partition] * len(keys), bits_of(keys), bits_of(values), strict=True)
    assert all(sorted(some) == sorted(facts[0]) for some in facts)


def test_a_sum_of_more_than_64_bits_leaves_as_an_object(core):
    """What was put aside may come back: only the sum counts."""
    for numbers, fits in (
        ([MAX_INT64, MAX_INT64, -MAX_INT64], True),
        ([MAX_INT64, 1], False),
        ([-(1 << 63), -(1 << 63)], False),
        ([-(1 << 63), -1, 1], True),
    ):
        for key in (0, 5):
            fold = core.ColumnFold("whole", "whole", SUM, NO_LIMIT)
            add_all(fold, array.array("q", [key] * len(numbers)), array.array("q", numbers))
            add_all(fold, array.array("q", [8, 9]), array.array("q", [1, 2]))
            fold.deal(1)
            assert dict(zip(*fold.part(0), strict=True)) == {key: sum(numbers), 8: 1, 9: 2}
            assert (fold.encoded(0, 0, 9) is not None) == fits
            answers = [fold.encoded(0, start, 1) for start in range(3)]
            assert answers.count(None) == (not fits)


def test_long_partitions_leave_in_runs(core):
    keys = array.array("q", range(-5000, 20_000))
    fold = core.ColumnFold("whole", "whole", SUM, NO_LIMIT)
    add_all(fold, keys, keys)
    fold.deal(3)
    for most in (1000, 7777, 1 << 40):
        found = []
        for partition in range(3):
            runs, is_left = runs_of(fold, partition, most)
            assert not is_left
            assert [len(run) for run in runs[:-1]] == [most] * (len(runs) - 1)
            found += itertools.chain.from_iterable(runs)
        assert sorted(found) == list(keys)


@needs_native
def test_floats_of_any_bits_are_hashed_as_python_hashes_them():
    draw = random.Random(3)
    edges = [sign * m * 2.0**e for e in range(-1074, 1024) for m in (1.0, 1.5) for sign in (1, -1)]
    drawn = struct.unpack("20000d", draw.randbytes(160_000))
    small = [struct.unpack("d", struct.pack("Q", draw.getrandbits(n % 53)))[0] for n in range(1000)]
    for number in (*edges, *drawn, *small, *NUMBERS["real"], 2.0**61 - 256, float((1 << 61) - 1)):
        assert native.hash_key(number) == _fallback.hash_key(number)


Q = array.array("q", [1, 2, 3])


@pytest.mark.parametrize(
    ("keys", "values", "start", "error"),
    [
        (array.array("d", [1.0] * 3), Q, 0, ValueError),  # floats where ints are expected
        (Q, array.array("f", [1.0] * 3), 0, ValueError),
        (b"abc" * 3, b"abc", 0, ValueError),
        (memoryview(b"abc").cast("c"), Q, 0, ValueError),
        (memoryview(b"abc").cast("?"), Q, 0, ValueError),
        (memoryview(bytes(48)).cast("q", (2, 3)), Q, 0, ValueError),
        (memoryview(bytes(24)).cast("q", (1, 3)), Q, 0, ValueError),
        ((ctypes.c_longlong.__ctype_be__ * 3)(), Q, 0, ValueError),
        ((ctypes.c_void_p * 3)(), Q, 0, ValueError),
        (ctypes.c_longlong(3), Q, 0, ValueError),
        (Q, Q[:2], 0, ValueError),
        (Q, Q, 4, ValueError),
        (Q, Q, -1, ValueError),
        ([1, 2, 3], Q, 0, TypeError),
        (Q, None, 0, TypeError),
    ],
)
def test_other_buffers_are_refused(core, keys, values, start, error):
    columns = core.ColumnFold("whole", "whole", SUM, NO_LIMIT)
    with pytest.raises(error):
        columns.add(keys, values, start)
    assert len(columns) == 0


def test_wrong_arguments_are_refused(core):
    for kinds in (("whole", "text"), ("", "real")):
        with pytest.raises(ValueError, match="whole or real"):
            core.ColumnFold(*kinds, SUM, 0)
    for op in (0, 6):
        with pytest.raises(ValueError, match="SUM=1"):
            core.ColumnFold("whole", "whole", op, 0)
    columns, other = (core.ColumnFold("whole", kind, SUM, 0) for kind in ("whole", "real"))
    for wrong in (columns, other, None, {}):
        with pytest.raises(ValueError, match="same kinds"):
            columns.absorb(wrong)
    with pytest.raises(ValueError, match="dealt"):
        columns.part(0)
    with pytest.raises(ValueError, match="dealt"):
        columns.encoded(0, 0, 1)
    for count in (0, -1, 1 << 32):
        with pytest.raises(ValueError, match="dealt out once"):
            columns.deal(count)
    columns.deal(3)
    for number in (-1, 3):
        with pytest.raises(ValueError, match="no such partition"):
            columns.part(number)
        with pytest.raises(ValueError, match="no such partition"):
            columns.encoded(number, 0, 1)
    for start, most in ((-1, 1), (1, 1), (0, 0), (0, -1)):
        with pytest.raises(ValueError, match="a run must start in its partition"):
            columns.encoded(0, start, most)
    with pytest.raises(ValueError, match="dealt out once"):
        columns.deal(3)
    with pytest.raises(RuntimeError, match="no more records"):
        columns.add(Q, Q, 0)
    with pytest.raises(ValueError, match="same kinds"):
        core.ColumnFold("whole", "whole", SUM, 0).absorb(columns)


def test_a_buffer_is_released_whatever_happens(core):
    for columns in (core.ColumnFold("whole", "whole", SUM, 0), core.ColumnFold("whole", "real", SUM, 0)):
        numbers = array.array("q", range(10))
        for arguments in ((numbers, numbers, 0), (numbers, numbers, 11), (numbers, None, 0)):
            try:
                columns.add(*arguments)
            except (TypeError, ValueError) as error:
                error.__traceback__ = None
        numbers.append(1)  # BufferError while a buffer is exported


def every_call(core):
    for kinds, code in ((("whole", "whole"), "q"), (("real", "real"), "d")):
        numbers = array.array(code, [n % 70 for n in range(300)])
        large = array.array(code, [1 << 62] * 300)
        columns, later = (core.ColumnFold(*kinds, SUM, 0) for _ in range(2))
        columns.add(numbers, large, 0)
        later.add(numbers, numbers, 0)
        columns.absorb(later)
        for wrong in ((numbers, None, 0), (None, None, 0), (numbers, numbers[:1], 0)):
            with pytest.raises((TypeError, ValueError)):
                columns.add(*wrong)
        entries(columns)
        for partition in range(7):
            columns.encoded(partition, 0, 3)
            columns.encoded(partition, 0, 1 << 40)
        for wrong in ((0, -1, 1), (7, 0, 1), (0, 0, 0), (None, 0, 1)):
            with pytest.raises((TypeError, ValueError)):
                columns.encoded(*wrong)
    block = Block(list(range(10)), list(range(10)))
    pairs = [("a", 1), block, ("b", 2)]
    core.take(iter(pairs), 100)
    core.take(iter(pairs), 3)
    found = core.group(iter(pairs), {}, 1 << 40)[0], core.fold(iter(pairs), {}, SUM, 1 << 40)[0]
    assert found == (block, block)


def test_no_call_keeps_memory(core):
    rounds = 60

    def measure():
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(rounds):
            every_call(core)
        gc.collect()
        return sys.getallocatedblocks() - before

    # The interpreter fills its free lists at first. A leak grows in every measurement.
    assert min(measure() for _ in range(6)) < rounds


def test_small_blocks_are_taken_as_their_records(core):
    small, large = Block([1, 2], ["x", "y"]), Block(range(5), range(5))
    assert core.take(iter([("a", 0), small, ("b", 1)]), 10) == [("a", 0), (1, "x"), (2, "y"), ("b", 1)]
    assert core.take(iter([small, large, ("b", 1)]), 5) == [(1, "x"), (2, "y"), large]
    assert core.take(iter([large]), sys.maxsize) == list(enumerate(range(5)))
    records = iter([large, ("b", 1)])
    assert [core.take(records, 5), core.take(records, 5)] == [[large], [("b", 1)]]
    with pytest.raises(TypeError, match="use a tuple"):
        core.take(iter([Block([[1]], [2])]), 10)
