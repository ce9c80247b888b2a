"""User code that waits for ever in the driver: its job can be cancelled all the same."""

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import pytest

import mmgevent as mmg
from mmgevent.driver import handle as handle_module
from mmgevent.driver.engine_link import END_S
from mmgevent.driver.handle import GRACE_S

#: seconds within which a cancelled job must have ended; a job that waits for its datasource never
#: would
SOON_S = 10


def one(key, value):
    yield key, value


class Blocked:
    """Something that waits until the test lets it go, and says when it has begun to."""

    def __init__(self):
        self.has_begun = threading.Event()
        self.may_go = threading.Event()

    def wait(self, *args):
        self.has_begun.set()
        self.may_go.wait()

    def after(self, items):
        yield from items
        self.wait()

    def in_iter(self):
        blocked = self

        class Source:
            def __iter__(self):
                blocked.wait()
                return iter([(1, 1)])

        return Source()


@pytest.fixture
def blocked():
    blocked = Blocked()
    before = set(threading.enumerate())  # those of boxes stay as long as the process
    yield blocked
    blocked.may_go.set()
    for thread in set(threading.enumerate()) - before:  # let go, it ends by itself
        if thread.name.startswith("mmgevent-") and thread.name != "mmgevent-engine-reader":
            thread.join(SOON_S)
            assert not thread.is_alive(), thread.name


@pytest.fixture
def cluster():
    with mmg.LocalCluster(1) as cluster:
        yield cluster


