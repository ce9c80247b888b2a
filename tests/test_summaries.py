"""Reducers with summaries: exact where they say so, within their error otherwise, however values are cut."""

import itertools
import math
import random
import statistics
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import mmgevent as mmg
from mmgevent import reducers
from mmgevent.errors import FunctionError
from mmgevent.reducers import count_distinct, mean_values, quantile_values, std_values
from mmgevent.summaries import distinct, quantiles

NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.booleans(),
    st.fractions(),
    st.floats(allow_nan=False, allow_infinity=False),
)
SUMMARIZED = [mean_values, std_values, count_distinct, quantile_values(0.5), quantile_values(0, 0.25, 1)]


def reduce_in_parts(reducefn, values, cuts):
    """Reduce summaries of parts of the values, and summaries of those."""
    combine = reducers.combiner_of(reducefn)
    edges = [0, *sorted(cuts), len(values)]
    parts = [combine("k", values[a:b]) for a, b in itertools.pairwise(edges) if a < b]
    if len(parts) > 2:
        parts = [combine("k", parts[0] + parts[1]), *parts[2:]]
    return reducefn("k", [value for part in parts for value in part])


def cut(dice, values, parts=7):
    return [dice.randrange(len(values) + 1) for _ in range(parts)]


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=4))
@example([1e308, 1e308, -1e308, 1e-300, 5e-324, 1.0], [3])
def test_a_mean_is_exact_but_for_its_last_rounding(values, cuts):
    expected = float(sum(map(Fraction, values)) / len(values))
    assert mean_values("k", values) == expected
    assert reduce_in_parts(mean_values, values, [min(c, len(values)) for c in cuts]) == expected


@given(st.lists(NUMBERS, min_size=2, max_size=40), st.lists(st.integers(0, 40), max_size=4))
@example([1e200, -1e200, 3e200, 0.1, 0.2], [2])
@example([1e9 + 0.1, 1e9 + 0.2, 1e9 + 0.3, 1e9, 1e9], [2])
def test_a_deviation_is_that_of_exact_squares(values, cuts):
    exact = [Fraction(value) for value in values]
    middle = sum(exact) / len(exact)
    variance = sum((value - middle) ** 2 for value in exact) / (len(exact) - 1)
    got = std_values("k", values)
    assert got == reduce_in_parts(std_values, values, [min(c, len(values)) for c in cuts])
    if variance == 0:
        assert got == 0.0
    else:
        assert abs(Fraction(got) ** 2 / variance - 1) < Fraction(1, 10**15) or got < 1e-300


def test_deviations_are_those_of_the_standard_library():
    values = [random.Random(3).gauss(100, 15) for _ in range(500)]
    assert std_values("k", values) == pytest.approx(statistics.stdev(values), rel=1e-15)
    assert math.isnan(std_values("k", [3.0]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.inf], math.inf),
        ([-math.inf, 1, 2, 3, 4, 5], -math.inf),
        ([math.inf, -math.inf, 1.0], math.nan),
        ([math.nan, 1.0, 2, 3, 4, 5, 6], math.nan),
        ([Decimal("0.1"), Decimal("0.2")], 0.15),
        ([Decimal("inf"), 1], math.inf),
    ],
)
def test_what_is_not_finite_counts_as_in_a_sum(values, expected):
    for got in (mean_values("k", values), reduce_in_parts(mean_values, values, [1])):
        assert got == expected or (math.isnan(got) and math.isnan(expected))
    if not math.isfinite(expected):
        assert math.isnan(std_values("k", values))


@pytest.mark.parametrize("reducefn", [mean_values, std_values, quantile_values(0.5)])
@pytest.mark.parametrize("value", ["12", b"12", None, 1j, [1]])
def test_what_is_no_number_is_refused(reducefn, value):
    with pytest.raises(TypeError):
        reducefn("k", [1.0, value])


def test_distinct_values_are_counted_exactly_while_they_are_few():
    dice = random.Random(1)
    values = [dice.choice([0, 0.0, False, 1, "1", b"1", (1, "a"), (True, "a"), math.nan, float("nan"), None])
              for _ in range(300)]  # fmt: skip
    assert count_distinct("k", values) == 7
    assert reduce_in_parts(count_distinct, values, cut(dice, values)) == 7
    values = list(range(distinct.EXACT)) * 2
    assert count_distinct("k", values) == distinct.EXACT
    assert reduce_in_parts(count_distinct, values, cut(dice, values)) == distinct.EXACT


