"""The order of results: as sorted() has it, in bounded memory, and by name where there is none."""

import collections
import decimal
import gc
import os
import random
import subprocess
import sys
import tempfile
import tracemalloc

import pytest

from mmgevent.errors import OutputError, UsageError
from mmgevent.job.outputs import order as orders
from mmgevent.job.outputs.order import ORDERS, choose_order, put_in_order
from mmgevent.machine import resources
from tests.file_sizes import file_size_limit

#: Memory so small that a few thousand records are many runs, bytes.
LITTLE = 40_000


def ordered(records, sort=None, top=None, memory_bytes=orders.MEMORY_BYTES):
    return list(put_in_order(records, choose_order(sort, top), memory_bytes))


def records_of(count, seed=7):
    draw = random.Random(seed)
    records = [(f"key {i}", draw.randrange(50)) for i in range(count)]
    draw.shuffle(records)
    return records


def expected(records, sort, top=None):
    """Return what three lines of plain Python give: equal values are ordered by their keys."""
    at = 0 if sort.endswith("key") else 1
    by_key = sorted(records)
    return sorted(by_key, key=lambda record: record[at], reverse=sort.startswith("-"))[:top]


@pytest.mark.parametrize("top", [None, 1, 10, 700, 10_000])
@pytest.mark.parametrize("sort", ORDERS)
@pytest.mark.parametrize("memory_bytes", [LITTLE, orders.MEMORY_BYTES])
def test_results_are_as_sorted_has_them(sort, top, memory_bytes):
    records = records_of(3000)
    assert ordered(records, sort, top, memory_bytes) == expected(records, sort, top)


def test_top_alone_keeps_the_largest_values():
    assert ordered([("a", 1), ("c", 3), ("b", 3), ("d", 2)], top=3) == [("b", 3), ("c", 3), ("d", 2)]


def test_more_runs_than_are_merged_at_once_become_one(monkeypatch):
    monkeypatch.setattr(orders, "MAX_RUNS", 3)
    records = records_of(2000)
    for top in (None, 1500):
        assert ordered(records, "-value", top, LITTLE) == expected(records, "-value", top)


@pytest.mark.parametrize("sort", ["value", "-value"])
@pytest.mark.parametrize("memory_bytes", [1000, orders.MEMORY_BYTES])
def test_equal_values_are_in_the_same_order_however_they_come(sort, memory_bytes):
    keys = [
        1,
        10,
        9,
        "a",
        "10",
        None,
        (1, "b"),
        (1, 10),
        (1, 9),
        2.5,
        float("nan"),
        b"x",
        frozenset({1}),
    ]
    records = [(key, 0) for key in keys]
    first = list(map(repr, ordered(records, sort, None, memory_bytes)))
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert list(map(repr, ordered(records, sort, None, memory_bytes))) == first


@pytest.mark.parametrize("sort", ["value", "-value"])
@pytest.mark.parametrize("nan", [float("nan"), decimal.Decimal("nan"), (1, float("nan"))], ids=str)
@pytest.mark.parametrize("memory_bytes", [1000, orders.MEMORY_BYTES])
def test_nan_comes_last_in_either_direction(sort, nan, memory_bytes):
    values = [(i % 7, i) if isinstance(nan, tuple) else i % 7 for i in range(30)]
    records = [*enumerate(values), (99, nan), (98, nan), *enumerate(values, 30)]
    got = ordered(records, sort, None, memory_bytes)
    assert [key for key, _ in got[-2:]] == [98, 99]
    assert [value for _, value in got[:-2]] == sorted(2 * values, reverse=sort == "-value")


@pytest.mark.parametrize(
    ("values", "types"),
    [
        ([1, "x"], ["an int", "a str"]),
        ([1, None, 2], ["an int", "a NoneType"]),
        ([{}, {"a": 1}], ["a dict"]),
        ([(1, "a"), (2, 3), (1, 4)], ["a str", "an int"]),
        ([[1, [None]], [1, [2]]], ["an int", "a NoneType"]),
        ([1j, 2j], ["a complex"]),
        ([{1}, {2}], ["a set"]),
        ([(1, {1}), (2, {2})], ["a set"]),
        ([collections.Counter("a"), collections.Counter("b")], ["a Counter"]),
        ([object(), object()], ["an object"]),
        ([(1, {}), (1, {1: 1})], ["a dict"]),
    ],
)
@pytest.mark.parametrize("memory_bytes", [1, orders.MEMORY_BYTES])
def test_what_has_no_order_is_named_with_its_types_and_keys(values, types, memory_bytes):
    records = [(f"key{i}", value) for i, value in enumerate(values)]
    for sort in ("value", "-value"):
        with pytest.raises(OutputError, match="cannot sort by value") as caught:
            ordered(records, sort, None, memory_bytes)
        assert "key" in str(caught.value)
        if "cannot pickle" not in str(caught.value):
            assert [name for name in types if name not in str(caught.value)] == []
    by_key = [(value, 0) for value in values if not isinstance(value, (dict, list, set))]
    if len(by_key) > 1 and "object" not in types[0]:
        with pytest.raises(OutputError, match="cannot sort by key"):
            ordered(by_key, "key", None, memory_bytes)


