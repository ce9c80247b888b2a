"""The scheduler: its tables, examples of each rule, and a state machine that tries anything."""

from __future__ import annotations

import collections
import itertools
import math
import random
import statistics

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mmgevent.engine.scheduler import commands as c
from mmgevent.engine.scheduler.attempts import Attempt, Task
from mmgevent.engine.scheduler.dispatcher import STRAGGLER_S, UNKNOWN_STRAGGLER_S, UNPROVED_STRAGGLER_S
from mmgevent.engine.scheduler.durations import MAX_ATTEMPTS_PER_SLOT, SAMPLE_SIZE, Durations
from mmgevent.engine.scheduler.retries import LOSS_S, MAX_DEATHS, MAX_LOSSES, MAX_UNPREPARED
from mmgevent.engine.scheduler.rules import JobRules
from mmgevent.engine.scheduler.scheduler import Scheduler
from mmgevent.engine.scheduler.transitions import (
    ATTEMPT_TRANSITIONS,
    TASK_TRANSITIONS,
    AttemptEvent,
    AttemptState,
    TaskEvent,
    TaskState,
)
from mmgevent.errors import SchedulerError
from mmgevent.wire.failures import with_place
from mmgevent.wire.positions import WHOLE, position_of, range_of
from tests.audit import AuditedScheduler

NONE = frozenset()
BOOM = {"kind": "exception", "error": "ValueError: boom"}
DEAD = {"kind": "died", "error": "killed by signal 9", "advice": "give it more memory"}


def only(commands, kind):
    return [command for command in commands if isinstance(command, kind)]


def cluster(*slots, rules=None, batches=(), end=False):
    """Return an audited scheduler with a worker for each number of slots, job 1 and its batches;
    and all commands so far.
    """
    scheduler, commands = AuditedScheduler(), []
    for worker, count in enumerate(slots, 1):
        commands += scheduler.add_worker(worker, count, NONE, 0.0)
    commands += scheduler.add_job(1, rules or JobRules(), 0.0)
    for batch, items in enumerate(batches, 1):
        commands += scheduler.add_batch(1, batch, items, 0.0)
    if end:
        commands += scheduler.end_input(1, 0.0)
    return scheduler, commands


# The tables


@pytest.mark.parametrize(("state", "event"), [*itertools.product(AttemptState, AttemptEvent)])
def test_an_attempt_changes_by_its_table_and_not_otherwise(state, event):
    attempt = Attempt(1, None, None, state, False)
    if (state, event) in ATTEMPT_TRANSITIONS:
        attempt.transition(event)
        assert attempt.state is ATTEMPT_TRANSITIONS[state, event]
    else:
        with pytest.raises(SchedulerError, match=event.name):
            attempt.transition(event)
        assert attempt.state is state


@pytest.mark.parametrize(("state", "event"), [*itertools.product(TaskState, TaskEvent)])
def test_a_task_changes_by_its_table_and_not_otherwise(state, event):
    task = Task(None, 1, None, 0, 1)
    task.state = state
    if (state, event) in TASK_TRANSITIONS:
        task.transition(event)
        assert task.state is TASK_TRANSITIONS[state, event]
    else:
        with pytest.raises(SchedulerError, match=event.name):
            task.transition(event)
        assert task.state is state


def test_every_live_attempt_can_end_in_every_way_and_nothing_follows_its_end():
    endings = {event for (_, event), to in ATTEMPT_TRANSITIONS.items() if to is AttemptState.ENDED}
    for state in set(AttemptState) - {AttemptState.ENDED}:
        assert {event for event in endings if (state, event) in ATTEMPT_TRANSITIONS} == endings
    assert not any(state is AttemptState.ENDED for state, _ in ATTEMPT_TRANSITIONS)
    assert not any(state is TaskState.DONE for state, _ in TASK_TRANSITIONS)


# Giving


def test_a_slot_gets_one_task_to_run_and_one_queued_idle_slots_first():
    _, commands = cluster(1, 1, batches=[1] * 6)
    assert [(a.worker, a.attempt) for a in only(commands, c.Assign)] == [(1, 1), (2, 2), (1, 3), (2, 4)]


def test_a_worker_that_lacks_a_function_gets_no_task_that_needs_it():
    scheduler, _ = cluster(4, rules=JobRules(needs=frozenset({"stats"})), batches=[1])
    assert scheduler.status(1).waiting == 1
    (assign,) = only(scheduler.add_worker(2, 1, frozenset({"stats", "plot"}), 1.0), c.Assign)
    assert assign.worker == 2


def test_a_new_job_catches_up_before_an_old_one_gets_more():
    scheduler, _ = cluster(2, batches=[1] * 6)
    scheduler.add_job(2, JobRules(), 0.0)
    for batch in (1, 2, 3):
        scheduler.add_batch(2, batch, 1, 0.0)
    given = [a.job for n in (1, 2, 3) for a in only(scheduler.attempt_done(n, 1.0), c.Assign)]
    assert given == [2, 2, 1]


def test_a_lone_big_task_is_cut_for_all_idle_slots_once_the_input_has_ended():
    scheduler, _ = cluster(batches=[10], end=True)
    assigns = only(scheduler.add_worker(1, 4, NONE, 0.0), c.Assign)
    assert [(a.lo, a.hi) for a in assigns] == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert len({a.task for a in assigns}) == 4


@pytest.mark.parametrize(
    ("items", "ranges"),
    [(10, [(0, 4), (4, 10)]), (7, [(0, 7)]), (100, [(0, 24), (24, 48), (48, 72), (72, 100)])],
)
def test_a_task_is_cut_between_calls(items, ranges):
    scheduler, _ = cluster(batches=[items], end=True, rules=JobRules(items_per_call=4))
    assigns = only(scheduler.add_worker(1, 4, NONE, 0.0), c.Assign)
    assert [(a.lo, a.hi) for a in assigns] == ranges


def test_idle_slots_are_shared_out_by_items():
    scheduler, _ = cluster(batches=[30, 1, 30], end=True)
    assigns = only(scheduler.add_worker(1, 8, NONE, 0.0), c.Assign)
    assert [a.batch for a in assigns] == [1, 1, 1, 2, 3, 3, 3, 3]


def test_nothing_is_cut_when_there_are_tasks_for_all_slots_or_input_still_comes():
    scheduler, _ = cluster(batches=[100, 1, 1, 1], end=True)
    assert len(only(scheduler.add_worker(1, 3, NONE, 0.0), c.Assign)) == 4
    scheduler, _ = cluster(batches=[100])
    assert len(only(scheduler.add_worker(1, 3, NONE, 0.0), c.Assign)) == 1


def test_a_queued_task_is_recalled_for_an_idle_slot_and_cut_there():
    scheduler, _ = cluster(1, batches=[4, 4], end=True)
    assert only(scheduler.add_worker(2, 2, NONE, 1.0), c.Recall) == [c.Recall(1, 1, 2)]
    commands = scheduler.attempt_returned(2, 1.1)
    assert commands[0] == c.Discard(1, 2, 2)
    assert [(a.worker, a.lo, a.hi) for a in only(commands, c.Assign)] == [(2, 0, 2), (2, 2, 4)]


def test_what_a_worker_keeps_is_not_asked_for_again():
    scheduler, _ = cluster(1, batches=[4, 4], end=True)
    scheduler.add_worker(2, 1, NONE, 1.0)
    assert scheduler.attempt_kept(2, 1.1) == []
    assert scheduler.tick(1.2) == []
    with pytest.raises(SchedulerError, match="KEPT"):
        scheduler.attempt_kept(2, 1.3)


class Runner:
    """A driver of job 1 that sends all it may, and slots whose attempts all take as long."""

    def __init__(self, scheduler, commands, seconds=0.0001):
        self.scheduler = scheduler
        self.seconds = seconds
        self.now = 0.0
        self.sent = self.allowed = 0
        self.live = collections.deque()
        self.take(commands)
        self.send()

    def take(self, commands):
        self.live.extend(a.attempt for a in only(commands, c.Assign) if a.job == 1)
        self.allowed = max([self.allowed, *(a.batches for a in only(commands, c.Allow))])

    def send(self, items=1):
        while self.sent < self.allowed:
            self.sent += 1
            self.take(self.scheduler.add_batch(1, self.sent, items, self.now))

    def end(self, count=1):
        for _ in range(count):
            self.now += self.seconds
            self.take(self.scheduler.attempt_done(self.live.popleft(), self.now))

    def run(self, count):
        for _ in range(count):
            self.end()
            self.send()

    def run_dry(self):
        """End the input, and attempts until every task has a slot."""
        self.scheduler.end_input(1, self.now)
        while self.scheduler.status(1).waiting:
            self.end()


