"""The C core and its Python twin: both are tested against one specification."""

import collections
import contextlib
import ctypes
import decimal
import functools
import gc
import importlib.machinery
import itertools
import math
import os
import pathlib
import random
import subprocess
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgevent import _speedups
from mmgevent._speedups import COUNT, FIRST, MAX, MIN, NAN, SUM, _fallback
from tests.kinds import EQUAL, IMPLEMENTATIONS, Angry, ByIdentity, Plain, Point, keys, native, needs_native

NO_BUDGET = sys.maxsize
ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(params=IMPLEMENTATIONS)
def core(request):
    return request.param


# group and fold


def grouped(pairs):
    groups = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def test_group_takes_tuples_and_lists_of_two_from_any_iterable(core):
    pairs = [("a", 1), ["b", 2], Point("a", 3), (1, 4), (1.0, 5), (True, 6)]
    groups = {}
    exhausted, used, records = core.group((pair for pair in pairs), groups, NO_BUDGET)
    assert groups == {"a": [1, 3], "b": [2], 1: [4, 5, 6]}
    assert (exhausted, records) == (True, 6)
    assert used > 0
    assert core.group([], groups, 0) == (True, 0, 0)


def test_group_stops_at_its_budget_and_leaves_the_iterator_usable(core):
    pairs = iter([("key", f"{n:1000}") for n in "ab"] + [(n, f"{n:1000}") for n in range(8)])
    taken = []
    exhausted = False
    while not exhausted:
        groups = {}
        exhausted, used, records = core.group(pairs, groups, 2500)
        assert records == sum(map(len, groups.values()))
        assert exhausted or used >= 2500
        taken.append(records)
    assert taken == [3, 3, 3, 1]
    assert core.group(iter("ab" for _ in range(0)), {}, 0) == (True, 0, 0)
    assert core.group(iter([(1, 2), (3, 4)]), {}, 0)[2] == 1, "one pair at least, or nothing would ever move"


def test_large_texts_count_fully_wherever_they_are(core):
    size = 10_000_000
    for large in ("x" * size, b"x" * size, bytearray(size), ("a", "x" * size), {"a": ["x" * size]}):
        assert size <= core.estimate_bytes(large) < size + 1000
        assert core.group([(1, large)], {}, NO_BUDGET)[1] >= size
    assert core.group([("x" * size, 1)], {}, NO_BUDGET)[1] >= size
    assert core.estimate_bytes("é" * size) >= size
    assert core.estimate_bytes(["x" * 1000] * 10_000) >= size


def test_a_value_that_comes_again_at_once_costs_only_its_pointer(core):
    name = "n" * 1000
    _, used, _ = core.group([(n, name) for n in range(5)], {}, NO_BUDGET)
    assert used < 2000
    assert core.merge_grouped({}, [1], [[name] * 5]) < 2000
    assert core.merge_flat({}, [1, 2, 3], [name] * 3) < 2000


class Large:
    def __sizeof__(self):
        return 5000


class Broken:
    def __sizeof__(self):
        raise ArithmeticError("broken sizeof")


def test_the_estimate_asks_what_it_does_not_know(core):
    assert core.estimate_bytes(Large()) == sys.getsizeof(Large())
    assert core.estimate_bytes([Large()]) == 56 + 8 + 64
    with pytest.raises(ArithmeticError, match="broken sizeof"):
        core.group([(1, Broken())], {}, 1)


@pytest.mark.parametrize(
    ("pair", "came"),
    [
        (5, "int"),
        (None, "NoneType"),
        ("ab", "str 'ab'"),
        ("x" * 99, "str '" + "x" * 40 + "'"),
        ((1,), "tuple of 1"),
        ([1, 2, 3], "list of 3"),
        ({1: 2}, "dict"),
    ],
    ids=str,
)
def test_what_is_no_pair_is_refused_with_what_came(core, pair, came):
    for consume in (core.group, lambda pairs, table, budget: core.fold(pairs, table, SUM, budget)):
        table = {}
        with pytest.raises(TypeError) as caught:
            consume(iter([("a", 1), pair]), table, NO_BUDGET)
        assert str(caught.value) == f"mapfn must yield (key, value) pairs, got {came}"
        assert list(table) == ["a"]


