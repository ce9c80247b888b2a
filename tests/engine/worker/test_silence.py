"""silence: only what the system says of a silent template counts against a job."""

import pytest

from mmgevent.engine.worker.silence import BUSY_S, MAX_UNANSWERED, MAX_UNANSWERED_BLIND, Silence
from mmgevent.machine.processes import Look


def note(silence, looks, has_answered=True):
    """The finding, and after how many of these looks; (None, count) if there is none."""
    for count, look in enumerate(looks, 1):
        if finding := silence.note(look, has_answered=has_answered):
            return finding, count
    return None, len(looks)


@pytest.mark.parametrize(("state", "said"), [("T", "stopped"), ("t", "stopped"), ("S", "something else")])
def test_a_template_that_is_stopped_or_sleeps_is_found_in_three_looks(state, said):
    finding, count = note(Silence(), [Look(state, 0.1)] * 100)
    assert (count, finding.is_fact) == (MAX_UNANSWERED, True)
    assert said in finding.cause


@pytest.mark.parametrize("state", "RDZXI")
def test_one_that_waits_for_its_turn_or_a_disk_or_has_ended_never_is(state):
    assert note(Silence(), [Look(state, 0.1 + n / 100) for n in range(1000)]) == (None, 1000)


def test_one_that_is_busy_with_something_else_is_found():
    finding, count = note(Silence(), [Look("R", n * BUSY_S) for n in range(100)])
    assert (count, finding.is_fact) == (MAX_UNANSWERED + 1, True)
    assert "busy" in finding.cause


def test_an_answer_starts_the_count_again():
    silence = Silence()
    for _ in range(100):
        assert note(silence, [Look("T", 0.1)] * (MAX_UNANSWERED - 1))[0] is None
        silence.end()


def test_a_look_that_proves_nothing_does_not_start_it_again():
    looks = [Look("T", 0.1), Look("R", 0.1)] * MAX_UNANSWERED
    assert note(Silence(), looks)[1] == 2 * MAX_UNANSWERED - 1


def test_one_that_never_answered_has_longer():
    assert note(Silence(), [Look("S", 0.1)] * 100, has_answered=False)[1] == MAX_UNANSWERED_BLIND


def test_where_the_system_says_nothing_time_counts_and_is_no_fact():
    finding, count = note(Silence(), [None] * 100)
    assert (count, finding.is_fact) == (MAX_UNANSWERED_BLIND, False)
