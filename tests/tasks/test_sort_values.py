"""The values of a key in order: as sorted() has them, on disk where memory does not hold them, and by name."""

import copy
import datetime
import decimal
import heapq
import itertools
import operator
import random
from typing import Any

import pytest

from mmgevent import _speedups, reducers
from mmgevent._speedups import _fallback
from mmgevent.job.functions import Functions
from mmgevent.tasks import ordered_values, scratch
from mmgevent.tasks.ordered_values import OrderedValues
from mmgevent.tasks.plain_rules import PlainRules
from mmgevent.tasks.records import decode_flush, decode_results, decode_segment, encode_segment
from mmgevent.tasks.run import run_map, run_reduce
from tests.tasks.test_tasks import CORE, failure_of, nothing

MIB = 1024 * 1024
#: Memory that holds a few dozen values, bytes.
LITTLE = 8_000
NAN = float("nan")


@pytest.fixture(params=["chosen", "fallback"])
def core(request, monkeypatch):
    if request.param == "fallback":
        for name in CORE:
            monkeypatch.setattr(_speedups, name, getattr(_fallback, name))


def emit_each(key, values):
    return values


def run(records, reducefn, sort_values: Any = True, *, memory=MIB, collectfn=None, flush=MIB, **kwargs):
    """Map records, reduce them in one partition; return the results."""
    functions = Functions.of(lambda k, v: [(k, v)], collectfn, reducefn, None, sort_values)
    flushes: list[bytes] = []
    run_map(functions, records, partitions=1, memory_bytes=flush, emit=flushes.append, mark=nothing)
    segments = [bytes(data) for each in flushes for _, data in decode_flush(each)]
    out: list[bytes] = []
    kwargs.setdefault("mark", nothing)
    run_reduce(
        functions, [(0, 0, iter(segments))], partitions=1, memory_bytes=memory, emit=out.append, **kwargs
    )
    decoded = [decode_segment(data) for each in out for _, data in decode_flush(each)]
    return [pair for each in decoded for pair in zip(each.keys, each.values, strict=True)]


def as_sorted(records, key=None):
    """Return what a few lines of plain Python give."""
    groups: dict[Any, list[Any]] = {}
    for k, v in records:
        groups.setdefault(k, []).append(v)
    return {k: sorted(values, key=key) for k, values in groups.items()}


def draw(count, keys, seed=5):
    rng = random.Random(seed)
    return [(rng.randrange(keys), (rng.randrange(40), f"value {i}")) for i in range(count)]


@pytest.mark.parametrize("keys", [1, 3, 200])
@pytest.mark.parametrize("sort_values", [True, operator.itemgetter(0), lambda value: -value[0]])
def test_values_come_as_sorted_has_them_however_little_memory_there_is(core, keys, sort_values, tmp_path):
    records = draw(1500, keys)
    expected = as_sorted(records, None if sort_values is True else sort_values)
    assert dict(run(records, lambda k, values: list(values), sort_values)) == expected
    for reducefn in (lambda k, values: list(values), lambda groups: ((k, list(v)) for k, v in groups), None):
        results = run(records, reducefn, sort_values, memory=LITTLE, flush=LITTLE, scratch_dir=str(tmp_path))
        assert len(results) == len(expected)
        assert dict(results) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_fills_the_memory_before_others_appear_keeps_its_values(core):
    records = [("hot", i % 97) for i in range(700)]
    records += [(key, i % 89) for i in range(400) for key in ("hot", f"cold {i % 60}", NAN)]
    kinds = []

    def reducefn(key, values):
        kinds.append(type(values))
        return list(values)

    got = run(records, reducefn, memory=LITTLE, flush=LITTLE)
    expected = as_sorted(records)
    assert {repr(key): values for key, values in got} == {repr(k): values for k, values in expected.items()}
    assert len(got) == 62
    assert {OrderedValues, list} == set(kinds)


def test_a_nan_as_key_is_one_key_on_disk_too(core):
    records = [(float("nan"), i % 31) for i in range(900)]
    ((_, values),) = run(records, lambda k, values: list(values), memory=LITTLE, flush=LITTLE)
    assert values == sorted(i % 31 for i in range(900))


def test_many_runs_are_merged_and_stay_stable(monkeypatch):
    monkeypatch.setattr(ordered_values, "RUN_COUNT", 3)
    records = draw(6000, 1)
    got = run(records, lambda k, values: list(values), operator.itemgetter(0), memory=LITTLE, flush=LITTLE)
    assert dict(got) == as_sorted(records, operator.itemgetter(0))


class Less:
    """Has a `<`, and no `==` of its own."""

    def __init__(self, number):
        self.number = number

    def __lt__(self, other):
        return self.number < other.number