def test_what_the_iterator_raises_passes_through_and_what_came_before_stays(core):
    def pairs():
        yield "a", 1
        raise ZeroDivisionError("midway")

    groups, table = {}, {}
    with pytest.raises(ZeroDivisionError, match="midway"):
        core.group(pairs(), groups, NO_BUDGET)
    with pytest.raises(ZeroDivisionError, match="midway"):
        core.fold(pairs(), table, COUNT, NO_BUDGET)
    assert (groups, table) == ({"a": [1]}, {"a": 1})
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        core.group(5, {}, 1)


def test_a_dict_that_holds_no_lists_is_refused(core):
    for call in (
        lambda: core.group([(1, 1)], {1: ()}, 1),
        lambda: core.merge_flat({1: ()}, [1], [1]),
        lambda: core.merge_grouped({1: ()}, [1], [[1]]),
        lambda: core.merge_grouped({}, [1], [()]),
    ):
        with pytest.raises(TypeError, match="the values of a group must be a list, got tuple"):
            call()
    with pytest.raises(TypeError, match="must be a list, got deque"):
        core.merge_grouped({}, [1], [collections.deque()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # making a str of the old layout is deprecated
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there is one kind of str from Python 3.12 on")
def test_a_str_made_the_old_way_meets_its_equal(core):
    make = ctypes.pythonapi.PyUnicode_FromUnicode
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t)
    text_of = ctypes.pythonapi.PyUnicode_AsUnicode
    text_of.restype, text_of.argtypes = ctypes.c_void_p, (ctypes.py_object,)
    old = make(None, len("word"))
    ctypes.memmove(
        text_of(old), ctypes.create_unicode_buffer("word"), len("word") * ctypes.sizeof(ctypes.c_wchar)
    )
    hash(old)  # makes it ready; its layout stays the old one
    groups, counts = {}, {}
    pairs = [("word", 1), (old, 2), ("word", 3)]
    core.group(pairs, groups, NO_BUDGET)
    core.fold(pairs, counts, SUM, NO_BUDGET)
    assert (groups, counts) == ({"word": [1, 2, 3]}, {"word": 6})


def test_bytes_are_keys_of_their_own(core):
    keys = [b"", b"a", "a", b"x" * 40, b"x" * 39 + b"y", b"a" * 16, "a" * 16, memoryview(b"a")]
    pairs = [(key, n) for n, key in enumerate(keys * 3)]
    wanted = {b"": 24, b"a": 1 + 9 + 17 + 7 + 15 + 23, "a": 30, b"x" * 40: 33, b"x" * 39 + b"y": 36}
    wanted |= {b"a" * 16: 39, "a" * 16: 42}
    sums, groups = {}, {}
    core.fold(pairs, sums, SUM, NO_BUDGET)
    core.group(pairs, groups, NO_BUDGET)
    assert sums == wanted
    assert {key: sum(values) for key, values in groups.items()} == wanted
    assert [type(key) for key in sums] == [type(key) for key in wanted]


def test_fold_does_what_the_builtin_does(core):
    rng = random.Random(2)
    pairs = [
        (rng.choice("abc"), rng.choice([rng.randrange(-9, 9), rng.random(), 2**70, True])) for _ in range(500)
    ]
    for op, function in (
        (SUM, lambda values: functools.reduce(lambda a, b: a + b, values)),
        (COUNT, len),
        (MIN, min),
        (MAX, max),
        (FIRST, lambda values: values[0]),
    ):
        table = {}
        exhausted, used, records = core.fold(iter(pairs), table, op, NO_BUDGET)
        wanted = {key: function(values) for key, values in grouped(pairs).items()}
        assert table == wanted
        assert [type(table[key]) for key in wanted] == [type(value) for value in wanted.values()]
        assert (exhausted, records) == (True, 500)
        assert used >= 3 * 100


def test_min_and_max_keep_the_earliest_of_equals_and_first_the_first(core):
    for op in (MIN, MAX, FIRST):
        table = {}
        core.fold([("a", 1), ("a", True), ("a", 1.0)], table, op, NO_BUDGET)
        assert table["a"] is not True
        assert type(table["a"]) is int


def test_sum_never_changes_a_value_in_place(core):
    first, second = [1], [2]
    table = {}
    core.fold([("a", first), ("a", second), ("a", second)], table, SUM, NO_BUDGET)
    assert (table, first, second) == ({"a": [1, 2, 2]}, [1], [2])


def test_a_sum_that_grows_is_counted(core):
    _, used, records = core.fold(itertools.repeat(("a", "x" * 1000)), {}, SUM, 10_000)
    assert records in (10, 11)
    assert used >= 10_000


def test_errors_of_folding_are_those_of_python(core):
    with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \+: 'int' and 'str'"):
        core.fold([(1, 1), (1, "a")], {}, SUM, NO_BUDGET)
    with pytest.raises(TypeError, match="'<' not supported between instances of 'str' and 'int'"):
        core.fold([(1, 1), (1, "a")], {}, MIN, NO_BUDGET)
    with pytest.raises(TypeError, match="'>' not supported between instances of 'str' and 'int'"):
        core.merge_fold({1: 1}, [1], ["a"], MAX)
    for op in (0, 6, -1):
        with pytest.raises(ValueError, match=f"SUM=1, .* got {op}"):
            core.fold([], {}, op, 1)
        with pytest.raises(ValueError, match=f"SUM=1, .* got {op}"):
            core.merge_fold({}, [], [], op)


# take, map_items, scatter and merge


def mapped(core, mapfn, values, *, failed=None, limit=1000, mark=lambda position, key: None):
    """Map values whose keys are their positions; return the records and the calls of failed() and large()."""
    told = []

    def on_failure(position, key, value, error):
        told.append(("failed", position, key, value, repr(error)))
        return [] if failed is None else failed(error)

    def on_large(position, key, value, records, output):
        told.append(("large", position, key, value, records, list(output)))

    items = ((n, n, value) for n, value in enumerate(values))
    records = core.map_items(items, mark, mapfn, iter, on_failure, on_large, limit)
    return list(records), told


def numbers(key, value):
    for n in range(value):
        yield key, 100 // (5 - n)


def test_records_of_items_come_in_order_whatever_mapfn_returns(core):
    for form in (numbers, lambda *item: list(numbers(*item)), lambda *item: tuple(numbers(*item))):
        assert mapped(core, form, [2, 0, 1]) == ([(0, 20), (0, 25), (2, 20)], [])


def test_of_an_item_that_fails_nothing_comes_but_what_is_put_in_its_place(core):
    records, told = mapped(core, numbers, [1, 6, 2])
    assert records == [(0, 20), (2, 20), (2, 25)]
    assert [what[:-1] for what in told] == [("failed", 1, 1, 6)]
    assert told[0][-1].startswith("ZeroDivisionError(")
    records, _ = mapped(core, numbers, [1, 6, 1], failed=lambda error: [("instead", type(error))])
    assert records == [(0, 20), ("instead", ZeroDivisionError), (2, 20)]


@pytest.mark.parametrize("output", [5, [3], [(1, 2, 3)], [([], 1)]], ids=repr)
def test_records_that_cannot_be_are_a_failure_of_their_item(core, output):
    _, told = mapped(core, lambda key, value: output, ["a", "b"])
    assert [what for what, *_ in told] == ["failed", "failed"]
    assert told[0][-1].startswith(("NoPairError(", "BadKeyError(", "TypeError("))


def test_what_failed_raises_passes_through_with_the_traceback_of_the_function(core):
    def again(error):
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        mapped(core, numbers, [1, 6], failed=again)
    assert caught.traceback[-1].name == "numbers"


def test_none_from_failed_ends_the_records_and_the_items_can_be_used_further(core):
    items = iter([(0, "a", 6), (1, "b", 1)])
    arguments = lambda *_: None, numbers, iter, lambda *_: None, None, 1000
    assert list(core.map_items(items, *arguments)) == []
    assert list(core.map_items(items, *arguments)) == [("b", 20)]


def test_an_item_of_too_many_records_is_told_and_ends_them(core):
    records, told = mapped(core, numbers, [1, 3, 1], limit=2)
    assert records == [(0, 20)]
    assert told == [("large", 1, 1, 3, [(1, 20), (1, 25)], [(1, 33)])]


def test_every_item_is_marked_before_it_is_mapped_and_what_mark_raises_passes_through(core):
    marked = []

    def mapfn(key, value):
        assert marked[-1] == (key, key)
        return []

    mapped(core, mapfn, "abc", mark=lambda *item: marked.append(item))
    assert marked == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(ZeroDivisionError):
        mapped(core, mapfn, "abc", mark=lambda position, key: 1 // position)


def test_what_the_items_raise_passes_through_after_the_records_before_it(core):
    def items():
        yield 0, "a", 1
        raise LookupError("gone")

    records = core.map_items(items(), lambda *_: None, numbers, iter, None, None, 1000)
    assert next(records) == ("a", 20)
    with pytest.raises(LookupError):
        next(records)


def test_scatter_deals_every_key_to_its_partition_in_order(core):
    groups = {key: [n] for n, key in enumerate([*range(500), *"abc", ("a", 1), None, b"x"])}
    for count in (1, 7, 64):
        parts, hashed = core.scatter(groups, count, 11)
        assert hashed is False
        assert len(parts) == count
        order = list(groups)
        for number, part in enumerate(parts):
            if part is not None:
                keys, values = part
                assert keys == sorted(keys, key=order.index)
                assert values == [groups[key] for key in keys]
                assert {core.partition(key, count, 11) for key in keys} == {number}
        assert sum(len(part[0]) for part in parts if part) == len(groups)
    assert core.scatter({}, 3) == ([None] * 3, False)
    assert core.scatter({Plain(1): 2}, 3)[1] is True
    with pytest.raises(ValueError, match="the number of partitions"):
        core.scatter({}, 0)


def test_merging_takes_lists_over_extends_and_appends(core):
    first, second = [1, 2], [3]
    groups = {}
    used = core.merge_grouped(groups, ["a", "b"], [first, second])
    assert groups["a"] is first
    assert used == 2 * (100 + 72 + 57) + 3 * 8
    assert core.merge_grouped(groups, ["b", "a"], [[4, 5], [6]]) == 24
    assert core.merge_flat(groups, ["a", "c", math.nan, -math.nan], [7, 8, 9, 10]) > 0
    assert groups == {"a": [1, 2, 6, 7], "b": [3, 4, 5], "c": [8], NAN: [9, 10]}
    core.merge_grouped(groups, ["c"], [groups["c"]])
    assert groups["c"] == [8, 8]


def test_partial_results_merge_to_the_whole(core):
    rng = random.Random(3)
    pairs = [(rng.choice("abcd"), rng.randrange(100)) for _ in range(300)]
    for op in (SUM, COUNT, MIN, MAX, FIRST):
        whole, merged = {}, {}
        core.fold(pairs, whole, op, NO_BUDGET)
        for start in range(0, 300, 70):
            part = {}
            core.fold(pairs[start : start + 70], part, op, NO_BUDGET)
            core.merge_fold(merged, list(part), list(part.values()), op)
        assert merged == whole


def test_columns_must_be_equally_long_lists(core):
    for merge in (core.merge_grouped, core.merge_flat, lambda *args: core.merge_fold(*args, SUM)):
        with pytest.raises(ValueError, match="one value for each key, got 1 keys, 2 values"):
            merge({}, ["a"], [1, 2])


class Meddler:
    """A key or value that changes its container while it is compared, hashed or added."""

    def __init__(self, meddle):
        self.meddle = meddle

    def __hash__(self):
        return 1

    def __eq__(self, other):
        self.meddle()
        return False

    def __add__(self, other):
        self.meddle()
        return self

    def __lt__(self, other):
        self.meddle()
        return True

    def __partition_key__(self):
        self.meddle()
        return 1


def test_user_code_may_change_everything_under_the_call(core):
    table = {}
    pairs = []

    def meddle():
        table.clear()
        pairs.clear()

    for op in (None, SUM, MIN):
        pairs[:] = [[Meddler(meddle), Meddler(meddle)] for _ in range(50)]
        table.clear()
        if op is None:
            core.group(pairs, table, NO_BUDGET)
        else:
            core.fold(pairs, table, op, NO_BUDGET)
    keys = [Meddler(lambda: (keys.clear(), values.clear(), table.clear())) for _ in range(50)]
    values = [[n] for n in range(50)]
    with contextlib.suppress(ValueError):  # zip() in the twin raises it
        core.merge_grouped(table, keys, values)
    table.clear()
    table.update({Meddler(lambda: None): 1, Meddler(table.clear): 2})
    parts, _ = core.scatter(table, 1)
    assert len(parts[0][0]) == 2


# both implementations compared

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.builds(Large)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=2).map(lambda items: tuple(items * 9)),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.frozensets(st.integers()),
    ),
    max_leaves=6,
)


