"""Counters: only what counts is counted, by whichever greenlet or thread, and bad use is refused by name."""

import contextvars
import copy
import pickle
import threading

import pytest

from mmgevent import counter
from mmgevent.errors import JobError, UsageError
from mmgevent.job.functions import Functions
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.counters import (
    TaskTally,
    Totals,
    check_names,
    counting,
    counting_item,
    drop_counts,
    refusing,
)
from mmgevent.tasks.records import encode_segment
from mmgevent.tasks.run import run_map, run_reduce
from mmgevent.tasks.skipping import Skipping
from mmgevent.wire.limits import MAX_COUNTED, MAX_COUNTER_NAME_CHARS, MAX_COUNTERS


def counts_of(mapfn, items, *, retries=0, max_skipped=0, calls=None, memory_bytes=1 << 26):
    items = list(items)
    return run_map(
        Functions.of(mapfn=mapfn),
        items,
        partitions=4,
        memory_bytes=memory_bytes,
        emit=lambda flush: None,
        mark=lambda position, key: None,
        skipping=Skipping(retries, max_skipped),
        decode=lambda: items,
        calls=calls,
    ).counters


def test_items_that_are_set_aside_do_not_count_and_others_count_once():
    def mapfn(key, value):
        counter("begun").add()
        yield key, 1
        if value % 3 == 0:
            raise ValueError(value)
        counter("good").add(2)

    assert counts_of(mapfn, enumerate(range(9)), max_skipped=5) == {"begun": 6, "good": 12}


@pytest.mark.parametrize("retries", [0, 2])
def test_an_item_that_fails_before_it_counts_takes_no_count_of_others_along(retries):
    def mapfn(key, value):
        if value % 3 == 0:
            raise ValueError(value)
        counter("good").add()
        yield key, 1

    assert counts_of(mapfn, enumerate(range(10)), retries=retries, max_skipped=5) == {"good": 6}
    assert counts_of(lambda k, v: list(mapfn(k, v)), enumerate(range(10)), max_skipped=5) == {"good": 6}


@pytest.mark.parametrize("records", [1, 5000])  # more than are taken into a list, too
def test_a_try_that_failed_does_not_count(records):
    tries = {}

    def mapfn(key, value):
        counter("begun").add()
        tries[key] = tries.get(key, 0) + 1
        for i in range(records):
            yield i, 1
        counter("ended").add()
        if tries[key] < 3 and value % 2:
            raise ValueError

    assert counts_of(mapfn, enumerate(range(6)), retries=2) == {"begun": 6, "ended": 6}
    assert tries == {i: 3 if i % 2 else 1 for i in range(6)}


def test_halves_of_a_call_count_once():
    tried = []

    def mapfn(keys, values):
        tried.append(len(keys))
        for key, value in zip(keys, values, strict=True):
            counter("items").add()
            if value == 5:
                raise ValueError
            yield key, value
        counter("calls").add()

    rules = CallRules(8, lambda count, key: None)
    counts = counts_of(mapfn, enumerate(range(16)), max_skipped=1, calls=rules)
    assert counts == {"items": 15, "calls": 4}
    assert tried == [8, 4, 4, 2, 1, 1, 2, 8]


def test_a_call_that_outgrows_the_memory_counts():
    def mapfn(keys, values):
        for key in keys:
            counter("items").add()
            yield key, "x" * 1000

    rules = CallRules(50, lambda count, key: None)
    assert counts_of(mapfn, enumerate(range(100)), calls=rules, memory_bytes=1000) == {"items": 100}


def test_a_reduce_task_counts_its_keys():
    def reducefn(key, values):
        counter("keys").add()
        return len(values)

    segment = encode_segment([1, 2, 3], [[1], [2], [3]], grouped=True)
    stats = run_reduce(
        Functions.of(reducefn=reducefn),
        [(0, len(segment), [segment])],
        partitions=1,
        memory_bytes=1 << 20,
        emit=lambda flush: None,
        mark=lambda index, key: None,
    )
    assert stats.counters == {"keys": 3}