@pytest.mark.parametrize(
    ("seconds", "held"), [(0.0001, MAX_ATTEMPTS_PER_SLOT), (0.0045, 4), (0.02, 2), (1.0, 2)]
)
def test_a_slot_holds_as_many_short_tasks_as_take_a_moment_and_two_that_are_not_short(seconds, held):
    runner = Runner(*cluster(1), seconds)
    runner.run(60)
    assert len(runner.live) == held
    assert runner.sent - 60 > held, "none waits"


def test_short_tasks_are_spread_before_they_are_queued_deep():
    runner = Runner(*cluster(1, 1, 1))
    runner.run(100)
    for worker in (4, 5):  # the audit sees to it that they come first
        runner.take(runner.scheduler.add_worker(worker, 1, NONE, runner.now))
        runner.send()
    lines = [len(line) for line in runner.scheduler.slots.values()]
    assert min(lines) == max(lines) == MAX_ATTEMPTS_PER_SLOT


def test_slots_are_queued_deep_in_turn():
    runner = Runner(*cluster(1, 1))
    runner.run(60)
    scheduler, lines = runner.scheduler, runner.scheduler.slots.values()
    while scheduler.status(1).waiting:
        runner.end()
    for line in lines:
        for attempt in line[:-5]:
            scheduler.attempt_done(attempt, runner.now)
    assert [len(line) for line in lines] == [5, 5]
    for batch in range(runner.sent + 1, runner.sent + 11):
        scheduler.add_batch(1, batch, 1, runner.now)
    assert [len(line) for line in lines] == [10, 10]


def test_what_is_queued_behind_a_task_that_proves_long_goes_to_an_idle_slot():
    runner = Runner(*cluster(1))
    runner.run(60)
    runner.run_dry()
    scheduler, moved = runner.scheduler, []
    commands = scheduler.add_worker(2, 1, NONE, runner.now)
    while recalled := only(commands, c.Recall):
        moved.append(recalled[0].attempt)
        (assign,) = only(scheduler.attempt_returned(moved[-1], runner.now), c.Assign)
        assert assign.worker == 2
        commands = scheduler.attempt_done(assign.attempt, runner.now)
    assert moved == list(runner.live)[1:]
    assert len(moved) == MAX_ATTEMPTS_PER_SLOT - 1


def keep_all(runner):
    """Worker 2 joins, and worker 1 keeps whatever it is asked for."""
    recalled = only(runner.scheduler.add_worker(2, 1, NONE, runner.now), c.Recall)
    while recalled:
        recalled = only(runner.scheduler.attempt_kept(recalled[0].attempt, runner.now), c.Recall)


def keeping():
    """Return a runner whose worker keeps tasks behind one that proves long, its scheduler, and the
    time when those need duplicates.
    """
    runner = Runner(*cluster(1))
    runner.run(60)
    runner.run_dry()
    keep_all(runner)
    return runner, runner.scheduler, runner.now + STRAGGLER_S + 0.1


def test_what_a_worker_keeps_behind_a_task_that_proves_long_gets_duplicates():
    runner = Runner(*cluster(1))
    runner.run(60)
    runner.run_dry()
    keep_all(runner)
    doubled = []
    now = runner.now + STRAGGLER_S + 0.1
    assert only(runner.scheduler.tick(runner.now + STRAGGLER_S - 0.1), c.Assign) == []
    assigned = only(runner.scheduler.tick(now), c.Assign)
    while assigned := assigned or only(runner.scheduler.tick(now), c.Assign):
        assert [a.worker for a in assigned] == [2]
        commands = runner.scheduler.attempt_done(assigned[0].attempt, now)
        doubled += [r.attempt for r in only(commands, c.Revoke)]
        assigned = only(commands, c.Assign)
        now += STRAGGLER_S + 0.1
    assert sorted(doubled) == list(runner.live)
    assert doubled[0] != runner.live[0], "those that have not begun come first"
    assert runner.scheduler.jobs[1].asked_for_plan


def test_what_a_worker_keeps_gets_its_duplicate_on_another_slot_of_that_worker_too():
    runner = Runner(*cluster(2))
    runner.run(60)
    runner.run_dry()
    scheduler = runner.scheduler
    running, *behind = scheduler.slots[1, 0]
    commands = [
        r for attempt in list(scheduler.slots[1, 1]) for r in scheduler.attempt_done(attempt, runner.now)
    ]
    while recalled := only(commands, c.Recall):
        commands = scheduler.attempt_kept(recalled[0].attempt, runner.now)
    (assign,) = only(scheduler.tick(runner.now + STRAGGLER_S + 0.1), c.Assign)
    assert (assign.worker, assign.slot) == (1, 1)
    revoked = only(scheduler.attempt_done(assign.attempt, runner.now), c.Revoke)
    assert [r.attempt for r in revoked] == behind[:1]
    assert scheduler.slots[1, 0][0] == running


def test_a_kept_attempt_that_has_a_duplicate_may_still_begin_and_win():
    runner, scheduler, now = keeping()
    (duplicate,) = only(scheduler.tick(now), c.Assign)  # of the first behind the running one
    commands = []
    for attempt in list(runner.live)[:2]:
        commands += scheduler.attempt_done(attempt, now)
    assert [r.attempt for r in only(commands, c.Revoke)] == [duplicate.attempt]


def test_the_duplicate_of_what_has_not_begun_has_a_minute_for_nobody_else_does_its_work():
    _, scheduler, now = keeping()
    scheduler.add_worker(3, 40, NONE, now)  # slots enough for all, and for more
    duplicates = {a.attempt for a in only(scheduler.tick(now), c.Assign)}
    assert duplicates
    assert only(scheduler.tick(now + UNKNOWN_STRAGGLER_S - 0.1), c.Revoke) == []
    revoked = only(scheduler.tick(now + UNKNOWN_STRAGGLER_S + 0.1), c.Revoke)
    assert {r.attempt for r in revoked} <= duplicates
    assert revoked


def test_an_attempt_that_begins_beside_its_duplicate_does_not_end_that():
    runner, scheduler, now = keeping()
    (duplicate,) = only(scheduler.tick(now), c.Assign)  # of the first behind the running one
    running = runner.live[0]
    scheduler.add_worker(3, 40, NONE, now)
    commands = scheduler.attempt_done(running, now + 58.0)
    commands += scheduler.tick(now + 58.1)
    assert duplicate.attempt not in {r.attempt for r in only(commands, c.Revoke)}


def test_short_maps_do_not_make_reduces_go_deep():
    runner = Runner(*cluster(2))
    runner.run(100)
    runner.run_dry()
    runner.end(len(runner.live))
    commands = runner.scheduler.plan_reduce(1, [(n,) for n in range(8)], runner.now)
    assert len(only(commands, c.Assign)) == 4


def test_of_two_jobs_the_one_with_longer_tasks_is_not_queued_deep():
    runner = Runner(*cluster(1, 1))
    runner.run(60)
    scheduler = runner.scheduler
    scheduler.add_job(2, JobRules(), runner.now)
    for batch in range(1, 5):
        scheduler.add_batch(2, batch, 1, runner.now)
    for _ in range(80):  # the audit checks that no slot gets a third one of the long tasks
        if runner.live:
            runner.run(1)
    assert scheduler.jobs[2].held >= 2


def test_an_item_of_a_oneshot_job_waits_for_slots_that_are_deep():
    runner = Runner(*cluster(1))
    runner.run(60)
    scheduler = runner.scheduler
    scheduler.add_job(2, JobRules(allocation="oneshot"), runner.now)
    scheduler.add_batch(2, 1, 1, runner.now)
    held = len(runner.live)
    runner.send()
    runner.end(held - 1)
    assert scheduler.jobs[2].held == 0
    (assign,) = only(scheduler.attempt_done(runner.live.popleft(), runner.now), c.Assign)
    assert assign.job == 2


def test_a_driver_whose_batches_still_grow_is_not_sent_far_ahead():
    runner = Runner(*cluster(2))
    runner.run(30)
    ended, small = 30, runner.sent
    assert small - ended > MAX_ATTEMPTS_PER_SLOT
    while runner.allowed == small:
        runner.end()
        ended += 1
    runner.send(items=5)  # nothing is known of batches like these
    allowed = runner.allowed
    assert allowed - small > 6
    runner.end(small - ended)
    assert runner.allowed == allowed
    runner.end()  # the first of them
    assert runner.allowed > allowed