@needs_native
@given(value=values)
@settings(max_examples=100, deadline=None)
def test_both_estimate_alike(value):
    assert native.estimate_bytes(value) == _fallback.estimate_bytes(value)


@needs_native
@given(
    pairs=st.lists(st.tuples(keys, values), max_size=6), budget=st.integers(0, 3000), count=st.integers(1, 9)
)
@settings(max_examples=100, deadline=None)
def test_both_group_scatter_and_merge_alike(pairs, budget, count):
    outcomes = []
    for core in (native, _fallback):
        pairs_left = iter(pairs)
        exhausted = False
        merged: dict = {}
        flat: dict = {}
        outcome = []
        while not exhausted:
            groups: dict = {}
            exhausted, used, records = core.group(pairs_left, groups, budget)
            outcome.append((exhausted, used, records, list(groups.items())))
            parts, hashed = core.scatter(groups, count)
            outcome.append((parts, hashed))
            outcome.append(core.merge_flat(flat, list(groups), list(groups.values())))
            outcome.append(core.merge_grouped(merged, list(groups), [list(v) for v in groups.values()]))
        outcomes.append((outcome, list(merged.items()), list(flat.items())))
    assert repr(outcomes[0]) == repr(outcomes[1])


def outcome_of(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error), str(error)


@needs_native
@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.one_of(st.integers(), st.floats(), st.text(max_size=3)))),
    op=st.integers(0, 6),
    budget=st.integers(0, 2000),
)
@settings(max_examples=100, deadline=None)
def test_both_fold_alike_and_fail_alike(pairs, op, budget):
    tables: list[dict] = [{}, {}]
    outcomes = [
        outcome_of(core.fold, pairs, t, op, budget)
        for core, t in zip((native, _fallback), tables, strict=True)
    ]
    assert repr(outcomes[0]) == repr(outcomes[1])
    assert repr(tables[0]) == repr(tables[1])
    columns = [key for key, _ in pairs], [value for _, value in pairs]
    outcomes = [
        outcome_of(core.merge_fold, t, *columns, op)
        for core, t in zip((native, _fallback), tables, strict=True)
    ]
    assert repr(outcomes[0]) == repr(outcomes[1])
    assert repr(tables[0]) == repr(tables[1])


