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


#: Places that differ from another one in how it is reached, and the tests of the contract that this may change.
VARIANTS = ("loky", "ray client")
OF_VARIANTS = """
    test_every_form_of_function test_values_come_in_datasource_order test_files_lines_and_iterables_are_read
    test_keys_of_every_kind test_results_of_a_partition_that_are_more_than_is_fetched_at_once
    test_a_job_goes_on_where_an_earlier_run_ended_or_is_refused_by_name
    test_variables_are_passed_where_the_environment_is_not test_poison_items_are_set_aside_and_named
    test_an_item_that_kills_its_executor_is_set_aside_and_its_last_words_are_told
    test_what_ends_the_process_that_forks_executors_once_costs_time_only test_cancelling_stops_the_users_code
    test_a_job_that_fails_while_its_datasource_waits_ends_at_once
"""


def pytest_collection_modifyitems(config, items):
    """Give tests of engines time, and leave out what a variant of a place has in common with it.

    Each starts processes that need seconds, and half a minute on a loaded machine.
    """
    ours = [item for item in items if item.path.parent == FOLDER]
    for item in ours:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_S))
    left_out = [
        item
        for item in ours
        if hasattr(item, "callspec")
        and item.callspec.params.get("place") in VARIANTS
        and item.originalname not in OF_VARIANTS.split()
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