class SameName(Less):
    """Has a `==` that says something else than its `<`."""

    def __eq__(self, other):
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]


class NeverEqual(int):
    def __eq__(self, other):
        return False

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    "wrap", [Less, SameName, NeverEqual, lambda n: (Less(n),), lambda n: [NeverEqual(n)]]
)
@pytest.mark.parametrize("keys", [1, 3])
def test_things_tie_where_neither_is_less_whatever_their_equality_says(core, wrap, keys):
    def compare_by(value):
        return wrap(value % keys)

    records = [("a", i) for i in range(1000)]
    expected = [("a", sorted(range(1000), key=compare_by))]
    for memory in (LITTLE, MIB):
        assert run(records, None, compare_by, memory=memory, flush=LITTLE) == expected


def test_things_without_order_that_are_equal_keep_theirs_on_disk_too():
    records = [("a", i) for i in range(1000)]
    for memory in (LITTLE, MIB):
        for compare_by in (lambda value: None, lambda value: (None, {})):
            assert run(records, None, compare_by, memory=memory, flush=LITTLE) == [("a", list(range(1000)))]


def test_where_a_partition_was_split_as_often_as_may_be_its_keys_go_to_disk(core, monkeypatch):
    monkeypatch.setattr(scratch, "MAX_SPLITS", 0)
    records = draw(3000, 50)
    assert dict(run(records, None, memory=LITTLE, flush=LITTLE)) == as_sorted(records)


def test_values_on_disk_are_a_sequence():
    values = [i * 7 % 1000 for i in range(3000)]
    expected = sorted(values)
    seen = []

    def look(key, on_disk):
        seen.append(type(on_disk))
        assert len(on_disk) == 3000
        assert bool(on_disk)
        assert on_disk[0] == expected[0]
        assert list(on_disk) == expected == list(on_disk)
        assert [on_disk[i] for i in (0, 1500, 2999, -1, -3000)] == [
            expected[i] for i in (0, 1500, 2999, -1, -3000)
        ]
        assert list(on_disk[10:-10:7]) == expected[10:-10:7]
        assert list(reversed(on_disk)) == expected[::-1]
        assert [b - a for a, b in zip(on_disk, on_disk[1:], strict=False)] == [  # noqa: RUF007 - it slices
            b - a for a, b in itertools.pairwise(expected)
        ]
        assert on_disk.index(14) == expected.index(14)
        assert on_disk.count(14) == 3
        assert 1001 not in on_disk
        assert heapq.nlargest(3, on_disk) == expected[:-4:-1]
        assert copy.deepcopy(on_disk) == expected
        with pytest.raises(IndexError):
            on_disk[3000]
        with pytest.raises(
            AttributeError, match=r"3000 values of key 'a' do not fit into memory.*no sort\(\)"
        ):
            on_disk.sort()
        assert not hasattr(on_disk, "anything")
        return len(on_disk)

    assert run([("a", v) for v in values], look, memory=LITTLE, flush=LITTLE) == [("a", 3000)]
    assert seen == [OrderedValues]


@pytest.mark.parametrize("plain", [None, PlainRules((), ())])
def test_values_on_disk_that_are_returned_are_a_list(plain):
    records = [("a", i % 10) for i in range(3000)]
    for reducefn in (emit_each, lambda k, v: v[:20], reducers.list_values, None):
        ((_, values),) = run(records, reducefn, memory=LITTLE, flush=LITTLE, plain=plain)
        assert values == as_sorted(records)["a"][: len(values)]
        assert len(values) in (20, 3000)


@pytest.mark.parametrize("plain", [None, PlainRules((), ())])
def test_values_on_disk_within_a_result_are_a_list(plain):
    records = [("a", i % 10) for i in range(3000)]
    expected = as_sorted(records)["a"]

    def reducefn(key, values):
        return len(values), values[:3], {"all": {1: [values]}}

    out: list[bytes] = []
    functions = Functions.of(None, None, reducefn, None, True)
    segment = encode_segment(["a"], [[value for _, value in records]], grouped=True)
    parts = [(0, 0, iter([segment]))]
    run_reduce(
        functions, parts, partitions=1, memory_bytes=LITTLE, emit=out.append, mark=nothing, plain=plain
    )
    ((_, data),) = decode_flush(out[0])
    ((_, result),) = decode_results(bytes(data), plain)
    assert result == (3000, expected[:3], {"all": {1: [expected]}})


