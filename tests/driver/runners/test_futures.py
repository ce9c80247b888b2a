"""Engines of futures whose own ends fail: the job's error is told, and everything else is ended."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import mmgevent as mmg
from mmgevent.driver.runners.elsewhere import EngineCluster
from mmgevent.driver.runners.executors import ExecutorFutures
from mmgevent.driver.runners.futures import FuturesRunner
from mmgevent.job.outputs.record import Made
from tests.driver.runners.test_contract import add, by_three, numbers


class Ungrateful(ExecutorFutures):
    """Threads, whose tasks cannot be cancelled without an error."""

    def cancel(self):
        super().close()
        raise OSError("no way to cancel")

    def close(self):
        super().close()
        raise OSError("no way to close")


@pytest.fixture
def cluster():
    with ThreadPoolExecutor(2) as executor:
        cluster = EngineCluster("Ungrateful", lambda: Ungrateful(executor, 2, None))
        yield cluster
        cluster.close()


def fails(key, value):
    raise ValueError("this is the news")


def test_an_engine_that_cannot_end_tasks_does_not_hide_why_the_job_failed(cluster, caplog):
    with pytest.raises(mmg.JobError, match="this is the news"):
        cluster.run(mmg.Job(numbers(3), fails, add))
    assert "no way to cancel" in caplog.text
    with pytest.raises(mmg.JobError, match="this is the news"):
        cluster.submit(mmg.Job(numbers(3), fails, add)).result(timeout=60)


def test_an_engine_that_cannot_end_tasks_does_not_spoil_a_job_that_is_done(cluster, caplog):
    assert cluster.run(mmg.Job(numbers(9), by_three, add)) == {0: 9, 1: 12, 2: 15}
    assert "no way to close" in caplog.text


def test_a_job_that_cannot_be_cancelled_does_not_keep_others_from_it(cluster, monkeypatch, caplog):
    begun, may_go = threading.Semaphore(0), threading.Event()

    def items():
        begun.release()
        may_go.wait()
        yield 1, 1

    def raises():
        raise RuntimeError("not this one")

    handles = [cluster.submit(mmg.Job(items(), by_three, add)) for _ in range(3)]
    for _ in handles:
        assert begun.acquire(timeout=30)
    spared = cluster._running()[0]  # the first of them to be cancelled
    monkeypatch.setattr(spared, "cancel", raises)
    threading.Timer(0.1, may_go.set).start()
    with pytest.raises(KeyboardInterrupt), cluster:
        raise KeyboardInterrupt
    others = [handle for handle in handles if handle is not spared]
    assert [type(handle.exception(timeout=30)) for handle in others] == [mmg.JobCancelled] * 2
    assert "not this one" in caplog.text


def test_partitions_that_were_left_out_are_not_told_as_made():
    told = []
    with ThreadPoolExecutor(2) as executor:
        job = mmg.Job(numbers(200), lambda key, value: [(key, value)], add)
        runner = FuturesRunner(job, ExecutorFutures(executor, 2, None))
        runner.leave_out(Made(frozenset({0, 1}), 4))
        runner.state.on_partitions = lambda partitions, of: told.extend(partitions)
        records = list(runner.records())
    assert sorted(told) == [2, 3]
    assert 0 < len(records) < 200
