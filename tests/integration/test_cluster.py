"""Clusters end to end: real engines, templates and executors; the oracle is inline and plain Python."""

import collections
import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import mmgevent as mmg
from mmgevent.driver import handle as handle_module
from mmgevent.reducers import count_values, sum_values
from mmgevent.wire.frames import CONTROL, Frame

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
TEXT = dict(
    enumerate(
        [
            "Humpty Dumpty sat on a wall",
            "Humpty Dumpty had a great fall",
            "All the King's horses and all the King's men",
            "Couldn't put Humpty together again",
        ]
    )
)


def map_words(key, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


def add(key, values):
    return sum(values)


def count_words(texts):
    return dict(collections.Counter(w for text in texts for w in re.findall(r"[a-z']+", text.lower())))


@pytest.fixture(scope="module")
def cluster():
    # Earlier modules may leave a process of Python's own, such as the resource tracker of multiprocessing.
    before = descendants()
    with mmg.LocalCluster(2) as cluster:
        yield cluster
    assert descendants() <= before


def wait_until(condition, timeout_s=60.0):
    """Look until it holds: what another process does has no event here."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.01)


def descendants():
    return {p.pid for p in psutil.Process().children(recursive=True)}


def test_the_classic_gives_what_plain_python_gives(cluster):
    job = mmg.Job(TEXT, map_words, add)
    assert cluster.run(job) == count_words(TEXT.values()) == mmg.run(job, inline=True)


@pytest.mark.parametrize(
    "functions",
    [
        {"mapfn": map_words, "reducefn": add, "collectfn": add},
        {"mapfn": map_words, "reducefn": sum_values},
        {"mapfn": map_words, "reducefn": count_values},
        {"mapfn": map_words, "reducefn": lambda groups: ((k, sum(v)) for k, v in groups)},
        {"mapfn": map_words, "collectfn": lambda groups: ((k, sum(v)) for k, v in groups), "reducefn": add},
        {"mapfn": lambda k, v: dict(collections.Counter(re.findall(r"[a-z']+", v.lower()))), "reducefn": add},
    ],
    ids=["combiner", "sum_values", "count_values", "iterator reduce", "iterator collect", "mapping"],
)
def test_every_form_of_a_word_count_gives_the_same(cluster, functions):
    job = mmg.Job(TEXT, **functions)
    assert cluster.run(job) == count_words(TEXT.values()) == mmg.run(job, inline=True)


def test_map_only_gives_lists_of_values_in_datasource_order(cluster):
    job = mmg.Job([(n, n) for n in range(1000)], lambda k, v: [(k % 7, v)])
    assert cluster.run(job) == {r: list(range(r, 1000, 7)) for r in range(7)}


def test_reduce_only_takes_the_items_as_records(cluster):
    job = mmg.Job(lambda: ((n % 3, n) for n in range(100)), reducefn=add)
    assert cluster.run(job) == {r: sum(range(r, 100, 3)) for r in range(3)}


def test_finishfn_runs_here_in_both_forms(cluster):
    here = []

    def finish(key, value):
        here.append(os.getpid())
        return -value

    job = mmg.Job(TEXT, map_words, add, finishfn=finish)
    assert cluster.run(job)["humpty"] == -3
    assert set(here) == {os.getpid()}
    ordered = mmg.Job(
        TEXT, map_words, add, finishfn=lambda results: sorted(results, key=lambda r: (-r[1], r[0]))[:2]
    )
    assert list(cluster.submit(ordered).stream()) == [("humpty", 3), ("a", 2)]


def test_an_empty_datasource_gives_an_empty_result(cluster):
    assert cluster.run(mmg.Job([], map_words, add)) == {}


def test_novels_are_counted_exactly(cluster):
    if not CORPUS.is_dir():
        pytest.skip(f"no corpus at {CORPUS}")
    expected = count_words(path.read_text("utf-8") for path in CORPUS.glob("*.txt"))
    assert cluster.run(mmg.Job(mmg.Files(CORPUS / "*.txt"), map_words, add, collectfn=add)) == expected
    lines = mmg.Job(mmg.Lines(CORPUS / "*.txt"), map_words, sum_values)
    assert cluster.run(lines) == expected


def test_many_tiny_items(cluster):
    job = mmg.Job(((n, n) for n in range(20_000)), lambda k, v: [(v % 10, v)], sum_values)
    assert cluster.run(job) == {r: sum(range(r, 20_000, 10)) for r in range(10)}


def test_jobs_run_side_by_side_and_call_back(cluster):
    called = []
    handles = [
        cluster.submit(mmg.Job([(n, n) for n in range(300)], lambda k, v, i=i: [(i, v)], add))
        for i in range(5)
    ]
    for handle in handles:
        handle.add_done_callback(called.append)
    assert [h.result(timeout=60) for h in handles] == [{i: sum(range(300))} for i in range(5)]
    for handle in handles:
        handle.join()
    assert set(called) == set(handles)
    assert all(h.done() and h.exception() is None and h.id for h in handles)


def test_closing_waits_for_what_jobs_call_back_and_a_callback_may_close():
    entered, left = threading.Event(), threading.Event()

    def call_back(handle):
        entered.set()
        threading.Event().wait(1)  # closing is faster, if it does not wait for this
        cluster.close()
        left.set()

    cluster = mmg.LocalCluster(1)
    cluster.submit(mmg.Job({1: "a b"}, map_words, add)).add_done_callback(call_back)
    assert entered.wait(60)
    cluster.close()
    assert left.is_set()


def test_a_stream_gives_every_record_once_and_then_nothing(cluster):
    handle = cluster.submit(
        mmg.Job(lambda: ((n, n) for n in range(50_000)), lambda k, v: [(k, v)], sum_values)
    )
    assert sorted(handle.stream()) == [(n, n) for n in range(50_000)]
    with pytest.raises(mmg.UsageError):
        handle.stream()


def test_a_dict_that_would_lose_a_record_is_refused(cluster):
    job = mmg.Job(TEXT, map_words, lambda groups: (("same", sum(v)) for _, v in groups))
    with pytest.raises(mmg.DuplicateKeyError, match="stream"):
        cluster.run(job)
    assert sum(v for _, v in cluster.submit(job).stream()) == sum(count_words(TEXT.values()).values())


def test_a_user_exception_names_item_function_traceback_and_worker(cluster):
    def explode(key, value):
        if key == 2:
            raise ZeroDivisionError("on purpose")
        yield key, value

    with pytest.raises(mmg.JobError) as caught:
        cluster.run(mmg.Job(TEXT, explode, add))
    error = caught.value
    assert (error.kind, error.function, error.key) == ("exception", "mapfn", "2")
    assert "ZeroDivisionError: on purpose" in str(error)
    assert "in explode" in error.traceback
    assert os.path.dirname(mmg.__file__) not in error.traceback
    assert f"/{cluster._engine.pid}" in error.worker
    assert cluster.run(mmg.Job(TEXT, map_words, add)) == count_words(TEXT.values())


def test_retries_try_an_item_again_and_count_it_once(cluster, tmp_path):
    marker = tmp_path / "tried"

    def flaky(key, value):
        yield "seen", 1
        if key == 5 and not marker.exists():
            marker.touch()
            raise OSError("the first time")

    job = mmg.Job([(n, n) for n in range(10)], flaky, add, retries=1)
    assert cluster.run(job) == {"seen": 10}


def test_skipped_items_are_set_aside_and_reported(cluster):
    def picky(key, value):
        if key % 5 == 0:
            raise ValueError(key)
        yield "good", 1

    notices = []
    job = mmg.Job([(n, n) for n in range(20)], picky, add, max_skipped=4)
    assert cluster.run(job, on_notice=notices.append) == {"good": 16}
    assert sum("set aside" in text for text in notices) == 4
    with pytest.raises(mmg.TooManySkippedError):
        cluster.run(job.with_options(max_skipped=3))


def test_an_executor_that_dies_is_replaced_and_three_deaths_end_the_job(cluster, tmp_path):
    once = tmp_path / "once"

    def dies_once(key, value):
        if key == 3 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield "seen", 1

    assert cluster.run(mmg.Job([(n, n) for n in range(8)], dies_once, add)) == {"seen": 8}

    def dies(key, value):
        if key == 3:
            os._exit(7)
        yield "seen", 1

    with pytest.raises(mmg.JobError, match="exit code 7") as caught:
        cluster.run(mmg.Job([(n, n) for n in range(8)], dies, add))
    assert caught.value.kind == "died"
    assert caught.value.key == "3"


def test_task_timeout_ends_an_endless_loop(cluster):
    def hang(key, value):
        while key == 1:
            pass
        yield key, value

    with pytest.raises(mmg.JobError, match=r"timeout|longer") as caught:
        cluster.run(mmg.Job([(0, 0), (1, 1)], hang, add, task_timeout=1.0))
    assert caught.value.key == "1"


def test_cancel_ends_a_job_that_never_would(cluster):
    def hang(key, value):
        while True:
            pass

    handle = cluster.submit(mmg.Job([(0, 0)], hang, add))
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.5)
    assert not handle.done()
    handle.cancel()
    with pytest.raises(mmg.JobCancelled):
        handle.result(timeout=20)
    assert cluster.run(mmg.Job(TEXT, map_words, add)) == count_words(TEXT.values())


def test_closing_a_stream_early_cancels_the_job(cluster):
    handle = cluster.submit(mmg.Job(lambda: ((n, n) for n in range(10**9)), lambda k, v: [], add))
    stream = handle.stream()
    threading.Timer(0.5, handle.cancel).start()
    with pytest.raises(mmg.JobCancelled):
        list(stream)
    handle.join()


def test_progress_is_reported(cluster):
    seen = []

    def slow(key, value):
        time.sleep(0.1)
        yield key, value

    cluster.run(mmg.Job([(n, n) for n in range(16)], slow, add), progress=seen.append)
    assert seen
    assert {p.phase for p in seen} <= {"map", "plan", "reduce", "starting", "done"}
    assert seen[-1].slots == 2


def test_progress_says_how_a_job_ended(cluster):
    def fail(key, value):
        raise ValueError

    quick = cluster.submit(mmg.Job(TEXT, map_words, add))
    quick.result(60)
    failed = cluster.submit(mmg.Job(TEXT, fail, add))
    with pytest.raises(mmg.JobError):
        failed.result(60)
    cancelled = cluster.submit(mmg.Job(TEXT, map_words, add))
    cancelled.cancel()
    with pytest.raises(mmg.JobCancelled):
        cancelled.result(60)
    ends = [handle.progress() for handle in (quick, failed, cancelled)]
    assert [(end.phase, end.running) for end in ends] == [("done", 0), ("failed", 0), ("cancelled", 0)]


def test_an_item_is_on_its_way_before_the_datasource_is_asked_for_the_next(cluster, tmp_path):
    def items():
        for number in range(4):
            yield number, str(tmp_path / str(number))
            wait_until((tmp_path / str(number)).exists)  # as one that waits for something to happen may

    def mapfn(key, path):
        time.sleep(0.3)  # so that no batch has room for two
        Path(path).touch()
        return [(key, 1)]

    assert cluster.run(mmg.Job(items, mapfn, sum_values)) == dict.fromkeys(range(4), 1)


def test_items_that_leave_cycles_behind_do_not_fill_the_memory_of_their_executor(cluster):
    def leave_a_cycle(key, value):
        cycle = [bytearray(1 << 20)]
        cycle.append(cycle)
        time.sleep(0.003)  # so that no task has hundreds of them
        return [(key % 2, 1)]

    job = mmg.Job([(n, None) for n in range(1200)], leave_a_cycle, sum_values, memory_limit="400MiB")
    assert cluster.run(job) == {0: 600, 1: 600}


@pytest.mark.parametrize("reads", ["handle.result()", "list(handle.stream())"])
def test_a_signal_that_the_system_hands_to_another_thread_is_heard(tmp_path, reads):
    (tmp_path / "script.py").write_text(f"""
import signal, threading, time
import mmgevent as mmg

def mapfn(key, value):
    time.sleep(1000)

def strike():
    while not handle._changed._waiters:
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

with mmg.LocalCluster(1) as cluster:
    handle = cluster.submit(mmg.Job([(1, 1)], mapfn))
    threading.Thread(target=strike, daemon=True).start()
    try:
        {reads}
    except KeyboardInterrupt:
        print("heard")
        handle.cancel()
""")
    command = [sys.executable, "script.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "heard\n", ran.stderr


def test_a_one_shot_datasource_serves_one_submit(cluster):
    job = mmg.Job(iter([(1, 1)]), reducefn=add)
    assert cluster.run(job) == {1: 1}
    with pytest.raises(mmg.DatasourceError, match="function"):
        cluster.run(job)


def test_workers_are_listed(cluster):
    cluster.run(mmg.Job(TEXT, map_words, add))
    ((name, slots),) = cluster.workers()
    assert slots == 2
    assert name.endswith(f"/{cluster._engine.pid}")


class Once:
    """It is no iterator, and can be walked through once."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __iter__(self):
        yield from self.pairs


@pytest.mark.parametrize("wrap", [iter, Once, list], ids=["iterator", "once", "list"])
def test_when_the_engine_dies_the_job_is_handed_in_again(tmp_path, wrap):
    started, killed = tmp_path / "started", tmp_path / "killed"

    def slow(key, value):
        started.touch()
        while key == 59 and not killed.exists():  # the job cannot end before the kill
            time.sleep(0.01)
        yield key % 3, value

    notices = []
    before = descendants()
    with mmg.LocalCluster(2) as cluster:
        job = mmg.Job(wrap((n, n) for n in range(60)), slow, add)
        handle = cluster.submit(job, on_notice=notices.append)
        wait_until(started.exists)
        os.kill(cluster._engine.pid, signal.SIGKILL)
        killed.touch()
        assert handle.result(timeout=60) == {r: sum(range(r, 60, 3)) for r in range(3)}
    assert any("resubmitted" in text for text in notices)
    assert descendants() <= before


@pytest.mark.parametrize("form", ["each", "iterator", "counting"])
def test_keys_of_a_job_that_is_resubmitted_are_all_counted(form, tmp_path):
    keys, killed = 4000, tmp_path / "killed"

    def map_one(key, value):
        yield key, value

    def wait_for_kill(key):
        while key == keys and not killed.exists():  # the job cannot end before the kill
            time.sleep(0.01)

    def reduce_each(key, values):
        wait_for_kill(key)
        if form == "counting":
            mmg.counter("seen").add()
        return sum(values)

    def reduce_all(pairs):
        for key, values in pairs:
            wait_for_kill(key)
            yield from ((key, sum(values)), (-key, 0))

    reducefn = reduce_all if form == "iterator" else reduce_each
    with mmg.LocalCluster(2) as cluster:
        handle = cluster.submit(
            mmg.Job([(n, n) for n in range(1, keys + 1)], map_one, reducefn, partitions=64)
        )
        records = handle.stream()
        first = next(records)
        os.kill(cluster._engine.pid, signal.SIGKILL)
        killed.touch()
        found = [first, *records]
    assert len(found) == (2 if form == "iterator" else 1) * keys
    assert handle.stats()["keys"] == keys


def test_an_engine_that_is_killed_while_it_starts_is_replaced_as_well(tmp_path):
    gate = tmp_path / "gate"

    def wait_for_gate(key, text):
        while not gate.exists():
            time.sleep(0.01)
        yield from map_words(key, text)

    notices = []
    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(mmg.Job(TEXT, wait_for_gate, add), on_notice=notices.append)
        wait_until(lambda: handle.progress().running)
        for _ in range(2):  # the second has hardly begun
            engine = cluster._engine
            os.kill(engine.pid, signal.SIGKILL)
            wait_until(lambda engine=engine: cluster._engine is not engine)
        gate.touch()
        assert handle.result(60) == count_words(TEXT.values())
    assert sum("resubmitted" in text for text in notices) == 2


def test_an_engine_that_is_killed_in_its_first_moment_is_replaced():
    with mmg.LocalCluster(1) as cluster:
        os.kill(cluster._engine.pid, signal.SIGKILL)
        assert cluster.run(mmg.Job(TEXT, map_words, add)) == count_words(TEXT.values())


def test_a_cluster_whose_engine_is_killed_in_its_first_moment_listens_all_the_same():
    with mmg.LocalCluster(0, listen="127.0.0.1:0") as cluster:
        killed = cluster._engine
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: killed.has_ended)
        assert cluster.address[1] > 0
        assert not cluster._engine.has_ended


