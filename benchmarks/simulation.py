"""Run the real scheduler in virtual time: what a decision costs, and how good decisions are.

    $ python -m benchmarks.simulation                            # 100 to 100,000 workers
    $ python -m benchmarks.simulation --workers 1000 --tasks 100000
    $ python -m benchmarks.simulation --full                     # 100,000 workers, 10 million tasks

The scheduler is the server's. There are no links, no bytes and no waiting: an agenda says what
happens next, and when.

- Tasks take 10 s in the median (log-normal). One attempt in 500 takes 20 times as long. A duplicate
  does not.
- Workers leave without a message, and others join. On average a worker stays for 75 minutes.

What the columns mean:

- decision: one event accepted and all its commands returned. Its time is that of the call, without
  the simulation around it.
- core: CPU time of this process as a share of one core. The process never waits, so other processes
  took the rest. Times are reduced by that share, except that of the slowest decision.
- ideal: the makespan if all work were spread evenly over all workers and none were lost. The
  rounding of the last tasks is part of the ratio, so more tasks per worker make it smaller.
- duplicated: time in duplicates that did not count.
- lost: time in attempts whose worker left.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import heapq
import json
import math
import random
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks import facts
from benchmarks.tables import format_table
from mmgevent.engine.scheduler import commands as c
from mmgevent.engine.scheduler.rules import JobRules
from mmgevent.engine.scheduler.scheduler import TICK_S, Scheduler

MEDIAN_S = 10.0
SIGMA = 0.5  #: sigma of the log-normal distribution: two thirds of tasks take 6 to 16 s
STRAGGLERS = 0.002  #: share of attempts that take long
STRAGGLER_FACTOR = 20.0  #: times as long as others
STAY_S = 4_500.0  #: mean time that a worker stays
JOB = 1

#: Kinds of entries on the agenda.
END, LEAVE, TICK = range(3)


class Decisions:
    """How many decisions the scheduler made, and how long they took, by event."""

    def __init__(self) -> None:
        self.spent_ns: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.slowest: tuple[int, str] = (0, "")  #: nanoseconds, event

    def add(self, event: str, taken_ns: int) -> None:
        self.spent_ns[event] = self.spent_ns.get(event, 0) + taken_ns
        self.counts[event] = self.counts.get(event, 0) + 1
        if taken_ns > self.slowest[0]:
            self.slowest = (taken_ns, event)

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def seconds(self) -> float:
        return sum(self.spent_ns.values()) / 1e9


@dataclasses.dataclass
class Work:
    """What tasks take, and what became of the time of attempts, in seconds."""

    tasks_s: float = 0.0  #: all tasks together
    longest_s: float = 0.0  #: the longest task
    useful_s: float = 0.0  #: in attempts that counted
    duplicated_s: float = 0.0  #: in duplicates that did not count
    lost_s: float = 0.0  #: in attempts whose worker left

    @property
    def busy_s(self) -> float:
        return self.useful_s + self.duplicated_s + self.lost_s


class World:
    """One job, its driver and its workers of one slot each; plain dicts, to cost little."""

    def __init__(self, workers: int, tasks: int, seed: int, *, churn: bool = True, retransmit: float = 0.05):
        self.random = random.Random(seed)
        self.scheduler = Scheduler(random.Random(seed))
        self.worker_count = workers
        self.task_count = tasks
        self.churn = churn
        self.rules = JobRules(retransmit=retransmit)
        self.now = 0.0
        self.agenda: list[tuple[float, int, int, int]] = []  # time, order, kind, attempt or worker
        self.orders = 0
        self.last_worker = 0
        self.sent = 0
        self.is_over = False
        self.running: dict[int, int] = {}  # worker -> attempt
        self.queued: dict[int, deque[int]] = {}  # worker -> attempts behind it, the next one first
        self.worker_of: dict[int, int] = {}  # attempt -> worker
        self.batch_of: dict[int, int] = {}  # attempt -> batch
        self.began_s: dict[int, float] = {}  # attempt -> time
        self.seconds: dict[int, float] = {}  # batch -> what its task takes
        self.decisions = Decisions()
        self.work = Work()
        self.committed = 0
        self.pending: deque[tuple[str, tuple[Any, ...]]] = deque()

    def run(self) -> None:
        """Simulate until the job is over; SystemExit if it fails or was not done exactly once."""
        for _ in range(self.worker_count):
            self.join()
        self.event("add_job", JOB, self.rules)
        self.at(TICK_S, TICK, 0)
        while not self.is_over:
            self.now, _, kind, number = heapq.heappop(self.agenda)
            if kind == END:
                self.end(number)
            elif kind == LEAVE:
                self.leave(number)
            else:
                self.event("tick")
                self.at(self.now + TICK_S, TICK, 0)
        if self.committed != self.task_count:
            raise SystemExit(f"{self.committed} tasks were committed, not {self.task_count}")

    @property
    def ideal_s(self) -> float:
        return max(self.work.tasks_s / self.worker_count, self.work.longest_s)

    # What happens

    def at(self, when_s: float, kind: int, number: int) -> None:
        self.orders += 1
        heapq.heappush(self.agenda, (when_s, self.orders, kind, number))

    def join(self) -> None:
        self.last_worker += 1
        if self.churn:
            self.at(self.now + self.random.expovariate(1 / STAY_S), LEAVE, self.last_worker)
        self.event("add_worker", self.last_worker, 1, frozenset())

    def leave(self, worker: int) -> None:
        if worker in self.running:
            for attempt in (self.running.pop(worker), *self.queued.pop(worker, ())):
                self.work.lost_s += self.forget(attempt)
        self.event("remove_worker", worker)
        self.join()

    def begin(self, attempt: int) -> None:
        seconds = self.seconds[self.batch_of[attempt]]
        if self.random.random() < STRAGGLERS:
            seconds *= STRAGGLER_FACTOR
        self.began_s[attempt] = self.now
        self.at(self.now + seconds, END, attempt)

    def end(self, attempt: int) -> None:
        worker = self.worker_of.get(attempt)
        if worker is None:
            return  # it was revoked, or its worker left
        self.free(worker)
        self.event("attempt_done", attempt)

    def free(self, worker: int) -> None:
        """Take the running attempt off a worker, and begin the one behind it."""
        del self.running[worker]
        behind = self.queued.get(worker)
        if behind is not None:
            self.running[worker] = behind.popleft()
            if not behind:
                del self.queued[worker]
            self.begin(self.running[worker])

    def forget(self, attempt: int) -> float:
        """Forget an attempt; return the seconds that it ran."""
        del self.worker_of[attempt], self.batch_of[attempt]
        began_s = self.began_s.pop(attempt, None)
        return 0.0 if began_s is None else self.now - began_s

    # Decisions

    def event(self, name: str, *args: Any) -> None:
        """Report an event to the scheduler, carry its commands out, and then what follows."""
        self.pending.append((name, args))
        if len(self.pending) > 1:
            return  # a caller further up handles it, in order
        while self.pending:
            name, args = self.pending[0]
            decide = getattr(self.scheduler, name)
            began_ns = time.perf_counter_ns()
            commands = decide(*args, self.now)
            taken_ns = time.perf_counter_ns() - began_ns
            self.decisions.add(name, taken_ns)
            for command in commands:
                self.carry_out(command)
            self.pending.popleft()

    def carry_out(self, command: Any) -> None:
        kind = type(command)
        if kind is c.Assign:
            self.assign(command)
        elif kind is c.Commit:
            self.committed += 1
            self.work.useful_s += self.forget(command.attempt)
        elif kind is c.ReleaseBatch:
            del self.seconds[command.batch]
        elif kind is c.Allow:
            self.send(command.batches)
        elif kind is c.Recall:
            self.recall(command)
        elif kind is c.Revoke:
            self.work.duplicated_s += self.revoke(command)
        elif kind is c.PlanReduce:
            self.event("plan_reduce", JOB, [])
        elif kind is c.FinishJob:
            self.is_over = True
        elif kind is c.FailJob:
            raise SystemExit(f"the job failed: {command.failure}")

    def assign(self, a: c.Assign) -> None:
        self.worker_of[a.attempt] = a.worker
        self.batch_of[a.attempt] = a.batch
        if a.worker in self.running:
            self.queued.setdefault(a.worker, deque()).append(a.attempt)
        else:
            self.running[a.worker] = a.attempt
            self.begin(a.attempt)

    def recall(self, command: c.Recall) -> None:
        if self.unqueue(command.worker, command.attempt):
            self.forget(command.attempt)
            self.event("attempt_returned", command.attempt)
        elif command.attempt in self.worker_of:
            self.event("attempt_kept", command.attempt)

    def revoke(self, command: c.Revoke) -> float:
        seconds = self.forget(command.attempt)
        if (
            not self.unqueue(command.worker, command.attempt)
            and self.running.get(command.worker) == command.attempt
        ):
            self.free(command.worker)
        return seconds

    def unqueue(self, worker: int, attempt: int) -> bool:
        """Take a queued attempt off a worker; False if it is not queued there."""
        behind = self.queued.get(worker)
        if behind is None or attempt not in behind:
            return False
        behind.remove(attempt)
        if not behind:
            del self.queued[worker]
        return True

    def send(self, allowed: int) -> None:
        """Send batches of one item, which are tasks."""
        while self.sent < min(allowed, self.task_count):
            self.sent += 1
            seconds = self.random.lognormvariate(math.log(MEDIAN_S), SIGMA)
            self.seconds[self.sent] = seconds
            self.work.tasks_s += seconds
            self.work.longest_s = max(self.work.longest_s, seconds)
            self.event("add_batch", JOB, self.sent, 1)
            if self.sent == self.task_count:
                self.event("end_input", JOB)


def simulate(workers: int, tasks: int, seed: int) -> tuple[World, float, float]:
    """Run one world; return it, the time that it took, and the CPU time, both in seconds."""
    gc.collect()
    gc.freeze()  # the collector shall search only what the scheduler makes
    world = World(workers, tasks, seed)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    world.run()
    taken_s, taken_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    gc.unfreeze()
    return world, taken_s, taken_cpu_s


def figures_of(world: World, taken_s: float, taken_cpu_s: float) -> dict[str, Any]:
    """Return what is worth keeping of a run."""
    core = min(1.0, taken_cpu_s / taken_s)
    decisions, work = world.decisions, world.work
    return {
        "workers": world.worker_count,
        "tasks": world.task_count,
        "real_s": taken_s,
        "decisions": decisions.count,
        "core": core,
        "decisions_per_s": decisions.count / (decisions.seconds * core),
        "us_by_event": {
            name: spent * core / decisions.counts[name] / 1000 for name, spent in decisions.spent_ns.items()
        },
        "counts": decisions.counts,
        "slowest_ms": decisions.slowest[0] / 1e6,
        "slowest_event": decisions.slowest[1],
        "makespan_s": world.now,
        "ideal_s": world.ideal_s,
        "duplicated_share": work.duplicated_s / work.busy_s,
        "lost_share": work.lost_s / work.busy_s,
    }


def to_table(runs: list[dict[str, Any]]) -> str:
    head = [
        "workers", "tasks", "core", "decisions", "decisions/s", "us: add_batch", "attempt_done", "add_worker",
        "remove_worker", "tick", "slowest ms", "makespan s", "to ideal", "duplicated", "lost",
    ]  # fmt: skip
    body = []
    for run in runs:
        us = run["us_by_event"]
        body.append(
            [
                f"{run['workers']:,}",
                f"{run['tasks']:,}",
                f"{run['core']:.0%}",
                f"{run['decisions']:,}",
                f"{run['decisions_per_s']:,.0f}",
                *(
                    f"{us[name]:.1f}" if name in us else "-"
                    for name in ("add_batch", "attempt_done", "add_worker", "remove_worker", "tick")
                ),
                f"{run['slowest_ms']:.1f} {run['slowest_event']}",
                f"{run['makespan_s']:,.0f}",
                f"{run['makespan_s'] / run['ideal_s']:.3f}",
                f"{run['duplicated_share']:.2%}",
                f"{run['lost_share']:.2%}",
            ]
        )
    return "\n".join(format_table(head, body))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation", description="Run the real scheduler in virtual time."
    )
    parser.add_argument("--workers", default="100,1000,10000,100000", help="numbers of them (%(default)s)")
    parser.add_argument("--tasks", type=int, help="default: 10 a worker, 50,000 at least")
    parser.add_argument("--full", action="store_true", help="100,000 workers and 10 million tasks (minutes)")
    parser.add_argument(
        "--no-gc", action="store_true", help="without the cyclic garbage collector, which a server has"
    )
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--save", type=Path, help="folder for simulation.json")
    given = parser.parse_args()
    if given.no_gc:
        gc.disable()
    known = facts.gather_facts()
    print("\n".join(f"- {name}: {text}" for name, text in known.items() if text) + "\n", flush=True)
    numbers = [100_000] if given.full else [int(text) for text in given.workers.split(",")]
    runs = []
    for workers in numbers:
        tasks = given.tasks or (10_000_000 if given.full else max(50_000, 10 * workers))
        runs.append(figures_of(*simulate(workers, tasks, given.seed)))
        print(f"{workers:,} workers, {tasks:,} tasks: {runs[-1]['real_s']:.1f} s", flush=True)
    print("\n" + to_table(runs))
    if given.save is not None:
        given.save.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"facts": known, "gc": not given.no_gc, "runs": runs}, indent=1) + "\n"
        (given.save / "simulation.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
