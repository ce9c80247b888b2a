"""Whatever a worker or a driver with the password says, in whatever order: an honest pair beside it does its job.

A failure prints the steps of the shortest sequence that fails.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.effort import share_of
from tests.trust import probed_server
from tests.trust.protocol_machine import PlaysDriver, PlaysWorker
from tests.trust.raw_peer import connected, running_server, running_worker, wait_until

log = logging.getLogger(__name__)

#: Sequences of each of the two: `make test` plays some, `make test-all` ten thousand in all. One takes 0.05 s.
SHORT, LONG = 25, 5_000
#: Most things said in one sequence.
STEPS = 8
#: MiB that a server may have more after thousands of sequences than after the first hundred.
MAX_GROWTH_MIB = 30.0
#: Sequences before its memory is looked at first.
WARM_UP = 20
#: Longest time of a sequence where much else is at work, seconds: eight times that on a quiet machine.
LONGEST_S = 0.5
#: Time to start and to look, seconds.
AROUND_S = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server with a probe, an honest worker, and an honest driver's cluster, for all sequences."""
    folder = tmp_path_factory.mktemp("place")
    probe = folder / "probe"
    program = ("-m", "tests.trust.probed_server", str(probe))
    with (
        running_server(folder, program=program) as server,
        running_worker(folder, server, procs=1) as worker,
        connected(server) as cluster,
    ):
        wait_until(lambda: len(cluster.workers()) == 1, "the worker")
        yield SimpleNamespace(
            server=server,
            worker=worker,
            cluster=cluster,
            probe=probe,
            quiet=probed_server.ask(probe),
            was_dismissed=False,
        )


def play(machine, place, count):
    machine.place = place
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count,
            stateful_step_count=STEPS,
            suppress_health_check=[*HealthCheck],
        ),
    )


@pytest.mark.parametrize("machine", [PlaysWorker, PlaysDriver])
def test_an_honest_pair_does_its_job_beside_whoever_says_anything(place, machine):
    play(machine, place, SHORT)


@pytest.mark.long
@pytest.mark.timeout(share_of(LONG) * LONGEST_S + AROUND_S)
@pytest.mark.parametrize("machine", [PlaysWorker, PlaysDriver])
def test_thousands_of_sequences_leave_the_server_as_it_was(place, machine):
    play(machine, place, WARM_UP)
    before = probed_server.ask(place.probe, thoroughly=True)
    play(machine, place, share_of(LONG))
    wait_until(lambda: not find_more(place, before), "the end of those who served the last sequence")


def find_more(place, before):
    """Return what the server has more of than before: nothing, once the last peer is let go."""
    after = probed_server.ask(place.probe, thoroughly=True)
    more = {what: after[what] - before[what] for what in ("greenlets", "threads", "descriptors", "files")}
    more["resident MiB"] = after["resident MiB"] - before["resident MiB"] - MAX_GROWTH_MIB
    more = {what: count for what, count in more.items() if count > 0}
    log.info("the server has more than before: %s", more)  # pytest shows it when that never ends
    return more