def test_the_answer_to_a_recall_decides_when_the_attempt_began_meanwhile():
    for answer in ("attempt_kept", "attempt_returned"):
        scheduler, _ = cluster(1, batches=[4, 4], end=True)
        scheduler.add_worker(2, 1, NONE, 1.0)
        assert only(scheduler.attempt_done(1, 1.1), c.Commit)
        moved = only(getattr(scheduler, answer)(2, 1.2), c.Assign)
        assert len(moved) == (2 if answer == "attempt_returned" else 0)


def test_a_draining_worker_is_asked_for_what_is_queued_and_gets_nothing_more():
    scheduler, _ = cluster(1, 1, batches=[1] * 6)
    assert only(scheduler.drain_worker(1, 1.0), c.Recall) == [c.Recall(1, 1, 3)]
    commands = scheduler.attempt_returned(3, 1.1) + scheduler.attempt_done(1, 1.2)
    assert only(commands, c.Assign) == []
    assert scheduler.drain_worker(1, 1.3) == []
    commands = scheduler.attempt_done(2, 1.3) + scheduler.remove_worker(1, 1.4)
    assert {a.worker for a in only(commands, c.Assign)} == {2}


def test_the_driver_may_send_ahead_of_the_slots_and_no_further():
    scheduler, commands = cluster(batches=[1] * 4)
    assert only(commands, c.Allow) == [c.Allow(1, 4)]
    with pytest.raises(SchedulerError, match="allowed"):
        scheduler.add_batch(1, 5, 1, 0.0)
    assert only(scheduler.add_worker(1, 3, NONE, 0.0), c.Allow) == [c.Allow(1, 8)]
    assert only(scheduler.attempt_done(1, 1.0), c.Allow) == [c.Allow(1, 9)]


def test_workers_that_can_do_more_are_kept_free_for_those_who_need_them():
    scheduler, _ = cluster()
    scheduler.add_worker(1, 1, frozenset({"stats"}), 0.0)
    scheduler.add_worker(2, 1, NONE, 0.0)
    assert only(scheduler.add_batch(1, 1, 1, 0.0), c.Assign)[0].worker == 2


# Ending


def test_a_job_goes_through_map_plan_and_reduce():
    scheduler, _ = cluster(1, batches=[2, 3], end=True)
    assert scheduler.status(1) == ("map", 0, 5, 0, 2, 0, 1, 1)
    assert scheduler.attempt_done(1, 1.0) == [c.Commit(1, 1, 1, "map", 1, 0), c.ReleaseBatch(1, 1)]
    commands = scheduler.attempt_done(2, 1.0)
    assert commands == [c.Commit(1, 2, 2, "map", 2, 0), c.ReleaseBatch(1, 2), c.PlanReduce(1)]
    assigns = only(scheduler.plan_reduce(1, [(0, 1), (2,)], 2.0), c.Assign)
    assert [(a.phase, a.partitions, a.batch) for a in assigns] == [("reduce", (0, 1), 0), ("reduce", (2,), 0)]
    assert scheduler.status(1) == ("reduce", 0, 2, 0, 2, 0, 1, 1)
    # The queued one ends before the one ahead of it.
    assert scheduler.attempt_done(4, 3.0) == [c.Commit(1, 4, 4, "reduce", 0, 0)]
    assert scheduler.attempt_done(3, 3.0) == [c.Commit(1, 3, 3, "reduce", 0, 0), c.FinishJob(1)]
    with pytest.raises(SchedulerError, match="no job 1"):
        scheduler.status(1)
    scheduler.check_empty()


def test_a_job_without_items_or_without_records_finishes():
    scheduler, commands = cluster(end=True)
    assert commands[-1] == c.PlanReduce(1)
    assert scheduler.plan_reduce(1, [], 0.0) == [c.FinishJob(1)]


def test_an_empty_batch_is_released_at_once():
    _, commands = cluster(1, batches=[0])
    assert only(commands, c.ReleaseBatch) == [c.ReleaseBatch(1, 1)]


def test_what_a_lost_worker_held_is_done_elsewhere_and_nobody_is_blamed():
    scheduler, _ = cluster(1, batches=[1, 1])
    for worker in range(2, 9):
        commands = scheduler.remove_worker(worker - 1, (worker - 1) * (LOSS_S + 1))
        assert len(only(commands, c.Discard)) == 2
        commands = scheduler.add_worker(worker, 1, NONE, (worker - 1) * (LOSS_S + 1))
        assert [a.batch for a in only(commands, c.Assign)] == [1, 2]


def lose_workers(count, is_innocent=False, after_s=0.5):
    """Lose workers one by one, each with one task of two jobs; return what was commanded at the end."""
    scheduler = AuditedScheduler()
    scheduler.add_job(1, JobRules(), 0.0)
    scheduler.add_job(2, JobRules(), 0.0)
    for job in (1, 2):
        scheduler.add_batch(job, 1, 1, 0.0)
    for worker in range(1, count + 1):
        scheduler.add_worker(worker, 2, NONE, 10.0 * worker)
        commands = scheduler.remove_worker(worker, 10.0 * worker + after_s, is_innocent=is_innocent)
    return scheduler, commands


def test_a_task_that_takes_workers_down_fails_its_job_and_no_other():
    scheduler, commands = lose_workers(MAX_LOSSES)
    (failed,) = only(commands, c.FailJob)
    assert (failed.job, failed.failure["kind"]) == (2, "lost")
    assert f"{MAX_LOSSES} workers were lost" in failed.failure["error"]
    assert scheduler.status(1).waiting == 1


def test_tasks_are_not_to_blame_for_workers_that_fell_silent_or_were_lost_later():
    for how in ({"is_innocent": True}, {"after_s": LOSS_S + 0.1}):
        _, commands = lose_workers(MAX_LOSSES + 1, **how)
        assert not only(commands, c.FailJob)


def test_losses_that_make_a_task_suspect_come_in_a_row():
    scheduler, _ = cluster(1, batches=[1])
    for worker in range(1, 3 * MAX_LOSSES):
        late_s = LOSS_S + 1 if worker % MAX_LOSSES == 0 else 0.5
        commands = scheduler.remove_worker(worker, 10.0 * worker + late_s)
        commands += scheduler.add_worker(worker + 1, 1, NONE, 10.0 * (worker + 1))
        assert not only(commands, c.FailJob)


def end_attempt(scheduler, how, attempt, worker, now, **facts):
    """Let an attempt of a worker end without success; return what is commanded."""
    arguments = {
        "attempt_failed": (attempt, BOOM, 0),
        "attempt_died": (attempt, DEAD, 0),
        "attempt_unprepared": (attempt, NO_MODEL),
        "remove_worker": (worker,),
    }
    return getattr(scheduler, how)(*arguments[how], now, **facts)


ENDS = ["attempt_failed", "attempt_died", "attempt_unprepared", "remove_worker"]


def doubting():
    """Return a scheduler whose worker 1 has done a task and is busy, and the attempt of worker 2."""
    scheduler, _ = cluster(1, batches=[1, 1, 1])
    scheduler.attempt_done(1, 0.5, items=1)
    scheduler.add_batch(1, 4, 1, 0.6)
    (given,) = only(scheduler.add_worker(2, 1, NONE, 1.0), c.Assign)
    return scheduler, given


@pytest.mark.parametrize("how", ENDS)
def test_strangers_that_fail_a_task_one_after_another_do_not_fail_its_job(how):
    scheduler, given = doubting()
    assert not only(scheduler.add_worker(3, 1, NONE, 1.2), c.Assign)  # idle, and a stranger as well
    commands = end_attempt(scheduler, how, given.attempt, 2, 1.5, is_doubted=True)
    for worker in range(4, 20):  # one that comes again, or as many as one likes
        commands += scheduler.add_worker(worker, 1, NONE, float(worker))
    assert not only(commands, c.FailJob)
    assert {a.worker for a in only(commands, c.Assign)} <= {1}


@pytest.mark.parametrize("how", ENDS)
def test_strangers_get_tasks_again_once_a_worker_that_did_tasks_has_tried_the_doubted_one(how):
    scheduler, given = doubting()
    commands = end_attempt(scheduler, how, given.attempt, 2, 1.5, is_doubted=True)
    commands += scheduler.add_worker(3, 1, NONE, 1.6)
    now = 2.0
    while not any(a.worker == 3 for a in only(commands, c.Assign)):
        running = next(a for a in scheduler.scheduler._attempts.values() if a.slot.worker.number == 1)
        commands += scheduler.add_batch(1, int(now) + 3, 1, now)
        commands += scheduler.attempt_done(running.number, now, items=1)
        now += 1.0
        assert now < 8.0


