"""joblib's `Parallel` on a cluster, by the backend that `mmgevent.joblib` registers."""

import os
import subprocess
import sys
import time

import psutil
import pytest

import mmgevent as mmg

joblib = pytest.importorskip("joblib", reason="the package joblib is not installed")

import mmgevent.joblib  # noqa: E402 - it needs joblib
from tests.driver.calls import fail, power, where  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

#: Each call is a job, whose processes import what the call needs.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster():
    mmgevent.joblib.register()
    with mmg.LocalCluster(2) as cluster:
        yield cluster


@pytest.fixture
def backend(cluster):
    with joblib.parallel_config("mmgevent", cluster=cluster):
        yield cluster


def test_calls_run_on_the_cluster_in_order(backend):
    found = joblib.Parallel(n_jobs=-1)(joblib.delayed(where)(n) for n in range(6))
    assert [n for n, _ in found] == list(range(6))
    assert os.getpid() not in {pid for _, pid in found}
    assert joblib.Parallel()(joblib.delayed(lambda n: -n)(n) for n in range(3)) == [0, -1, -2]
    assert joblib.Parallel(n_jobs=1)(joblib.delayed(where)(n) for n in range(2))[0] == (0, os.getpid())
    assert joblib.effective_n_jobs(-1) == 2


def test_small_calls_are_put_into_batches(backend):
    with joblib.Parallel(n_jobs=2, batch_size="auto") as parallel:
        assert sum(parallel(joblib.delayed(power)(n) for n in range(60))) == sum(n**2 for n in range(60))
        assert parallel(joblib.delayed(power)(n) for n in range(3)) == [0, 1, 4]


def test_generators_come_as_calls_end(backend):
    found = joblib.Parallel(n_jobs=2, return_as="generator")(joblib.delayed(power)(n) for n in range(10))
    assert list(found) == [n**2 for n in range(10)]


def test_an_exception_is_the_calls_own_and_ends_the_others(backend, tmp_path):
    def run(n):
        if n == 3:
            raise LookupError("not here")
        (tmp_path / str(os.getpid())).touch()
        if n < 3:
            return n
        time.sleep(1000)

    with pytest.raises(LookupError, match="not here") as caught:
        joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(run)(n) for n in range(10))
    assert "in run" in "".join(caught.value.__notes__)
    wait_until(lambda: not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir()))
    with pytest.raises(mmg.JobError, match="exit code 7"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(fail)(how) for how in ("death", 1))
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(power)(n) for n in range(3)) == [0, 1, 4]


def test_parallel_inside_of_a_call_runs_there(backend):
    def outer(n):
        import joblib

        return {
            pid for _, pid in joblib.Parallel(n_jobs=-1)(joblib.delayed(where)(m) for m in range(3))
        }, os.getpid()

    for inner, pid in joblib.Parallel(n_jobs=2)(joblib.delayed(outer)(n) for n in range(2)):
        assert inner == {pid}


def test_no_more_than_n_jobs_run_at_once(cluster, tmp_path):
    def count(n):
        mine = tmp_path / str(n)
        mine.touch()
        time.sleep(0.05)
        running = len(list(tmp_path.iterdir()))
        mine.unlink()
        return running

    with mmg.LocalCluster(4) as four, joblib.parallel_config("mmgevent", cluster=four):
        assert max(joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(count)(n) for n in range(6))) <= 2


def test_memory_mapped_arrays_travel_as_values(backend, tmp_path):
    numpy = pytest.importorskip("numpy", reason="the package numpy is not installed")
    path = tmp_path / "array"
    small = numpy.memmap(path, dtype="int64", mode="w+", shape=(10,))
    large = numpy.memmap(tmp_path / "large", dtype="int64", mode="w+", shape=(300_000,))
    small[:], large[:] = 2, 3

    def total(array, name):
        with open("/proc/self/maps") as maps:
            if name in maps.read():
                raise AssertionError("it is mapped here")
        return int(array.sum())

    calls = [joblib.delayed(total)(array, str(array.filename)) for array in (small, large) * 2]
    for one, other in (calls[0:2], calls[2:4]):
        assert joblib.Parallel(n_jobs=2)([one, other]) == [20, 900_000]


PROGRAM = """
import joblib, mmgevent.joblib, psutil
mmgevent.joblib.register()
with joblib.parallel_config("mmgevent", cluster="local:2"):
    print(joblib.effective_n_jobs(-1), psutil.Process().children())
    print(joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(5)))
print(psutil.Process().children(recursive=True))
"""


def test_a_cluster_that_the_backend_opened_ends_with_the_parallel():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 []\n[0, 1, 4, 9, 16]\n[]\n", done.stderr


def test_what_is_no_cluster_is_said(cluster):
    with pytest.raises(mmg.UsageError, match="got int"):
        joblib.parallel_config("mmgevent", cluster=3)


def test_scikit_learn_searches_on_the_cluster(backend):
    pytest.importorskip("sklearn", reason="the package scikit-learn is not installed")
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    features, labels = make_classification(n_samples=200, random_state=0)
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(features, labels)
    with joblib.parallel_config("threading", n_jobs=1):
        alone = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(features, labels)
    assert search.best_score_ == alone.best_score_