# memory, and the choice of implementation


def every_call(core, keys, pairs):
    """Call every function, also in every way that fails."""
    groups, table = {}, {}
    for key in keys:
        core.hash_key(key)
        core.is_hashed(key)
        core.unify_nan(key)
        core.partition(key, 7)
    core.group(iter(pairs), groups, NO_BUDGET)
    core.group(iter(pairs), groups, 10)
    for op in (SUM, COUNT, MIN, MAX, FIRST):
        core.fold(((key, 1.5) for key, _ in pairs), table, op, NO_BUDGET)
        core.merge_fold(table, list(table), [1] * len(table), op)
    for failed in (lambda *_: [(1, Large())], lambda *_: None):
        list(core.map_items([(0, 1, 6), (1, 1, 2)], lambda *_: None, numbers, iter, failed, None, 10))
    list(core.map_items([(0, 1, 5)], lambda *_: None, numbers, iter, None, lambda *_: None, 3))
    next(core.map_items([(0, 1, 5)], lambda *_: None, numbers, iter, None, None, 10))
    core.scatter(groups, 5)
    core.merge_grouped(groups, list(groups), [[1] for _ in groups])
    core.merge_flat(groups, list(groups), [Large() for _ in groups])
    for failing in (
        lambda: core.hash_key([]),
        lambda: core.hash_key((1, 2, ByIdentity())),
        lambda: core.hash_key((*range(40), ByIdentity())),
        lambda: core.hash_key(frozenset([ByIdentity()])),
        lambda: core.partition("a", 0),
        lambda: core.xxh64("a"),
        lambda: core.xxh64(b"a", None),
        lambda: core.group([("a", "b"), ("a", "b", "c")], {}, NO_BUDGET),
        lambda: core.group([((1, []), Large())], {}, NO_BUDGET),
        lambda: core.group([(Angry("eq"), Large()), (Angry("eq"), Large())], {}, NO_BUDGET),
        lambda: core.group([("a", Broken())], {}, NO_BUDGET),
        lambda: core.group([("a", 1)], {"a": None}, NO_BUDGET),
        lambda: core.fold([("a", 1000), ("a", "b")], {}, SUM, NO_BUDGET),
        lambda: core.fold([("a", 1000), ("a", "b")], {}, MIN, NO_BUDGET),
        lambda: core.fold([("a", Broken())], {}, SUM, NO_BUDGET),
        lambda: list(core.map_items([(0, 1, 6)], lambda *_: None, numbers, iter, Broken(), None, 10)),
        lambda: core.scatter({"a": Large(), Angry("partition"): Large()}, 4),
        lambda: core.merge_grouped({}, ["a"], [None]),
        lambda: core.merge_grouped({"a": None}, ["a"], [[Large()]]),
        lambda: core.merge_grouped({}, ["a", []], [[1], [Broken()]]),
        lambda: core.merge_flat({}, ["a"], []),
        lambda: core.merge_fold({}, [decimal.Decimal("sNaN")], [1], SUM),
    ):
        with pytest.raises((TypeError, ValueError, LookupError, OSError, ArithmeticError)):
            failing()


