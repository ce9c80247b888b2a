import os

import pytest

from tests.driver.runners.places import PLACES, parameters

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
