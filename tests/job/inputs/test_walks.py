"""walks: what was used up is noticed, what can be walked again is not held against anybody, and nothing is kept alive."""

import gc
import threading
import weakref
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple

import pytest

import mmgevent as mmg
from mmgevent import Job
from mmgevent.driver.input.batching import Speed
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.runners.inline import run_inline
from mmgevent.errors import DatasourceError, JobError
from mmgevent.job.inputs import walks
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.sources import is_safe_to_repeat
from tests.driver.input.test_feeding import drain, items_of, mapfn

FAST = Speed(items=1000, weight=0, seconds=0.1, slots=1)
PAIRS = [(n, n * n) for n in range(3000)]
EXPECTED = {n: [n * n] for n in range(3000)}


class Once:
    """It is no iterator, and can be walked through once."""

    def __init__(self, pairs):
        self.pairs = iter(pairs)

    def __iter__(self):
        yield from self.pairs


class Slotted:
    """Nothing can refer to it weakly."""

    __slots__ = ("pairs",)

    def __init__(self, pairs):
        self.pairs = iter(pairs)

    def __iter__(self):
        yield from self.pairs


class SameIterator(Once):
    """As progress bars and wrappers of files do it."""

    def __iter__(self):
        return self.pairs


class Cursor(Once):
    """As cursors of databases do it: it has `__next__`, and what iterates is something else."""

    def __next__(self):
        return next(self.pairs)


class OnceByIndex:
    """The old way to be iterable."""

    def __init__(self, pairs):
        self.pairs = iter(pairs)

    def __getitem__(self, index):
        for pair in self.pairs:
            return pair
        raise IndexError(index)


class OnceMapping:
    def __init__(self, pairs):
        self.table = dict(pairs)
        self.left = iter(self.table)

    def keys(self):
        return self.left

    def __getitem__(self, key):
        return self.table[key]


class OnceList(list):
    """A list that iterates in its own way."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.left = super().__iter__()

    def __iter__(self):
        return self.left


ONCE = [Once, Slotted, SameIterator, Cursor, OnceByIndex, OnceMapping, OnceList]


@pytest.mark.parametrize("kind", ONCE)
def test_what_can_be_walked_once_is_complete_the_first_time_and_refused_the_second(kind):
    job = Job(kind(PAIRS), mapfn)
    assert dict(run_inline(job)) == EXPECTED
    for again in (job, job.with_options(retries=1), Job(job.datasource, mapfn)):
        with pytest.raises(DatasourceError, match=rf"a {kind.__name__}, .*pass a function"):
            list(run_inline(again))


@pytest.mark.parametrize("kind", ONCE)
@pytest.mark.parametrize("made_by", ["job", "function"])
def test_what_can_be_walked_once_is_whole_again_after_a_restart(kind, made_by):
    thing = kind(PAIRS)
    feeder = Feeder(Job(thing if made_by == "job" else lambda: thing, mapfn))
    for _ in range(3):
        feeder.next_batch(FAST)
    feeder.restart()
    assert items_of(drain(feeder)) == PAIRS
    feeder.restart()
    assert items_of(drain(feeder)) == PAIRS
    feeder.close()


@pytest.mark.parametrize(
    "make",
    [lambda pairs: zip(*zip(*pairs, strict=True), strict=True), iter, lambda pairs: (pair for pair in pairs)],
)
def test_an_iterator_is_refused_in_any_second_job(make):
    iterator = make(PAIRS)
    assert dict(run_inline(Job(iterator, mapfn))) == EXPECTED
    with pytest.raises(DatasourceError, match="used up"):
        run_inline(Job(iterator, mapfn))


def test_a_function_that_returns_the_same_iterator_again_is_refused():
    for make in (iter, lambda pairs: map(tuple, pairs)):
        iterator = make(PAIRS)
        job = Job(lambda iterator=iterator: iterator, mapfn)
        assert dict(run_inline(job)) == EXPECTED
        with pytest.raises(DatasourceError, match=r"function .* returned a .* used up before"):
            run_inline(job)


def test_a_function_that_returns_the_same_iterator_is_refused_after_a_restart():
    iterator = iter(PAIRS)
    feeder = Feeder(Job(lambda: iterator, mapfn))
    feeder.next_batch(FAST)
    with pytest.raises(DatasourceError, match="it must make a new one each time"):
        feeder.restart()


def test_a_function_that_gives_less_after_a_restart_is_refused():
    left = deque(PAIRS)
    feeder = Feeder(Job(lambda: iter([left.popleft() for _ in range(min(len(left), 2000))]), mapfn))
    drain(feeder)
    feeder.restart()
    with pytest.raises(
        DatasourceError, match="gave 1000 items when the job was submitted again, and at least 2000"
    ):
        drain(feeder)


def test_a_function_whose_iterators_read_on_in_one_stream_is_refused_after_a_restart():
    stream = iter(PAIRS)
    feeder = Feeder(Job(lambda: (pair for pair in stream), mapfn))
    for _ in range(2):
        feeder.next_batch(Speed())
    feeder.restart()
    with pytest.raises(DatasourceError, match="did not give the item with which it began"):
        drain(feeder)


def test_a_function_may_give_its_items_in_another_order_after_a_restart():
    orders = iter([PAIRS, PAIRS[::-1]])
    feeder = Feeder(Job(lambda: iter(next(orders)), mapfn))
    feeder.next_batch(FAST)
    feeder.restart()
    assert items_of(drain(feeder)) == PAIRS[::-1]


def test_a_function_that_gives_nothing_any_more_is_told_of(caplog):
    stream = iter(PAIRS)
    job = Job(lambda: (pair for pair in stream), mapfn)
    assert dict(run_inline(job)) == EXPECTED
    assert not caplog.records
    assert dict(run_inline(job)) == {}
    assert "the datasource function gave no items, and 3,000 when it was called" in caplog.text


def test_nothing_is_said_of_a_function_that_never_gave_any(caplog):
    job = Job(lambda: iter([]), mapfn)
    for _ in range(2):
        assert dict(run_inline(job)) == {}
    assert not caplog.records


class Table:
    """It can be walked through as often as one likes, and nobody can know."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __iter__(self):
        return iter(self.pairs)