def test_no_call_keeps_memory_even_when_it_fails(core):
    keys = [*(row[0] for row in EQUAL), math.nan, (math.nan, "a"), "é" * 500]
    pairs = [(key, value) for key in keys for value in (1000, "x" * 50)]
    watched = [Large(), ("watched", 1.25), "é" * 70]
    pairs += [(n, watched[0]) for n in range(3)] + [(watched[1], 1), (watched[2], 2)]
    keys += watched[1:]
    rounds = 100  # threads of other tests allocate a few dozen blocks meanwhile

    def measure():
        gc.collect()
        before = sys.getallocatedblocks(), *map(sys.getrefcount, watched)
        for _ in range(rounds):
            every_call(core, keys, pairs)
        gc.collect()
        after = sys.getallocatedblocks(), *map(sys.getrefcount, watched)
        return [now - then for now, then in zip(after, before, strict=True)]

    # The interpreter fills caches at first. A leak grows in every measurement.
    growths = [measure() for _ in range(5)]
    assert min(blocks for blocks, *_ in growths) < rounds
    assert [references for _, *references in growths] == [[0] * len(watched)] * len(growths)


def run_python(script, cwd, **env):
    cleared = {k: v for k, v in os.environ.items() if k not in ("MMGEVENT_PURE", "MMGEVENT_REQUIRE_NATIVE")}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env={**cleared, **env}, capture_output=True, text=True
    )


