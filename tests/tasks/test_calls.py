"""Calls of many items: what fails is halved, nothing of it counts twice, and no result depends on the grouping."""

import random
from itertools import pairwise
from math import ceil, log2

import pytest

from mmgevent import _speedups
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.json_lines import JsonLines, JsonLinesRef
from mmgevent.reducers import count_values, max_value, sum_values
from mmgevent.tasks import calls
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.skipping import Skipping
from mmgevent.wire.positions import entry_of, position_of
from tests.kinds import IMPLEMENTATIONS
from tests.tasks.test_skipping import MIB, REDUCERS
from tests.tasks.test_skipping import Run as RunOfOne


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def core(request, monkeypatch):
    for name in ("FoldTable", "fold", "group", "merge_fold", "merge_grouped", "scatter", "hash_key"):
        monkeypatch.setattr(_speedups, name, getattr(request.param, name))
    monkeypatch.setattr(calls, "take", request.param.take)


class Run(RunOfOne):
    """The same in calls of `size` items. `calls`: the keys of each call, in order."""

    def __init__(self, mapfn, items, reducefn=None, collectfn=None, *, size=8, **kwargs):
        self.calls = []
        self.shown = []

        def noted(keys, values):
            self.calls.append(list(keys))
            return mapfn(keys, values)

        rules = CallRules(size, lambda count, key: self.shown.append((count, key)))
        super().__init__(noted, items, reducefn, collectfn, calls=rules, **kwargs)


def words(keys, values):
    """Yield a record for each word, and fail at "bad" after those before it."""
    for key, value in zip(keys, values, strict=True):
        for word in value.split():
            if word == "bad":
                raise ValueError(f"bad word in {key}")
            yield word, 1


TEXTS = [f"w{i % 7} w{i % 3} all" for i in range(100)]


def with_bad(*places):
    return [(i, f"all {text} bad" if i in places else text) for i, text in enumerate(TEXTS)]


def without(*places):
    return [(i, text) for i, text in enumerate(TEXTS) if i not in places]


@pytest.mark.parametrize("reducefn", [*REDUCERS, lambda key, values: list(values)])
def test_results_do_not_depend_on_the_grouping(reducefn):
    def of_one(key, value):
        return words([key], [value])

    expected = RunOfOne(of_one, enumerate(TEXTS), reducefn).results
    for size in (1, 2, 7, 100, 1000):
        run = Run(words, enumerate(TEXTS), reducefn, size=size)
        assert run.results == expected
        assert [len(keys) for keys in run.calls] == [min(size, 100 - i) for i in range(0, 100, size)]
        assert run.stats.items == 100


@pytest.mark.parametrize("reducefn", REDUCERS)
@pytest.mark.parametrize("bad", [(0,), (99,), (37,), (7, 8), (3, 50, 51, 52, 98), range(16, 24), range(100)])
def test_halving_finds_exactly_the_items_that_fail_and_nothing_counts_twice(reducefn, bad):
    run = Run(words, with_bad(*bad), reducefn, rules=Skipping(max_skipped=100))
    assert run.results == Run(words, without(*bad), reducefn).results
    assert [key for key, _ in run.rows] == list(bad)
    assert [row[0] for _, row in run.rows] == [position_of(entry) for entry in bad]
    assert (run.rules.count, run.stats.items) == (len(bad), 100)


def test_values_of_a_key_stay_in_the_order_of_the_datasource():
    def mapfn(keys, values):
        for key in keys:
            yield "k", key
            if key in (5, 30):
                raise ValueError(key)

    run = Run(mapfn, enumerate(range(64)), size=16)
    assert run.results == {"k": [i for i in range(64) if i not in (5, 30)]}


def test_finding_one_item_takes_two_calls_for_each_halving():
    run = Run(words, with_bad(37), size=64)
    assert len(run.calls) == 2 + 2 * ceil(log2(64))


def test_a_call_has_tries_and_so_has_the_item_that_is_left_alone():
    run = Run(words, with_bad(5), size=4, rules=Skipping(retries=2, max_skipped=1))
    assert run.calls[1:9] == [[4, 5, 6, 7]] * 3 + [[4, 5], [4]] + [[5]] * 3
    assert run.calls[9] == [6, 7]


