"""Counters on our own engine: once, whatever dies, is done twice, or runs at once."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gevent
import pytest

import mmgevent as mmg
from tests.waiting import wait_until

ITEMS = [(i, i) for i in range(200)]


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2) as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path):
    """Of the files by which functions and tests tell each other how far they are."""
    return tmp_path


def add(key, values):
    return sum(values)


def counted(cluster, job, **options):
    handle = cluster.submit(job, **options)
    handle.result()
    return handle.counters()


def test_what_a_dead_executor_counted_is_not_and_an_item_that_kills_is_set_aside(cluster):
    def mapfn(key, value):
        mmg.counter("items").add()
        if value == 150:
            os.kill(os.getpid(), signal.SIGKILL)
        yield value % 5, 1

    assert counted(cluster, mmg.Job(ITEMS, mapfn, add, max_skipped=1)) == {"items": 199}


def test_a_call_that_kills_is_bisected_and_the_others_count_once(cluster):
    def mapfn(keys, values):
        for value in values:
            mmg.counter("items").add()
            if value == 77:
                os._exit(3)
            yield value % 5, 1

    job = mmg.Job(ITEMS, mapfn, add, max_skipped=1, items_per_call=16)
    assert counted(cluster, job) == {"items": 199}


def test_items_at_once_and_greenlets_of_theirs_count_apart(cluster):
    def mapfn(key, value):
        def count():
            gevent.sleep(0)
            mmg.counter("greenlets").add()

        mmg.counter("items").add()
        gevent.joinall([gevent.spawn(count) for _ in range(3)])
        thread = threading.Thread(target=mmg.counter("threads").add)
        thread.start()
        thread.join()
        if value % 4 == 0:
            raise ValueError(value)
        yield value % 5, 1

    job = mmg.Job(ITEMS, mapfn, add, max_skipped=50, retries=1, greenlets=10)
    assert counted(cluster, job) == {"items": 150, "greenlets": 450, "threads": 150}


def test_threads_of_a_function_count_for_its_task(cluster):
    def mapfn(key, value):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda n: mmg.counter("calls").add(n), range(4)))
        yield value % 5, 1

    assert counted(cluster, mmg.Job(ITEMS[:20], mapfn, add)) == {"calls": 120}


def test_what_is_done_again_by_the_next_server_counts_once(cluster, folder):
    """Some partitions are delivered before the engine is lost: they are not reduced again."""

    def mapfn(key, value):
        mmg.counter("items").add()
        yield value % 50, 1

    def reducefn(key, values):
        mmg.counter("keys").add()
        if key % 10 == 3:
            (folder / f"waits-{os.getpid()}").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        return sum(values)

    handle = cluster.submit(mmg.Job(ITEMS, mapfn, reducefn, partitions=64), on_notice=print)
    stream = handle.stream()
    records = [next(stream)]
    wait_until(lambda: list(folder.iterdir()))
    wait_until(lambda: handle.counters().get("items") == 200)
    os.kill(cluster._engine.pid, signal.SIGKILL)
    (folder / "go").touch()
    records += stream
    assert sorted(records) == [(key, 4) for key in range(50)]
    assert handle.counters() == {"items": 200, "keys": 50}


def test_a_job_that_failed_tells_what_was_counted(cluster):
    def reducefn(key, values):
        raise ValueError("never")

    def mapfn(key, value):
        mmg.counter("items").add()
        yield key, 1

    handle = cluster.submit(mmg.Job(ITEMS, mapfn, reducefn))
    assert isinstance(handle.exception(60), mmg.JobError)
    assert set(handle.counters()) <= {"items"}


def test_counters_that_are_too_many_only_together_end_the_job(cluster):
    def mapfn(key, value):
        mmg.counter(f"n{value}").add()
        yield value, 1

    job = mmg.Job([(i, i) for i in range(102)], mapfn, add, retransmit=0)
    with pytest.raises(mmg.JobError, match="more than 100 counters"):
        cluster.run(job)


def test_a_counter_of_the_program_travels_and_counts_in_offered_functions(tmp_path):
    bad = mmg.counter("bad")

    def mapfn(key, value):
        bad.add(value)
        yield key, value

    with mmg.LocalCluster(1) as cluster:
        assert counted(cluster, mmg.Job(ITEMS[:5], mapfn)) == {"bad": 10}
    assert bad.value == 0
