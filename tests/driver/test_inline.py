"""Tests of mmgevent.driver.runners.inline and mmgevent.driver.results: whole jobs against plain Python."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgevent import reducers
from mmgevent.driver.results import apply_finish, build_dict
from mmgevent.driver.runners import inline_run
from mmgevent.driver.runners.inline import run_inline
from mmgevent.errors import (
    DatasourceError,
    DuplicateKeyError,
    FunctionError,
    JobError,
    TooManySkippedError,
    UsageError,
)
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.lines import Lines
from mmgevent.job.job import Job
from tests.oracle import plain_mapreduce

DOCS = {f"doc {i}": "the quick brown fox " * (i % 4) + f"n{i % 5}" for i in range(50)}


def words(name, text):
    for word in text.split():
        yield word, 1


def total(key, values):
    return sum(values)


def run(*args, **kwargs):
    return build_dict(run_inline(Job(*args, **kwargs)))


def test_a_job_that_fails_in_map_has_no_figures_of_reduce():
    states = []

    def works_and_fails(key, value):
        sum(range(1_000_000))
        raise ValueError("bad")

    job = Job({1: 1}, works_and_fails, total)
    with pytest.raises(JobError, match="bad"):
        build_dict(run_inline(job, watch=states.append))
    figures = states[0].figures()
    assert "keys" not in figures
    assert "shuffled_bytes" not in figures
    assert figures["cpu_seconds"] > 0


class FailsTimes:
    """A map function that fails the first `times` times at `bad` keys."""

    def __init__(self, times, bad):
        self.left = dict.fromkeys(bad, times)

    def __call__(self, key, value):
        if self.left.get(key):
            self.left[key] -= 1
            raise ValueError(f"bad {key}")
        return [(key, value)]


class CountsCopies:
    """A value that knows how often it was pickled."""

    def __init__(self, copies=0):
        self.copies = copies

    def __reduce__(self):
        return CountsCopies, (self.copies + 1,)


# --- results ---


@pytest.mark.parametrize(
    "functions",
    [
        {"reducefn": total},
        {"reducefn": total, "collectfn": total},
        {"reducefn": reducers.sum_values},
        {"reducefn": lambda groups: ((k, sum(v)) for k, v in groups)},
        {"reducefn": total, "finishfn": lambda key, value: value},
        {"reducefn": total, "finishfn": lambda records: records},
        {"reducefn": total, "partitions": 1},
        {"reducefn": total, "memory_limit": 16 * 1024 * 1024},
    ],
)
def test_a_job_gives_what_plain_python_gives(functions):
    assert run(DOCS, words, **functions) == plain_mapreduce(DOCS.items(), words, total)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 9), st.text(max_size=3))))))
def test_values_come_in_datasource_order(items):
    assert run(items, lambda k, v: v) == plain_mapreduce(items, lambda k, v: v)


def test_files_and_lines_are_read(tmp_path):
    for name, text in DOCS.items():
        (tmp_path / name).write_text(text + "\n")
    expected = plain_mapreduce(DOCS.items(), words, total)
    assert run(Files(tmp_path), words, total) == expected
    assert run(Lines(tmp_path), lambda k, line: words(k, line), total) == expected


def test_many_batches_and_a_spilling_store_change_nothing(monkeypatch):
    monkeypatch.setattr(inline_run, "_SPEED", type(inline_run._SPEED)(items=3, seconds=1.0))
    monkeypatch.setattr(inline_run, "STORE_BYTES", 2000)
    batches = []
    original = inline_run.InlineRun._map_batch
    monkeypatch.setattr(
        inline_run.InlineRun,
        "_map_batch",
        lambda self, *args: batches.append(args[0]) or original(self, *args),
    )
    items = [(i, [(j, i) for j in range(i % 13)]) for i in range(200)]
    assert run(items, lambda k, v: v) == plain_mapreduce(items, lambda k, v: v)
    assert len(batches) > 20


def test_functions_run_here_and_items_and_records_pass_through_the_encoding():
    here = []

    def mapfn(key, value):
        here.append((threading.get_ident(), value.copies))
        yield key, value

    def reducefn(key, values):
        here.append((threading.get_ident(), values[0].copies))
        return values[0]

    result = run([("a", CountsCopies())], mapfn, reducefn)
    assert {thread for thread, _ in here} == {threading.get_ident()}
    copies = [copies for _, copies in here] + [result["a"].copies]
    assert copies == sorted(set(copies))
    assert copies[0] >= 1


def test_an_empty_datasource_gives_no_results():
    assert run([], words, total) == {}
    assert run(DOCS, lambda k, v: [], total) == {}


def test_oneshot_gives_its_only_worker_one_item():
    read = []

    def items():
        for i in range(5):
            read.append(i)
            yield i, i

    assert run(items, lambda k, v: [(k, v)], allocation="oneshot") == {0: [0]}
    assert read == [0]


def test_results_are_given_as_they_come_and_closing_early_is_clean():
    results = run_inline(Job(DOCS, words, total))
    assert next(results)
    results.close()


# --- what is wrong ---


def test_what_is_wrong_with_a_job_is_said_before_it_runs():
    with pytest.raises(FunctionError):
        run_inline(Job(DOCS))
    with pytest.raises(DatasourceError):
        run_inline(Job(17, words))
    with pytest.raises(UsageError, match="'stats' is given by name"):
        run_inline(Job(DOCS, "stats"))


def test_a_one_shot_datasource_serves_once():
    job = Job(iter(DOCS.items()), words, total)
    assert len(build_dict(run_inline(job))) == 9
    with pytest.raises(DatasourceError, match="used up"):
        run_inline(job)


def test_a_failing_function_ends_the_job_and_keeps_the_exception():
    with pytest.raises(JobError, match="mapfn at 'b': ValueError: bad b") as caught:
        run([("a", 1), ("b", 2)], FailsTimes(1, "b"))
    assert (caught.value.kind, caught.value.function, caught.value.key) == ("exception", "mapfn", "'b'")
    assert "raise ValueError" in caught.value.traceback
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(JobError, match="reducefn at ") as caught:
        run(DOCS, words, lambda k, v: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_items_are_retried_one_by_one():
    items = [(k, 1) for k in "abcd"]
    assert run(items, FailsTimes(2, "bd"), total, retries=2) == dict(items)
    with pytest.raises(JobError, match="bad b"):
        run(items, FailsTimes(3, "b"), total, retries=2)


def test_an_attempt_that_failed_leaves_nothing():
    calls = Counter()

    def mapfn(key, value):
        yield key, 1
        calls[key] += 1
        if calls[key] == 1:
            raise ValueError

    assert run([(k, 0) for k in "abc"], mapfn, total, retries=1) == {"a": 1, "b": 1, "c": 1}


def test_keys_are_reduced_again_where_retries_allow():
    calls = Counter()

    def reducefn(key, values):
        calls[key] += 1
        if key == "the" and calls[key] == 1:
            raise ValueError
        return sum(values)

    assert run(DOCS, words, reducefn, retries=1) == plain_mapreduce(DOCS.items(), words, total)


def test_items_may_be_set_aside_up_to_a_number_or_a_share(caplog):
    items = [(k, 1) for k in "abcdefgh"]
    kept = {k: 1 for k in "abcdefgh" if k not in "ce"}
    assert run(items, FailsTimes(9, "ce"), total, max_skipped=2) == kept
    assert caplog.text.count("item set aside: '") == 2
    assert run(items, FailsTimes(9, "ce"), total, max_skipped=0.25) == kept
    with pytest.raises(TooManySkippedError, match="bad e"):
        run(items, FailsTimes(9, "ce"), total, max_skipped=1)
    with pytest.raises(TooManySkippedError, match="bad e"):
        run(items, FailsTimes(9, "ce"), total, max_skipped=0.2)


def test_ctrl_c_is_ctrl_c_and_exit_is_a_failure():
    def mapfn(key, value):
        raise value

    with pytest.raises(KeyboardInterrupt):
        run([(1, KeyboardInterrupt())], mapfn)
    with pytest.raises(JobError, match="SystemExit: 3"):
        run([(1, SystemExit(3))], mapfn)


class Signalled(BaseException):
    """What a handler of SIGTERM raises."""


@pytest.fixture
def raise_by_signal():
    """Raise an exception in the handler of a signal."""
    kinds = []

    def send(kind):
        kinds.append(kind)
        signal.raise_signal(signal.SIGUSR1)

    def handler(number, frame):
        raise kinds[-1]

    before = signal.signal(signal.SIGUSR1, handler)
    yield send
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("signalled", [KeyboardInterrupt, Signalled])
@pytest.mark.parametrize("options", [{"max_skipped": 1}, {"retries": 1}])
def test_a_signal_is_neither_set_aside_nor_tried_again(signalled, options, raise_by_signal):
    begun = []

    def stop_at_two(key, value):
        begun.append(key)
        if key == 2:
            raise_by_signal(signalled)
        yield key, value

    def stop(key, values):
        begun.append(key)
        raise_by_signal(signalled)

    with pytest.raises(signalled):
        run([(1, 1), (2, 2), (3, 3)], stop_at_two, **options)
    assert begun == [1, 2]
    begun.clear()
    with pytest.raises(signalled):
        run([(1, 1)], None, stop, **options)
    assert begun == [1]


@pytest.mark.parametrize("signalled", [KeyboardInterrupt, Signalled])
@pytest.mark.parametrize("options", [{}, {"max_skipped": 1}, {"retries": 1}])
def test_a_signal_in_a_call_of_many_items_ends_the_run(signalled, options, raise_by_signal):
    begun = []

    def stop(keys, values):
        begun.append(keys)
        if len(begun) == 1:
            raise_by_signal(signalled)
        return zip(keys, values, strict=True)

    def stop_sorting(value):
        begun.append(value)
        raise_by_signal(signalled)

    with pytest.raises(signalled):
        run([(1, 1), (2, 2), (3, 3)], stop, items_per_call=4, **options)
    assert begun == [[1, 2, 3]]
    begun[:] = [None]
    with pytest.raises(signalled):
        run([(1, 1), (2, 2)], stop, total, sort_values=stop_sorting, items_per_call=4, **options)
    assert begun == [None, [1, 2], 1]


@pytest.mark.parametrize("kind", [Signalled, asyncio.CancelledError, gevent.Timeout, GeneratorExit])
def test_what_a_function_raises_by_itself_is_a_failure_whatever_its_class(kind):
    def mapfn(key, value):
        if key == 2:
            raise kind
        yield "n", 1

    items = [(1, 1), (2, 2), (3, 3)]
    assert run(items, mapfn, total, max_skipped=1) == {"n": 2}
    with pytest.raises(JobError, match=kind.__name__):
        run(items, mapfn, total)


def test_a_file_that_grows_meanwhile_is_read_as_it_was_and_a_replaced_one_refused(tmp_path):
    path = tmp_path / "a"

    def mapfn(key, text):
        path.write_text(text + " and more" if text == "one" else "2")
        yield text, 1

    path.write_text("one")
    assert run(Files(path) + Files(path), mapfn, total) == {"one": 2}
    path.write_text("two")
    with pytest.raises(DatasourceError, match="changed or went away"):
        run(Files(path) + Files(path), mapfn, total)


# --- setup ---


def test_setupfn_is_called_once_before_any_other_function():
    calls = []

    def mapfn(key, value):
        calls.append("map")
        yield key, value

    results = run(
        [(1, 2), (3, 4)],
        mapfn,
        lambda key, values: calls.append("reduce") or sum(values),
        setupfn=lambda: calls.append("setup"),
    )
    assert results == {1: 2, 3: 4}
    assert calls == ["setup", "map", "map", "reduce", "reduce"]
    assert run([], mapfn, setupfn=lambda: calls.append("for nothing")) == {}
    assert "for nothing" not in calls


def test_a_setupfn_that_fails_fails_the_job_whatever_may_be_skipped():
    calls = []

    def setupfn():
        calls.append(1)
        raise OSError("no model")

    with pytest.raises(JobError, match="setupfn: OSError: no model") as caught:
        run([(1, 2)], words, setupfn=setupfn, retries=3, max_skipped=0.9)
    assert (caught.value.function, caught.value.kind, calls) == ("setupfn", "exception", [1])
    assert isinstance(caught.value.__cause__, OSError)
    assert 'raise OSError("no model")' in caught.value.traceback


def test_ctrl_c_in_setupfn_ends_the_run():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([(1, 2)], words, setupfn=interrupt)


# --- finish, dict ---


def test_finishfn_is_applied_in_either_form_and_orders_the_results():
    records = [("b", 2), ("a", 1)]
    assert list(apply_finish(None, None, records)) == records
    assert list(apply_finish(lambda k, v: v * 10, "pair", records)) == [("b", 20), ("a", 10)]
    assert list(apply_finish(sorted, "iterator", records)) == [("a", 1), ("b", 2)]
    assert list(apply_finish(dict, "iterator", records)) == records


@pytest.mark.parametrize(
    ("finishfn", "form", "text"),
    [
        (lambda k, v: 1 / 0, "pair", "finishfn at 'b': ZeroDivisionError"),
        (lambda records: ((k, 1 / 0) for k, _ in records), "iterator", "finishfn at 'b': ZeroDivisionError"),
        (lambda records: None, "iterator", "finishfn returned None"),
        (lambda records: 7, "iterator", "finishfn returned an object of type int"),
        (lambda records: [3], "iterator", r"finishfn gave 3, which is no \(key, value\) pair"),
    ],
)
def test_a_failing_finishfn_is_a_job_error(finishfn, form, text):
    with pytest.raises(JobError, match=text) as caught:
        list(apply_finish(finishfn, form, [("b", 2)]))
    assert (caught.value.kind, caught.value.function) == ("finish", "finishfn")
    if "Zero" in text:
        assert "1 / 0" in caught.value.traceback
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_the_records_raise_is_not_blamed_on_finishfn():
    def records():
        yield "a", 1
        raise JobError("lost", {"kind": "lost"})

    def swallows(source):
        try:
            yield from source
        except JobError:
            yield "all", "well"

    for finishfn, form in (
        (None, None),
        (lambda k, v: v, "pair"),
        (iter, "iterator"),
        (swallows, "iterator"),
    ):
        with pytest.raises(JobError, match="lost") as caught:
            list(apply_finish(finishfn, form, records()))
        assert caught.value.kind == "lost"


def test_a_dict_never_loses_a_record():
    assert build_dict([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(DuplicateKeyError, match=r"'a'.*handle\.stream\(\)"):
        build_dict([("a", 1), ("b", 2), ("a", 1)])
    with pytest.raises(JobError, match=r"\['a'\] cannot be a key.*handle\.stream\(\)"):
        build_dict([(["a"], 1)])