@pytest.mark.parametrize(("threads", "each"), [(1, 20), (10, 10)])
def test_many_jobs_submitted_at_once_are_all_done_by_one_engine(threads, each):
    """A job's number is the first thing its server sees of it, and they have to come in rising order."""
    notices = []
    with mmg.LocalCluster(1) as cluster:
        engine = cluster._engine

        def submit(handles):
            for _ in range(each):
                handles.append(cluster.submit(mmg.Job([(1, 2)], reducefn=add), on_notice=notices.append))

        handles = []
        submitting = [threading.Thread(target=submit, args=(handles,)) for _ in range(threads)]
        for thread in submitting:
            thread.start()
        for thread in submitting:
            thread.join()
        assert [handle.result(60) for handle in handles] == [{1: 2}] * threads * each
        assert cluster._engine is engine
    assert [text for text in notices if "again" in text] == []


def test_the_callbacks_of_two_jobs_may_both_close():
    both = threading.Barrier(2)
    closed = []
    cluster = mmg.LocalCluster(1)

    def close(handle):
        both.wait(60)
        cluster.close()
        closed.append(handle)

    handles = [cluster.submit(mmg.Job(TEXT, map_words, add)) for _ in range(2)]
    for handle in handles:
        handle.add_done_callback(close)
    for handle in handles:
        handle.join()
    assert len(closed) == 2
    cluster.close()


