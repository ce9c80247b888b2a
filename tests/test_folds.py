"""FoldTable: what a dict of folded values gives, from the C core and from its twin."""

import gc
import random
import sys

import pytest

from mmgevent._speedups import COUNT, FIRST, MAX, MIN, SUM, _fallback
from tests.kinds import IMPLEMENTATIONS, Angry, Point, Text, native, needs_native

NO_BUDGET = sys.maxsize
OPS = [SUM, COUNT, MIN, MAX, FIRST]
MOST, LEAST = (1 << 63) - 1, -(1 << 63)


@pytest.fixture(params=IMPLEMENTATIONS)
def core(request):
    return request.param


def facts_of(folded):
    return [(type(key), key, type(value), repr(value)) for key, value in folded.items()]


def encoded(pairs):
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    return _fallback.encode_column(keys), _fallback.encode_column(values), len(pairs)


#: name -> pairs
PAIRS = {
    "nothing": [],
    "ints": [(n % 7 - 3, n) for n in range(40)],
    "wide ints": [((n * 2_654_435_761) % (1 << 62) - (1 << 61), 1 << n % 60) for n in range(200)],
    "the ends of 64 bits": [(MOST, MOST), (LEAST, LEAST), (LEAST, 1), (MOST, -1)],
    "sums beyond 64 bits": [(1, MOST), (1, 1), (2, LEAST), (2, -1), (1, -1), (3, 5)],
    "ints beyond 64 bits": [(1, 1), (1 << 64, 2), (1, 3)],
    "texts": [(f"word{n % 9}", 1) for n in range(40)],
    "long texts": [(f"a text beyond sixteen bytes {n % 9}", n) for n in range(40)],
    "other texts": [("é", 1), ("€uro", 2), ("é", 3), ("\U0001f600", 4)],
    "the empty text": [("", 1), ("", 2), ("a", 3)],
    "lone surrogates": [("\ud800", 1), ("\ud800", 2)],
    "bytes": [(b"a", 1), (b"", 2), (b"a", 3)],
    "texts and ints": [("a", 1), (1, 2), ("a", 3), (b"a", 4)],
    "floats": [("a", 0.5), ("b", -0.0), ("a", 0.25)],
    "ints and floats": [("a", 1), ("a", 0.5), ("b", 2)],
    "bools": [("a", True), ("a", True), ("b", False)],
    "float keys": [(1, 1), (1.0, 2), (float("nan"), 3), (float("nan"), 4)],
    "tuples": [((1, "a"), 1), ((1, "a"), 2)],
    "another class after plain keys": [("a", 1), (Text("a"), 2), ("b", 3)],
    "None": [(None, 1), (None, 2)],
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_folded_as_into_a_dict(core, name, op):
    expected: dict = {}
    table = core.FoldTable(op)
    assert table.fold(iter(PAIRS[name]), NO_BUDGET) == _fallback.fold(PAIRS[name], expected, op, NO_BUDGET)
    assert len(table) == len(expected)
    assert facts_of(table.take()) == facts_of(expected)
    assert (len(table), table.take()) == (0, {})


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", PAIRS)
def test_partial_results_are_folded_as_into_a_dict(core, name, op):
    pairs = PAIRS[name]
    expected: dict = {}
    table, other = core.FoldTable(op), core.FoldTable(op)
    for share in (pairs[::2], pairs[1::2], pairs[:3]):
        keys, values, count = encoded(share)
        used = _fallback.merge_fold(expected, [k for k, _ in share], [v for _, v in share], op)
        if keys is not None and values is not None:
            assert table.merge(keys, memoryview(values), count) == used
        else:
            assert table.merge_lists([k for k, _ in share], [v for _, v in share]) == used
        assert other.merge_lists([k for k, _ in share], [v for _, v in share]) == used
    assert facts_of(table.take()) == facts_of(other.take()) == facts_of(expected)


@pytest.mark.parametrize("count", [1, 3, 4, 100])
@pytest.mark.parametrize("name", PAIRS)
def test_entries_are_dealt_out_as_those_of_a_dict(core, name, count):
    table = core.FoldTable(SUM)
    table.fold(PAIRS[name], NO_BUDGET)
    parts = table.scatter(count, 5)
    folded = table.take()
    if parts is not None:
        expected, hashed = _fallback.scatter(folded, count, 5)
        assert not hashed
        assert parts == [
            None if part is None else (len(part[0]), *map(_fallback.encode_column, part)) for part in expected
        ]


@needs_native
@pytest.mark.parametrize(
    "name", ["ints", "wide ints", "texts", "long texts", "other texts", "bytes", "floats"]
)
def test_the_c_core_deals_plain_entries_out_without_a_dict(name):
    table = native.FoldTable(SUM)
    table.fold(PAIRS[name], NO_BUDGET)
    assert table.scatter(4) is not None


@needs_native
def test_both_agree_on_any_pairs():
    draw = random.Random(11)
    kinds = [
        *(
            lambda: draw.randrange(50),
            lambda: draw.getrandbits(64) - (1 << 63),
            lambda: f"w{draw.randrange(40)}",
        ),
        *(
            lambda: f"é{draw.randrange(40)}",
            lambda: draw.choice([1, "a", 2.0, True, b"a"]),
            lambda: draw.random(),
        ),
    ]
    for _ in range(300):
        key, value, op = (
            draw.choice(kinds),
            draw.choice([lambda: 1, kinds[0], kinds[1], kinds[5]]),
            draw.choice(OPS),
        )
        pairs = [(key(), value()) for _ in range(draw.choice([1, 5, 100, 700]))]
        tables = [twin.FoldTable(op) for twin in (native, _fallback)]
        iterators = [iter(pairs), iter(pairs)]
        for budget in (1000, NO_BUDGET):
            answers = [t.fold(i, budget) for t, i in zip(tables, iterators, strict=True)]
            assert answers[0] == answers[1]
        parts = tables[0].scatter(3)
        for part in parts or ():
            if part is not None:
                count, keys, values = part
                assert tables[0].merge(keys, values, count) == tables[1].merge(keys, values, count)
        assert facts_of(tables[0].take()) == facts_of(tables[1].take())


def colliding_ints(count):
    """Return ints that have one hash in `_table.h`, found by undoing its `scramble`."""
    word, tag = (1 << 64) - 1, 18  # INT_KEY
    first, second, third = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    keys = []
    for low in range(count):
        mixed = (0x12345678 << 32 | low) * pow(third, -1, 1 << 64) & word
        mixed ^= mixed >> 29 ^ mixed >> 58
        key = (mixed * pow(second, -1, 1 << 64) & word) ^ (tag * first & word)
        keys.append(key - (1 << 64) if key > MOST else key)
    return keys


def test_keys_that_collide_move_to_a_dict(core):
    keys = colliding_ints(300)
    pairs = [(key, 1) for key in keys]
    few, many, merged = (core.FoldTable(SUM) for _ in range(3))
    few.fold(pairs[:100], NO_BUDGET)
    many.fold(pairs * 2, NO_BUDGET)
    merged.merge(*encoded(pairs))
    if core is native:
        assert few.scatter(2) is not None
        assert many.scatter(2) is merged.scatter(2) is None
    assert many.take() == dict.fromkeys(keys, 2)
    assert merged.take() == dict.fromkeys(keys, 1)


def test_what_came_before_an_error_stays(core):
    def pairs():
        yield "a", 1
        yield "b", 2
        raise ZeroDivisionError("midway")

    table = core.FoldTable(SUM)
    with pytest.raises(ZeroDivisionError, match="midway"):
        table.fold(pairs(), NO_BUDGET)
    with pytest.raises(TypeError, match="unsupported operand"):
        table.fold([("a", 1), ("a", "text")], NO_BUDGET)
    with pytest.raises(TypeError, match="mapfn must yield"):
        table.fold([("a", 1), 5], NO_BUDGET)
    assert table.take() == {"a": 3, "b": 2}
    table.fold([("a", 1)], NO_BUDGET)
    table.clear()
    assert (len(table), table.take()) == (0, {})


def test_unknown_folds_and_arguments_are_refused(core):
    for op in (0, 6, -1):
        with pytest.raises(ValueError, match="the fold must be one of"):
            core.FoldTable(op)
    with pytest.raises(ValueError, match="one value for each key"):
        core.FoldTable(SUM).merge_lists([1], [])


ONES = encoded([(1, 1), (2, 1)])


@pytest.mark.parametrize(
    ("keys", "values", "count"),
    [
        (ONES[0][:-1], ONES[1], 2),
        (ONES[0], ONES[1][:-1], 2),
        (ONES[0] + b"\0", ONES[1], 2),
        (ONES[0], ONES[1] + b"\0", 2),
        (ONES[0], ONES[1], 3),
        (ONES[0], ONES[1], 1 << 60),
        (ONES[0], ONES[1], -1),
        (ONES[0], ONES[1], 0),
        (b"", b"", 0),
        (encoded([("a", 1), ("b", 1)])[0] + b"c", ONES[1], 2),
        (encoded([("a", 1), ("b", 1)])[0][:-1], ONES[1], 2),
        (_fallback.encode_column(["é", "a"])[:-2] + b"a\xc3", ONES[1], 2),
        (ONES[0], b"\x80\x05]\x94.", 2),
        (ONES[0], b"\x0a", 2),
    ],
)
def test_damaged_columns_are_refused(core, keys, values, count):
    for op in OPS:
        with pytest.raises(ValueError, match="the bytes of a column are damaged"):
            core.FoldTable(op).merge(keys, values, count)


@needs_native
def test_both_refuse_the_same_damage():
    draw = random.Random(3)
    for name in ("ints", "wide ints", "texts", "other texts", "floats", "bytes"):
        good = encoded(PAIRS[name])
        for _ in range(300):
            columns = [bytearray(column) for column in good[:2]]
            damaged = draw.choice(columns)
            damaged[draw.randrange(min(30, len(damaged)))] = draw.choice([0, 1, 2, 5, 9, 0x7F, 0xFF])
            answers = []
            for twin in (native, _fallback):
                table = twin.FoldTable(SUM)
                try:
                    table.merge(bytes(columns[0]), bytes(columns[1]), good[2])
                    answers.append(facts_of(table.take()))
                except (ValueError, TypeError) as error:
                    answers.append(str(error))
            assert answers[0] == answers[1], columns


@needs_native
def test_a_table_is_in_use_by_one_call_at_a_time():
    table = native.FoldTable(SUM)

    def pairs():
        yield "a", 1
        for call in (table.take, table.clear, lambda: table.scatter(2), lambda: table.fold([], 1)):
            with pytest.raises(RuntimeError, match="in use by another call"):
                call()
        yield "a", 2

    table.fold(pairs(), NO_BUDGET)
    assert table.take() == {"a": 3}


def test_cycles_through_a_table_are_collected(core):
    class Sums(list):
        pass

    alive = []
    for _ in range(3):
        sums = Sums()
        table = core.FoldTable(FIRST)
        table.fold([("a", sums)], NO_BUDGET)
        sums.append(table)
        alive.append(sums)
    before = sum(isinstance(thing, Sums) for thing in gc.get_objects())
    del sums, table
    alive.clear()
    gc.collect()
    assert before - sum(isinstance(thing, Sums) for thing in gc.get_objects()) == 3


def test_no_call_keeps_memory_even_when_it_fails(core):
    watched = ["a watched text", 1 << 70, b"watched bytes"]
    rounds = 60

    def every_call():
        for pairs in (*PAIRS.values(), [(thing, watched[1]) for thing in watched] * 2):
            for op in (SUM, MIN):
                table = core.FoldTable(op)
                table.fold(pairs, NO_BUDGET)
                table.scatter(3)
                keys, values, count = encoded(pairs)
                if keys is not None and values is not None:
                    table.merge(keys, values, count)
                    with pytest.raises(ValueError, match="damaged"):
                        table.merge(keys, values + b"\0", count)
                table.take()
                with pytest.raises((TypeError, LookupError)):
                    table.fold([*pairs, (Angry("hash"), 1)], NO_BUDGET)
                with pytest.raises(TypeError):
                    table.merge_lists([Point(1, 2), "a", "a"], [1, 1, "b"])

    def measure():
        gc.collect()
        before = sys.getallocatedblocks(), *map(sys.getrefcount, watched)
        for _ in range(rounds):
            every_call()
        gc.collect()
        after = sys.getallocatedblocks(), *map(sys.getrefcount, watched)
        return [now - then for now, then in zip(after, before, strict=True)]

    # The interpreter fills caches at first. A leak grows in every measurement.
    growths = [measure() for _ in range(4)]
    assert min(blocks for blocks, *_ in growths) < rounds
    assert [references for _, *references in growths] == [[0] * len(watched)] * len(growths)
