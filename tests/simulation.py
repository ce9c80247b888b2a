"""Whole clusters in virtual time: a scheduler, drivers and workers that misbehave, from one seed.

    $ python -m tests.simulation SEED...

- Workers crash, hang, drain, join late, and keep or return recalled attempts.
- Executors die, user code raises, files are missing.
- Messages arrive late, twice, or after their link was lost.

`tests.audit` checks every command. For `CHAOS_S` of virtual time anything may go wrong. Then
workers obey, and every job has to end.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import random
import sys
from collections.abc import Callable
from typing import Any

from mmgevent.engine.scheduler import commands as c
from mmgevent.engine.scheduler.rules import JobRules
from mmgevent.engine.scheduler.scheduler import TICK_S
from mmgevent.wire.positions import position_of
from tests.audit import AuditedScheduler

CHAOS_S = 20.0
HORIZON_S = 5_000.0

#: Events that a server may doubt.
DOUBTED = ("attempt_failed", "attempt_died", "attempt_unprepared", "remove_worker")


@dataclasses.dataclass
class Driver:
    """The driver of one job: its input, and what goes wrong with it."""

    rules: JobRules
    batches: list[int]  # numbers of items
    poison: set[tuple[int, int]]  # items that always raise
    killers: set[tuple[int, int]]  # items that kill their executor
    item_s: float  # what an item takes
    partitions: int
    sent: int = 0
    allowed: int = 0
    has_ended: bool = False
    may_fail: bool = False  # something happened that may end the job
    unfit: set[int] = dataclasses.field(default_factory=set)  # workers where its setupfn fails
    with_content: set[int] = dataclasses.field(default_factory=set)  # batches sent with contents


class SimulatedWorker:
    """A worker that obeys, more or less."""

    def __init__(self, cluster: Cluster, number: int, slots: int, offers: frozenset[str]):
        self.cluster = cluster
        self.number = number
        self.offers = offers
        self.lines: list[collections.deque[c.Assign]] = [collections.deque() for _ in range(slots)]
        self.begun: dict[int, object] = {}  # attempt -> token of its end
        self.is_gone = False
        self.has_files = cluster.random.random() < 0.8
        self.speed = cluster.random.choice([0.5, 1.0, 1.0, 1.0, 5.0])
        self.last_arrival_s = 0.0

    def receive(self, command: Any) -> None:
        """Obey a command after a delay. A link keeps the order of commands."""
        delay = self.cluster.latency()
        self.last_arrival_s = max(self.last_arrival_s, self.cluster.now + delay)
        self.cluster.at(self.last_arrival_s, lambda: self.obey(command))

    def obey(self, command: Any) -> None:
        if self.is_gone:
            return
        if isinstance(command, c.Assign):
            self.lines[command.slot].append(command)
            self.work(command.slot)
        elif isinstance(command, c.Recall):
            held = self.find(command.attempt)
            if held is not None and held.attempt not in self.begun:
                self.lines[held.slot].remove(held)
                self.say("attempt_returned", command.attempt)
            elif held is not None or self.cluster.chance(0.5):
                self.say("attempt_kept", command.attempt)
        elif isinstance(command, c.Revoke):
            held = self.find(command.attempt)
            if held is not None:
                self.lines[held.slot].remove(held)
                self.begun.pop(held.attempt, None)
                self.work(held.slot)

    def find(self, attempt: int) -> c.Assign | None:
        return next((a for line in self.lines for a in line if a.attempt == attempt), None)

    def say(self, event: str, *args: Any) -> None:
        cluster = self.cluster
        cluster.after(cluster.latency(), lambda: cluster.event(event, *args))
        if event != "attempt_kept" and cluster.chance(0.05):  # twice, or when it is over
            cluster.after(cluster.latency() * 10, lambda: cluster.event(event, *args))

    def work(self, slot: int) -> None:
        """Begin the first attempt of a slot, if it has not begun."""
        line = self.lines[slot]
        if not line or line[0].attempt in self.begun:
            return
        a, token = line[0], object()
        self.begun[a.attempt] = token
        seconds, event, args = self.outcome(a)
        self.cluster.after(seconds, lambda: self.end(a, token, event, args))

    def end(self, a: c.Assign, token: object, event: str, args: tuple[Any, ...]) -> None:
        if self.is_gone or self.begun.get(a.attempt) is not token:
            return
        line = self.lines[a.slot]
        line.popleft()
        del self.begun[a.attempt]
        self.say(event, a.attempt, *args)
        if event == "attempt_died" and line and self.cluster.chance(0.5):
            self.say("attempt_returned", line.popleft().attempt)
        self.work(a.slot)

    def outcome(self, a: c.Assign) -> tuple[float, str, tuple[Any, ...]]:
        """Return after how long an attempt will end, by which event, and its arguments."""
        cluster = self.cluster
        driver = cluster.drivers[a.job]
        item_s = driver.item_s * self.speed
        if a.phase == "map" and not self.has_files and a.batch not in cluster.content_sent(a):
            return 0.01, "attempt_needs_content", ()
        if cluster.is_chaotic and cluster.chance(0.01):
            driver.may_fail = True
            return item_s, "attempt_died", ({"kind": "died"}, None)
        if self.number in driver.unfit or (cluster.is_chaotic and driver.unfit and cluster.chance(0.05)):
            driver.may_fail = True
            return 0.01, "attempt_unprepared", ({"kind": "exception", "function": "setupfn"},)
        if a.phase == "reduce":
            return item_s * 5, "attempt_done", ()
        seconds = 0.0
        for item in range(a.lo, a.hi):
            if position_of(item) in a.skip:
                continue
            seconds += item_s
            if (a.batch, item) in driver.poison:
                return (
                    seconds,
                    "attempt_failed",
                    ({"kind": "exception"}, position_of(item) if item % 3 else None),
                )
            if (a.batch, item) in driver.killers:
                return seconds, "attempt_died", ({"kind": "died"}, position_of(item) if item % 2 else None)
        if cluster.is_chaotic and cluster.chance(0.02):
            seconds *= 100  # it hangs
        return seconds, "attempt_done", ()


class Cluster:
    """One simulated cluster. `run()` raises AssertionError if a rule is broken."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.audit = AuditedScheduler(seed)
        self.now = 0.0
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.drivers: dict[int, Driver] = {}
        self.workers: dict[int, SimulatedWorker] = {}
        self.worker_numbers = itertools.count(1)
        self.content_at_assign: dict[int, frozenset[int]] = {}
        self.is_unsteady = self.chance(0.7)
        self.draining: set[int] = set()
        self.seen: set[str] = set()  # names of the events and commands so far

    # Time and chance

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (when, next(self.order), action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def latency(self) -> float:
        return self.random.uniform(0.001, 0.02) * (50 if self.chance(0.02) else 1)

    @property
    def is_chaotic(self) -> bool:
        return self.is_unsteady and self.now < CHAOS_S

    # What happens

    def run(self) -> None:
        for _ in range(self.random.choice([0, 1, 2, 5])):
            self.join()
        for job in range(1, self.random.choice([1, 1, 2, 4]) + 1):
            self.at(self.random.uniform(0, 3), lambda job=job: self.submit(job))
        self.at(4.0, self.join_all_kinds)
        self.at(CHAOS_S, self.join_all_kinds)
        if self.is_unsteady:
            self.after(self.random.expovariate(0.5), self.misfortune)
        self.tick()
        while self.agenda and not self.is_over():
            self.now, _, action = heapq.heappop(self.agenda)
            assert self.now < HORIZON_S, f"jobs never end: {self.unfinished()}"
            action()
        self.audit.check_empty()
        for job, driver in self.drivers.items():
            end = self.audit.jobs[job].end
            healthy = not (driver.may_fail or driver.poison or driver.killers)
            assert not healthy or isinstance(end, c.FinishJob), f"job {job} failed: {end}"

    def is_over(self) -> bool:
        return self.now > 4.0 and not self.unfinished()

    def unfinished(self) -> list[int]:
        return [job for job, books in self.audit.jobs.items() if books.end is None]

    def tick(self) -> None:
        self.event("tick")
        self.after(TICK_S, self.tick)

    def join(self, offers: frozenset[str] | None = None) -> None:
        number = next(self.worker_numbers)
        if offers is None:
            offers = frozenset(self.random.choice([(), (), ("stats",), ("stats", "plot")]))
        worker = SimulatedWorker(self, number, self.random.choice([1, 1, 2, 4, 8]), offers)
        self.workers[number] = worker
        self.event("add_worker", number, len(worker.lines), offers)

    def join_all_kinds(self) -> None:
        """Add a worker that can do every job."""
        self.join(frozenset({"stats", "plot"}))
        self.workers[max(self.workers)].speed = 1.0

    def misfortune(self) -> None:
        if not self.is_chaotic:
            return
        self.after(self.random.expovariate(0.5), self.misfortune)
        kind = self.random.choice(["crash", "crash", "drain", "join", "join", "aside", "cancel"])
        if kind == "join":
            self.join()
        elif kind == "cancel" and self.chance(0.1) and self.unfinished():
            job = self.random.choice(self.unfinished())
            self.drivers[job].may_fail = True
            self.event("cancel_job", job)
        elif self.workers:
            number = self.random.choice(list(self.workers))
            if kind == "crash":
                self.leave(number)
            elif kind == "aside":
                self.event("set_worker_aside", number)
                self.after(self.random.uniform(0.1, 5), lambda: self.readmit(number))
            elif kind == "drain":
                self.draining.add(number)
                self.event("drain_worker", number)
                self.after(self.random.uniform(0.1, 5), lambda: self.leave(number))

    def readmit(self, number: int) -> None:
        if number in self.workers and number not in self.draining:
            self.event("readmit_worker", number)

    def leave(self, number: int) -> None:
        worker = self.workers.pop(number, None)
        if worker is not None:
            worker.is_gone = True
            self.event("remove_worker", number)

    def submit(self, job: int) -> None:
        chance, choice = self.chance, self.random.choice
        rules = JobRules(
            retries=choice([0, 0, 1, 2]),
            retransmit=choice([0.0, 0.05, 0.5]),
            allocation="oneshot" if chance(0.2) else "continuous",
            max_skipped=choice([0, 0, 3, 0.2]),
            needs=frozenset({"stats"}) if chance(0.2) else frozenset(),
            owner=job % 3,
        )
        one = rules.allocation == "oneshot"
        batches = [1 if one else choice([1, 2, 5, 30]) for _ in range(choice([0, 1, 3, 10, 30]))]
        items = [(b, i) for b, count in enumerate(batches, 1) for i in range(count)]
        bad = self.random.sample(items, min(len(items), choice([0, 0, 0, 1, 4])))
        killers = set(bad[::2]) if chance(0.5) else set()
        self.drivers[job] = Driver(
            rules, batches, set(bad) - killers, killers, choice([0.001, 0.05, 0.2]), choice([0, 1, 5, 40])
        )
        if chance(0.3):
            self.drivers[job].unfit = set(self.random.sample(range(1, 10), choice([1, 3, 8])))
        self.event("add_job", job, rules)

    def feed(self, job: int) -> None:
        """Send the batches that the driver may send."""
        driver = self.drivers[job]
        while driver.sent < min(driver.allowed, len(driver.batches)):
            driver.sent += 1
            batch = driver.sent
            self.event("add_batch", job, batch, driver.batches[batch - 1])
            if batch - 1 in driver.with_content:
                driver.with_content.add(batch)
                self.event("content_arrived", job, batch)
        if driver.sent == len(driver.batches) and not driver.has_ended:
            driver.has_ended = True
            self.event("end_input", job)

    def content_sent(self, a: c.Assign) -> frozenset[int]:
        return self.content_at_assign[a.attempt]

    def bring_content(self, job: int, batch: int) -> None:
        self.drivers[job].with_content.add(batch)
        self.event("content_arrived", job, batch)

    def plan(self, job: int) -> None:
        partitions = range(self.drivers[job].partitions)
        self.event("plan_reduce", job, [tuple(partitions[i : i + 3]) for i in range(0, len(partitions), 3)])

    def event(self, name: str, *args: Any) -> None:
        self.seen.add(name)
        facts = {"is_doubted": self.chance(0.3)} if name in DOUBTED else {}
        for command in getattr(self.audit, name)(*args, self.now, **facts):
            self.carry_out(command)

    def carry_out(self, command: Any) -> None:
        self.seen.add(type(command).__name__)
        if isinstance(command, (c.Assign, c.Recall, c.Revoke)):
            if isinstance(command, c.Assign):
                self.content_at_assign[command.attempt] = frozenset(self.drivers[command.job].with_content)
            self.workers[command.worker].receive(command)
        elif isinstance(command, c.Allow):
            self.drivers[command.job].allowed = command.batches
            self.after(self.latency(), lambda: self.feed(command.job))
        elif isinstance(command, c.EnoughInput):
            self.drivers[command.job].has_ended = True
        elif isinstance(command, c.NeedContent):
            self.after(self.latency(), lambda: self.bring_content(command.job, command.batch))
        elif isinstance(command, c.PlanReduce):
            self.after(self.latency(), lambda: self.plan(command.job))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        cluster = Cluster(int(argument))
        cluster.run()
        ends = {job: type(books.end).__name__ for job, books in cluster.audit.jobs.items()}
        sys.stdout.write(
            f"seed {argument}: {cluster.now:.1f} s, {cluster.audit.events} events, "
            f"{len(cluster.audit.known_attempts)} attempts, {ends}\n"
        )