def test_the_iterator_form_may_pass_values_on_disk_on():
    """Keys are on disk in several pieces, and results are pickled after later ones were read."""
    records = [(key, i % 10) for key in "abcdefghijkl" for i in range(900)]
    expected = as_sorted(records)
    got = run(records, lambda groups: groups, memory=LITTLE, flush=LITTLE)
    assert dict(got) == expected
    assert {type(values) for _, values in got} == {list}
    for wrap in (lambda v: v, lambda v: (len(v), v), lambda v: {"first": [v]}):

        def reduce_all(groups, wrap=wrap):
            return ((k, wrap(values[:3])) for k, values in groups)

        got = run(records, reduce_all, memory=LITTLE, flush=LITTLE)
        assert dict(got) == {k: wrap(values[:3]) for k, values in expected.items()}


def test_values_that_are_read_after_their_call_are_refused():
    records = [(key, i % 10) for key in "abcdefghijkl" for i in range(900)]
    kept = []

    def keep(key, values):
        list(kept[-1] if kept else ())
        kept.append(values)

    failure = failure_of(run, records, keep, memory=LITTLE, flush=LITTLE).failure
    assert "were on disk, and are gone" in failure["error"]


@pytest.mark.parametrize(
    "reducefn",
    [
        reducers.sum_values, reducers.count_values, reducers.min_value, reducers.max_value,
        reducers.first_value, reducers.unique_values, reducers.list_values, reducers.top_values(3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("memory", [LITTLE, MIB])
def test_known_reducers_get_the_values_in_order(core, reducefn, memory):
    rng = random.Random(3)
    records = [(i % 2, rng.choice("abcdef")) for i in range(600)]
    if reducefn is reducers.min_value:
        records += [(0, "a"), (1, "a")]
    expected = {key: reducefn(key, values) for key, values in as_sorted(records).items()}
    assert dict(run(records, reducefn, memory=memory, flush=LITTLE)) == expected


def test_values_are_sorted_behind_collectfn():
    records = [("a", i % 7) for i in range(50)]
    got = run(records, lambda k, v: list(v), collectfn=lambda k, values: sorted(set(values), reverse=True))
    assert got == [("a", list(range(7)))]


@pytest.mark.parametrize("memory", [LITTLE, MIB])
@pytest.mark.parametrize("nan", [NAN, decimal.Decimal("nan"), (1, NAN)], ids=str)
def test_nan_comes_last_in_datasource_order(nan, memory):
    values = [(i % 50, i) if isinstance(nan, tuple) else i % 50 for i in range(900)]
    mixed = [part for i, value in enumerate(values) for part in ([value] if i % 100 else [value, nan])]
    ((_, got),) = run([("a", v) for v in mixed], None, memory=memory, flush=LITTLE)
    assert got[:900] == sorted(values)
    assert [repr(value) for value in got[900:]] == [repr(nan)] * 9
    ((_, got),) = run([("a", i) for i in range(5)], None, lambda i: NAN if i == 1 else -i)
    assert got == [4, 3, 2, 0, 1]


def test_times_and_texts_are_ordered_by_what_they_are():
    began = datetime.datetime(2024, 2, 28)
    values = [(began + datetime.timedelta(hours=i * 37 % 100), f"page {i}") for i in range(100)]
    assert run([("a", v) for v in values], None) == [("a", sorted(values))]


@pytest.mark.parametrize("memory", [LITTLE, MIB])
@pytest.mark.parametrize(
    ("one", "other", "types"),
    [
        (1, "x", ("an int", "a str")),
        (1.5, None, ("a float", "a NoneType")),
        (("a", 1), ("a", "x"), ("an int", "a str")),
        ({}, {1: 2}, ("a dict", "a dict")),
        (1j, 2j, ("a complex", "a complex")),
        (frozenset("a"), frozenset("b"), ("a frozenset",)),
        ("text", b"bytes", ("a str", "a bytes")),
    ],
)
def test_what_has_no_order_is_named_with_its_types_and_the_key(one, other, types, memory):
    for values in ([one, other], [one] * 500 + [other] * 500):
        records = [("culprit", value) for value in values]
        for sort_values, wrap in ((True, lambda v: v), (operator.itemgetter("at"), lambda v: {"at": v})):
            wrapped = [(key, wrap(value)) for key, value in records]
            if len({repr(v) for v in values}) == 1:
                continue
            failure = failure_of(run, wrapped, emit_each, sort_values, memory=memory, flush=LITTLE).failure
            assert failure["function"] == "sort_values"
            assert failure["key"] == "'culprit'"
            assert "'culprit' cannot be sorted" in failure["error"]
            assert [name for name in types if name not in failure["error"]] == []
            assert "sort_values=f" in failure["advice"]


@pytest.mark.parametrize("memory", [LITTLE, MIB])
def test_a_key_function_that_raises_names_the_key_and_the_value(memory):
    def compare_by(value):
        return 10 / value

    records = [("good", 1), *(("bad", i or "none") for i in range(900)), ("bad", 0)]
    failure = failure_of(run, records, emit_each, lambda v: 10 / v, memory=memory, flush=LITTLE).failure
    assert failure["function"] == "sort_values"
    assert failure["key"] == "'bad'"
    assert "TypeError" in failure["error"]
    assert "(of the value 'none')" in failure["error"]
    records = [("good", 1), *(("bad", i) for i in range(900))]
    failure = failure_of(run, records, emit_each, compare_by, memory=memory, flush=LITTLE).failure
    assert "ZeroDivisionError" in failure["error"]
    assert "(of the value 0)" in failure["error"]
    assert failure["traceback"].count("ZeroDivisionError") == 1
    assert "compare_by" in failure["traceback"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError(), RecursionError()])
def test_whatever_a_key_function_raises_is_a_failure_with_its_cause(error):
    def fail(value):
        raise error

    failed = failure_of(run, [("a", 1), ("a", 2)], emit_each, fail)
    assert failed.failure["key"] == "'a'"
    assert failed.failure["kind"] == ("memory" if isinstance(error, MemoryError) else "exception")
    if not isinstance(error, Exception):
        assert failed.__cause__ is error


def test_a_failure_while_the_function_reads_is_no_fault_of_the_function(monkeypatch):
    """Values of one type in each run have no order among runs, and the function catches everything."""
    records = [("a", i) for i in range(400)] + [("a", str(i)) for i in range(400)]

    def swallow(key, values):
        try:
            return list(values)
        except Exception:
            return []

    def swallow_all(groups):
        for key, values in groups:
            yield key, swallow(key, values)

    for reducefn in (swallow, swallow_all):
        failure = failure_of(run, records, reducefn, memory=LITTLE, flush=LITTLE).failure
        assert "an int" in failure["error"]
        assert "a str" in failure["error"]
        assert failure["function"] == "sort_values"


def test_a_disk_that_is_full_is_a_disk_failure(tmp_path):
    records = [("a", i) for i in range(3000)]
    missing = str(tmp_path / "gone")
    failure = failure_of(run, records, emit_each, memory=LITTLE, flush=LITTLE, scratch_dir=missing).failure
    assert failure["kind"] == "disk"
    assert missing in failure["error"]


def test_each_key_is_marked_before_its_values_are_sorted():
    marked = []
    compared = []

    def mark(index, key):
        marked.append(key)

    def compare_by(value):
        compared.append((marked[-1], value[0]))
        return value

    records = [(key, (key, i)) for i in range(600) for key in "ab"]
    for memory in (LITTLE, MIB):
        for reducefn in (emit_each, None, lambda groups: ((k, len(v)) for k, v in groups)):
            run(records, reducefn, compare_by, memory=memory, flush=LITTLE, mark=mark)
    assert [pair for pair in compared if pair[0] != pair[1]] == []
    assert compared


def test_memory_is_bounded_whatever_the_number_of_values_of_a_key():
    import gc
    import tracemalloc

    def count(key, values):
        return sum(1 for _ in values)

    functions = Functions.of(None, None, count, None, True)
    rng = random.Random(9)

    def segments():
        for _ in range(12):
            yield from (
                bytes(data)
                for each in mapped([(1, rng.random()) for _ in range(5000)])
                for _, data in decode_flush(each)
            )

    def mapped(records):
        flushes: list[bytes] = []
        run_map(functions, records, partitions=1, memory_bytes=MIB, emit=flushes.append, mark=nothing)
        return flushes

    gc.collect()
    tracemalloc.start()
    try:
        run_reduce(
            functions, [(0, 0, segments())], partitions=1, memory_bytes=MIB // 4, emit=len, mark=nothing
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1.5 * MIB  # the values themselves need 1.9 MiB, and as much again to be sorted


@pytest.mark.parametrize("value_bytes", [MIB // 8, MIB // 2])
def test_values_that_are_large_themselves_are_merged_few_at_a_time(value_bytes):
    """A run has few of them, and each run that is merged holds one in memory."""
    import tracemalloc

    count, memory = 96, 4 * MIB
    functions = Functions.of(None, None, lambda key, values: [v[:8] for v in values], None, True)
    numbers = random.Random(3).sample(range(count), count)

    def segments():
        for number in numbers:
            yield encode_segment([1], [f"{number:08}" + "x" * value_bytes])

    out: list[bytes] = []
    tracemalloc.start()
    try:
        run_reduce(
            functions, [(0, 0, segments())], partitions=1, memory_bytes=memory, emit=out.append, mark=nothing
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    ((_, values),) = [
        pair for each in out for _, data in decode_flush(each) for pair in decode_results(bytes(data))
    ]
    assert values == [f"{number:08}" for number in range(count)]
    assert peak_bytes < 2 * memory  # all of them need 3 or 12 times as much