@pytest.mark.parametrize("how", ENDS)
def test_strangers_are_believed_if_no_worker_is_left_that_did_tasks(how):
    scheduler, given = doubting()
    end_attempt(scheduler, how, given.attempt, 2, 1.5, is_doubted=True)
    scheduler.remove_worker(1, 50.0)
    for worker in range(3, 3 + 2 * MAX_LOSSES):
        commands = scheduler.add_worker(worker, 1, NONE, 50.0 + worker)
        while scheduler.scheduler._attempts and not only(commands, c.FailJob):
            attempt = next(iter(scheduler.scheduler._attempts))
            commands += end_attempt(scheduler, how, attempt, worker, 50.5 + worker)
            if how in ("remove_worker", "attempt_unprepared"):
                break
        if only(commands, c.FailJob):
            return
    raise AssertionError("nobody was believed")


def test_a_job_forgets_workers_that_left():
    scheduler, given = doubting()
    scheduler.attempt_failed(given.attempt, BOOM, 0, 1.5, is_doubted=True)
    for worker in range(3, 50):
        scheduler.add_worker(worker, 1, NONE, float(worker))
        scheduler.remove_worker(worker, float(worker))
    assert len(scheduler.scheduler._ledgers[1].avoided) == 1


def test_owners_share_the_slots_whatever_jobs_they_have():
    scheduler = AuditedScheduler()
    for job in range(1, 11):
        scheduler.add_job(job, JobRules(owner=1 if job < 10 else 2), 0.0)
        for batch in range(1, 5):
            scheduler.add_batch(job, batch, 1, 0.0)
    commands = scheduler.add_worker(1, 4, NONE, 0.0)
    jobs = [a.job for a in only(commands, c.Assign)]
    assert jobs.count(10) == len(jobs) // 2 == 4


def test_a_cancelled_or_failed_job_leaves_nothing_and_late_messages_are_ignored():
    for end, code in (("cancel_job", "cancelled"), ("fail_job", "failed")):
        scheduler, _ = cluster(1, 1, batches=[5, 5, 5])
        failure = () if code == "cancelled" else (BOOM,)
        commands = getattr(scheduler, end)(1, *failure, 1.0)
        assert len(only(commands, c.Revoke)) == len(only(commands, c.Discard)) == 3
        assert commands[-1].code == code
        scheduler.check_empty()
        for attempt in (1, 2, 3, 99):
            assert scheduler.attempt_done(attempt, 2.0) == []
            assert scheduler.attempt_failed(attempt, BOOM, 0, 2.0) == []
            assert scheduler.attempt_kept(attempt, 2.0) == []
            assert scheduler.attempt_needs_content(attempt, 2.0) == []
        assert scheduler.add_batch(1, 4, 1, 2.0) == scheduler.end_input(1, 2.0) == []
        assert scheduler.plan_reduce(1, [], 2.0) == scheduler.cancel_job(1, 2.0) == []
        assert scheduler.remove_worker(77, 2.0) == scheduler.drain_worker(77, 2.0) == []


def test_events_that_no_state_allows_are_refused_and_change_nothing():
    scheduler, _ = cluster(1, batches=[1, 1])
    for call in (
        lambda s: s.attempt_kept(1, 1.0),
        lambda s: s.plan_reduce(1, [], 1.0),
        lambda s: s.add_job(1, JobRules(), 1.0),
        lambda s: s.add_worker(1, 1, NONE, 1.0),
        lambda s: s.add_batch(1, 2, 1, 1.0),
        lambda s: s.add_batch(1, 0, 1, 1.0),
    ):
        with pytest.raises(SchedulerError):
            call(scheduler)
    scheduler.end_input(1, 1.0)
    with pytest.raises(SchedulerError, match="ended twice"):
        scheduler.end_input(1, 1.0)
    assert scheduler.status(1) == ("map", 0, 2, 0, 2, 0, 1, 1)
    with pytest.raises(SchedulerError, match="allocation"):
        JobRules(allocation="all")


# Failures


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_an_item_is_tried_again_as_often_as_retries_says(retries):
    scheduler, _ = cluster(1, rules=JobRules(retries=retries), batches=[5])
    for attempt in range(1, retries + 1):
        assert len(only(scheduler.attempt_failed(attempt, BOOM, position_of(3), 1.0), c.Assign)) == 1
    assert scheduler.attempt_failed(retries + 1, BOOM, position_of(3), 1.0)[-1] == c.FailJob(
        1, with_place(BOOM, 1, position_of(3)), "failed"
    )


def test_each_item_has_its_own_retries():
    scheduler, _ = cluster(1, rules=JobRules(retries=1), batches=[5])
    for attempt, item in enumerate([0, 1, 2, 3, 4], 1):
        assert only(scheduler.attempt_failed(attempt, BOOM, position_of(item), 1.0), c.FailJob) == []


def test_an_item_that_its_executor_has_tried_often_enough_is_not_tried_again():
    scheduler, _ = cluster(1, rules=JobRules(retries=5, max_skipped=1), batches=[5])
    commands = scheduler.attempt_failed(1, BOOM, position_of(3), 1.0, is_spent=True)
    assert only(commands, c.ItemSkipped) == [c.ItemSkipped(1, 1, position_of(3), BOOM)]


def test_an_item_that_keeps_failing_is_set_aside_as_far_as_allowed():
    scheduler, _ = cluster(1, rules=JobRules(max_skipped=1), batches=[5], end=True)
    commands = scheduler.attempt_failed(1, BOOM, position_of(3), 1.0)
    assert only(commands, c.ItemSkipped) == [c.ItemSkipped(1, 1, position_of(3), BOOM)]
    assert [(a.lo, a.hi, a.skip) for a in only(commands, c.Assign)] == [(0, 5, (position_of(3),))]
    end = scheduler.attempt_failed(2, BOOM, position_of(1), 1.0)[-1]
    assert (end.code, end.failure["error"]) == ("skipped", BOOM["error"])


def test_a_share_of_items_is_judged_when_the_input_has_ended():
    for allowed, items in ((True, 8), (False, 7)):
        scheduler, _ = cluster(1, rules=JobRules(max_skipped=0.25), batches=[2])
        for attempt, item in ((1, 0), (2, 1)):
            assert only(scheduler.attempt_failed(attempt, BOOM, position_of(item), 1.0), c.ItemSkipped)
        scheduler.add_batch(1, 2, items - 2, 1.0)
        ends = only(scheduler.end_input(1, 2.0), c.FailJob)
        assert [end.code for end in ends] == ([] if allowed else ["skipped"])


def test_a_task_under_which_executors_die_ends_the_job_with_its_advice():
    scheduler, _ = cluster(1, batches=[5], rules=JobRules(retries=9))
    for attempt in range(1, MAX_DEATHS):
        assert only(scheduler.attempt_died(attempt, DEAD, position_of(2), 1.0), c.Assign)
    assert scheduler.attempt_died(MAX_DEATHS, DEAD, position_of(2), 1.0)[-1] == c.FailJob(
        1, with_place(DEAD, 1, position_of(2)), "failed"
    )


def test_the_item_under_which_executors_die_is_set_aside_if_it_is_known():
    scheduler, _ = cluster(1, batches=[5], rules=JobRules(max_skipped=1))
    for attempt in range(1, MAX_DEATHS):
        scheduler.attempt_died(attempt, DEAD, position_of(2), 1.0)
    commands = scheduler.attempt_died(MAX_DEATHS, DEAD, position_of(2), 1.0)
    assert only(commands, c.ItemSkipped) == [c.ItemSkipped(1, 1, position_of(2), DEAD)]
    assert only(commands, c.Assign)[0].skip == (position_of(2),)


def test_a_range_under_which_an_executor_died_is_kept_whole_until_it_is_given_up():
    scheduler, _ = cluster(1, batches=[6], end=True)
    scheduler.add_worker(2, 3, NONE, 0.0)
    assert [(a.lo, a.hi) for a in only(scheduler.attempt_died(1, DEAD, None, 1.0), c.Assign)] == [(0, 6)]


def test_each_culprit_of_a_task_is_given_its_own_deaths():
    scheduler, _ = cluster(1, batches=[6], rules=JobRules(max_skipped=2))
    skipped = []
    for attempt in range(1, 2 * MAX_DEATHS + 1):  # by turns, as greenlets may die
        commands = scheduler.attempt_died(attempt, DEAD, position_of(attempt % 2), 1.0)
        skipped += [(attempt, skip.item) for skip in only(commands, c.ItemSkipped)]
    assert skipped == [(2 * MAX_DEATHS - 1, position_of(1)), (2 * MAX_DEATHS, position_of(0))]


