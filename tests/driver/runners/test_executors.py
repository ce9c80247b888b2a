"""Executors that fail in ways of their own: each is one sentence that names them, and the job ends."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import pytest

import mmgevent as mmg
from mmgevent.machine.leftovers import FOLDER_LEFT_S
from tests.driver.runners.places import wait_until
from tests.driver.runners.test_contract import add, by_three, numbers

WAIT_S = 30.0


class Unusual(BaseException):
    """Not even an Exception."""


class Foreign(Executor):
    """Runs tasks in threads, until the one whose number is `at`: that one ends with `error`."""

    _max_workers = 2

    def __init__(self, at, error, *, is_refusal=False):
        self.threads = ThreadPoolExecutor(2)
        self.count = 0
        self.at, self.error, self.is_refusal = at, error, is_refusal

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        if self.count != self.at:
            return self.threads.submit(fn, *args, **kwargs)
        if self.is_refusal:
            raise self.error
        future = Future()
        future.set_exception(self.error)
        return future


ERRORS = [
    (OSError(28, "No space left on device"), r"a task failed on Foreign: OSError: .*No space left on device"),
    (pickle.PicklingError("cannot\nbe sent"), r"a task failed on Foreign: PicklingError: cannot$"),
    (ValueError(), r"a task failed on Foreign: ValueError$"),
    (KeyboardInterrupt(), r"a task failed on Foreign: KeyboardInterrupt$"),
    (SystemExit(3), r"a task failed on Foreign: SystemExit: 3"),
    (Unusual("x" * 10_000), r"a task failed on Foreign: Unusual: x{50,700}"),
    (TimeoutError("\x1b[31mslow"), r"a task failed on Foreign: TimeoutError: \\x1b\[31mslow"),
    (ModuleNotFoundError("No module named 'numpy'", name="numpy"), "a task failed on Foreign: .*numpy"),
    (BrokenExecutor("all gone"), r"Foreign has lost its workers: BrokenExecutor: all gone"),
]


#: Numbers of the first map task and of the first reduce task. Number 1 is the question of `connect`.
MAP, REDUCE = 2, 3


def run_on(executor):
    with executor.threads, mmg.connect(executor) as cluster:
        job = mmg.Job(numbers(10), by_three, add, partitions=1)
        return cluster.submit(job, on_notice=lambda text: None).result(WAIT_S)


@pytest.mark.parametrize(
    ("at", "error", "said"),
    [(1, *ERRORS[0]), *((MAP, *pair) for pair in ERRORS), (REDUCE, *ERRORS[0])],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_task_ends_with_is_one_sentence(at, error, said):
    with pytest.raises(mmg.JobError, match=said) as caught:
        run_on(Foreign(at, error))
    assert caught.value.kind == "lost"
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("at", [1, REDUCE])
def test_whatever_a_submit_raises_is_one_sentence(at):
    with pytest.raises(mmg.JobError, match="Foreign takes no task: OSError: the queue is full"):
        run_on(Foreign(at, OSError("the queue is full"), is_refusal=True))
    with pytest.raises(mmg.UsageError, match="Foreign takes no more tasks: after shutdown"):
        run_on(Foreign(at, RuntimeError("after shutdown"), is_refusal=True))


def test_workers_without_mmgevent_are_told_how_to_get_it():
    executor = Foreign(1, ModuleNotFoundError("No module named 'mmgevent'", name="mmgevent"))
    with (
        executor.threads,
        mmg.connect(executor) as cluster,
        pytest.raises(mmg.UsageError, match="pip install mmgevent"),
    ):
        cluster.run(mmg.Job(numbers(10), by_three, add))


def test_what_only_looks_like_an_executor_is_refused_by_name():
    """As submitit's executors do."""

    class AutoExecutor:
        def submit(self, fn, *args, **kwargs):
            raise AssertionError

    with pytest.raises(mmg.UsageError, match=r"got AutoExecutor: .*no concurrent\.futures\.Executor"):
        mmg.connect(AutoExecutor())


#: Runs a job on a pool, and kills itself once there are pieces in its folder.
KILLED = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
import mmgevent as mmg

def stop(key, values):
    print("reduces", flush=True)
    os.kill(int(os.environ["VICTIM"]), signal.SIGKILL)

os.environ["VICTIM"] = str(os.getpid())
with ThreadPoolExecutor(2) as pool, mmg.connect(pool, folder=sys.argv[1]) as cluster:
    cluster.run(mmg.Job([(i, i) for i in range(9)], lambda key, value: [(key, value)], stop))
"""


def test_a_program_that_is_killed_leaves_no_folder_once_another_job_runs(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    os.utime(left / ".owner", (time.time() - 2 * FOLDER_LEFT_S,) * 2)
    with ThreadPoolExecutor(2) as pool, mmg.connect(pool, folder=str(tmp_path)) as cluster:
        wait_until(lambda: cluster.run(mmg.Job(numbers(3), by_three, add)) and not left.exists())
    assert list(tmp_path.iterdir()) == []