@pytest.mark.parametrize("number", [distinct.EXACT + 1, 20_000, 150_000])
def test_many_distinct_values_are_estimated_and_grouping_does_not_matter(number):
    dice = random.Random(number)
    values = [f"user {i}" for i in range(number)]
    got = count_distinct("k", values)
    assert abs(got / number - 1) < 4 * 0.0081
    shuffled = values + values[: number // 2]
    dice.shuffle(shuffled)
    assert reduce_in_parts(count_distinct, shuffled, cut(dice, shuffled)) == got


def test_unhashable_values_cannot_be_counted():
    with pytest.raises(TypeError):
        count_distinct("k", [[1], [2]])


@given(st.lists(st.floats(-1e6, 1e6) | st.integers(-1000, 1000), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_of_few_values_are_exact(values, rank):
    got = quantile_values(rank)("k", values)
    ordered = sorted(map(float, values))
    place = rank * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    assert got == pytest.approx(low + (high - low) * (place - math.floor(place)), rel=1e-9, abs=1e-9)
    assert low <= got <= high


SHAPES = {
    "even": lambda dice: dice.random(),
    "normal": lambda dice: dice.gauss(0, 1),
    "long tail": lambda dice: dice.paretovariate(1.1),
    "few values": lambda dice: float(dice.randrange(5)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_of_many_values_are_within_their_error_of_rank(shape):
    dice = random.Random(shape)
    values = [SHAPES[shape](dice) for _ in range(40_000)]
    ordered = sorted(values)
    ranks = (0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1)
    for got in (quantile_values(*ranks)("k", values), reduce_in_parts(quantile_values(*ranks), values,
                                                                       cut(dice, values, 30))):  # fmt: skip
        for rank, value in zip(ranks, got, strict=True):
            slack = quantiles.RANK_ERROR * len(values)
            low = ordered[max(0, math.floor(rank * (len(values) - 1) - slack))]
            high = ordered[min(len(values) - 1, math.ceil(rank * (len(values) - 1) + slack))]
            assert low <= value <= high, rank
        assert (got[0], got[-1]) == (ordered[0], ordered[-1])


def test_a_digest_stays_small_and_keeps_nan_and_infinity():
    combine = reducers.combiner_of(quantile_values(0.5))
    (digest,) = combine("k", [float(i) for i in range(100_000)])
    assert len(digest[4]) <= 2 * quantiles.CENTROIDS
    for infinite in (-math.inf, math.inf):
        (digest,) = combine("k", [infinite, 1.0] * 50_000)
        assert len(digest[4]) <= 2 * quantiles.CENTROIDS
        ranks = (0.1, 0.49, 0.51, 0.9)
        got = quantile_values(*ranks)("k", [digest])
        assert got == sorted([infinite] * 2 + [1.0] * 2), "equal infinities have no mean but themselves"
    values = [float(i) for i in range(5000)]
    assert math.isnan(reduce_in_parts(quantile_values(0.5), [*values, math.nan], [2000]))
    assert reduce_in_parts(quantile_values(0, 1), [-math.inf, *values, math.inf], [2000]) == [
        -math.inf,
        math.inf,
    ]
    assert reduce_in_parts(quantile_values(0, 1), [1.7e308, -1.7e308] * 3000, [2000]) == [-1.7e308, 1.7e308]


@pytest.mark.parametrize("ranks", [(-0.1,), (1.1,), ("0.5",), (True,), (math.nan,), (0.5, 2)])
def test_ranks_are_from_zero_to_one(ranks):
    with pytest.raises(FunctionError, match="from 0 to 1"):
        quantile_values(*ranks)


@pytest.mark.parametrize("reducefn", SUMMARIZED)
def test_what_is_summarized_is_not_summarized_again(reducefn):
    with pytest.raises(FunctionError, match="leave collectfn out"):
        reducers.check_collectfn(reducefn, reducefn)


def test_names_that_are_none():
    for name in (
        "quantile_values()",
        "quantile_values(2)",
        "quantile_values(0.5.5)",
        "quantile_values(0.5,1)",
    ):
        with pytest.raises(FunctionError):
            reducers.by_name(name)


def _numbers(chunk, seed):
    dice = random.Random(seed)
    for _ in range(3000):
        yield dice.randrange(3), dice.gauss(chunk, 2)


def test_jobs_on_two_executors_give_what_the_function_gives_of_all_values():
    source = {chunk: chunk for chunk in range(12)}
    values = {key: [] for key in range(3)}
    for chunk, seed in source.items():
        for key, value in _numbers(chunk, seed):
            values[key].append(value)
    with mmg.LocalCluster(procs=2) as cluster:
        for results in ("trusted", "plain"):
            for reducefn in (mean_values, std_values, count_distinct):
                got = cluster.run(mmg.Job(source, _numbers, reducefn, results=results))
                assert got == {key: reducefn(key, seen) for key, seen in values.items()}
            got = cluster.run(mmg.Job(source, _numbers, quantile_values(0.5), results=results))
            for key, seen in values.items():
                ordered = sorted(seen)
                slack = int(quantiles.RANK_ERROR * len(seen))
                assert ordered[len(seen) // 2 - slack] <= got[key] <= ordered[len(seen) // 2 + slack + 1]
