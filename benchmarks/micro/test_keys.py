"""Hash keys, and say which partition owns each."""

import pytest

from benchmarks.micro.cases import KEYS

PARTITIONS = 64


@pytest.fixture(params=list(KEYS))
def keys(request, benchmark):
    benchmark.group = f"{request.node.originalname[5:]}, {len(KEYS[request.param]):,} {request.param} keys"
    return KEYS[request.param]


def test_hash(benchmark, core, keys):
    hash_key = core.hash_key
    benchmark(lambda: [hash_key(key) for key in keys])


def test_partition(benchmark, core, keys):
    partition = core.partition
    owners = benchmark(lambda: [partition(key, PARTITIONS) for key in keys])
    assert all(0 <= owner < PARTITIONS for owner in owners)


def test_scatter(benchmark, core, keys):
    groups = {key: [1] for key in keys}
    benchmark(lambda: core.scatter(groups, PARTITIONS))