NATIVE_SCRIPT = "from mmgevent import _speedups; print(_speedups.NATIVE, _speedups.hash_key.__module__)"


@pytest.fixture
def package(tmp_path):
    """A copy of what `_speedups` needs, without the C core."""
    source = ROOT / "mmgevent"
    copy = tmp_path / "mmgevent" / "_speedups"
    copy.mkdir(parents=True)
    (tmp_path / "mmgevent" / "__init__.py").touch()
    for path in (source / "_speedups").glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    return tmp_path


#: Opcodes with their arguments: those of plain data, some more, and lengths that are wrong.
PROGRAM = [
    *(b"N", b"\x88", b"K\x01", b"M\x01\x02", b"J\x01\0\0\0", b"G" + bytes(8), b"\x8a\x01\x05", b"\x8c\x01a"),
    *(
        b"C\x01b",
        b"\x8b\x01\0\0\0\x05",
        b"\x8b\xff\xff\xff\xff",
        b"\x96\x01" + bytes(7) + b"q",
        b"\x8e" + b"\xff" * 8,
    ),
    *(b"\x94", b"\x94", b"h\0", b"h\x01", b"h\x05", b"j\x01\0\0\0", b"(", b"(", b")", b"]", b"}", b"\x8f"),
    *(
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"e",
        b"u",
        b"\x90",
        b"\x91",
        b"a",
        b"s",
        b"\x93",
        b"R",
        b"0",
        b"1",
        b"2",
    ),
    *(b"\x80\x05", b"\x80\x06", b"\x95\x01" + bytes(7), b"\x95" + b"\xff" * 8, b"q\x01", b"c", b"I1\n", b"."),
]