def test_what_can_be_walked_again_serves_many_submits_and_may_grow_but_not_shrink():
    table = Table(PAIRS[:100])
    for n in (100, 100, 200, 100):
        table.pairs = PAIRS[:n]
        assert len(dict(run_inline(Job(table, mapfn)))) == n
    table.pairs = PAIRS[:99]
    with pytest.raises(DatasourceError, match="gave 99 items, and 100 when"):
        list(run_inline(Job(table, mapfn)))


def fail_at(n):
    def failing(key, value):
        if key == n:
            raise ValueError("of the test")
        yield key, value

    return failing


@pytest.mark.parametrize("read", [1, 100, 2999])
def test_a_walk_that_goes_on_where_a_failed_job_stopped_is_refused(read):
    once = Once(PAIRS)
    feeder = Feeder(Job(once, mapfn, allocation="oneshot"))
    for _ in range(read):
        feeder.next_batch(FAST)
    feeder.close()  # its job failed, or was cancelled
    for _ in range(2):
        with pytest.raises(DatasourceError, match="pass a function"):
            list(run_inline(Job(once, mapfn)))


def test_a_failed_job_on_what_can_be_walked_again_may_be_submitted_again():
    table = Table(PAIRS)
    with pytest.raises(JobError, match="of the test"):
        list(run_inline(Job(table, fail_at(0))))
    assert dict(run_inline(Job(table, mapfn))) == EXPECTED


def test_two_jobs_that_share_what_can_be_walked_once_both_say_so():
    once = Once(PAIRS)
    first, second = Feeder(Job(once, mapfn)), Feeder(Job(once, mapfn))
    first.next_batch(FAST)
    with pytest.raises(DatasourceError, match="began with another item"):
        drain(second)
    with pytest.raises(DatasourceError, match="another job has had items"):
        drain(first)
    first.close()
    second.close()


class TestWhatIsKnown:
    @pytest.mark.parametrize(
        "thing",
        [
            [],
            (),
            {},
            set(),
            frozenset(),
            range(3),
            deque(),
            {}.items(),
            Counter(),
            OrderedDict(),
            OrderedDict().items(),
            defaultdict(list),
            namedtuple("Pair", "a b")(1, 2),
            Files("x"),
            Files("x") + Files("y"),
        ],
    )
    def test_containers_and_our_own_sources_are_safe_to_repeat(self, thing):
        assert is_safe_to_repeat(thing)

    @pytest.mark.parametrize("thing", [kind([]) for kind in ONCE] + [Table([]), UserDict(), iter([])])
    def test_whatever_iterates_in_a_way_of_its_own_is_not(self, thing):
        assert not is_safe_to_repeat(thing)

    def test_nor_is_a_source_of_somebody_else(self):
        assert not is_safe_to_repeat(type("Theirs", (Files,), {})("x"))


def test_nothing_is_kept_alive_or_remembered_of_what_is_gone():
    before = dict(walks._records)
    table, iterator = Table(PAIRS), zip(PAIRS, PAIRS, strict=True)
    for thing in (table, iterator):
        Feeder(Job(thing, mapfn)).close()
    gone = weakref.ref(table)
    del table, iterator, thing
    gc.collect()
    assert gone() is None
    Feeder(Job(iter([]), mapfn)).close()  # lets go of what allows no weak reference
    gc.collect()
    Feeder(Job(iter([]), mapfn)).close()
    assert len(walks._held) <= 1
    assert len(walks._records) <= len(before) + 1


def test_of_many_threads_that_claim_one_iterator_one_gets_it():
    iterator = zip(PAIRS, PAIRS, strict=True)
    start, outcomes = threading.Barrier(8), []

    def claim():
        start.wait()
        try:
            walks.claim(iterator, lambda: DatasourceError("used up"))
        except DatasourceError:
            outcomes.append("refused")
        else:
            outcomes.append("claimed")

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["claimed"] + ["refused"] * 7


def add_up(key, values):
    return sum(values)


def test_a_cluster_refuses_the_second_walk_too():
    once = Once(PAIRS)
    with mmg.LocalCluster(2) as cluster:
        assert cluster.run(Job(once, lambda key, value: [(0, 1)], add_up)) == {0: 3000}
        with pytest.raises(DatasourceError, match="gave 0 items, and 3000 when"):
            cluster.run(Job(once, lambda key, value: [(0, 1)], add_up))
