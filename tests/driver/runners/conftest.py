import os
from pathlib import Path

import pytest

from tests.driver.runners.places import DEADLINE_S, PLACES, parameters

FOLDER = Path(__file__).parent

#: Longest test, seconds: longer than what it waits for, so that it says what did not come.
TEST_S = DEADLINE_S + 120

# Spark's processes live for seconds. Without its second compiler a JVM needs half the time until it is quick enough.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@pytest.fixture(scope="module", params=parameters())
def place(request):
    """Every place where a job can run, in turn; one cluster for all tests of a module."""
    with PLACES[request.param][0]() as place:
        yield place


@pytest.fixture
def cluster(place):
    return place.cluster


@pytest.fixture
def executors(place):
    """The same, but where executors may die: not inline."""
    if not place.has_executors:
        pytest.skip("inline has no executors")
    return place.cluster


def pytest_collection_modifyitems(items):
    """Give tests of engines time: each starts processes that need seconds, and half a minute on a loaded machine."""
    for item in items:
        if item.path.parent == FOLDER and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_S))
