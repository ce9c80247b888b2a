"""Fold columns of numbers by key, without an object for each record."""

import array
import random

import pytest

from benchmarks.micro import plain
from mmgevent._speedups import SUM

COUNT = 30_000
_rng = random.Random(1)
#: number of different keys -> the keys of all records
KEYS = {
    f"30,000 records, {n:,} keys": array.array("q", (_rng.randrange(n) for _ in range(COUNT)))
    for n in (4, 3_000, 30_000)
}


@pytest.fixture(params=list(KEYS))
def keys(request, benchmark):
    benchmark.group = f"{request.node.originalname[5:]}, {request.param}"
    return KEYS[request.param]


def test_fold_columns(benchmark, core, keys):
    def run():
        if core is plain:
            table = {}
            plain.fold(zip(keys.tolist(), keys.tolist(), strict=True), table, SUM, 0)
            return len(table)
        columns = core.ColumnFold("whole", "whole", SUM, 1 << 26)
        columns.add(keys, keys, 0)
        return len(columns)

    assert benchmark(run) == len(set(keys))