def test_a_call_that_fails_once_counts_when_it_is_tried_again_or_in_halves():
    for retries, tries in ((1, [[0, 1, 2, 3]] * 2), (0, [[0, 1, 2, 3], [0, 1], [2, 3]])):
        failures = [None]

        def mapfn(keys, values, failures=failures):
            yield from ((key, 1) for key in keys)
            if failures:
                raise OSError(failures.pop())

        run = Run(mapfn, enumerate("abcd"), sum_values, rules=Skipping(retries=retries))
        assert run.results == dict.fromkeys(range(4), 1)
        assert run.calls == tries


def test_without_max_skipped_the_item_is_named_too():
    with pytest.raises(TaskFailure) as caught:
        Run(words, with_bad(37, 60), size=64, rules=Skipping())
    assert caught.value.failure["key"] == "37"
    assert (entry_of(caught.value.item), caught.value.is_spent) == (37, True)


@pytest.mark.parametrize(
    "outcome",
    [lambda: None, lambda: 7, lambda: [7], lambda: [("x", 1), 7], lambda: [([], 1)], lambda: [(object(), 1)]],
)
def test_what_is_no_record_costs_its_item_only(outcome):
    def mapfn(keys, values):
        return outcome() if 5 in keys else [("n", value) for value in values]

    run = Run(mapfn, enumerate([1] * 20), sum_values)
    assert run.results == {"n": 19}
    assert [key for key, _ in run.rows] == [5]


def test_values_that_do_not_fold_cost_the_item_that_has_them():
    def mapfn(keys, values):
        for value in values:
            yield "n", value
            yield "m", "x" if value == 13 else 1
            if value == 13:
                yield "m", 1

    run = Run(mapfn, enumerate(range(20)), sum_values)
    assert run.results == {"n": sum(range(20)) - 13, "m": 19}


def test_a_function_that_has_changed_its_items_gets_them_again_as_they_came(tmp_path):
    (tmp_path / "a").write_text("".join('{"n": %s}\n' % ('"x"' if i == 13 else i) for i in range(40)))
    refs = [(ref.key, ref) for ref in JsonLines(tmp_path).refs()]
    reads = []
    units = JsonLinesRef.units

    def counted(ref):
        reads.append(ref)
        return units(ref)

    for items in (refs, [(i, {"n": "x" if i == 13 else i}) for i in range(40)]):
        seen = set()

        def mapfn(keys, values, seen=seen):
            while keys:
                key, row = keys.pop(), values.pop(0)
                seen.add((key if type(key) is int else 0, len(row)))
                yield "n", row.pop("n") + 0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(JsonLinesRef, "units", counted)
            run = Run(mapfn, items, sum_values, size=16, rules=Skipping(retries=1, max_skipped=1))
        assert run.results == {"n": sum(range(40)) - 13}
        assert {length for _, length in seen} == {1}
    assert len(reads) == 2  # once for the task, and once for all tries


def test_records_of_a_call_above_the_memory_of_its_task_are_grouped_while_it_runs():
    def mapfn(keys, values):
        for key in keys:
            yield from ((f"{key}-{i}", "x" * 100) for i in range(20))
            if key == 50:
                raise ValueError(key)

    small = 16 * 1024
    with pytest.raises(TaskFailure) as caught:
        Run(mapfn, enumerate(range(64)), count_values, size=64, memory=small)
    assert caught.value.item is None
    assert caught.value.is_divisible
    assert "in a call of 64 items, from 0 on" in caught.value.failure["error"]
    fine = Run(mapfn, enumerate(range(50)), count_values, size=64, memory=small)
    assert len(fine.results) == 50 * 20
    assert fine.stats.flushes > 5
    assert len(fine.calls) == 1


