"""A cluster as an Executor: what the standard library promises of one, on real executors."""

import concurrent.futures
import os
import time

import pytest

import mmgevent as mmg
from tests.driver.calls import adder, apply, fail, is_reversed, power, wait

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
    while not running.running():
        time.sleep(0.01)
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


def test_a_closed_cluster_is_said_by_the_future():
    with mmg.LocalCluster(1) as cluster:
        executor = mmg.ClusterExecutor(cluster)
    with pytest.raises(mmg.UsageError, match="closed"):
        executor.submit(power, 1).result(WAIT_S)
    executor.shutdown()
