"""slot: which attempt is sent next, and which executors are too many."""

from types import SimpleNamespace

import pytest

from mmgevent.engine.worker.held import CachedJob, HeldAttempt
from mmgevent.engine.worker.slot import IDLE_EXECUTORS, ExecutorSlot
from mmgevent.wire.frames import Frame
from mmgevent.wire.lanes import ReceiveWindow
from mmgevent.wire.messages import control


class Runner:
    """What runs attempts: remembers the frames that it was sent."""

    def __init__(self):
        self.frames, self.is_doomed = [], False
        self.link = SimpleNamespace(send_in_lane=self.frames.append)


def make_job(number=1, code_bytes=0):
    return CachedJob(Frame(1, b"", number), {"options": {}, "code_bytes": code_bytes}, ReceiveWindow(1))


def make_attempt(job, number, phase="map"):
    message = {"type": "assign", "slot": 0, "phase": phase, "lo": 0, "hi": 1}
    return HeldAttempt(job, control("enough", job.number, 1, number), message)


@pytest.fixture
def slot():
    return ExecutorSlot(0)


def test_an_attempt_waits_for_the_one_before_it_unless_their_tasks_are_short(slot):
    job, runner = make_job(), Runner()
    first, second = make_attempt(job, 1), make_attempt(job, 2)
    slot.add(first)
    slot.add(second)
    slot.send(slot.next_to_send(), runner)
    assert slot.next_to_send() is None
    job.add_duration(True, 0.001)
    assert slot.next_to_send() is second


def test_only_attempts_of_one_job_and_phase_are_sent_ahead(slot):
    job, other = make_job(1), make_job(2)
    job.add_duration(True, 0.001)
    first = make_attempt(job, 1)
    slot.add(first)
    slot.send(first, Runner())
    for attempt in (make_attempt(other, 2), make_attempt(job, 3, "reduce")):
        slot.add(attempt)
        assert slot.next_to_send() is None
        slot.remove(attempt)


def test_an_attempt_without_its_jobs_code_is_not_sent(slot):
    slot.add(make_attempt(make_job(code_bytes=1), 1))
    assert slot.next_to_send() is None


def test_any_attempt_that_waits_may_be_sent(slot):
    job, runner = make_job(), Runner()
    attempts = [make_attempt(job, number) for number in (1, 2)]
    for attempt in attempts:
        slot.add(attempt)
    slot.send(attempts[1], runner)
    assert (list(slot.sent), list(slot.waiting)) == ([attempts[1]], [attempts[0]])
    assert [frame.attempt for frame in runner.frames] == [2]
    assert slot.attempts_of(runner) == [attempts[1]]


def test_idle_executors_beyond_a_few_are_surplus_and_busy_ones_never(slot):
    runners = [Runner() for _ in range(IDLE_EXECUTORS + 2)]
    slot.executors = dict(enumerate(runners, 1))
    busy = make_attempt(make_job(1), 1)
    slot.add(busy)
    slot.send(busy, runners[0])
    assert slot.surplus_executors() == runners[1:2]
