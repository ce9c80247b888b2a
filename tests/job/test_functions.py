import functools
import json
import operator
import pickle

import pytest

from mmgevent import reducers
from mmgevent.errors import FunctionError
from mmgevent.job.functions import Functions, check_mapfn, form_of
from mmgevent.job.job import Job


def pair(key, values):
    return values


def groups_form(groups):
    yield from groups


class Scaler:
    def pair(self, key, values):
        return values

    def groups(self, groups):
        return groups

    @staticmethod
    def static(key, values):
        return values

    def __call__(self, key, values):
        return values


@pytest.mark.parametrize(
    ("fn", "form"),
    [
        (pair, "pair"),
        (groups_form, "iterator"),
        (Scaler().pair, "pair"),
        (Scaler().groups, "iterator"),
        (Scaler.static, "pair"),
        (Scaler(), "pair"),
        (functools.partial(lambda n, key, values: n, 3), "pair"),
        (functools.partial(lambda n, groups: n, 3), "iterator"),
        (functools.partial(lambda key, values, *, n: n, n=3), "pair"),
        (functools.lru_cache(pair), "pair"),
        (lambda key, values, scale=2, **more: scale, "pair"),
        (lambda groups, /: groups, "iterator"),
        (reducers.sum_values, "pair"),
        (reducers.top_values(3), "pair"),
    ],
)
def test_required_positional_parameters_decide_the_form(fn, form):
    assert form_of(fn, "reducefn") == form


@pytest.mark.parametrize(
    ("fn", "advice"),
    [
        (sum, "lambda key, values: sum(values)"),
        (list, "lambda key, values: list(values)"),
        (functools.partial(max), "lambda key, values: max(values)"),
        ("".join, "lambda key, values: join(values)"),
        (operator.itemgetter(0), "lambda key, values: f(values)"),
        (lambda *args: args, r"takes \*args"),
        (lambda key, *rest: rest, r"takes \*rest"),
        (lambda key, values, *, scale: scale, "requires the keyword argument 'scale'"),
        (lambda: 1, "has 0 required positional parameters"),
        (lambda a, b, c: 1, "has 3 required positional parameters"),
        (42, "got int"),
    ],
)
def test_what_the_signature_does_not_say_is_refused_with_what_to_write(fn, advice):
    advice = advice if "\\" in advice else advice.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(FunctionError, match=advice):
        form_of(fn, "reducefn")


def test_a_pair_reducer_that_yields_is_refused():
    def reducefn(key, values):
        yield sum(values)

    with pytest.raises(FunctionError, match="yields"):
        form_of(reducefn, "reducefn")


def test_an_async_function_is_refused():
    async def mapfn(key, value):
        return {}

    with pytest.raises(FunctionError, match="async"):
        check_mapfn(mapfn)


def test_the_form_is_decided_without_a_call():
    def reducefn(key, values):
        raise AssertionError("called")

    assert form_of(reducefn, "reducefn") == "pair"


@pytest.mark.parametrize("fn", [lambda value: value, lambda k, v, x: v, enumerate, lambda *a: a])
def test_mapfn_must_take_key_and_value(fn):
    with pytest.raises(FunctionError, match="mapfn"):
        check_mapfn(fn)


def test_functions_know_their_forms_and_pickle():
    functions = Functions.of(pair, groups_form, pair)
    assert (functions.collect_form, functions.reduce_form) == ("iterator", "pair")
    assert pickle.loads(pickle.dumps(functions)) == functions
    assert Functions.of() == Functions()


def test_named_functions_get_their_form_where_they_are_offered():
    functions = Functions.of("stats", None, "total")
    assert functions.reduce_form is None
    assert functions.offered_names == {"stats", "total"}
    resolved = functions.resolve({"stats": pair, "total": groups_form})
    assert resolved == Functions(pair, None, None, groups_form, "iterator")
    with pytest.raises(FunctionError, match=r"'total'.*offered: stats"):
        functions.resolve({"stats": pair})


def test_what_is_offered_of_a_job_is_described_and_understood_elsewhere():
    offers = {"stats": pair, "total": groups_form}
    functions = Functions.of("stats", reducers.sum_values, "total")
    described = functions.describe_offered()
    assert described == {
        "phases": ["map", "reduce"],
        "mapfn": "stats",
        "collectfn": "reducers.sum_values",
        "reducefn": "total",
    }
    resolved = Functions.of(pair, reducers.sum_values, groups_form)
    assert Functions.from_offered(json.loads(json.dumps(described)), offers) == resolved
    assert Functions.of(pair, pair, pair).describe_offered() is None


