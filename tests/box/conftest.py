import os
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import mmgevent as mmg
from mmgevent.box.spares import end_spares


@pytest.fixture(scope="module")
def cluster():
    """One slot whose box is in this process."""
    with ThreadPoolExecutor(1) as executor, mmg.connect(executor) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _nothing_left():
    """No process of a box outlives its job, but templates that wait for the next one."""
    before = children()
    yield
    end_spares()
    _, left = psutil.wait_procs(children() - before, timeout=10)
    assert not left


def children():
    return set(psutil.Process(os.getpid()).children(recursive=True))