@pytest.fixture
def fifo(tmp_path):
    """A file that nobody writes: whoever opens it waits, as for a mount that is dead."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield str(path)
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def read(path, has_begun):
    yield 1, 1
    has_begun.set()
    with open(path) as file:
        yield from enumerate(file)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def assert_cancelled_at_once(handle):
    began_s = time.monotonic()
    with pytest.raises(mmg.JobCancelled):
        handle.result(timeout=SOON_S)
    assert time.monotonic() - began_s < SOON_S
    assert handle.done()
    assert handle.progress().phase == "cancelled"
    assert isinstance(handle.exception(timeout=0), mmg.JobCancelled)


def jobs_that_block(blocked):
    return {
        "after an item": mmg.Job(blocked.after([(1, 1)]), one),
        "in its first item": mmg.Job(blocked.after([]), one),
        "in __iter__": mmg.Job(blocked.in_iter(), one),
        "in finishfn": mmg.Job({1: 1}, one, finishfn=lambda key, values: blocked.wait()),
        "in a finishfn of all": mmg.Job({1: 1}, one, finishfn=lambda records: blocked.after(records)),
    }


@pytest.mark.parametrize("where", list(jobs_that_block(Blocked())))
def test_a_job_whose_own_code_waits_for_ever_is_cancelled(cluster, blocked, caplog, where):
    ended = queue.SimpleQueue()
    handle = cluster.submit(jobs_that_block(blocked)[where])
    handle.add_done_callback(ended.put)
    assert blocked.has_begun.wait(SOON_S)
    handle.cancel()
    assert_cancelled_at_once(handle)
    assert ended.get(timeout=SOON_S) is handle
    (warning,) = warnings_of(caplog)
    assert f"mmgevent-{handle._runner.job.name}" in warning
    assert "test_blocked.py" in warning
    assert cluster.run(mmg.Job({2: 3}, one)) == {2: [3]}
    cluster.close()
    assert ended.empty()


@pytest.mark.parametrize("callback", ["on_progress", "on_notice"])
def test_a_callback_that_waits_for_ever_does_not_keep_a_job_from_being_cancelled(
    cluster, blocked, caplog, callback
):
    def warn(key, value):
        os._exit(3)

    job = mmg.Job({1: 1, 2: 2}, warn if callback == "on_notice" else one)
    handle = cluster.submit(job, **{callback: blocked.wait})
    assert blocked.has_begun.wait(SOON_S)
    handle.cancel()
    assert_cancelled_at_once(handle)
    assert "test_blocked.py" in warnings_of(caplog)[-1]


def test_a_file_that_never_answers_does_not_keep_a_job_from_being_cancelled(cluster, blocked, fifo, caplog):
    handle = cluster.submit(mmg.Job(read(fifo, blocked.has_begun), one))
    assert blocked.has_begun.wait(SOON_S)
    handle.cancel()
    assert_cancelled_at_once(handle)
    assert "in read" in warnings_of(caplog)[0]
    os.close(os.open(fifo, os.O_WRONLY))  # let it go


def wait_until(condition, timeout_s=20):
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_the_server_hears_of_it(cluster, blocked, tmp_path):
    """Its executors are free at once: the item that one of them was at is given up."""
    handle = cluster.submit(mmg.Job(blocked.after([(tmp_path / "begun", 3600)]), sleep))
    assert blocked.has_begun.wait(SOON_S)
    wait_until((tmp_path / "begun").exists)
    handle.cancel()
    assert_cancelled_at_once(handle)
    assert cluster.run(mmg.Job({2: 3}, one)) == {2: [3]}


def sleep(path, seconds):
    path.touch()
    time.sleep(seconds)
    yield str(path), seconds


def test_a_thread_that_was_left_behind_changes_nothing_when_it_goes_on(cluster, blocked):
    read_on = threading.Event()

    def items():
        yield 1, 1
        blocked.wait()
        read_on.set()
        yield 2, 2

    calls = []
    handle = cluster.submit(mmg.Job(items(), one))
    handle.add_done_callback(calls.append)
    assert blocked.has_begun.wait(SOON_S)
    handle.cancel()
    assert_cancelled_at_once(handle)
    blocked.may_go.set()
    assert read_on.wait(SOON_S)
    handle._thread.join(SOON_S)
    assert not handle._thread.is_alive()
    assert_cancelled_at_once(handle)
    assert calls == [handle]
    assert cluster.run(mmg.Job({2: 3}, one)) == {2: [3]}


def fail(key, value):
    raise ValueError("no such thing")


def die(key, value):
    os._exit(3)


@pytest.mark.parametrize(("mapfn", "deaths"), [(fail, 0), (die, 3)])
def test_a_job_that_fails_while_its_datasource_waits_says_so(cluster, blocked, caplog, mapfn, deaths):
    handle = cluster.submit(mmg.Job(blocked.after([(1, 1)]), mapfn))
    assert blocked.has_begun.wait(SOON_S)
    with pytest.raises(mmg.JobError) as caught:
        handle.result(timeout=SOON_S)
    assert caught.value.key == "1"
    assert not isinstance(caught.value, mmg.JobCancelled)
    assert handle.progress().phase == "failed"
    assert len(handle.deaths()) == deaths
    assert "job fail has failed" in warnings_of(caplog)[-1] or mapfn is die
    assert cluster.run(mmg.Job({2: 3}, one)) == {2: [3]}


def test_a_failed_job_waits_for_the_reader_of_its_stream(cluster, blocked, monkeypatch, caplog):
    """Its thread does not wait in the user's code then."""
    monkeypatch.setattr("mmgevent.driver.handle.MAX_UNREAD", 1)
    monkeypatch.setattr("mmgevent.driver.handle._CHUNK_RECORDS", 1)

    def finish(records):
        yield from records
        raise ValueError("late")

    handle = cluster.submit(mmg.Job({n: n for n in range(10)}, one, finishfn=finish))
    records = handle.stream()
    wait_until(lambda: handle._is_held_up)
    handle._state.failure = mmg.JobError("said by the server", {"kind": "lost"})
    handle._state.on_failure()
    handle._ender.join(2 * GRACE_S)
    assert handle._ender.is_alive()
    with pytest.raises(mmg.JobError, match="late"):
        list(records)
    assert warnings_of(caplog) == []


def test_a_stream_that_waits_ends_with_its_job(cluster, blocked):
    handle = cluster.submit(mmg.Job(blocked.after([(1, 1)]), one))
    records = handle.stream()
    assert blocked.has_begun.wait(SOON_S)
    timer = threading.Timer(0.1, handle.cancel)
    timer.start()
    with pytest.raises(mmg.JobCancelled):
        next(records)
    timer.join()