@pytest.mark.parametrize(
    ("functions", "phases"),
    [
        (("stats", None, pair), ["map"]),
        (("stats", "total", None), ["map", "reduce"]),
        (("stats", None, reducers.top_values(3)), ["map", "reduce"]),
        ((pair, None, "total"), ["reduce"]),
        ((pair, pair, "total"), ["reduce"]),
        ((None, pair, "total"), ["reduce"]),
        ((None, "total", pair), ["map"]),
        ((None, None, "total"), ["map", "reduce"]),
    ],
)
def test_a_phase_for_which_nothing_is_shipped_runs_where_functions_are_offered(functions, phases):
    described = Functions.of(*functions).describe_offered()
    assert described["phases"] == phases
    resolved = Functions.from_offered(described, {"stats": pair, "total": pair})
    if "reduce" in phases and functions[2] != "total":
        assert resolved.reducefn == functions[2]


def test_what_an_offered_reducer_is_known_for_does_not_count():
    offers = {"stats": pair, "total": reducers.count_values}
    resolved = Functions.of("stats", None, "total").resolve(offers)
    assert not reducers.is_recognised(resolved.reducefn)
    assert resolved.reduce_form == "pair"
    assert resolved.reducefn(1, [5, 6]) == 2


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (("my stats", None, None), "mapfn is 'my stats'.*no name"),
        ((None, None, "os.path.join"), r"reducefn is 'os\.path\.join'.*no name"),
        (("stats", pair, None), "collectfn runs in the process that offers it"),
        ((pair, "total", None), "names for both"),
    ],
)
def test_names_that_cannot_be_and_names_with_functions_that_cannot_come_are_refused(functions, words):
    with pytest.raises(FunctionError, match=words):
        Functions.of(*functions)


class Setup:
    def __call__(self):
        pass

    def method(self):
        pass


@pytest.mark.parametrize(
    "setupfn",
    [
        lambda: None,
        lambda size=3, *names, **options: None,
        functools.partial(lambda size: size, 3),
        Setup(),
        Setup().method,
        dict,
        json.JSONDecoder,
    ],
)
def test_setupfn_is_whatever_can_be_called_without_arguments(setupfn):
    functions = Functions.of(pair, None, None, setupfn)
    assert functions.setupfn is setupfn
    assert functions.resolve({}) == functions


async def prepare_later():
    pass


def prepare_in_steps():
    yield 1


@pytest.mark.parametrize(
    ("setupfn", "others", "words"),
    [
        (lambda path: path, (pair,), r"setupfn .* requires path, .*partial"),
        (lambda *, path: path, (pair,), r"requires path"),
        (prepare_later, (pair,), r"is async; write a plain function"),
        (prepare_in_steps, (pair,), r"yields, and calling it would run nothing"),
        (3, (pair,), r"setupfn must be a function without parameters; got int"),
        ("stats", (pair,), r"the function 'stats' is given by name"),
        (lambda: None, ("stats",), r"the function 'stats' is given by name"),
        (lambda: None, (pair, None, "total"), r"the function 'total' is given by name"),
    ],
)
def test_what_cannot_be_called_so_or_not_in_executors_is_refused(setupfn, others, words):
    others = (*others, None, None)[:3]
    with pytest.raises(FunctionError, match=words):
        Functions.of(*others, setupfn)


@pytest.mark.parametrize(
    "sort_values", [len, str, operator.itemgetter(0), lambda v: v, lambda v, n=1: v, max]
)
def test_values_may_be_sorted_by_whatever_can_be_called_with_one(sort_values):
    assert Functions.of(pair, None, pair, None, sort_values).sort_values is sort_values
    assert Functions.of(pair, None, pair, None, False).sort_values is None


@pytest.mark.parametrize(
    ("sort_values", "words"),
    [
        (1, r"sort_values must be True, or a function of a value .*; got 1"),
        ("time", r"sort_values must be True, or a function"),
        (lambda a, b: 0, r"is called with one value, and requires a, b"),
        (lambda: 0, r"is called with one value, and requires none"),
        (lambda v, *, at: 0, r"requires v, at"),
        (prepare_later, r"is async"),
        (lambda v: (yield), r"sort_values yields"),
    ],
)
def test_what_cannot_sort_values_is_refused(sort_values, words):
    with pytest.raises(FunctionError, match=words):
        Functions.of(pair, None, pair, None, sort_values)


@pytest.mark.parametrize("others", [("stats",), (pair, None, "stats")])
def test_values_are_not_sorted_for_offered_functions(others):
    with pytest.raises(FunctionError, match="sort_values cannot go with the function 'stats'"):
        Functions.of(*(*others, None, None)[:3], None, True)


def test_one_function_cannot_combine_unsorted_and_reduce_sorted_values():
    with pytest.raises(FunctionError, match="collectfn and reducefn are one function, but sort_values"):
        Job([], pair, pair, collectfn=pair, sort_values=True).functions()
    known = Job([], pair, reducers.sum_values, collectfn=reducers.sum_values, sort_values=True).functions()
    assert known.collectfn is None