@pytest.mark.parametrize("event", ["attempt_died", "attempt_failed"])
@pytest.mark.parametrize("culprit", [0, 6, 12])
def test_a_culprit_nobody_names_is_found_by_halving(event, culprit):
    scheduler, commands = cluster(1, batches=[13], rules=JobRules(max_skipped=1), end=True)
    skipped, work = [], only(commands, c.Assign)
    while work:
        a = work.pop(0)
        if a.lo <= culprit < a.hi and position_of(culprit) not in a.skip:
            commands = getattr(scheduler, event)(a.attempt, DEAD, None, 1.0)
        else:
            commands = scheduler.attempt_done(a.attempt, 1.0)
        skipped += only(commands, c.ItemSkipped)
        work += only(commands, c.Assign)
    assert [(s.batch, s.item) for s in skipped] == [(1, position_of(culprit))]
    assert scheduler.status(1).phase == "plan"


@pytest.mark.parametrize("event", ["attempt_died", "attempt_failed"])
@pytest.mark.parametrize("culprit", [0, 500, 999])
def test_a_culprit_among_the_items_of_a_file_is_found_by_halving(event, culprit):
    scheduler, _ = cluster(1, rules=JobRules(max_skipped=1))
    scheduler.add_batch(1, 1, 3, 0.0, has_refs=True)
    scheduler.end_input(1, 0.0)
    entry, count, skipped, runs = 1, 1000, [], 0
    while scheduler.attempts:
        a = scheduler.attempts[min(scheduler.attempts)]
        low, high = range_of(a.part, count)
        if not (a.lo <= entry < a.hi and low <= culprit < high) or position_of(entry, culprit) in a.skip:
            commands = scheduler.attempt_done(a.attempt, 1.0, items=(a.hi - a.lo) * (high - low))
        else:
            runs += 1
            is_named = a.hi - a.lo == 1 and high - low == 1  # then the executor knows
            item = position_of(entry, culprit) if is_named else None
            commands = getattr(scheduler, event)(a.attempt, DEAD, item, 1.0, is_divisible=not is_named)
        skipped += only(commands, c.ItemSkipped)
    assert [(s.batch, s.item) for s in skipped] == [(1, position_of(entry, culprit))]
    assert runs <= math.ceil(math.log2(3 * count)) + MAX_DEATHS
    assert scheduler.status(1).phase == "plan"


def test_an_entry_that_dies_of_being_read_is_set_aside_as_a_whole():
    scheduler, _ = cluster(1, rules=JobRules(max_skipped=1))
    scheduler.add_batch(1, 1, 2, 0.0, has_refs=True)
    whole = position_of(1, WHOLE)
    for attempt in range(1, MAX_DEATHS):
        scheduler.attempt_died(attempt, DEAD, whole, 1.0)
    commands = scheduler.attempt_died(MAX_DEATHS, DEAD, whole, 1.0)
    assert only(commands, c.ItemSkipped) == [c.ItemSkipped(1, 1, whole, DEAD)]
    assert only(commands, c.Assign)[0].skip == (whole,)
    assert only(scheduler.attempt_done(MAX_DEATHS + 1, 2.0, items=9), c.ReleaseBatch)


def test_what_an_executor_has_set_aside_counts_once_its_attempt_does():
    scheduler, _ = cluster(1, rules=JobRules(max_skipped=5), batches=[10, 10])
    assert not only(scheduler.attempt_done(1, 1.0, items=6, skipped=4, failure=BOOM), c.FailJob)
    assert scheduler.status(1).skipped == 4
    (end,) = only(scheduler.attempt_done(2, 1.0, items=8, skipped=2, failure=BOOM), c.FailJob)
    assert (end.code, end.failure["error"]) == ("skipped", BOOM["error"])


def test_an_attempt_that_sets_too_many_aside_ends_the_job():
    scheduler, _ = cluster(1, rules=JobRules(max_skipped=5), batches=[10])
    end = scheduler.attempt_failed(1, BOOM, position_of(7), 1.0, is_spent=True, skipped=6)[-1]
    assert end.code == "skipped"


@pytest.mark.parametrize(("skipped", "is_allowed"), [(10, True), (11, False)])
def test_a_share_of_the_items_of_files_is_judged_when_all_are_read(skipped, is_allowed):
    scheduler, _ = cluster(1, 1, rules=JobRules(max_skipped=0.1))
    for batch in (1, 2):
        scheduler.add_batch(1, batch, 1, 0.0, has_refs=True)
    scheduler.end_input(1, 0.0)
    first = scheduler.attempt_done(1, 1.0, items=20 - skipped, skipped=skipped, failure=BOOM)
    assert not only(first, c.FailJob), "the other file may have any number of good items"
    ends = only(scheduler.attempt_done(2, 2.0, items=80), c.FailJob)
    assert [end.code for end in ends] == ([] if is_allowed else ["skipped"])


def test_reduce_tasks_are_retried_but_never_skipped():
    scheduler, _ = cluster(1, rules=JobRules(retries=1, max_skipped=9), end=True)
    scheduler.plan_reduce(1, [(0,)], 0.0)
    assert only(scheduler.attempt_failed(1, BOOM, None, 1.0), c.Assign)[0].partitions == (0,)
    (end,) = only(scheduler.attempt_failed(2, BOOM, 0, 1.0), c.FailJob)
    assert (end.code, end.failure["error"]) == ("failed", BOOM["error"])
    assert "in map only" in end.failure["advice"]


def test_missing_contents_are_asked_for_once_and_waited_for():
    scheduler, _ = cluster(1, 1, batches=[2])
    scheduler.end_input(1, 0.0)
    assert scheduler.attempt_needs_content(1, 1.0) == [c.Discard(1, 1, 1), c.NeedContent(1, 1)]
    assert scheduler.status(1).waiting == 1
    assigns = only(scheduler.content_arrived(1, 1, 2.0), c.Assign)
    assert [(a.lo, a.hi) for a in assigns] == [(0, 1), (1, 2)]
    assert scheduler.status(1).waiting == 0
    with pytest.raises(SchedulerError, match="all its contents"):
        scheduler.attempt_needs_content(assigns[0].attempt, 3.0)
    assert scheduler.content_arrived(1, 9, 3.0) == []


# Duplicates


def straggling(retransmit=0.05, slots=(1, 1, 1)):
    """Three tasks on three workers; two took 3 s, the third runs on."""
    scheduler, _ = cluster(*slots, rules=JobRules(retransmit=retransmit), batches=[1, 1, 1], end=True)
    scheduler.attempt_done(1, 3.0)
    scheduler.attempt_done(2, 3.0)
    return scheduler


def test_a_straggler_gets_one_duplicate_on_another_worker_and_the_first_to_end_counts():
    for winner, loser in ((3, 4), (4, 3)):
        scheduler = straggling()
        assert scheduler.tick(6.0) == []  # not yet longer than twice the median
        (duplicate,) = scheduler.tick(6.1)
        assert (duplicate.task, duplicate.attempt) == (3, 4)
        assert duplicate.worker != 3
        assert scheduler.tick(12.0) == []
        commands = scheduler.attempt_done(winner, 12.0)
        assert commands[0].attempt == winner
        assert only(commands, c.Revoke)[0].attempt == only(commands, c.Discard)[0].attempt == loser
        assert scheduler.attempt_done(loser, 12.0) == []


def test_a_duplicate_that_is_lost_is_replaced_and_a_task_whose_first_attempt_is_lost_goes_on():
    scheduler = straggling()
    (duplicate,) = scheduler.tick(7.0)
    scheduler.remove_worker(duplicate.worker, 8.0)
    (second,) = scheduler.tick(9.0)
    assert second.task == 3
    assert only(scheduler.remove_worker(3, 10.0), c.Assign) == []
    assert only(scheduler.attempt_done(second.attempt, 11.0), c.Commit)


def test_one_idle_slot_ends_one_duplicate_that_takes_too_long():
    rules = JobRules(retransmit=1.0)
    scheduler, _ = cluster(1, 1, 1, 1, 1, rules=rules, batches=[1, 1, 1, 1], end=True)
    for attempt in (1, 2):
        scheduler.attempt_done(attempt, 3.0)
    assert len(only(scheduler.tick(7.0), c.Assign)) == 2
    assert len(only(scheduler.tick(20.0), c.Revoke)) == 1


@pytest.mark.parametrize("rules", [{"retransmit": 0}, {"retransmit": 0.05, "allocation": "oneshot"}])
def test_some_jobs_are_never_duplicated(rules):
    scheduler, _ = cluster(1, 1, 1, rules=JobRules(**rules), batches=[1, 1, 1], end=True)
    scheduler.attempt_done(1, 3.0)
    scheduler.attempt_done(2, 3.0)
    assert only(scheduler.tick(1_000.0), c.Assign) == []