def test_what_fails_in_a_flush_of_a_call_can_be_looked_for_in_fewer_items():
    def collectfn(key, values):
        raise ValueError(key)

    marks = []
    with pytest.raises(TaskFailure) as caught:
        Run(words, enumerate(TEXTS[:8]), None, collectfn, mark_flush=marks.append)
    assert (caught.value.item, caught.value.is_divisible, marks) == (None, True, [None])
    with pytest.raises(TaskFailure) as caught:
        Run(words, enumerate(TEXTS[:1]), None, collectfn)
    assert caught.value.item == position_of(0)


@pytest.mark.parametrize("bad", range(4))
def test_a_flush_of_items_that_were_called_alone_blames_no_other_item(bad):
    """The call fails, so each item is alone. The groups are flushed after the first two."""

    def mapfn(keys, values):
        if len(keys) > 1:
            raise ValueError("one by one, please")
        for i in range(100):
            yield (keys[0], i), (lambda: 0) if keys[0] == bad and i == 99 else "x" * 20

    for memory in (3_000, 10_000, 30_000, MIB):
        with pytest.raises(TaskFailure) as caught:
            Run(mapfn, [(i, i) for i in range(4)], size=4, memory=memory)
        assert caught.value.item in (None, position_of(bad))
        assert caught.value.is_divisible or caught.value.item is not None


def test_what_runs_is_shown_as_a_call_or_as_the_item_that_is_alone():
    run = Run(words, with_bad(2), size=4, rules=Skipping(max_skipped=1))
    assert [each for each in run.shown if each[0]][:3] == [(4, 0), (2, 0), (2, 2)]
    assert run.marks == [position_of(2), position_of(3)]


def test_a_file_that_is_read_is_not_blamed_while_others_are_held(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}").write_text(f"w{i}")
    items = [(ref.key, ref) for ref in Files(tmp_path).refs()]
    run = Run(words, items, sum_values, size=4)
    assert run.results == {f"w{i}": 1 for i in range(6)}
    assert [entry_of(position) for position in run.marks] == [0, 4]  # the first of each call, and no other


class Joined(JsonLinesRef):
    __slots__ = ()
    joins_values = True

    def join_values(self, values):
        return tuple(values)


def test_a_ref_may_offer_the_values_of_a_call_as_one_object(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("".join(f"{i}\n" for i in range(5)))
    items = []
    for ref in JsonLines(tmp_path).refs():
        fields = {name: getattr(ref, name) for name in JsonLinesRef.__dataclass_fields__}
        items.append((ref.key, Joined(**fields)))
    kinds = []

    def mapfn(keys, values):
        kinds.append((type(values), len(values), {path for path, _ in keys}))
        if 3 in values and keys[0][0].endswith("b"):
            raise ValueError(values)
        return [("n", value) for value in values]

    run = Run(mapfn, items, sum_values, size=4)
    a, b = ({str(tmp_path / name)} for name in "ab")
    assert kinds == [
        *((tuple, 4, a), (tuple, 1, a)),  # no call is of two files
        *((tuple, 4, b), (tuple, 2, b), (tuple, 2, b), (tuple, 1, b), (tuple, 1, b), (tuple, 1, b)),
    ]
    assert run.results == {"n": 10 + 7}


def test_many_random_jobs_give_what_calls_of_one_give():
    choose = random.Random(13)
    for _ in range(40):
        count, size = choose.randrange(1, 200), choose.randrange(1, 70)
        bad = {choose.randrange(count) for _ in range(choose.randrange(4))}
        texts = [f"{'x ' * choose.randrange(3)}{i % 5} {'bad ' if i in bad else ''}z" for i in range(count)]
        reducefn = choose.choice([None, max_value, sum_values])
        rules = Skipping(retries=choose.randrange(2), max_skipped=10)
        run = Run(
            words, enumerate(texts), reducefn, size=size, rules=rules, memory=choose.choice([MIB, 64 * MIB])
        )
        good = [(i, text) for i, text in enumerate(texts) if i not in bad]
        assert run.results == RunOfOne(lambda k, v: words([k], [v]), good, reducefn).results
        assert [key for key, _ in run.rows] == sorted(bad)
        assert all(a < b for keys in run.calls for a, b in pairwise(keys))
