"""Values in order where executors die and memory is limited, seen in real processes."""

import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest

import mmgevent as mmg

VALUE_BYTES = 600_000
VALUES = 280
#: what an executor may have in all: less than the values of the one key, 168 MB
LIMIT = "144MiB"
ORDER = random.Random(4).sample(range(VALUES), VALUES)


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(procs=2) as cluster:
        yield cluster


def mapfn(key, number):
    yield "key", f"{number:06}" + "x" * VALUE_BYTES


def small(key, number):
    yield number % 3, number


def numbers_of(key, values):
    return int(values[-1][:6]), [int(value[:6]) for value in values]


def die_once(flag, value):
    if value == VALUES - 1 and not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return -value


@pytest.mark.long
def test_large_values_of_one_key_keep_to_the_memory_limit(cluster):
    items = list(enumerate(ORDER))
    handle = cluster.submit(
        mmg.Job(items, mapfn, numbers_of, sort_values=True, memory_limit=LIMIT, partitions=1)
    )
    assert handle.result() == {"key": (VALUES - 1, list(range(VALUES)))}
    assert handle.deaths() == []


def test_an_executor_that_is_killed_while_it_sorts_costs_nothing_but_time(cluster, tmp_path):
    flag = str(tmp_path / "flag")
    job = mmg.Job(
        list(enumerate(ORDER)), small, mmg.reducers.list_values, sort_values=partial(die_once, flag)
    )
    handle = cluster.submit(job)
    assert handle.result() == {k: [n for n in reversed(range(VALUES)) if n % 3 == k] for k in range(3)}
    assert handle.deaths()