def test_threads_count_for_the_task_that_runs_and_lose_nothing():
    tally = TaskTally()
    with counting(tally):
        threads = [
            threading.Thread(target=lambda: [counter("n").add() for _ in range(2000)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tally.counts() == {"n": 8000}


def in_thread(function):
    raised = []

    def call():
        try:
            function()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised


def test_a_thread_that_could_belong_to_two_tasks_is_refused_unless_it_has_the_context():
    one, other = TaskTally(), TaskTally()
    with counting(one), counting(other):
        # Since 3.14 a thread may inherit the context.
        [error] = in_thread(lambda: contextvars.Context().run(counter("n").add))
        assert "copy_context" in str(error)
        context = contextvars.copy_context()
        assert in_thread(lambda: context.run(counter("n").add)) == []
    assert (one.counts(), other.counts()) == ({}, {"n": 1})


def test_threads_of_a_program_that_offers_functions_count_for_themselves():
    before = counter("mine").value
    tally = TaskTally()
    with counting(tally, takes_threads=False):
        counter("mine").add()
        in_thread(lambda: contextvars.Context().run(counter("mine").add))
    assert tally.counts() == {"mine": 1}
    assert counter("mine").value == before + 1


def add_and_fail():
    counter("n").add(10)
    raise ZeroDivisionError


def test_items_that_run_at_once_count_apart():
    task = TaskTally()
    with counting(task):
        with counting_item():
            counter("n").add(5)
            drop_counts()
            counter("n").add(1)
        with pytest.raises(ZeroDivisionError), counting_item():
            add_and_fail()
    assert task.counts() == {"n": 1}


def test_outside_of_a_job_a_counter_counts_in_its_process():
    plain = counter("test: outside")
    plain.add()
    plain.add(4)
    assert counter("test: outside").value == 5
    assert repr(plain) == "<counter 'test: outside'>"
    for copied in (pickle.loads(pickle.dumps(plain)), copy.deepcopy(plain)):
        copied.add()
    assert plain.value == 7


class Whole:
    def __index__(self):
        return 3


def test_whole_numbers_of_all_kinds_count_and_others_are_refused_by_name():
    tally = TaskTally()
    with counting(tally):
        counter("n").add(True)
        counter("n").add(Whole())
        counter("n").add(0)
        assert counter("n").value == 4
        for wrong, text in (
            (1.0, "counts whole numbers, not float"),
            ("1", "not str"),
            (None, "not NoneType"),
            (-1, "can only grow, by 0 to 9223372036854775807, not by -1"),
            (10**5000, "not by an int of 16,610 bits"),
            (2**63, "not by 9223372036854775808"),
            (10**100, r"not by 1000000000000000000000000000000000000000\.\.\."),
        ):
            with pytest.raises(UsageError, match=f"^the counter 'n' .*{text}"):
                counter("n").add(wrong)
        counter("n").add(MAX_COUNTED - 4)
        with pytest.raises(UsageError, match="exceeds"):
            counter("n").add()
    assert tally.counts() == {"n": MAX_COUNTED}


@pytest.mark.parametrize(
    "name",
    ["", "  ", "a\n", "\x1b[31m", "x" * (MAX_COUNTER_NAME_CHARS + 1), "\ud800", "x" * 10**6],
    ids=["empty", "blank", "newline", "escape", "long", "surrogate", "huge"],
)
def test_names_that_cannot_be_shown_are_refused(name):
    with pytest.raises(UsageError, match="the name of a counter has 1 to 100 characters") as raised:
        counter(name)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize("name", [None, 1, b"x"])
def test_a_name_is_a_string(name):
    with pytest.raises(UsageError, match="is a string, not "):
        counter(name)


def test_one_name_too_many_is_refused():
    tally = TaskTally()
    with counting(tally):
        for i in range(MAX_COUNTERS):
            counter(f"n{i}").add()
            tally.keep()
        with pytest.raises(UsageError, match="more than 100 counters, among them 'n0', 'n1', 'n10'"):
            counter("one more").add()
        counter("n5").add()
    assert len(tally.counts()) == MAX_COUNTERS
    totals = Totals()
    totals.add(tally.counts())
    check_names(totals.counts())
    totals.add({f"other {i}": 1 for i in range(MAX_COUNTERS)})
    assert len(totals.counts()) == MAX_COUNTERS + 1
    with pytest.raises(JobError, match="more than 100 counters"):
        check_names(totals.counts())


def test_setupfn_and_finishfn_refuse_by_name():
    with refusing("setupfn", "because"):
        with pytest.raises(UsageError, match=r"^the counter 'n' cannot count in setupfn: because$"):
            counter("n").add()
        assert counter("n").value == 0
