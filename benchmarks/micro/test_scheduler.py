"""One decision: a task is done, its worker gets the next; beside a deque and two dicts."""

import collections
import itertools
import random

import pytest

from mmgevent.engine.scheduler import commands as c
from mmgevent.engine.scheduler.rules import JobRules
from mmgevent.engine.scheduler.scheduler import Scheduler

ROUNDS = 200  #: decisions a round


class Load:
    """A scheduler whose workers all have one task running and one queued."""

    def __init__(self, workers):
        self.scheduler = Scheduler(random.Random(0))
        self.batches = itertools.count(1)
        self.live = collections.deque()
        for worker in range(1, workers + 1):
            self.scheduler.add_worker(worker, 1, frozenset(), 0.0)
        self.take(self.scheduler.add_job(1, JobRules(), 0.0))
        for _ in range(2 * workers):
            self.add_batch()

    def add_batch(self):
        self.take(self.scheduler.add_batch(1, next(self.batches), 1, 1.0))

    def take(self, commands):
        self.live.extend(command.attempt for command in commands if type(command) is c.Assign)

    def decide(self):
        """Two decisions: a task is done, and its successor's batch arrives."""
        for _ in range(ROUNDS // 2):
            self.take(self.scheduler.attempt_done(self.live.popleft(), 2.0))
            self.add_batch()


class PlainLoad:
    """The same for one who knows no failures, no order and no second job."""

    def __init__(self, workers):
        self.waiting = collections.deque()
        self.running = dict(enumerate(range(workers)))  # attempt -> worker
        self.done = set()
        self.numbers = itertools.count(workers)
        self.order = collections.deque(self.running)

    def decide(self):
        for _ in range(ROUNDS // 2):
            attempt = self.order.popleft()
            worker = self.running.pop(attempt)
            self.done.add(attempt)
            self.waiting.append(next(self.numbers))
            begun = self.waiting.popleft()
            self.running[begun] = worker
            self.order.append(begun)


@pytest.mark.parametrize("workers", [10, 1_000, 20_000])
@pytest.mark.parametrize("load", [Load, PlainLoad], ids=["scheduler", "plain"])
def test_decision(benchmark, load, workers):
    benchmark.group = f"{ROUNDS} decisions, {workers:,} workers"
    busy = load(workers)
    benchmark(busy.decide)
