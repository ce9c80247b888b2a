"""Values in order where executors die, seen in real processes."""

import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest

import mmgevent as mmg

VALUES = 280
ORDER = random.Random(4).sample(range(VALUES), VALUES)


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(procs=2) as cluster:
        yield cluster


def small(key, number):
    yield number % 3, number


def die_once(flag, value):
    if value == VALUES - 1 and not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return -value


def test_an_executor_that_is_killed_while_it_sorts_costs_nothing_but_time(cluster, tmp_path):
    flag = str(tmp_path / "flag")
    job = mmg.Job(
        list(enumerate(ORDER)), small, mmg.reducers.list_values, sort_values=partial(die_once, flag)
    )
    handle = cluster.submit(job)
    assert handle.result() == {k: [n for n in reversed(range(VALUES)) if n % 3 == k] for k in range(3)}
    assert handle.deaths()
