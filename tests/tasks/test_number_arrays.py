"""The option `arrays`, and the columns of results."""

import math
import sys

import pytest

import mmgevent as mmg
from mmgevent.errors import JobError, OptionError
from mmgevent.job.options import parse_option
from mmgevent.reducers import sum_values

np = pytest.importorskip("numpy")


def reduced(records, reducefn, **options):
    job = mmg.Job({0: 0}, lambda key, value: records, reducefn, arrays=True, **options)
    return mmg.run(job, inline=True)


def shape_of(key, values):
    return type(values).__name__, values.dtype.name, values.tolist()


def test_reducefn_gets_the_values_of_a_key_as_one_array_of_their_kind():
    records = [("i", 1), ("f", 0.5), ("b", True), ("i", -(1 << 63)), ("f", -0.0), ("b", False)]
    expected = {
        "i": ("ndarray", "int64", [1, -(1 << 63)]),
        "f": ("ndarray", "float64", [0.5, -0.0]),
        "b": ("ndarray", "bool", [True, False]),
    }
    assert reduced(records, shape_of) == expected
    assert reduced(records, lambda groups: ((k, shape_of(k, v)) for k, v in groups)) == expected
    blocks = [mmg.Block(["i"] * 2, [1, -(1 << 63)]), mmg.Block(["f"] * 2, np.array([0.5, -0.0]))]
    assert reduced([*blocks, *records[2::3]], shape_of) == expected


def test_arrays_are_made_after_collectfn_and_in_order():
    records = [("a", n) for n in (3, 1, 2)]
    assert reduced(records, shape_of, sort_values=True) == {"a": ("ndarray", "int64", [1, 2, 3])}
    assert reduced(records, shape_of, sort_values=lambda value: -value)["a"][2] == [3, 2, 1]
    assert reduced(records, shape_of, collectfn=lambda key, values: values[:2])["a"][2] == [3, 1]


@pytest.mark.parametrize(
    ("values", "came"),
    [
        ([1, 2.0], "got float and int"),
        ([1, True], "got bool and int"),
        ([1, 1 << 63], "got an int of more than 64 bits"),
        (["x"], "got str"),
        ([1.0, None], "got NoneType and float"),
        ([np.float64(1)], "got float64"),
        ([[1]], "got list"),
    ],
)
def test_other_values_are_refused_with_their_type_and_key(values, came):
    with pytest.raises(JobError, match=came) as caught:
        reduced([("good", 1), *(("the key", value) for value in values)], lambda key, values: 0)
    assert "the key" in str(caught.value)
    assert "arrays" in str(caught.value)


def test_a_worker_without_numpy_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(JobError, match="needs numpy"):
        reduced([("a", 1)], lambda key, values: 0)


def test_the_option_is_refused_where_it_does_nothing():
    for reducefn, text in ((None, "the job has none"), (sum_values, "a known reducer needs no array")):
        with pytest.raises(OptionError, match=text):
            mmg.Job({0: 0}, lambda key, value: [], reducefn, arrays=True).check()
    with pytest.raises(OptionError, match="True or False"):
        mmg.Job({0: 0}, lambda key, value: [], shape_of, arrays=1)
    with pytest.raises(OptionError, match="given by name"):
        mmg.Job({0: 0}, "mapper", "reducer", arrays=True).check()


def test_commands_set_the_option_in_words():
    assert [parse_option("arrays", text) for text in ("true", "False")] == [True, False]
    for text in ("1", "", "yes"):
        with pytest.raises(OptionError, match="True or False"):
            parse_option("arrays", text)


def columns(results):
    cluster = mmg.connect("inline")
    job = mmg.Job({0: 0}, lambda key, value: results, lambda key, values: values[0])
    return cluster.submit(job).columns()


NUMBERS = {1: 0.5, -2: -0.0, 3: math.inf}
MIXED = {(1, 2): 1, (3, 4): 1 << 70, ("a",): 3}


def test_results_are_two_columns_in_one_order():
    keys, values = columns(list(NUMBERS.items()))
    assert (keys.dtype, values.dtype) == ("int64", "float64")
    assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == NUMBERS
    keys, values = columns(list(MIXED.items()))
    assert (keys.dtype, values.dtype, keys.shape) == (object, object, (3,))
    assert dict(zip(keys, values, strict=True)) == MIXED
    assert [len(column) for column in columns([])] == [0, 0]
    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(mmg.Job({1: 2.5}, None, lambda key, values: values[0]))
        assert handle.result() == {1: 2.5}
        assert [column.tolist() for column in handle.columns()] == [[1], [2.5]]


def test_columns_without_numpy_are_arrays_of_python_and_lists(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    keys, values = columns(list(NUMBERS.items()))
    assert (keys.typecode, values.typecode) == ("q", "d")
    assert dict(zip(keys, values, strict=True)) == NUMBERS
    keys, values = columns(list(MIXED.items()))
    assert dict(zip(keys, values, strict=True)) == MIXED
    assert type(columns([(1, True)])[1]) is list
