"""Jobs whose results are known, in a module that costs executors nothing to import."""

import os
import time

import mmgevent as mmg

ITEMS = [(n, n) for n in range(60)]
SUMS = {n: sum(range(n, 60, 7)) for n in range(7)}


def _items():
    return iter(ITEMS)


def _spread(key, value):
    yield value % 7, value


def _spread_slowly(key, value):
    time.sleep(0.01)
    yield value % 7, value


def _add(key, values):
    return sum(values)


def quick_job():
    return mmg.Job(_items, _spread, _add)


def slow_job():
    """A job of more than half a second."""
    return mmg.Job(_items, _spread_slowly, _add)


def gated_job(gate):
    """A job whose first item is mapped once there is a file named `gate`, on one slot; the others are at once."""

    def wait(key, value):
        while not key and not os.path.exists(gate):
            time.sleep(0.01)
        yield value % 7, value

    return mmg.Job(_items, wait, _add, name="gated", retransmit=0)


def assert_delivered_once(handle):
    """The results of such a job, record by record: each key once, with its right value."""
    assert sorted(handle.stream()) == sorted(SUMS.items())