def test_runs_of_one_type_each_have_no_order_among_them():
    records = [(f"a{i}", i) for i in range(300)] + [(f"b{i}", str(i)) for i in range(300)]
    with pytest.raises(
        OutputError, match=r"cannot sort by value: an? (int|str) and an? (int|str) have no order \(keys '"
    ):
        ordered(records, "value", None, LITTLE)


def test_a_value_within_itself_is_no_crash():
    value = []
    value.append(value)
    with pytest.raises(OutputError, match="cannot sort by value"):
        ordered([("a", value), ("b", value)], "value")


def test_arrays_have_no_order():
    numpy = pytest.importorskip("numpy")
    records = [("a", numpy.arange(3)), ("b", numpy.arange(1, 4))]
    with pytest.raises(OutputError, match=r"an? ndarray and an? ndarray have no order"):
        ordered(records, "value")
    scalars = [(i, numpy.float32(value)) for i, value in enumerate([2, float("nan"), 1])]
    assert [key for key, _ in ordered(scalars, "value")] == [2, 0, 1]


@pytest.mark.parametrize("top", [None, 20_000])
def test_memory_is_bounded_whatever_the_number_of_results(top):
    records = ((i, (i * 7919) % 1_000_003) for i in range(60_000))
    gc.collect()
    tracemalloc.start()
    try:
        count = sum(1 for _ in put_in_order(records, choose_order("value", top), 1 << 20))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == (top or 60_000)
    assert peak_bytes < 10 << 20  # the records themselves need twice as much


def test_few_are_kept_of_many_without_a_file(monkeypatch):
    monkeypatch.setattr(orders, "RunFile", None)
    records = records_of(5000)
    assert ordered(records, None, 20, 40 * LITTLE) == expected(records, "-value", 20)
    assert ordered(records, "key", 20, 40 * LITTLE) == expected(records, "key", 20)


def test_the_file_is_gone_at_every_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None

    def check():
        assert os.listdir(tmp_path) == []
        if before is not None:
            assert sorted(os.listdir("/proc/self/fd")) == before

    def failing():
        yield from records_of(2000)
        raise KeyError

    ordered(records_of(2000), "value", None, LITTLE)
    check()
    some = put_in_order(records_of(2000), choose_order("value", None), LITTLE)
    next(some)
    some.close()
    check()
    with pytest.raises(KeyError):
        ordered(failing(), "value", None, LITTLE)
    check()


def test_a_killed_process_leaves_no_file(tmp_path):
    program = (
        "import os\n"
        "from mmgevent.job.outputs.order import *\n"
        "records = ((i, -i) for i in range(5000))\n"
        "next(put_in_order(records, choose_order('value', None), 40_000))\n"
        "some = put_in_order(((i, -i) for i in range(5000)), choose_order('value', None), 40_000)\n"
        "next(some)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False
    )
    assert ended.returncode == -9
    assert os.listdir(tmp_path) == []


def test_without_a_folder_for_temporary_files_memory_is_one(tmp_path, monkeypatch):
    def fail():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    monkeypatch.setattr(resources, "SHARED_MEMORY_FOLDER", str(tmp_path))
    assert ordered(records_of(2000), "value", None, LITTLE) == expected(records_of(2000), "value")
    monkeypatch.setattr(resources, "SHARED_MEMORY_FOLDER", str(tmp_path / "missing"))
    monkeypatch.setattr(resources, "FIRST_SCRATCH_FOLDER", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=f"a temporary file in {tmp_path}/gone failed"):
        ordered(records_of(2000), "value", None, LITTLE)


def test_a_disk_that_is_full_is_said_with_what_to_do():
    what = r"cannot sort the results: a temporary file in .* set TMPDIR"
    with file_size_limit(1000), pytest.raises(OutputError, match=what):
        ordered(records_of(2000), "value", None, LITTLE)


def test_many_results_that_do_not_pickle_are_named():
    with pytest.raises(OutputError, match="cannot pickle the record of 'bad'"):
        ordered([("a", 1), ("bad", lambda: 1)], "key", None, 1)


@pytest.mark.parametrize("sort", ["Value", "", "values", "+key", "--key", 5, b"key", ["key"]])
def test_an_unknown_order_is_refused(sort):
    with pytest.raises(UsageError, match=r"expected|sort"):
        choose_order(sort, None)


@pytest.mark.parametrize("top", [0, -1, 2.5, "3", True])
def test_top_is_a_number_of_records(top):
    with pytest.raises(UsageError, match="top: expected a whole number of records, at least 1"):
        choose_order("key", top)
