"""Check every command of a scheduler against the rules, with books of its own.

The events of `AuditedScheduler` return the commands of the scheduler, after checking each of them.
The audit knows the rules and the events only. It asks the scheduler itself four questions: which
jobs have tasks to give, for which workers items are reserved, whose tasks are short, and which
workers a job avoids.
"""

from __future__ import annotations

import collections
import random
from fractions import Fraction
from typing import Any

from mmgevent.engine.scheduler import commands as c
from mmgevent.engine.scheduler.durations import ATTEMPTS_PER_SLOT, MAX_ATTEMPTS_PER_SLOT
from mmgevent.engine.scheduler.ledger import SHORT_BATCHES_PER_ATTEMPT
from mmgevent.engine.scheduler.rules import JobRules, JobStatus
from mmgevent.engine.scheduler.scheduler import Scheduler
from mmgevent.wire.positions import ALL, WHOLE, Part, entry_of, place_of


class Books:
    """What the audit knows of one job."""

    def __init__(self, rules: JobRules):
        self.rules = rules
        self.items: dict[int, int] = {}
        self.counted: dict[int, set[int]] = collections.defaultdict(set)
        self.skipped: dict[int, set[int]] = collections.defaultdict(set)  # positions
        self.refs: set[int] = set()  # batches whose entries are refs
        #: How much was counted or wholly set aside of each entry of these batches.
        self.shares: dict[int, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        self.committed: set[int] = set()
        self.released: set[int] = set()
        self.crossed: set[int] = set()  # batches that crossed EnoughInput: none of them is mapped
        self.reduced: list[tuple[int, ...]] = []
        self.allowed = -1
        self.allowance = 4  # fewest batches that a "continuous" job may be allowed now
        self.most_allowed = 4  # most of them, if its tasks are short
        self.input_ended = False
        self.planned: list[tuple[int, ...]] | None = None
        self.asked_for_plan = False
        self.end: c.Command | None = None
        self.held = 0
        self.served: set[int] = set()  # workers that got a "oneshot" item and did not return it


def closed_entries(a: c.Assign, books: Books) -> set[int]:
    """Return the entries of which an attempt has nothing to map."""
    is_closed = [a.batch not in books.refs or place_of(position) == WHOLE for position in a.skip]
    return {entry_of(p) for p, closed in zip(a.skip, is_closed, strict=True) if closed}


def share_of(part: Part) -> Fraction:
    return Fraction(1, 1 << part[1])


def overlap(one: Part, other: Part) -> bool:
    """Return whether two parts of one entry have anything in common."""
    depth = min(one[1], other[1])
    return one[0] >> one[1] - depth == other[0] >> other[1] - depth


class AuditedScheduler:
    """A scheduler under audit: an event method `name(*args, now)` for each of the scheduler's."""

    def __init__(self, seed: int = 0):
        self.scheduler = Scheduler(random.Random(seed))
        self.jobs: dict[int, Books] = {}
        self.workers: dict[int, tuple[int, frozenset[str]]] = {}
        self.leaving: set[int] = set()
        self.attempts: dict[int, c.Assign] = {}
        self.known_attempts: set[int] = set()
        self.slots: dict[tuple[int, int], list[int]] = {}
        self.asked_back: set[int] = set()
        self.asked_once: set[int] = set()
        self.events = 0

    def status(self, job: int) -> JobStatus:
        return self.scheduler.status(job)

    def was_recalled(self, attempt: int) -> bool:
        return self.scheduler.was_recalled(attempt)

    def __getattr__(self, name: str) -> Any:
        event = getattr(self.scheduler, name)

        def audited(*args: Any, **facts: Any) -> list[c.Command]:
            if (
                name in ("attempt_returned", "attempt_needs_content", "attempt_unprepared")
                and args[0] in self.attempts
            ):
                assign = self.attempts[args[0]]
                self.jobs[assign.job].served.discard(assign.worker)
            commands = event(*args, **facts)
            self.events += 1
            self._note(name, args, facts)
            assigned = []
            for command in commands:
                getattr(self, "_check_" + type(command).__name__)(command, assigned)
            self._check_state(assigned, name)
            return commands

        return audited

    def _note(self, name: str, args: tuple[Any, ...], facts: dict[str, Any]) -> None:
        if name == "add_worker":
            self.workers[args[0]] = (args[1], args[2])
            for slot in range(args[1]):
                self.slots[args[0], slot] = []
        elif name == "remove_worker" and args[0] in self.workers:
            slots, _ = self.workers.pop(args[0])
            self.leaving.discard(args[0])
            for slot in range(slots):
                for attempt in self.slots.pop((args[0], slot)):
                    self.asked_back.discard(attempt)
        elif name in ("drain_worker", "set_worker_aside") and args[0] in self.workers:
            self.leaving.add(args[0])
        elif name == "readmit_worker":
            self.leaving.discard(args[0])
        elif name == "add_job":
            self.jobs[args[0]] = Books(args[1])
        elif name == "add_batch" and self._live(args[0]):
            assert args[2] >= 0
            self.jobs[args[0]].items[args[1]] = args[2]
            if facts.get("has_refs"):
                self.jobs[args[0]].refs.add(args[1])
            if self.jobs[args[0]].input_ended:
                self.jobs[args[0]].crossed.add(args[1])
        elif name == "end_input" and self._live(args[0]):
            self.jobs[args[0]].input_ended = True
        elif name == "plan_reduce" and self._live(args[0]):
            self.jobs[args[0]].planned = args[1]
        elif name == "attempt_kept":
            self.asked_back.discard(args[0])

    def _live(self, job: int) -> bool:
        return job in self.jobs and self.jobs[job].end is None

    def _books(self, job: int) -> Books:
        books = self.jobs[job]
        assert books.end is None, f"a command names job {job}, which is over"
        return books

    def serves(self, worker: int, job: int) -> bool:
        return worker not in self.leaving and self.jobs[job].rules.needs <= self.workers[worker][1]

    def may_get(self, worker: int, job: int) -> bool:
        """Return whether a worker serves a job that does not avoid it."""
        ledger = self.scheduler._ledgers.get(job)
        avoided = {each.number for each in ledger.avoided} if ledger is not None else set()
        others = [w for w, (slots, _) in self.workers.items() if slots and self.serves(w, job)]
        return self.serves(worker, job) and (worker not in avoided or avoided.issuperset(others))

    def _has_to_give(self, job: int) -> bool:
        ledger = self.scheduler._ledgers.get(job)
        return ledger is not None and ledger.has_tasks_to_give

    def _check_Assign(self, a: c.Assign, assigned: list[Any]) -> None:
        books = self._books(a.job)
        assert a.worker in self.workers, "a lost worker was given a task"
        assert self.serves(a.worker, a.job)
        assert a.attempt not in self.known_attempts
        assert a.task not in books.committed
        line = self.slots[a.worker, a.slot]
        others = [t for t in self.attempts.values() if (t.job, t.task) == (a.job, a.task)]
        assert a.is_duplicate == bool(others)
        is_exclusive = books.rules.allocation == "oneshot" and a.phase == "map"
        is_short = self.scheduler._ledgers[a.job].durations.attempts_per_slot > ATTEMPTS_PER_SLOT
        assert len(line) < (MAX_ATTEMPTS_PER_SLOT if is_short else ATTEMPTS_PER_SLOT)
        if len(line) >= ATTEMPTS_PER_SLOT:
            roomy = [
                w for (w, _), held in self.slots.items() if self._has_room(w, held) and self.may_get(w, a.job)
            ]
            assert not roomy, f"deep on worker {a.worker} while {roomy} had nothing queued"
        if line:
            assert not is_exclusive
            before = self.attempts[line[0]]
            assert self.jobs[before.job].rules.allocation != "oneshot" or before.phase == "reduce"
            idle = [w for (w, _), held in self.slots.items() if not held and self.may_get(w, a.job)]
            assert not self.scheduler._roster.workers[a.worker].reserved, "an item waits for a slot here"
            assert not idle, f"queued on worker {a.worker} while {idle} were idle"
        if is_exclusive:
            assert a.worker not in books.served
            assert a.hi == a.lo + 1
            books.served.add(a.worker)
        if others:
            assert not line
            self._check_duplicate(a, others)
        elif not is_exclusive:
            assigned.append((a, self._precedences()))
        if a.phase == "map":
            assert a.batch not in books.released
            assert 0 <= a.lo < a.hi <= books.items[a.batch]
            entries = set(range(a.lo, a.hi))
            skipped = {position for position in books.skipped[a.batch] if entry_of(position) in entries}
            assert set(a.skip) <= skipped
            assert a.part == ALL or (a.batch in books.refs and len(entries) == 1)
            if a.part == ALL:
                assert set(a.skip) == skipped
                assert entries - closed_entries(a, books)
            assert not entries & books.counted[a.batch]
            overlaps = [
                t for t in self.attempts.values() if (t.job, t.batch) == (a.job, a.batch) and t.task != a.task
            ]
            assert not any(t.lo < a.hi and a.lo < t.hi and overlap(t.part, a.part) for t in overlaps)
        else:
            assert a.partitions in (books.planned or [])
        line.append(a.attempt)
        self.attempts[a.attempt] = a
        self.known_attempts.add(a.attempt)
        books.held += 1

    def _precedences(self) -> dict[int, tuple[int, int, int]]:
        """Return for every job its owner, what that holds, and what the job holds."""
        owners = collections.Counter[int]()
        for books in self.jobs.values():
            owners[books.rules.owner] += books.held
        live = {job: books for job, books in self.jobs.items() if books.end is None}
        return {
            job: (books.rules.owner, owners[books.rules.owner], books.held) for job, books in live.items()
        }

    def _check_duplicate(self, a: c.Assign, others: list[c.Assign]) -> None:
        rules = self.jobs[a.job].rules
        (other,) = others
        has_begun = self.slots[other.worker, other.slot][0] == other.attempt
        assert other.worker != a.worker or not has_begun
        assert rules.retransmit > 0
        assert rules.allocation == "continuous"
        assert not self._has_to_give(a.job)

    def _end_attempt(self, job: int, task: int, attempt: int) -> c.Assign:
        a = self.attempts.pop(attempt)  # KeyError: committed or discarded twice, or never assigned
        assert (a.job, a.task) == (job, task)
        self.asked_back.discard(attempt)
        self.ended = a
        self.jobs[job].held -= 1
        if a.worker in self.workers:
            self.slots[a.worker, a.slot].remove(attempt)
        return a

    def _check_Commit(self, command: c.Commit, assigned: list[Any]) -> None:
        books = self._books(command.job)
        a = self._end_attempt(command.job, command.task, command.attempt)
        assert (a.phase, a.batch, a.lo, a.part) == command[3:]
        assert command.task not in books.committed, "a task was committed twice"
        books.committed.add(command.task)
        if a.phase == "map":
            entries = set(range(a.lo, a.hi)) - closed_entries(a, books)
            if a.batch in books.refs:
                for entry in entries:
                    books.shares[a.batch][entry] += share_of(a.part)
                    assert books.shares[a.batch][entry] <= 1, "items were counted twice"
                return
            skipped = {entry_of(position) for position in books.skipped[a.batch]}
            assert not entries & (books.counted[a.batch] | skipped), "an item was counted twice"
            books.counted[a.batch] |= entries
        else:
            books.reduced.append(a.partitions)

    def _check_Discard(self, command: c.Discard, assigned: list[Any]) -> None:
        self._books(command.job)
        self._end_attempt(command.job, command.task, command.attempt)

    def _check_Revoke(self, command: c.Revoke, assigned: list[Any]) -> None:
        self._books(command.job)
        assert command.worker in self.workers
        a = self.attempts[command.attempt]
        assert (a.worker, a.job, a.task) == command[:3]

    def _check_Recall(self, command: c.Recall, assigned: list[Any]) -> None:
        assert command.worker in self.workers
        a = self.attempts[command.attempt]
        assert (a.worker, a.job) == command[:2]
        assert self.slots[a.worker, a.slot].index(a.attempt) >= 1, "only what is queued can be recalled"
        assert a.attempt not in self.asked_once, "a kept attempt was asked for again"
        self.asked_once.add(a.attempt)
        self.asked_back.add(a.attempt)
        if a.worker not in self.leaving:
            idle = sum(not held and self.serves(w, a.job) for (w, _), held in self.slots.items())
            assert len(self.asked_back) <= idle

    def _check_ReleaseBatch(self, command: c.ReleaseBatch, assigned: list[Any]) -> None:
        books = self._books(command.job)
        assert command.batch not in books.released
        books.released.add(command.batch)
        counted = books.counted[command.batch]
        skipped = {entry_of(position) for position in books.skipped[command.batch]}
        entries = set(range(0 if command.batch in books.crossed else books.items[command.batch]))
        if command.batch in books.refs:
            assert books.shares[command.batch] == dict.fromkeys(entries, 1), "items are not accounted for"
        else:
            assert counted | skipped == entries, "an item is neither counted nor reported"

    def _check_NeedContent(self, command: c.NeedContent, assigned: list[Any]) -> None:
        assert command.batch not in self._books(command.job).released

    def _check_Allow(self, command: c.Allow, assigned: list[Any]) -> None:
        books = self._books(command.job)
        assert command.batches > books.allowed
        books.allowed = command.batches

    def _check_EnoughInput(self, command: c.EnoughInput, assigned: list[Any]) -> None:
        books = self._books(command.job)
        assert books.rules.allocation == "oneshot"
        assert not books.input_ended
        books.input_ended = True

    def _check_PlanReduce(self, command: c.PlanReduce, assigned: list[Any]) -> None:
        books = self._books(command.job)
        assert books.input_ended
        assert not books.asked_for_plan
        assert not books.held
        books.asked_for_plan = True
        assert books.released == set(books.items)

    def _check_FinishJob(self, command: c.FinishJob, assigned: list[Any]) -> None:
        books = self._books(command.job)
        assert books.planned is not None
        assert sorted(books.reduced) == sorted(books.planned)
        assert not books.held
        books.end = command

    def _check_FailJob(self, command: c.FailJob, assigned: list[Any]) -> None:
        books = self._books(command.job)
        assert command.code in ("failed", "skipped", "cancelled")
        assert not books.held, "a failed job left attempts behind"
        books.end = command

    def _check_ItemSkipped(self, command: c.ItemSkipped, assigned: list[Any]) -> None:
        books = self._books(command.job)
        assert entry_of(command.item) not in books.counted[command.batch]
        has_refs = command.batch in books.refs
        if has_refs and place_of(command.item) == WHOLE:
            books.shares[command.batch][entry_of(command.item)] += share_of(self.ended.part)
        else:
            assert command.item not in books.skipped[command.batch]
            assert has_refs or place_of(command.item) == 0
        books.skipped[command.batch].add(command.item)
        limit = books.rules.max_skipped
        if command.failure.get("kind") != "lost" and not isinstance(limit, float):
            assert sum(map(len, books.skipped.values())) <= limit or books.rules.allocation == "oneshot"

    def _check_Notice(self, command: c.Notice, assigned: list[Any]) -> None:
        self._books(command.job)
        assert command.text

    def _check_state(self, assigned: list[Any], event: str) -> None:
        giving = [job for job in self.jobs if self._has_to_give(job)]
        for a, held in assigned:
            for other in giving:
                if other in held and self.may_get(a.worker, other):
                    (owner, owned, own), (other_owner, other_owned, others) = held[a.job], held[other]
                    # ties of owners, and jobs of one owner in different queues, come in any order
                    if owner != other_owner:
                        comes_first = owned <= other_owned
                    else:
                        comes_first = (
                            own <= others or self.jobs[a.job].rules.needs != self.jobs[other].rules.needs
                        )
                    assert comes_first, f"{event}: job {a.job} was served before job {other}"
        for job, books in self.jobs.items():
            if books.end is None and books.rules.allocation == "continuous":
                slots = sum(self.workers[w][0] for w in self.workers if self.serves(w, job))
                assert self.scheduler.status(job).slots == slots
                books.allowance = max(books.allowance, len(books.released) + 2 * slots + 2)
                short = SHORT_BATCHES_PER_ATTEMPT * MAX_ATTEMPTS_PER_SLOT * slots
                books.most_allowed = max(books.most_allowed, books.allowance + short)
                assert books.input_ended or books.allowance <= books.allowed <= books.most_allowed
        for (worker, _), line in self.slots.items():
            assert len(line) <= MAX_ATTEMPTS_PER_SLOT
            if self._has_room(worker, line):
                starved = [job for job in giving if self.may_get(worker, job)]
                assert not starved, f"{event}: worker {worker} has room, and jobs {starved} wait"

    def _has_room(self, worker: int, line: list[int]) -> bool:
        """Return whether a slot is idle, or has nothing queued and something may be."""
        return not line or (len(line) < ATTEMPTS_PER_SLOT and not self._is_reserved(worker, line))

    def _is_reserved(self, worker: int, line: list[int]) -> bool:
        a = self.attempts[line[0]]
        is_exclusive = self.jobs[a.job].rules.allocation == "oneshot" and a.phase == "map"
        return is_exclusive or bool(self.scheduler._roster.workers[worker].reserved)

    def check_empty(self) -> None:
        """Check that every job is over, and that the scheduler has forgotten all of them."""
        assert all(books.end is not None for books in self.jobs.values())
        assert not self.attempts
        scheduler = self.scheduler
        assert not scheduler._ledgers
        assert not scheduler._dispatcher.attempts
        assert not scheduler._dispatcher._recalls
        assert not scheduler._roster.queues
        for worker in scheduler._roster.workers.values():
            assert not worker.reserved
            assert not worker.pool.queues
        if not scheduler._roster.workers:
            assert not scheduler._roster.pools