@needs_native
def test_both_check_pickles_alike():
    """Programs are kept alive: an opcode that is refused is replaced by another, mostly."""
    draw = random.Random(7)
    made = 0
    for _ in range(1500):
        program = b""
        for _ in range(draw.randint(1, 20)):
            for opcode in draw.sample(PROGRAM, 8):
                answers = []
                for twin in (native, _fallback):
                    try:
                        answers.append(twin.check_pickle(program + opcode, 6, 30))
                    except ValueError as error:
                        answers.append(str(error))
                assert answers[0] == answers[1], program + opcode
                made += type(answers[0]) is int
                if type(answers[0]) is int or "cut short" in answers[0]:
                    break
            program += opcode
    assert made > 30


def test_without_the_c_core_the_fallback_serves_unless_it_is_required(package):
    assert run_python(NATIVE_SCRIPT, package).stdout.split()[0] == "False"
    required = run_python(NATIVE_SCRIPT, package, MMGEVENT_REQUIRE_NATIVE="1")
    assert "ModuleNotFoundError: No module named 'mmgevent._speedups._core'" in required.stderr


def test_a_broken_c_core_is_an_error_and_not_a_slow_worker(package):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (package / "mmgevent" / "_speedups" / f"_core{suffix}").write_bytes(b"not a library")
    assert "ImportError" in run_python(NATIVE_SCRIPT, package).stderr
    assert run_python(NATIVE_SCRIPT, package, MMGEVENT_PURE="1").stdout.split()[0] == "False"


@needs_native
def test_the_c_core_serves_unless_python_is_asked_for():
    assert run_python(NATIVE_SCRIPT, ROOT).stdout.split() == ["True", "mmgevent._speedups._core"]
    assert run_python(NATIVE_SCRIPT, ROOT, MMGEVENT_PURE="1").stdout.split()[0] == "False"


def test_both_offer_the_same_names():
    offered = set(_speedups.__all__) - {"NATIVE", "BadKeyError", "NoPairError", "Block", "spread"}
    assert offered <= set(_fallback.__all__)
    if native is not None:
        found = {
            name
            for name, thing in vars(native).items()
            if isinstance(thing, (types.BuiltinFunctionType, type))
        }
        of_words = {"WordCounter", "words_of"}  # `mmgevent.text` chooses between them by the rules of words
        assert {name for name in found if not name.startswith("_")} - of_words == {
            name for name in offered if callable(getattr(_fallback, name))
        }
