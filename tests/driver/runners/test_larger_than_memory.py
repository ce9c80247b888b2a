"""A shuffle and results larger than what a worker of another engine may hold: 400 MiB."""

import contextlib
import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

import mmgevent as mmg
from tests.driver.runners.ray_clusters import ray_session

MIB = 2**20

#: Bound of a worker, and of each executor of its box.
BOUND_MIB = 400
#: What one worker shuffles, and results in: more than its bound, in values of 1 MiB.
COUNT = BOUND_MIB + 80
#: Keys, of which some partitions have a few more than others.
KEYS = COUNT // 2


def needs(package):
    is_missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(is_missing, reason=f"the package {package} is not installed")


def peak_mib():
    """Return the most memory that this process has had. (What `resource` knows is of its parent, too.)"""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) // 1024


@contextlib.contextmanager
def dask_worker():
    """A worker that its nanny kills at 95 % of the bound."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=f"{BOUND_MIB}MiB"
        ) as standing,
        Client(standing) as client,
        mmg.connect(client) as cluster,
    ):
        yield cluster, lambda: [*client.run(peak_mib).values()]


@contextlib.contextmanager
def ray_worker():
    with ray_session(num_cpus=1) as ray, mmg.connect(ray) as cluster:
        peak = ray.remote(peak_mib)
        yield cluster, lambda: ray.get([peak.remote() for _ in range(4)])


@contextlib.contextmanager
def process_of_an_executor():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as executor, mmg.connect(executor) as cluster:
        yield cluster, lambda: [executor.submit(peak_mib).result()]


def megabyte(key, value):
    yield value % KEYS, bytes([value % 256]) * MIB


def join(key, values):
    return b"".join(values)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "worker",
    [
        pytest.param(dask_worker, marks=needs("distributed"), id="dask"),
        pytest.param(ray_worker, marks=needs("ray"), id="ray"),
        pytest.param(process_of_an_executor, id="processes"),
    ],
)
def test_a_shuffle_and_results_larger_than_a_worker_pass_through_it(worker):
    job = mmg.Job({i: i for i in range(COUNT)}, megabyte, join, memory_limit=f"{BOUND_MIB}MiB")
    with worker() as (cluster, peaks):
        handle = cluster.submit(job)
        sizes = {key: len(value) for key, value in handle.stream()}
        assert max(peaks(), default=0) < BOUND_MIB
    assert sizes == dict.fromkeys(range(KEYS), 2 * MIB)
    assert handle.deaths() == []
