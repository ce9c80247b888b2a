"""A cluster as an Executor: what the standard library promises of one, on real executors."""

import concurrent.futures
import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError

import pytest

import mmgevent as mmg
from mmgevent.driver import cluster_executor
from mmgevent.errors import StartError
from tests.driver.calls import adder, apply, fail, is_reversed, power, wait
from tests.waiting import wait_until

WAIT_S = 60.0


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster):
    with mmg.ClusterExecutor(cluster) as executor:
        yield executor


def test_it_is_an_executor(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(power, 3, exponent=3)
    assert future.result(WAIT_S) == 27
    assert executor.submit(os.getpid).result(WAIT_S) != os.getpid()
    assert list(executor.map(adder(5), range(500), timeout=WAIT_S)) == list(range(5, 505))
    assert list(executor.map(pow, [2, 3], [5, 2])) == [32, 9]
    large = os.urandom(300_000)
    assert executor.submit(is_reversed, large, large[::-1]).result(WAIT_S)
    assert executor.submit(apply, adder(1), 1).result(WAIT_S) == 2


def test_each_call_has_its_own_exception(executor):
    calls = ["plain", "fine", "unfit"]
    plain, fine, unfit = [executor.submit(fail, how) for how in calls]
    with pytest.raises(ValueError, match="no such thing") as caught:
        plain.result(WAIT_S)
    assert "in fail" in caught.value.__notes__[0]
    assert fine.result(WAIT_S) == "fine"
    with pytest.raises(RuntimeError, match="Unfit: 1 and 2"):
        unfit.result(WAIT_S)
    with pytest.raises(mmg.UsageError):
        executor.submit(fail, (n for n in ())).result(WAIT_S)


def test_a_call_that_kills_its_process_fails_alone(executor):
    """Also among many that share a job."""
    futures = [executor.submit(fail, "death" if n == 30 else n) for n in range(80)]
    for n, future in enumerate(futures):
        if n == 30:
            with pytest.raises(mmg.JobError, match="exit code 7"):
                future.result(WAIT_S)
        else:
            assert future.result(WAIT_S) == n


def test_calls_that_wait_can_be_cancelled_and_a_shut_executor_takes_none(cluster, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()

    executor = mmg.ClusterExecutor(cluster)
    running = executor.submit(wait, str(gate))
    wait_until(running.running)
    waiting = [executor.submit(wait, str(gate)) for _ in range(40)]
    assert waiting[-1].cancel()
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(power, 1)
    gate.unlink()
    assert running.result(WAIT_S) == "done"
    executor.shutdown()
    cancelled = [future for future in waiting if future.cancelled()]
    assert len(cancelled) >= 30
    assert all(future.done() for future in waiting)


def test_a_value_that_cannot_be_sent_fails_its_own_call_only(cluster):
    """As a result, and as an argument: also among many that share a job."""
    how = {10: "lock", 12: "there", 14: (n for n in ()), 16: "exit"}
    executor = mmg.ClusterExecutor(cluster)
    futures = [executor.submit(fail, how.get(n, n)) for n in range(24)]
    with pytest.raises(Exception, match="lock"):
        futures[10].result(WAIT_S)
    with pytest.raises(LookupError, match="stays where it is"):
        futures[12].result(WAIT_S)
    with pytest.raises(mmg.UsageError):
        futures[14].result(WAIT_S)
    with pytest.raises(SystemExit):
        futures[16].result(WAIT_S)
    assert [f.result(WAIT_S) for n, f in enumerate(futures) if n not in how] == [
        n for n in range(24) if n not in how
    ]
    executor.shutdown()


def test_waits_timeouts_and_the_order_of_completion(executor, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    slow, fast = executor.submit(wait, str(gate)), executor.submit(power, 2)
    assert concurrent.futures.wait([slow, fast], WAIT_S, FIRST_COMPLETED).done == {fast}
    assert next(concurrent.futures.as_completed([slow, fast], WAIT_S)) is fast
    with pytest.raises(TimeoutError):
        slow.result(0.01)
    with pytest.raises(TimeoutError):
        slow.exception(0.01)
    assert slow.running()
    assert not slow.cancel()
    assert not slow.done()
    broken = executor.submit(fail, "plain")
    done, _ = concurrent.futures.wait([slow, broken], WAIT_S, FIRST_EXCEPTION)
    assert done == {broken}
    assert isinstance(broken.exception(), ValueError)
    with pytest.raises(TimeoutError):
        list(executor.map(wait, [str(gate)] * 2, timeout=0.01))
    gate.unlink()
    assert concurrent.futures.wait([slow, fast, broken], WAIT_S).not_done == set()


def test_map_raises_where_a_call_failed(executor):
    results = executor.map(fail, ["a", "b", "plain", "c"])
    assert [next(results), next(results)] == ["a", "b"]
    with pytest.raises(ValueError, match="no such thing"):
        next(results)
    assert list(executor.map(power, [])) == []


def test_callbacks_are_called_in_order_and_what_they_raise_hurts_no_other_call(executor):
    called = []
    has_ended = threading.Event()

    def exit_thread(future):
        called.append("exit")
        raise SystemExit

    first, *others = [executor.submit(power, n) for n in range(30)]
    first.add_done_callback(lambda future: called.append("first"))
    first.add_done_callback(exit_thread)
    for future in others:
        future.add_done_callback(exit_thread)
    assert [future.result(WAIT_S) for future in others] == [n**2 for n in range(1, 30)]
    others[-1].add_done_callback(lambda future: has_ended.set())
    assert has_ended.wait(WAIT_S)
    assert called.index("first") < called.index("exit") or called[0] == "exit"


def test_shutdown_in_a_callback_does_not_wait_for_itself(cluster):
    executor = mmg.ClusterExecutor(cluster)
    returned = threading.Event()

    def end(future):
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(power, 1)
        returned.set()

    executor.submit(power, 3).add_done_callback(end)
    assert returned.wait(WAIT_S)
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)  # again


def test_leaving_the_block_waits_for_all_calls_and_their_callbacks(cluster):
    called = []
    with mmg.ClusterExecutor(cluster) as executor:
        futures = [executor.submit(power, n) for n in range(10)]
        for future in futures:
            future.add_done_callback(called.append)
    assert all(future.done() for future in futures)
    assert len(called) == 10


@pytest.mark.long
def test_very_many_calls(executor):
    assert sum(executor.map(power, range(5_000), timeout=WAIT_S)) == sum(n**2 for n in range(5_000))


def test_no_more_run_at_once_than_max_workers(cluster, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    with mmg.ClusterExecutor(cluster, max_workers=1) as executor:
        futures = [executor.submit(wait, str(gate)) for _ in range(3)]
        wait_until(futures[0].running)
        assert [future.running() for future in futures] == [True, False, False]
        assert futures[2].cancel()
        gate.unlink()
        assert futures[1].result(WAIT_S) == "done"
    with pytest.raises(mmg.UsageError, match="max_workers"):
        mmg.ClusterExecutor(cluster, max_workers=0)


def test_abort_ends_what_waits_and_what_runs(cluster, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    executor = mmg.ClusterExecutor(cluster, max_workers=1)
    futures = [executor.submit(wait, str(gate)) for _ in range(3)]
    wait_until(futures[0].running)
    executor.abort()
    for future in futures:
        with pytest.raises((mmg.JobCancelled, CancelledError)):
            future.result(WAIT_S)
    assert executor.submit(power, 2).result(WAIT_S) == 4
    executor.shutdown()


def test_calls_of_a_job_that_fails_are_not_made_again_after_abort(cluster, monkeypatch):
    """Their job was to be made again of each call, and was no job yet that `abort` could cancel."""
    made = []

    def submit(job):
        made.append(job)
        if len(made) == 1:
            executor.abort()
        raise mmg.JobError("one of the calls is to blame")

    executor = mmg.ClusterExecutor(cluster)
    monkeypatch.setattr(cluster, "submit", submit)
    monkeypatch.setattr(executor, "_most_jobs", lambda: 1)
    with executor._changed:  # the thread takes them together
        futures = [executor.submit(power, n) for n in range(3)]
    for future in futures:
        with pytest.raises((mmg.JobCancelled, CancelledError)):
            future.result(WAIT_S)
    executor.shutdown()
    assert len(made) == 1


def test_a_call_for_which_there_is_no_thread_is_refused_and_the_next_one_runs(cluster, monkeypatch):
    def refuse(thread):
        raise StartError("a thread cannot be started: none left")

    with mmg.ClusterExecutor(cluster) as executor:
        with monkeypatch.context() as patched:
            patched.setattr(cluster_executor, "start_thread", refuse)
            with pytest.raises(StartError):
                executor.submit(power, 2)
        assert executor.submit(power, 2).result(WAIT_S) == 4


@pytest.mark.parametrize("error", [TimeoutError("no answer"), OSError("gone")])
def test_workers_that_cannot_be_counted_are_no_reason_to_hang(cluster, monkeypatch, error):
    def workers():
        raise error

    monkeypatch.setattr(cluster, "workers", workers)
    with mmg.ClusterExecutor(cluster) as executor:
        assert executor.submit(power, 2).result(WAIT_S) == 4


def test_a_fault_of_our_own_ends_the_futures(cluster, monkeypatch):
    def take_calls(executor, limit):
        raise ZeroDivisionError("a fault")

    with mmg.ClusterExecutor(cluster) as executor:
        with monkeypatch.context() as patched:
            patched.setattr(mmg.ClusterExecutor, "_take_calls", take_calls)
            with pytest.raises(ZeroDivisionError):
                executor.submit(power, 2).result(WAIT_S)
        assert executor.submit(power, 2).result(WAIT_S) == 4


PROGRAM = """
import mmgevent as mmg
from tests.driver.calls import power

cluster = mmg.LocalCluster(1)
executor = mmg.ClusterExecutor(cluster)
executor.submit(power, 3).add_done_callback(lambda future: print(future.result(), flush=True))
"""


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="Python 3.12 starts no thread once the main thread has ended"
)
def test_a_program_does_not_end_before_its_calls_and_ends_after_them():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=WAIT_S)
    assert done.stdout == "9\n"


def test_a_closed_cluster_is_said_by_the_future():
    with mmg.LocalCluster(1) as cluster:
        executor = mmg.ClusterExecutor(cluster)
    with pytest.raises(mmg.UsageError, match="closed"):
        executor.submit(power, 1).result(WAIT_S)
    executor.shutdown()
