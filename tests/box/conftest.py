import os
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import mmgevent as mmg


@pytest.fixture(scope="module")
def cluster():
    """One slot whose box is in this process."""
    with ThreadPoolExecutor(1) as executor, mmg.connect(executor) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _nothing_left():
    """No process of a box outlives its job."""
    before = children()
    yield
    _, left = psutil.wait_procs(children() - before, timeout=10)
    assert not left


def children():
    return set(psutil.Process(os.getpid()).children(recursive=True))
