"""Consume records into groups or sums, and merge what several tasks made of them."""

import sys

import pytest

from benchmarks.micro import plain
from benchmarks.micro.cases import PAIRS
from mmgevent._speedups import SUM


@pytest.fixture(params=list(PAIRS))
def pairs(request, benchmark):
    benchmark.group = f"{request.node.originalname[5:]}, {request.param}"
    return PAIRS[request.param]


def generate(pairs):
    """Yield records as a map function does."""
    yield from pairs


def grouped(pairs):
    groups = {}
    plain.group(pairs, groups, 0)
    return groups


def test_group(benchmark, core, pairs):
    def run():
        groups = {}
        core.group(generate(pairs), groups, sys.maxsize)
        return groups

    assert benchmark(run) == grouped(pairs)


def test_fold(benchmark, core, pairs):
    def run():
        table = {}
        core.fold(generate(pairs), table, SUM, sys.maxsize)
        return table

    assert sum(benchmark(run).values()) == len(pairs)


def test_merge_grouped(benchmark, core, pairs):
    groups = grouped(pairs)
    keys, values = list(groups), list(groups.values())

    def run():
        merged = {key: [] for key in keys}
        core.merge_grouped(merged, keys, values)
        return merged

    assert benchmark(run) == groups


def test_merge_flat(benchmark, core, pairs):
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]

    def run():
        merged = {}
        core.merge_flat(merged, keys, values)
        return merged

    assert benchmark(run) == grouped(pairs)


def test_merge_fold(benchmark, core, pairs):
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]

    def run():
        table = {}
        core.merge_fold(table, keys, values, SUM)
        return table

    assert sum(benchmark(run).values()) == len(pairs)