def test_no_more_duplicates_run_at_once_than_the_share_of_slots():
    scheduler, _ = cluster(8, 8, rules=JobRules(retransmit=0.1), batches=[1] * 16, end=True)
    for attempt in (1, 2, 3, 4, 5, 9, 10, 11, 12, 13):
        scheduler.attempt_done(attempt, 0.1)
    duplicates = scheduler.tick(10.0)
    assert [a.task for a in duplicates] == [6, 7]
    assert scheduler.tick(11.0) == []
    assert len(only(scheduler.attempt_done(duplicates[0].attempt, 12.0), c.Assign)) == 1
    assert scheduler.tick(12.1) == []


def test_a_worker_that_holds_every_task_of_a_phase_holds_up_its_job_for_seconds():
    """Nobody knows how long they take. It never did a task, and one that did some idles."""
    scheduler, _ = cluster(1, batches=[1], end=True)
    scheduler.add_worker(2, 40, NONE, 0.2)
    scheduler.attempt_done(1, now := 0.3)
    plan = [(number,) for number in range(30)]
    assert {a.worker for a in only(scheduler.plan_reduce(1, plan, now), c.Assign)} == {2}
    assert only(scheduler.tick(now + UNPROVED_STRAGGLER_S - 0.1), c.Assign) == []
    now += UNPROVED_STRAGGLER_S + 0.1
    assigned = only(scheduler.tick(now), c.Assign)
    for number in range(30):  # and not one each tick: the slot that did one takes the next at once
        assert [a.worker for a in assigned] == [1], number
        commands = scheduler.attempt_done(assigned[0].attempt, now)
        assigned = only(commands, c.Assign)
    assert only(commands, c.FinishJob)


def test_the_same_with_a_worker_that_did_tasks_before_takes_a_minute():
    scheduler, _ = cluster(1, 1, batches=[1, 1], end=True)
    for attempt in (1, 2):
        scheduler.attempt_done(attempt, 0.1)
    (reduce,) = only(scheduler.plan_reduce(1, [(0,)], 1.0), c.Assign)
    assert only(scheduler.tick(UNKNOWN_STRAGGLER_S), c.Assign) == []
    (duplicate,) = only(scheduler.tick(UNKNOWN_STRAGGLER_S + 1.1), c.Assign)
    assert duplicate.task == reduce.task
    assert duplicate.worker != reduce.worker


def test_two_workers_that_hold_a_task_for_ever_do_not_hold_up_its_job_for_ever():
    """The second gets as long as the first had. Then a third tries it, and not one that never did a task."""
    scheduler = straggling()
    (duplicate,) = scheduler.tick(6.1)
    scheduler.add_worker(9, 1, NONE, 6.1)
    assert scheduler.tick(12.1) == []
    revoke, discard, second = scheduler.tick(12.3)
    assert revoke.attempt == discard.attempt == duplicate.attempt
    assert second.task == duplicate.task
    assert second.worker == 3 - duplicate.worker
    assert scheduler.tick(24.5) == []
    assert only(scheduler.tick(24.7), c.Assign)[0].worker == 9
    assert only(scheduler.attempt_done(3, 30.0), c.Commit), "the first one goes on all the time"


def test_the_median_comes_from_a_bounded_sample():
    durations = Durations()
    assert durations.median_s() is None
    for number in range(20_000):
        durations.add(float(number), random.Random(number))
        if number < SAMPLE_SIZE:
            assert durations.median_s() == statistics.median(range(number + 1))
    assert len(durations.sample) == SAMPLE_SIZE
    assert 5_000 < durations.median_s() < 15_000


# Executors that cannot be set up

NO_MODEL = {"kind": "exception", "function": "setupfn", "error": "OSError: no model"}


def test_a_setup_that_fails_is_tried_in_two_other_executors_and_then_the_job_fails():
    scheduler, _ = cluster(1, rules=JobRules(retries=9, max_skipped=99), batches=[6], end=True)
    for attempt in range(1, MAX_UNPREPARED):
        (again,) = only(scheduler.attempt_unprepared(attempt, NO_MODEL, 1.0), c.Assign)
        assert (again.worker, again.lo, again.hi) == (1, 0, 6)
    end = scheduler.attempt_unprepared(MAX_UNPREPARED, NO_MODEL, 1.0)[-1]
    assert (end.code, end.failure["function"], end.failure["error"]) == (
        "failed",
        "setupfn",
        "OSError: no model",
    )
    assert "3 executors" in end.failure["advice"]


def test_a_setup_that_fails_counts_as_no_failure_and_no_death_of_items():
    scheduler, _ = cluster(1, batches=[1], end=True)
    scheduler.attempt_unprepared(1, NO_MODEL, 1.0)
    scheduler.attempt_unprepared(2, NO_MODEL, 1.0)
    for attempt in range(3, 3 + MAX_DEATHS - 1):
        assert only(scheduler.attempt_died(attempt, DEAD, 0, 2.0), c.Assign)
    assert scheduler.attempt_done(3 + MAX_DEATHS - 1, 3.0)[-1] == c.PlanReduce(1)


def test_a_task_that_is_cut_hands_on_how_often_the_setup_failed():
    scheduler, _ = cluster(2, batches=[10])
    scheduler.end_input(1, 0.0)
    halves = only(scheduler.attempt_unprepared(1, NO_MODEL, 1.0), c.Assign)
    assert [(a.lo, a.hi) for a in halves] == [(0, 5), (5, 10)]
    (again,) = only(scheduler.attempt_unprepared(halves[1].attempt, NO_MODEL, 1.0), c.Assign)
    assert only(scheduler.attempt_unprepared(again.attempt, NO_MODEL, 1.0), c.FailJob)


def test_a_setup_that_fails_is_tried_elsewhere_and_its_worker_gets_no_task_of_the_job():
    scheduler, _ = cluster(2, 1, batches=[1] * 4)
    bad = [a for a, assign in scheduler.attempts.items() if assign.worker == 1]
    for attempt in bad:
        assert {a.worker for a in only(scheduler.attempt_unprepared(attempt, NO_MODEL, 1.0), c.Assign)} <= {2}
    while scheduler.attempts:
        commands = scheduler.attempt_done(min(scheduler.attempts), 2.0)
        assert {a.worker for a in only(commands, c.Assign)} <= {2}
        assert not only(commands, c.Recall), "for slots that may not have it"
    scheduler.add_job(2, JobRules(), 3.0)
    assert only(scheduler.add_batch(2, 1, 1, 3.0), c.Assign)[0].worker == 1, "it is another job"


def test_a_worker_that_is_avoided_gets_the_tasks_of_other_jobs_that_wait_behind():
    scheduler, _ = cluster(1, 1, batches=[1, 1])
    scheduler.attempt_unprepared(1, NO_MODEL, 1.0)
    scheduler.add_job(2, JobRules(), 1.0)
    assert [a.worker for a in only(scheduler.add_batch(2, 1, 1, 1.0), c.Assign)] == [1]


def test_a_worker_where_the_setup_failed_is_tried_again_once_nobody_else_is_left():
    scheduler, _ = cluster(1, 1, batches=[1])
    (elsewhere,) = only(scheduler.attempt_unprepared(1, NO_MODEL, 1.0), c.Assign)
    assert elsewhere.worker == 2
    (back,) = only(scheduler.remove_worker(2, 2.0), c.Assign)
    assert back.worker == 1
    scheduler, _ = cluster(1, 1, batches=[1])
    scheduler.attempt_unprepared(1, NO_MODEL, 1.0)
    (third,) = only(scheduler.attempt_unprepared(2, NO_MODEL, 2.0), c.Assign)
    assert only(scheduler.attempt_unprepared(third.attempt, NO_MODEL, 3.0), c.FailJob)


def test_a_worker_with_an_executor_that_is_set_up_is_no_longer_avoided():
    scheduler, _ = cluster(2, 1, batches=[1, 1, 1])
    assert [scheduler.attempts[a].worker for a in (1, 2, 3)] == [1, 1, 2]
    assert {a.worker for a in only(scheduler.attempt_unprepared(1, NO_MODEL, 1.0), c.Assign)} == {2}
    scheduler.attempt_done(2, 2.0)
    assert {a.worker for a in only(scheduler.add_batch(1, 4, 1, 2.0), c.Assign)} == {1}


def test_no_duplicate_runs_where_the_setup_failed():
    scheduler, _ = cluster(1, 1, 1, batches=[1] * 3, end=True)
    (again,) = only(scheduler.attempt_unprepared(1, NO_MODEL, 0.5), c.Assign)
    assert again.worker != 1
    scheduler.attempt_done(2, 1.0)
    scheduler.attempt_done(3, 1.0)
    assert again.attempt in scheduler.attempts
    assert only(scheduler.tick(99.0), c.Assign)[0].worker not in (1, again.worker)