def test_a_callback_of_watch_may_submit_while_its_engine_dies(tmp_path):
    gate = tmp_path / "gate"

    def wait_for_gate(key, text):
        while not gate.exists():
            time.sleep(0.01)
        yield from map_words(key, text)

    submitted = []
    with mmg.LocalCluster(1) as cluster:
        cluster.watch(
            lambda peer: None,
            lambda number, reason: submitted.append(cluster.submit(mmg.Job(TEXT, map_words, add))),
            lambda number, data: None,
        )
        handle = cluster.submit(mmg.Job(TEXT, wait_for_gate, add))
        wait_until(lambda: handle.progress().running and cluster._watch._peers)
        os.kill(cluster._engine.pid, signal.SIGKILL)
        wait_until(lambda: submitted)
        gate.touch()
        assert handle.result(60) == submitted[0].result(60) == count_words(TEXT.values())


def test_an_engine_that_takes_the_place_of_another_listens_where_that_did(monkeypatch):
    monkeypatch.setenv("MMG_PASSWORD", "the same on both sides")
    with mmg.LocalCluster(1, listen="127.0.0.1:0") as cluster:
        address = cluster.address
        os.kill(cluster._engine.pid, signal.SIGKILL)
        assert cluster.run(mmg.Job(TEXT, map_words, add)) == count_words(TEXT.values())
        assert cluster.address == address


