"""`mmgevent.testing.check`: jobs that keep their promises pass, and of others it says which is broken."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent import reducers, testing
from mmgevent.testing import BrokenPromiseError, check
from tests import promising as p

WORDS = dict(Counter(word for _, text in p.TEXT for word in text.split()))
PAGE = Path(__file__).parents[1] / "docs" / "testing.md"


@pytest.fixture(scope="module", autouse=True)
def _shared():
    yield
    testing.close_shared()


KEPT = {
    "pair": ({"mapfn": p.words, "reducefn": p.add}, WORDS),
    "iterator": ({"mapfn": p.words, "reducefn": p.add_all}, WORDS),
    "combined": ({"mapfn": p.words, "reducefn": p.add, "collectfn": p.add}, WORDS),
    "combined all": ({"mapfn": p.words, "reducefn": p.add_all, "collectfn": p.add_all}, WORDS),
    "known": (p.known(), WORDS),
    "many": ({"mapfn": p.words_of_all, "reducefn": p.add, "items_per_call": 7}, WORDS),
    "finished": (
        {"mapfn": p.words, "reducefn": p.add, "finishfn": lambda k, v: -v},
        {k: -v for k, v in WORDS.items()},
    ),
    # sums of floats differ in their last digits
    "floats": (
        {"mapfn": p.shares, "reducefn": p.add, "collectfn": p.add},
        {0: pytest.approx(sum(range(0, 40, 2)) / 7), 1: pytest.approx(sum(range(1, 40, 2)) / 7)},
    ),
    # values are in the order of the datasource, and that is a promise of the engine
    "ordered": ({"mapfn": p.one_key, "reducefn": p.first}, {"all": 0}),
    "sorted": ({"mapfn": p.one_key, "reducefn": p.first, "sort_values": True}, {"all": 0}),
    "lists": ({"mapfn": p.lengths}, {1: list(range(40))}),
    "unmapped": ({"reducefn": p.concatenate}, dict(p.TEXT)),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_job_that_keeps_its_promises_gives_its_results(name):
    functions, results = KEPT[name]
    assert check(mmg.Job(p.TEXT, **functions)) == results


def test_files_and_chains_are_checked(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{text}\n" for _, text in p.TEXT))
    job = mmg.Job(mmg.Lines(path), p.words, p.add).then(p.swap, p.ordered)
    assert check(job)[80] == ["the"]


def test_items_that_a_job_sets_aside_are_no_fault_of_it(tmp_path):
    numbers = [(number, number) for number in range(40)]
    assert check(mmg.Job(numbers, p.refuse_some, p.add, max_skipped=0.5)) == {0: 237, 1: 234, 2: 237}
    per_call = mmg.Job(numbers, p.refuse_some_of_all, p.add, max_skipped=0.5, items_per_call=7)
    assert check(per_call) == {0: 237, 1: 234, 2: 237}
    path = tmp_path / "lines.jsonl"
    path.write_text('1\n2\n{"broken\n4\n')
    assert check(mmg.Job(mmg.JsonLines(path), p.swap, max_skipped=1)).keys() == {1, 2, 4}


def test_sums_of_floats_may_come_in_any_order():
    numbers = [(0, number) for number in (0.1, 0.2, -0.3, 1e6 + 0.1, -1e6 - 0.1)]
    assert abs(check(mmg.Job(numbers, p.one_key, p.add, collectfn=p.add))["all"]) < 1e-9


def test_an_executor_is_killed_in_a_check(monkeypatch):
    deaths = []

    def run_on(cluster, job):
        handle = cluster.submit(job, on_notice=lambda text: None)
        records = list(handle.stream())
        deaths.append(len(handle.deaths()))
        return records

    monkeypatch.setattr(testing, "_run_on", run_on)
    check(mmg.Job(p.TEXT, p.words, p.add))
    check(mmg.Job(p.TEXT, reducefn=p.concatenate))
    check(mmg.Job([("a", 1)], reducefn=p.add_all))
    assert deaths == [0, 1, 0, 1, 0, 1]


BROKEN = {
    "a counter": ({"mapfn": p.count_calls, "reducefn": p.add}, "state", "mapfn"),
    "chance": ({"mapfn": p.draw, "reducefn": p.add}, "state", "mapfn"),
    "time": ({"mapfn": p.look_at_clock}, "state", "mapfn"),
    "the item before": ({"mapfn": p.look_back}, "order", "mapfn"),
    "a mean of means": (
        {"mapfn": p.lengths, "reducefn": p.mean, "collectfn": p.mean},
        "combiner",
        "collectfn",
    ),
    "the order of keys": ({"mapfn": p.words, "reducefn": p.rank}, "order", "reducefn"),
    "all keys": ({"mapfn": p.words, "reducefn": p.share_of_all}, "order", "reducefn"),
    "a counter of keys": ({"mapfn": p.words, "reducefn": p.count_up}, "state", "reducefn"),
    "a lossy record": ({"mapfn": p.forget}, "pickling", "mapfn"),
    "a lossy result": ({"mapfn": p.words, "reducefn": p.forget_result}, "pickling", "reducefn"),
    "the process": ({"mapfn": p.process, "reducefn": reducers.unique_values}, "results", None),
    "the process that reduces": ({"mapfn": p.words, "reducefn": p.in_process}, "results", None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(name):
    functions, promise, function = BROKEN[name]
    with pytest.raises(AssertionError) as caught:
        check(mmg.Job(p.TEXT, **functions))
    error = caught.value
    assert isinstance(error, BrokenPromiseError)
    assert (error.promise, error.function) == (promise, function)
    assert error.key in str(error)


def test_a_job_without_promises_to_break_fails_as_it_does_anywhere():
    def fail(key, text):
        raise ZeroDivisionError

    with pytest.raises(mmg.JobError, match="ZeroDivisionError"):
        check(mmg.Job(p.TEXT, fail))
    with pytest.raises(mmg.JobError, match="cannot be pickled"):
        check(mmg.Job(p.TEXT, p.keep_here))


def test_the_order_of_values_matters_from_the_second_stage_on():
    job = mmg.Job(p.TEXT, p.words, p.add).then(p.one_key, p.first)
    with pytest.raises(BrokenPromiseError, match="stage 2 of 2: reducefn at 'all'") as caught:
        check(job)
    assert caught.value.promise == "order"


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(mmg.UsageError, match="gives its items once"):
        check(mmg.Job(iter(p.TEXT), p.words))
    with pytest.raises(mmg.UsageError, match="needs the function itself"):
        check(mmg.Job(p.TEXT, "stats"))


def test_the_fixture_and_the_page_work_in_a_suite_of_ones_own(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert blocks
    (tmp_path / "test_page.py").write_text("\n".join(blocks))
    (tmp_path / "test_a.py").write_text(
        "import sys\n"
        "def test_nothing_is_imported_before_it_is_used():\n"
        "    assert not [name for name in sys.modules if name.startswith('mmgevent.driver')]\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "test_a.py",
            "test_page.py",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