def test_a_oneshot_item_whose_setup_fails_is_tried_on_its_worker_which_has_no_other():
    scheduler, _ = cluster(1, 1, rules=JobRules(allocation="oneshot"), batches=[1, 1], end=True)
    (second,) = only(scheduler.attempt_unprepared(1, NO_MODEL, 1.0), c.Assign)
    (third,) = only(scheduler.attempt_unprepared(second.attempt, NO_MODEL, 1.0), c.Assign)
    assert (second.worker, third.worker) == (1, 1)
    assert only(scheduler.attempt_unprepared(third.attempt, NO_MODEL, 1.0), c.FailJob)


# "oneshot"

ONESHOT = JobRules(allocation="oneshot", retries=5)


def test_every_worker_gets_one_item_on_one_slot_and_no_more_are_read():
    scheduler, commands = cluster(4, 2, rules=ONESHOT, batches=[1, 1])
    assert only(commands, c.Allow) == [c.Allow(1, 2)]
    assert [a.worker for a in only(commands, c.Assign)] == [1, 2]
    scheduler.attempt_done(1, 1.0)
    commands = scheduler.attempt_done(2, 2.0)
    assert commands[-2:] == [c.EnoughInput(1), c.PlanReduce(1)]
    assert only(scheduler.add_batch(1, 3, 1, 2.0), c.ReleaseBatch) == [c.ReleaseBatch(1, 3)]
    assert scheduler.end_input(1, 2.0) == []


def test_a_worker_that_joins_in_time_gets_an_item_and_a_late_one_none():
    scheduler, _ = cluster(1, 1, rules=ONESHOT, batches=[1, 1])
    scheduler.attempt_done(1, 100.0)
    assert only(scheduler.add_worker(3, 1, NONE, 109.9), c.Allow) == [c.Allow(1, 3)]
    assert only(scheduler.add_batch(1, 3, 1, 109.9), c.Assign)[0].worker == 3
    assert only(scheduler.tick(110.0), c.EnoughInput) == [c.EnoughInput(1)]
    assert scheduler.add_worker(4, 1, NONE, 110.1) == []


def test_an_item_lost_with_its_worker_is_dropped_and_reported():
    scheduler, _ = cluster(1, 1, rules=ONESHOT, batches=[1, 1])
    scheduler.attempt_done(1, 1.0)
    commands = scheduler.remove_worker(2, 2.0)
    assert [s.failure["kind"] for s in only(commands, c.ItemSkipped)] == ["lost"]
    assert only(commands, c.Notice)
    assert commands[-1] == c.PlanReduce(1)


def test_an_item_is_not_tried_twice():
    scheduler, _ = cluster(1, rules=ONESHOT, batches=[1])
    assert scheduler.attempt_failed(1, BOOM, 0, 1.0)[-1] == c.FailJob(1, with_place(BOOM, 1, 0), "failed")
    scheduler, _ = cluster(1, rules=ONESHOT, batches=[1])
    assert scheduler.attempt_died(1, DEAD, 0, 1.0)[-1] == c.FailJob(1, with_place(DEAD, 1, 0), "failed")


def test_an_item_waits_for_an_idle_slot_of_its_worker_which_gets_nothing_queued_meanwhile():
    scheduler, _ = cluster(1, batches=[1, 1, 1, 1])
    scheduler.add_job(2, ONESHOT, 0.0)
    assert only(scheduler.add_batch(2, 1, 1, 0.0), c.Assign) == []
    assert only(scheduler.attempt_done(1, 1.0), c.Assign) == []
    (assign,) = only(scheduler.attempt_done(2, 2.0), c.Assign)
    assert assign.job == 2
    assert len(only(scheduler.attempt_done(assign.attempt, 3.0), c.Assign)) == 2


def test_an_item_given_back_or_sent_again_goes_to_the_same_worker():
    scheduler, _ = cluster(1, 1, rules=ONESHOT, batches=[1, 1], end=True)
    (again,) = only(scheduler.attempt_returned(1, 1.0), c.Assign)
    assert again.worker == 1
    assert only(scheduler.attempt_needs_content(again.attempt, 1.0), c.NeedContent)
    scheduler.attempt_done(2, 1.5)
    (third,) = only(scheduler.content_arrived(1, 1, 2.0), c.Assign)
    assert third.worker == 1
    assert scheduler.attempt_done(third.attempt, 3.0)[-1] == c.PlanReduce(1)


def test_no_worker_is_promised_twice_because_an_item_came_back():
    scheduler, _ = cluster(1, 1, rules=ONESHOT, batches=[1, 1])
    scheduler.attempt_returned(1, 1.0)
    assert only(scheduler.add_worker(3, 1, NONE, 1.0), c.Allow) == [c.Allow(1, 3)]


def test_an_item_taken_back_from_a_busy_worker_that_leaves_was_not_given():
    scheduler, _ = cluster(1, batches=[1, 1])
    scheduler.add_job(2, ONESHOT, 0.0)
    scheduler.add_batch(2, 1, 1, 0.0)
    scheduler.drain_worker(1, 1.0)
    scheduler.tick(99.0)
    assert scheduler.status(2).waiting == 1
    (assign,) = [a for a in only(scheduler.add_worker(2, 1, NONE, 99.0), c.Assign) if a.job == 2]
    assert assign.worker == 2
    assert only(scheduler.add_worker(3, 1, NONE, 99.0), c.Allow)[-1] == c.Allow(2, 2)


def test_an_item_of_a_worker_that_leaves_goes_to_the_next_that_joins():
    scheduler, _ = cluster(1, rules=ONESHOT, batches=[1])
    scheduler.drain_worker(1, 1.0)
    scheduler.attempt_returned(1, 1.0)
    (assign,) = only(scheduler.add_worker(2, 1, NONE, 2.0), c.Assign)
    assert assign.worker == 2


# Time


def test_a_job_without_workers_says_so_once():
    scheduler, _ = cluster(rules=JobRules(needs=frozenset({"stats"})), batches=[1])
    assert scheduler.tick(1.0) == []
    (notice,) = scheduler.tick(2.0)
    assert "stats" in notice.text
    assert scheduler.tick(60.0) == []
    scheduler.add_worker(1, 1, frozenset({"stats"}), 61.0)
    scheduler.tick(61.0)
    scheduler.remove_worker(1, 62.0)
    assert only(scheduler.tick(64.0), c.Notice)


def test_attempt_numbers_start_again_at_one_and_pass_over_live_ones():
    scheduler = Scheduler(random.Random(0))
    scheduler.add_worker(1, 1, NONE, 0.0)
    scheduler.add_job(1, JobRules(), 0.0)
    (first,) = only(scheduler.add_batch(1, 1, 1, 0.0), c.Assign)
    scheduler._dispatcher._last_attempt = 0xFFFF_FFFF
    (second,) = only(scheduler.add_batch(1, 2, 1, 0.0), c.Assign)
    assert (first.attempt, second.attempt) == (1, 2)


# Anything in any order


