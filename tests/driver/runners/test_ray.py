"""Jobs on Ray: what its workers, its object store and its session do to them."""

import importlib.util
import os
import signal

import pytest

import mmgevent as mmg
from mmgevent.driver.runners.ray import MAX_RETRIES
from tests.driver.runners.ray_clusters import STORE_BYTES, lasting_leases, ray_session
from tests.driver.runners.test_contract import EXPECTED, add, by_three, numbers, wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed"),
]


@pytest.fixture(scope="module")
def session():
    with ray_session() as ray:
        yield ray


@pytest.fixture
def cluster(session):
    with mmg.connect(session) as cluster:
        yield cluster


def kill_ray_worker():
    """In an executor: kill the worker process of Ray, which is the parent of the template."""
    import psutil

    os.kill(psutil.Process(os.getppid()).ppid(), signal.SIGKILL)
    signal.pause()


@pytest.mark.parametrize("phase", ["map", "reduce"])
def test_ray_runs_a_task_again_whose_worker_is_killed(cluster, tmp_path, phase):
    mark = str(tmp_path / "killed")

    def kill_once():
        if not os.path.exists(mark):
            open(mark, "w").close()
            kill_ray_worker()

    def mapfn(key, value):
        if phase == "map" and value == 50:
            kill_once()
        yield value % 3, value

    def reducefn(key, values):
        if phase == "reduce" and key == 1:
            kill_once()
        return sum(values)

    handle = cluster.submit(mmg.Job(numbers(100), mapfn, reducefn))
    assert handle.result() == EXPECTED
    assert os.path.exists(mark)
    assert handle.deaths() == []  # no fault of an item


def test_a_task_whose_workers_are_always_killed_ends_the_job_and_retries_do_not_multiply(cluster, tmp_path):
    attempts = str(tmp_path)

    def mapfn(key, value):
        open(os.path.join(attempts, str(os.getpid())), "w").close()
        kill_ray_worker()

    with pytest.raises(mmg.JobError, match="Ray has lost a task") as caught:
        cluster.run(mmg.Job({1: 1}, mapfn, add, retries=5))
    assert caught.value.kind == "lost"
    assert len(os.listdir(attempts)) == 1 + MAX_RETRIES


def test_faults_of_the_users_code_are_retried_by_the_job_alone(cluster, tmp_path):
    calls = tmp_path / "calls"

    def fails(key, value):
        with open(calls, "a") as file:
            file.write("x")
        raise ValueError("always")

    with pytest.raises(mmg.JobError, match="always"):
        cluster.run(mmg.Job({1: 1}, fails, add, retries=2))
    assert calls.read_text() == "xxx"


def test_a_shuffle_larger_than_the_object_store_is_spilled(cluster):
    size = 2**20
    count = 2 * STORE_BYTES // size

    def large(key, value):
        yield value % 8, bytes([value % 256]) * size

    job = mmg.Job(numbers(count), large, lambda key, values: sum(map(len, values)), partitions=8)
    assert cluster.run(job) == dict.fromkeys(range(8), count // 8 * size)


def test_nothing_of_a_job_is_left_and_the_session_of_the_program_stays(session, tmp_path):
    pids = str(tmp_path)
    leases_before = lasting_leases()

    def setup():
        open(os.path.join(pids, str(os.getpid())), "w").close()

    with mmg.connect(session) as cluster:
        assert cluster.run(mmg.Job(numbers(100), by_three, add, setupfn=setup)) == EXPECTED
        assert os.listdir(pids)
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in os.listdir(pids)))
        wait_until(lambda: lasting_leases() <= leases_before)
    with mmg.connect("ray://auto") as cluster:  # the session of the program
        assert cluster.run(mmg.Job(numbers(100), by_three, add)) == EXPECTED
    assert session.is_initialized()
    with pytest.raises(mmg.UsageError, match="has a Ray session already"):
        mmg.connect("ray://127.0.0.1:1")