def test_a_closed_cluster_refuses_jobs_and_closes_twice():
    cluster = mmg.LocalCluster(1)
    cluster.close()
    cluster.close()
    with pytest.raises(mmg.UsageError, match="closed"):
        cluster.run(mmg.Job(TEXT, map_words, add))


def test_leaving_with_an_exception_cancels_what_runs():
    def hang(key, value):
        while True:
            pass

    handles = []
    before = descendants()

    def leave():
        with mmg.LocalCluster(1) as cluster:
            handles.append(cluster.submit(mmg.Job([(0, 0)], hang, add)))
            raise KeyError("out")

    with pytest.raises(KeyError):
        leave()
    (handle,) = handles
    assert isinstance(handle.exception(timeout=10), mmg.JobCancelled)
    assert descendants() <= before


def test_after_a_fork_the_child_is_told_and_the_engine_still_sees_its_driver_end():
    cluster = mmg.LocalCluster(1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cluster.run(mmg.Job(TEXT, map_words, add))
        except mmg.ForkedError:
            os.write(write, b"told")
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"told"
    os.close(read)
    os.waitpid(pid, 0)
    assert cluster.run(mmg.Job(TEXT, map_words, add)) == count_words(TEXT.values())
    cluster.close()


def test_bad_clusters_are_refused():
    with pytest.raises(mmg.UsageError, match="listen"):
        mmg.LocalCluster(0)
    with pytest.raises(mmg.UsageError, match="4096"):
        mmg.LocalCluster(-1)
    with pytest.raises(mmg.UsageError, match="Job"), mmg.LocalCluster(1) as cluster:
        cluster.run("wordcount.py")


def test_intermediate_data_beyond_every_memory_comes_out_right():
    # 96 MiB through a server that holds 4 MiB and executors that may have 96 MiB, Python included.
    def spread(key, value):
        for n in range(1024):
            yield (value * 1024 + n) % 5000, bytes([value]) * 1000

    def measure(key, values):
        count = total = 0
        for value in values:
            count += 1
            total += len(value) + value[0]
        return count, total

    expected = {}
    for value in range(96):
        for n in range(1024):
            count, total = expected.get((value * 1024 + n) % 5000, (0, 0))
            expected[(value * 1024 + n) % 5000] = (count + 1, total + 1000 + value)
    job = mmg.Job([(n, n) for n in range(96)], spread, measure, memory_limit="96MiB", partitions=4)
    with mmg.LocalCluster(2, segment_memory="4MiB") as cluster:
        handle = cluster.submit(job)
        assert handle.result(timeout=100) == expected
        assert handle.stats()["spilled_bytes"] > 60 * 1024 * 1024


def test_oneshot_gives_each_worker_one_item_and_reads_no_further(cluster):
    read = []

    def endless():
        n = 0
        while True:
            read.append(n)
            yield n, n
            n += 1

    job = mmg.Job(endless, lambda k, v: [("served", v)], allocation="oneshot")
    assert cluster.run(job) == {"served": [0]}  # one worker of two slots
    assert len(read) <= 2


def test_greenlets_wait_together(cluster, tmp_path):
    here = str(tmp_path)

    def wait(key, value):
        import gevent

        open(os.path.join(here, str(key)), "w").close()
        with gevent.Timeout(60, TimeoutError("not enough items at once")):
            while len(os.listdir(here)) < 20:  # two executors one after another would never get beyond 2
                gevent.sleep(0.01)
        yield "seen", 1

    assert cluster.run(mmg.Job([(n, n) for n in range(100)], wait, add, greenlets=50)) == {"seen": 100}


def test_retransmit_and_recall_leave_one_answer(cluster):
    def uneven(key, value):
        time.sleep(0.3 if key == 0 else 0.001)
        yield key, value

    job = mmg.Job([(n, n) for n in range(200)], uneven, add, retransmit=1.0)
    assert cluster.run(job) == {n: n for n in range(200)}


def test_equal_keys_of_different_types_meet(cluster):
    from decimal import Decimal
    from fractions import Fraction

    keys = [
        1,
        1.0,
        True,
        Decimal(1),
        Fraction(1),
        ("a", 0.0),
        ("a", -0.0),
        frozenset({1, 2}),
        frozenset({2.0, 1}),
    ]
    result = cluster.run(mmg.Job(list(enumerate(keys)), lambda k, key: [(key, 1)], add))
    assert result == {1: 5, ("a", 0.0): 2, frozenset({1, 2}): 2}
    nan = cluster.run(mmg.Job([(n, n) for n in range(6)], lambda k, v: [(float("nan"), 1)], add))
    assert list(nan.values()) == [6]


def test_an_unhashable_key_and_an_unpicklable_value_are_named(cluster):
    with pytest.raises(mmg.JobError, match="list") as caught:
        cluster.run(mmg.Job([(7, 7)], lambda k, v: [([1], 1)], add))
    assert caught.value.kind == "key"
    with pytest.raises(mmg.JobError, match=r"generator|pickle") as caught:
        cluster.run(mmg.Job([(7, 7)], lambda k, v: [(1, (x for x in ()))]))
    assert caught.value.kind == "record"


def test_what_cannot_travel_fails_at_submit_and_is_named(cluster):
    event = threading.Event()

    def uses_event(key, value):
        event.wait()
        yield key, value

    with pytest.raises(mmg.ShippingError, match="an event of threads"):
        cluster.submit(mmg.Job([(1, 1)], uses_event, add))


def test_a_million_results_stream_through_a_slow_reader(cluster):
    job = mmg.Job(
        lambda: ((n, n) for n in range(200)),
        lambda k, v: [(v * 1000 + n, "x" * 50) for n in range(1000)],
        lambda k, v: v[0],
    )
    count = 0
    for _ in cluster.submit(job).stream():
        count += 1
    assert count == 200_000


def test_a_stream_that_is_closed_before_it_is_read_cancels_the_job(cluster):
    handle = cluster.submit(mmg.Job(lambda: ((n, n) for n in range(10**9)), lambda k, v: [], add))
    handle.stream().close()
    assert isinstance(handle.exception(timeout=20), mmg.JobCancelled)


@pytest.mark.timeout(60)
def test_a_stopped_engine_does_not_keep_a_cluster_from_closing():
    cluster = mmg.LocalCluster(1)
    cluster.run(mmg.Job(TEXT, map_words, add))
    engine = cluster._engine
    os.kill(engine.pid, signal.SIGSTOP)
    frames = [Frame(CONTROL, b"x" * 200_000) for _ in range(20)]
    sender = threading.Thread(target=engine.send, args=frames, daemon=True)
    sender.start()  # more than the socket takes, under the lock
    cluster.close()
    sender.join()
    assert not psutil.pid_exists(engine.pid)


def test_closing_waits_for_the_engine_where_the_kernel_has_no_descriptors_of_processes(monkeypatch):
    def refuse(pid):
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    cluster = mmg.LocalCluster(1)
    cluster.run(mmg.Job(TEXT, map_words, add))
    cluster.close()
    assert not psutil.pid_exists(cluster._engine.pid)


def test_a_job_whose_templates_keep_dying_ends(tmp_path):
    started = tmp_path / "started"

    def slow(key, value):
        started.touch()
        time.sleep(0.05)
        yield key % 3, value

    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(mmg.Job([(n, n) for n in range(40)], slow, add), on_notice=lambda text: None)
        for _ in range(7):  # more than a worker starts again within a minute
            wait_until(lambda: started.exists() or handle.done())
            started.unlink(missing_ok=True)
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                for child in psutil.Process(cluster._engine.pid).children():
                    child.kill()
        assert handle.exception(timeout=60) is None or handle.exception().kind in ("lost", "died")


def test_closing_cancels_a_job_that_waits_for_this_very_thread_to_read_on(monkeypatch):
    monkeypatch.setattr(handle_module, "MAX_UNREAD", 1000)  # so few may wait
    with mmg.LocalCluster(1) as cluster:
        job = mmg.Job(lambda: ((n, n) for n in range(10_000)), lambda k, v: [(k, v)], sum_values)
        handle = cluster.submit(job)
        stream = handle.stream()
        next(stream)
    assert isinstance(handle.exception(0), mmg.JobCancelled)
    with pytest.raises(mmg.JobCancelled):
        list(stream)


def test_closing_waits_for_another_thread_that_reads_a_stream(monkeypatch):
    monkeypatch.setattr(handle_module, "MAX_UNREAD", 1000)
    read = []
    with mmg.LocalCluster(1) as cluster:
        job = mmg.Job(lambda: ((n, n) for n in range(10_000)), lambda k, v: [(k, v)], sum_values)
        handle = cluster.submit(job)
        reader = threading.Thread(target=lambda: read.extend(handle.stream()))
        reader.start()
        wait_until(lambda: read)
    reader.join()
    assert len(read) == 10_000
