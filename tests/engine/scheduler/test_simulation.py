"""Seeded clusters in virtual time. `python -m tests.simulation SEED` runs one of them again."""

import collections
import random
import typing

import pytest

from mmgevent.engine.scheduler import commands as c
from mmgevent.engine.scheduler.rules import JobRules
from mmgevent.engine.scheduler.scheduler import Scheduler
from tests.effort import some_of
from tests.simulation import Cluster

#: Simulated clusters. Each takes 3.5 ms, mostly for the audit.
SEEDS = 10_000


@pytest.mark.parametrize("first", range(0, SEEDS, 500))
def test_every_job_ends_by_the_rules_whatever_goes_wrong(first):
    for seed in some_of(range(first, first + 500)):
        try:
            Cluster(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: python -m tests.simulation {seed}") from error


def test_everything_that_can_happen_does_in_the_first_thousand_seeds():
    seen = collections.Counter()
    for seed in range(1_000):
        cluster = Cluster(seed)
        cluster.run()
        seen.update(cluster.seen)
    events = {name for name, value in vars(Scheduler).items() if callable(value) and name[0] != "_"}
    names = (events | {kind.__name__ for kind in typing.get_args(c.Command)}) - {
        "status",
        "fail_job",
        "was_recalled",
        "count_busy",
    }
    assert min(seen[name] for name in names) >= 10, seen


def test_a_seed_gives_the_same_run_again():
    runs = [Cluster(6), Cluster(6)]
    for cluster in runs:
        cluster.run()
    assert runs[0].now == runs[1].now
    assert runs[0].audit.events == runs[1].audit.events
    assert runs[0].audit.known_attempts == runs[1].audit.known_attempts


def test_a_hundred_thousand_workers_share_one_job():
    scheduler, workers = Scheduler(random.Random(0)), 100_000
    for worker in range(workers):
        scheduler.add_worker(worker, 1, frozenset(), 0.0)
    scheduler.add_job(1, JobRules(), 0.0)
    running = [
        command.attempt
        for batch in range(1, 2_001)
        for command in scheduler.add_batch(1, batch, 100, 1.0)
        if isinstance(command, c.Assign)
    ]
    assert len(running) == 2_000
    spread = scheduler.add_batch(1, 2_001, 100_000, 1.5), scheduler.end_input(1, 2.0)
    assert sum(isinstance(command, c.Assign) for commands in spread for command in commands) == 1
    commits = sum(
        isinstance(command, c.Commit)
        for attempt in range(1, 2_002)
        for command in scheduler.attempt_done(attempt, 3.0)
    )
    assert commits == 2_001
    assert scheduler.status(1).phase == "plan"
