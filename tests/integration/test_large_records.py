"""Records and results that are large themselves keep to memory_limit, wherever they come up."""

import pytest

import mmgevent as mmg

pytestmark = pytest.mark.long

LIMIT = "128MiB"
VALUE_BYTES = 600_000
RESULT_BYTES = 1_500_000
#: what they take together is more than the limit
COUNT = 300
KEYS = 100


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(procs=2) as cluster:
        yield cluster


def large(key, number):
    yield number, "x" * VALUE_BYTES


def small(key, number):
    yield number % KEYS, number


def lengths(key, values):
    return [len(value) for value in values]


def enlarge(key, values):
    return "y" * RESULT_BYTES


def enlarge_each(groups):
    for key, values in groups:
        yield key, enlarge(key, values)


def length(key, value):
    yield "bytes", len(value)


def collect(key, values):
    return "z" * VALUE_BYTES


OF_ONE_LENGTH = {n: [VALUE_BYTES] for n in range(COUNT)}


def job(*functions, **more):
    return mmg.Job(list(enumerate(range(COUNT))), *functions, memory_limit=LIMIT, partitions=1, **more)


def test_large_results_leave_before_there_are_many(cluster):
    for reducefn in (enlarge, enlarge_each):
        handle = cluster.submit(job(small, reducefn))
        assert {key: len(value) for key, value in handle.result().items()} == dict.fromkeys(
            range(KEYS), RESULT_BYTES
        )
        assert handle.deaths() == []


def test_large_results_are_the_items_of_the_next_stage_a_few_at_a_time(cluster):
    chain = job(small, enlarge).then(length, mmg.reducers.sum_values)
    assert cluster.submit(chain).result() == {"bytes": KEYS * RESULT_BYTES}


@pytest.mark.parametrize("reducefn", [lengths, None])
def test_large_values_of_many_keys_are_read_a_few_at_a_time(cluster, reducefn):
    handle = cluster.submit(job(large, reducefn))
    found = handle.result()
    assert found == OF_ONE_LENGTH if reducefn else all(lengths(0, v) == [VALUE_BYTES] for v in found.values())
    assert len(found) == COUNT
    assert handle.deaths() == []


def test_what_a_collectfn_makes_large_is_read_a_few_at_a_time(cluster):
    handle = cluster.submit(job(lambda key, number: [(number, number)], lengths, collectfn=collect))
    assert handle.result() == OF_ONE_LENGTH
    assert handle.deaths() == []
