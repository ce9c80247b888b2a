import functools
import itertools
import pickle
import random

import pytest

from mmgevent import reducers
from mmgevent.errors import FunctionError

ALL = [
    reducers.sum_values,
    reducers.count_values,
    reducers.min_value,
    reducers.max_value,
    reducers.first_value,
    reducers.unique_values,
    reducers.list_values,
    reducers.top_values(3),
    reducers.mean_values,
    reducers.std_values,
    reducers.count_distinct,
    reducers.quantile_values(0.5),
    reducers.quantile_values(0, 0.25, 1),
]


@pytest.mark.parametrize(
    ("reducefn", "expected"),
    list(
        zip(
            ALL,
            [
                14,
                5,
                1,
                5,
                3,
                [3, 1, 4, 5],
                [3, 1, 4, 1, 5],
                [5, 4, 3],
                2.8,
                3.2**0.5,
                4,
                3.0,
                [1.0, 1.0, 5.0],
            ],
            strict=True,
        )
    ),
)
def test_each_reducer_does_what_its_name_says(reducefn, expected):
    assert reducefn("key", [3, 1, 4, 1, 5]) == expected


@pytest.mark.parametrize("reducefn", ALL)
def test_reducers_pickle_by_name_and_stay_recognised(reducefn):
    copy = pickle.loads(pickle.dumps(reducefn))
    assert reducers.is_recognised(copy)
    assert reducers.fold_of(copy) == reducers.fold_of(reducefn)
    assert len(pickle.dumps(reducefn)) < 100


def test_sum_adds_whatever_adds():
    assert reducers.sum_values("k", ["a", "b"]) == "ab"
    values = [[1], [2]]
    assert reducers.sum_values("k", values) == [1, 2]
    assert values == [[1], [2]]


def test_folds_name_operations_of_the_core():
    folds = [reducers.fold_of(fn) for fn in ALL]
    assert folds == ["sum", "count", "min", "max", "first"] + [None] * 8
    assert [reducers.FOLD_OPS[op] for op in folds[:5]] == [1, 2, 3, 4, 5]
    assert reducers.fold_of(lambda key, values: sum(values)) is None


@pytest.mark.parametrize("reducefn", [reducers.unique_values, reducers.top_values(2)])
def test_combining_any_split_of_the_values_changes_nothing(reducefn):
    combine = reducers.combiner_of(reducefn)
    dice = random.Random(7)
    for _ in range(200):
        values = [dice.choice([0, 0.0, 1, True, 2, 3]) for _ in range(dice.randrange(1, 12))]
        cut = dice.randrange(len(values) + 1)
        parts = [part for part in (values[:cut], values[cut:]) if part]
        combined = list(itertools.chain.from_iterable(combine("k", part) for part in parts))
        got, expected = reducefn("k", combined), reducefn("k", values)
        assert [(type(v), v) for v in got] == [(type(v), v) for v in expected]


def test_nothing_is_combined_that_cannot_shrink():
    assert reducers.combiner_of(reducers.list_values) is None
    assert reducers.combiner_of(reducers.sum_values) is None


def test_all_nans_are_one_unique_value():
    values = reducers.unique_values("k", [float("nan"), 1.0, float("nan"), 2.0])
    assert len(values) == 3
    assert values[1:] == [1.0, 2.0]


@pytest.mark.parametrize("n", [0, -1, 2.0, True, None])
def test_top_values_takes_a_positive_int(n):
    with pytest.raises(FunctionError, match="at least 1"):
        reducers.top_values(n)


def test_counting_counts_is_refused():
    with pytest.raises(FunctionError, match="count the counts"):
        reducers.check_collectfn(reducers.count_values, reducers.count_values)
    with pytest.raises(FunctionError, match="drops values"):
        reducers.check_collectfn(reducers.top_values(2), reducers.top_values(3))
    for reducefn in ALL[:8]:
        if reducefn is not reducers.count_values:
            reducers.check_collectfn(reducefn, reducefn)


def test_a_reducer_given_twice_is_left_to_the_engine():
    assert reducers.without_redundant(reducers.sum_values, reducers.sum_values) is None
    assert reducers.without_redundant(reducers.sum_values, max) is reducers.sum_values
    assert reducers.without_redundant(max, max) is max


@pytest.mark.parametrize("reducer", ALL)
def test_every_reducer_has_a_name(reducer):
    assert reducers.by_name(reducers.name_of(reducer)) == reducer


def test_other_functions_have_none():
    assert reducers.name_of(max) is None
    assert reducers.name_of(functools.partial(reducers.sum_values)) is None
    for name in ("max", "top_values(0)", "top_values(-1)", "top_values(1) ", "fold_of", ""):
        with pytest.raises(FunctionError):
            reducers.by_name(name)
