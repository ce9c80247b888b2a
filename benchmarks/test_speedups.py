"""Time the C core, its twin, and the Python one would write, on records of a word count.

    $ python -m pytest benchmarks/test_speedups.py -o addopts= --benchmark-columns=min,median

A function stays in C only while its line here shows why.  Compare within a group.
"""

from __future__ import annotations

import random
import sys
from operator import add

import pytest
import xxhash

from mmgevent._speedups import SUM, _core, _fallback

PARTITIONS = 64
_rng = random.Random(1)
WORDS = _rng.choices([f"word{n}" for n in range(3000)], k=30_000)
PAIRS = [(word, 1) for word in WORDS]
TUPLE_PAIRS = [((word, n % 5), 1) for n, word in enumerate(WORDS)]


class Plain:
    """What one would write without mmgevent; knows neither NaN nor budgets nor classes of keys."""

    @staticmethod
    def group(pairs, groups, budget):
        for key, value in pairs:
            if key in groups:
                groups[key].append(value)
            else:
                groups[key] = [value]

    @staticmethod
    def fold(pairs, table, op, budget):
        for key, value in pairs:
            table[key] = add(table[key], value) if key in table else value

    @staticmethod
    def scatter(groups, count):
        parts = [([], []) for _ in range(count)]
        for key, value in groups.items():
            keys, values = parts[xxhash.xxh64_intdigest(repr(key).encode()) % count]
            keys.append(key)
            values.append(value)
        return parts

    @staticmethod
    def merge_grouped(groups, keys, values):
        for key, more in zip(keys, values, strict=True):
            groups.setdefault(key, []).extend(more)


@pytest.fixture(params=[_core, _fallback, Plain], ids=["c", "twin", "plain"])
def core(request):
    return request.param


def grouped(pairs):
    groups = {}
    Plain.group(pairs, groups, 0)
    return groups


@pytest.mark.benchmark(group="group, 30,000 records, str keys")
def test_group(benchmark, core):
    benchmark(lambda: core.group(iter(PAIRS), {}, sys.maxsize))


@pytest.mark.benchmark(group="group, 30,000 records, (str, int) keys")
def test_group_tuples(benchmark, core):
    benchmark(lambda: core.group(iter(TUPLE_PAIRS), {}, sys.maxsize))


@pytest.mark.benchmark(group="fold, 30,000 records")
def test_fold(benchmark, core):
    benchmark(lambda: core.fold(iter(PAIRS), {}, SUM, sys.maxsize))


@pytest.mark.benchmark(group="scatter, 3,000 str keys")
def test_scatter(benchmark, core):
    groups = grouped(PAIRS)
    benchmark(lambda: core.scatter(groups, PARTITIONS))


@pytest.mark.benchmark(group="scatter, 15,000 (str, int) keys")
def test_scatter_tuples(benchmark, core):
    groups = grouped(TUPLE_PAIRS)
    benchmark(lambda: core.scatter(groups, PARTITIONS))


@pytest.mark.benchmark(group="merge_grouped, 3,000 keys")
def test_merge_grouped(benchmark, core):
    groups = grouped(PAIRS)
    keys, values = list(groups), list(groups.values())
    benchmark(lambda: core.merge_grouped({key: [] for key in keys}, keys, values))