def test_leaving_with_by_an_exception_does_not_wait_for_a_datasource(blocked, caplog):
    began_s = time.monotonic()
    with contextlib.suppress(RuntimeError), mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(mmg.Job(blocked.after([(1, 1)]), one))
        assert blocked.has_begun.wait(SOON_S)
        began_s = time.monotonic()
        raise RuntimeError
    assert time.monotonic() - began_s < SOON_S
    assert_cancelled_at_once(handle)
    assert "test_blocked.py" in warnings_of(caplog)[0]


def test_a_cancelled_job_that_goes_on_by_itself_draws_no_warning(cluster, caplog, monkeypatch):
    """A datasource that gives an item now and then is left at the next one."""
    monkeypatch.setattr(handle_module, "GRACE_S", SOON_S)  # a busy machine is slow to run its thread

    def items():
        for n in range(10**9):
            time.sleep(0.01)
            yield n, n

    handle = cluster.submit(mmg.Job(items(), one))
    wait_until(lambda: handle.progress().done)
    handle.cancel()
    assert_cancelled_at_once(handle)
    handle._thread.join(SOON_S)
    assert not handle._thread.is_alive()
    assert warnings_of(caplog) == []


def test_a_callback_of_watch_that_waits_for_ever_keeps_no_cluster_open(blocked, caplog):
    with mmg.LocalCluster(1) as cluster:
        cluster.watch(blocked.wait, blocked.wait, blocked.wait)
        assert blocked.has_begun.wait(SOON_S)
        handle = cluster.submit(mmg.Job(blocked.after([(1, 1)]), one))
        handle.cancel()
        assert_cancelled_at_once(handle)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < END_S + SOON_S
    assert any("mmgevent-engine-reader" in text and "test_blocked.py" in text for text in warnings_of(caplog))


PROGRAM = """
import queue, sys, mmgevent as mmg

def one(key, value):
    yield key, value

def items():
    yield 1, 1
    print("waits", flush=True)
    queue.Queue().get()

how = sys.argv[1]
if how == "run":
    mmg.run(mmg.Job(items(), one), procs=1)
elif how == "inline":
    mmg.run(mmg.Job(items(), one), inline=True)
else:
    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(mmg.Job(items(), one))
        if how == "result":
            handle.result()
        elif how == "stream":
            list(handle.stream())
"""

JOB = """
import queue

def items():
    yield 1, 1
    print("waits", flush=True)
    queue.Queue().get()

datasource = items

def mapfn(key, value):
    yield key, value
"""


@contextlib.contextmanager
def started(*command):
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["run", "inline", "result", "stream", "close"])
def test_ctrl_c_ends_a_program_whose_datasource_waits(tmp_path, how):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    with started(str(path), how) as process:
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SOON_S)
    assert process.returncode == -signal.SIGINT
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert ("program.py, line 10, in items" in said) is (how in ("result", "stream", "close"))


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("inline", [[], ["--inline"]])
def test_ctrl_c_ends_mmg_run_whose_datasource_waits(tmp_path, times, inline):
    path = tmp_path / "job.py"
    path.write_text(JOB)
    with started("-m", "mmgevent", "run", "--procs", "1", *inline, str(path)) as process:
        assert process.stderr.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        if times == 2:
            time.sleep(0.05)  # two signals at once are one to the system
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SOON_S)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "interrupted" in said


STREAM = """
import itertools, mmgevent as mmg

cluster = mmg.LocalCluster(1)
handle = cluster.submit(mmg.Job(zip(itertools.count(), itertools.count()), lambda key, value: [(key, value)]))
records = handle.stream()
"""


def test_a_program_ends_though_the_stream_of_a_job_is_forgotten_at_its_end(tmp_path):
    """The job is cancelled then, while Python starts no thread any more."""
    path = tmp_path / "program.py"
    path.write_text(STREAM)
    with started(str(path)) as process:
        assert process.wait(timeout=SOON_S) == 0