class SchedulerMachine(RuleBasedStateMachine):
    """Any events in any order, of live and of forgotten things; the audit checks every command."""

    @initialize(seed=st.integers(0, 3))
    def begin(self, seed):
        self.scheduler = AuditedScheduler(seed)
        self.now = 0.0
        self.numbers = itertools.count(1)
        self.asked: list[tuple[int, int]] = []
        self.had_content: set[int] = set()

    def event(self, name, *args, **facts):
        commands = getattr(self.scheduler, name)(*args, self.now, **facts)
        for command in commands:
            if isinstance(command, c.NeedContent):
                self.asked.append((command.job, command.batch))
        return commands

    def draw_attempt(self, data):
        """One that lives, mostly; else one that is over: what is said of it is late."""
        live = sorted(self.scheduler.attempts)
        is_late = not live or data.draw(st.integers(0, 4)) == 4
        return data.draw(st.sampled_from(sorted(self.scheduler.known_attempts) if is_late else live))

    def jobs(self, **state):
        jobs = ((job, books) for job, books in self.scheduler.jobs.items() if books.end is None)
        return [job for job, books in jobs if all(getattr(books, k) == v for k, v in state.items())]

    @rule(slots=st.integers(0, 3), offers=st.sampled_from([(), ("stats",), ("plot", "stats")]))
    def join(self, slots, offers):
        self.event("add_worker", next(self.numbers), slots, frozenset(offers))

    @precondition(lambda self: self.scheduler.workers)
    @rule(data=st.data(), how=st.sampled_from(["remove_worker", "drain_worker"]))
    def leave(self, data, how):
        self.event(how, data.draw(st.sampled_from(sorted(self.scheduler.workers))))

    @precondition(lambda self: len(self.jobs()) < 4)
    @rule(
        retries=st.integers(0, 2),
        retransmit=st.sampled_from([0, 0.05, 1.0]),
        allocation=st.sampled_from(["continuous", "continuous", "oneshot"]),
        max_skipped=st.sampled_from([0, 0, 2, 0.3]),
        items_per_call=st.sampled_from([1, 1, 3]),
        needs=st.sampled_from([(), (), ("stats",)]),
    )
    def submit(self, retries, retransmit, allocation, max_skipped, items_per_call, needs):
        rules = JobRules(
            retries=retries,
            retransmit=retransmit,
            allocation=allocation,
            max_skipped=max_skipped,
            items_per_call=items_per_call,
            needs=frozenset(needs),
        )
        self.event("add_job", next(self.numbers), rules)

    @precondition(lambda self: self.jobs(input_ended=False))
    @rule(data=st.data(), items=st.integers(0, 12))
    def send(self, data, items):
        job = data.draw(st.sampled_from(self.jobs(input_ended=False)))
        books = self.scheduler.jobs[job]
        if len(books.items) < books.allowed:
            has_refs = books.rules.allocation == "continuous" and data.draw(st.booleans())
            self.event("add_batch", job, len(books.items) + 1, items, has_refs=has_refs)

    @precondition(lambda self: self.jobs(input_ended=False))
    @rule(data=st.data())
    def end_input(self, data):
        self.event("end_input", data.draw(st.sampled_from(self.jobs(input_ended=False))))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def bring_content(self, data):
        self.event("content_arrived", *data.draw(st.sampled_from(self.asked)))

    @precondition(lambda self: self.jobs(asked_for_plan=True, planned=None))
    @rule(data=st.data(), tasks=st.integers(0, 5))
    def plan(self, data, tasks):
        job = data.draw(st.sampled_from(self.jobs(asked_for_plan=True, planned=None)))
        self.event("plan_reduce", job, [(n,) for n in range(tasks)])

    @precondition(lambda self: self.jobs())
    @rule(data=st.data(), is_cancelled=st.booleans())
    def stop(self, data, is_cancelled):
        job = data.draw(st.sampled_from(self.jobs()))
        if is_cancelled:
            self.event("cancel_job", job)
        else:
            self.event("fail_job", job, BOOM)

    @precondition(lambda self: self.scheduler.known_attempts)
    @rule(data=st.data(), ending=st.sampled_from(["attempt_done", "attempt_returned"]))
    def end(self, data, ending):
        self.event(ending, self.draw_attempt(data))

    @precondition(lambda self: self.scheduler.known_attempts)
    @rule(data=st.data(), event=st.sampled_from(["attempt_failed", "attempt_died"]), is_known=st.booleans())
    def fail(self, data, event, is_known):
        attempt = self.draw_attempt(data)
        assign = self.scheduler.attempts.get(attempt)
        # A position that the task has not counts as unknown.
        item = data.draw(st.sampled_from([None, -1, position_of(99)]))
        if assign is not None and assign.phase == "map" and is_known:
            entry = data.draw(st.sampled_from(range(assign.lo, assign.hi)))
            has_refs = assign.batch in self.scheduler.jobs[assign.job].refs
            place = data.draw(st.sampled_from([0, 1, 7])) if has_refs else 0
            item = position_of(entry, place)  # set aside before, perhaps
        self.event(event, attempt, BOOM, item, is_divisible=data.draw(st.booleans()))

    @precondition(lambda self: self.scheduler.known_attempts)
    @rule(data=st.data())
    def lack_setup(self, data):
        self.event("attempt_unprepared", self.draw_attempt(data), BOOM)

    @precondition(lambda self: self.scheduler.asked_back)
    @rule(data=st.data())
    def keep(self, data):
        self.event("attempt_kept", data.draw(st.sampled_from(sorted(self.scheduler.asked_back))))

    @precondition(lambda self: self.scheduler.attempts)
    @rule(data=st.data())
    def lack_content(self, data):
        attempt = data.draw(st.sampled_from(sorted(self.scheduler.attempts)))
        live = self.scheduler.scheduler._dispatcher.attempts[attempt]
        if self.scheduler.attempts[attempt].phase == "map" and not live.had_content:
            self.event("attempt_needs_content", attempt)

    @rule(data=st.data())
    def come_late(self, data):
        """Whatever is said of what is over, or never was, changes nothing."""
        over = [job for job, books in self.scheduler.jobs.items() if books.end is not None]
        job, nobody = data.draw(st.sampled_from([*over, 10**6])), 10**6
        name, args = data.draw(
            st.sampled_from(
                [
                    ("add_batch", (job, 10**6, 1)),
                    ("end_input", (job,)),
                    ("content_arrived", (job, 1)),
                    ("plan_reduce", (job, [(0,)])),
                    ("cancel_job", (job,)),
                    ("fail_job", (job, BOOM)),
                    ("remove_worker", (nobody,)),
                    ("drain_worker", (nobody,)),
                    ("attempt_kept", (nobody,)),
                    ("attempt_needs_content", (nobody,)),
                ]
            )
        )
        assert self.event(name, *args) == []

    @rule(data=st.data())
    def break_the_rules(self, data):
        """What no table allows is refused, and nothing has changed: the books agree ever after."""
        scheduler, impossible = self.scheduler, []
        for job in self.jobs():
            books = scheduler.jobs[job]
            impossible.append(("add_job", (job, JobRules())))
            if books.rules.allocation == "continuous" and (
                books.input_ended or len(books.items) >= books.allowed
            ):
                impossible.append(("add_batch", (job, len(books.items) + 1, 1)))
            if not books.input_ended and books.items and len(books.items) < books.allowed:
                impossible.append(("add_batch", (job, 0, 1)))
            if books.input_ended and books.rules.allocation == "continuous":
                impossible.append(("end_input", (job,)))
            if not books.asked_for_plan or books.planned is not None:
                impossible.append(("plan_reduce", (job, [])))
        impossible += [("add_worker", (worker, 1, NONE)) for worker in scheduler.workers]
        impossible += [("attempt_kept", (a,)) for a in set(scheduler.attempts) - scheduler.asked_back]
        impossible += [
            ("attempt_needs_content", (a,))
            for a, assign in scheduler.attempts.items()
            if assign.phase == "reduce"
        ]
        if impossible:
            name, args = data.draw(st.sampled_from(impossible))
            with pytest.raises(SchedulerError):
                getattr(scheduler.scheduler, name)(*args, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.5, 11.0]))
    def wait(self, seconds):
        self.now += seconds
        self.event("tick")

    @invariant()
    def nothing_of_the_lost_or_the_over_is_live(self):
        if not hasattr(self, "scheduler"):
            return
        for assign in self.scheduler.attempts.values():
            assert assign.worker in self.scheduler.workers
            assert self.scheduler.jobs[assign.job].end is None

    def teardown(self):
        """Workers that obey bring every job to its end."""
        if not hasattr(self, "scheduler"):
            return
        self.event("add_worker", next(self.numbers), 2, frozenset({"stats"}))
        for _ in range(1_000):
            jobs = self.jobs()
            if not jobs:
                break
            self.now += 11.0
            self.event("tick")
            for job in jobs:
                if self.scheduler.jobs[job].end is None and not self.scheduler.jobs[job].input_ended:
                    self.event("end_input", job)
            for job, batch in self.asked:
                self.event("content_arrived", job, batch)
            for job in self.jobs(asked_for_plan=True, planned=None):
                self.event("plan_reduce", job, [(0,)])
            for attempt in sorted(self.scheduler.attempts):
                self.event("attempt_done", attempt)
        self.scheduler.check_empty()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = hypothesis.settings(
    max_examples=300, stateful_step_count=50, deadline=None, derandomize=True, database=None
)


def test_an_owner_that_comes_again_is_ranked_though_its_former_rank_is_remembered():
    scheduler = AuditedScheduler()
    scheduler.add_worker(1, 1, NONE, 0.0)
    for job in (1, 2):
        scheduler.add_job(job, JobRules(owner=job), 0.0)
        scheduler.add_batch(job, 1, 1, 0.0)
    for job in range(3, 60):  # the owner leaves with its only job, and is back with the next one
        scheduler.cancel_job(job - 1, float(job))
        scheduler.add_job(job, JobRules(owner=2), float(job))
        for batch in (1, 2, 3):
            scheduler.add_batch(job, batch, 1, float(job))
    assert scheduler.status(1) is not None
