"""The server's own code in simulated clusters: each record once, in order, and nothing left, whatever goes wrong."""

from __future__ import annotations

import collections

import pytest

from tests.effort import some_of
from tests.trust.cluster_simulation import MISFORTUNES, replay

#: what a seed costs is some 35 ms
SEEDS = 1_000


@pytest.mark.parametrize("first", range(0, SEEDS, 100))
def test_results_are_those_of_plain_python_and_nothing_is_left(first):
    for seed in some_of(range(first, first + 100)):
        replay(seed)


def test_a_seed_gives_the_same_run_again():
    runs = [replay(3), replay(3)]
    assert runs[0].step == runs[1].step
    assert runs[0].counts == runs[1].counts


def test_everything_that_can_happen_does_in_the_first_hundred_seeds():
    seen: collections.Counter[str] = collections.Counter()
    for seed in range(100):
        cluster = replay(seed)
        seen.update(cluster.counts)
        seen["spilled"] += sum(store.spilled_bytes > 0 for store in cluster.stores)
        seen["resubmitted"] += len(cluster.servers) - 1
    messages = ("assign", "recall", "revoke", "job_end", "need_content", "results", "notice", "job_done")
    names = {*MISFORTUNES, *messages, "spilled", "resubmitted"}
    assert min(seen[name] for name in names) >= 5, seen
