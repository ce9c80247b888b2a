"""A worker whose host offers functions, driven by a test that plays the server; the host is this process."""

import socket
import threading

import gevent
import pytest
from gevent import socket as gevent_socket
from gevent.event import Event

from mmgevent import reducers
from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.worker.forkers import Forkers
from mmgevent.engine.worker.offering import Offering
from mmgevent.engine.worker.role import WorkerRole
from mmgevent.executor.offered import OfferedFunctions
from mmgevent.wire.messages import control
from tests.executor.test_offered import describe, segment
from tests.integration.test_worker import WAIT_S, FakeServer, executors

WORDS = "def mapfn(key, text):\n    return [(word, 1) for word in text.split()]\n"


class Gate:
    """A function that says, in the hub's thread, that it was entered, and goes on when told."""

    def __init__(self):
        self.calls = []
        self.entered = []
        self._go = threading.Semaphore(0)

    def __call__(self, key, value):
        self.calls.append(key)
        assert self._go.acquire(timeout=WAIT_S)
        return [(key, value)]

    def wait(self, *keys):
        """Until exactly these were begun, in this order."""
        wait_until(lambda: len(self.calls) >= len(keys), f"{keys} begun, not only {self.calls}")
        assert self.calls == list(keys)

    def open(self, count=1):
        self._go.release(count)


def wait_until(predicate, what):
    with gevent.Timeout(WAIT_S, TimeoutError(what)):
        while not predicate():
            gevent.sleep(0.005)


@pytest.fixture(scope="module")
def forkers():
    forkers = Forkers()
    yield forkers
    forkers.close()


class Host:
    """A process with functions, and its engine's part of it."""

    def __init__(self, forkers, folder):
        self.gate = Gate()
        self.functions = {
            "gate": self.gate,
            "words": lambda key, text: [(word, 1) for word in text.split()],
            "total": lambda key, values: sum(values),
            "name": lambda key, value: [(key, threading.current_thread().name)],
        }
        ours, theirs = socket.socketpair()
        self.lost = Event()
        self.offering = Offering(gevent_socket.socket(fileno=ours.detach()), lambda reason: self.lost.set())
        self.offered = OfferedFunctions(theirs, self.functions)
        self._forkers = forkers
        self._folder = folder
        self.workers = []

    def join(self, slots=1):
        """A new server, with a new worker of this host."""
        ours, theirs = local_pair("local worker")
        server = FakeServer(ours)
        worker = WorkerRole(
            theirs,
            slots=slots,
            forkers=self._forkers,
            name="host/1",
            scratch_dir=str(self._folder),
            offers=sorted(self.functions),
            offering=self.offering,
            is_local=True,
        )
        worker.start()
        self.workers.append(worker)
        return server

    def close(self):
        self.gate.open(100)
        for worker in self.workers:
            worker.stop("the test is over")
        self.offering.close()
        assert self.lost.wait(WAIT_S)
        self.offered.close()
        self.offered._thread.join(WAIT_S)
        assert not self.offered._thread.is_alive()


@pytest.fixture
def host(forkers, tmp_path):
    host = Host(forkers, tmp_path)
    yield host
    host.close()
    assert executors() == []


def test_says_what_it_offers(host):
    server = host.join()
    wait_until(lambda: server.messages, "a hello")
    assert server.messages[0][1]["offers"] == ["gate", "name", "total", "words"]


def test_a_job_without_shipped_functions_needs_no_executor(host):
    server = host.join(slots=2)
    server.submit(1, offered=describe("words", None, "total"))
    attempt = server.assign_map([(1, "a b a")])
    assert server.wait_for(attempt)["type"] == "done"
    assert server.records_of(attempt) == {"a": [1, 1], "b": [1]}
    attempt = server.assign_reduce({0: [segment({"a": [1, 1], "b": [1]})]}, slot=1)
    assert server.wait_for(attempt)["type"] == "done"
    assert server.records_of(attempt) == {"a": [2], "b": [1]}
    assert executors() == []


def test_the_other_phase_runs_in_executors(host):
    server = host.join()
    server.submit(2, source=WORDS, offered={"phases": ["reduce"], "reducefn": "total"})
    attempt = server.assign_map([(1, "a b a")], job=2)
    assert server.wait_for(attempt)["type"] == "done"
    assert server.records_of(attempt) == {"a": [1, 1], "b": [1]}
    assert len(executors()) == 1
    attempt = server.assign_reduce({0: [segment({"a": [1, 1]})]}, job=2)
    assert server.wait_for(attempt)["type"] == "done"
    assert server.records_of(attempt) == {"a": [2]}


def test_all_slots_wait_for_the_one_thread_in_the_order_of_their_attempts(host):
    server = host.join(slots=3)
    server.submit(1, offered=describe("gate"))
    attempts = [server.assign_map([(number, number)], slot=slot) for number, slot in enumerate([2, 0, 1, 0])]
    for count in range(1, 5):
        host.gate.wait(*range(count))
        gevent.sleep(0.02)
        assert len(host.gate.calls) == count  # no other began
        host.gate.open()
    assert [outcome["type"] for outcome in server.wait_for(*attempts)] == ["done"] * 4


def test_what_has_not_begun_is_given_back_and_what_runs_is_kept(host):
    server = host.join(slots=2)
    server.submit(1, offered=describe("gate"))
    running = server.assign_map([("running", 1)], slot=0)
    queued = server.assign_map([("queued", 1)], slot=0)
    other = server.assign_map([("other", 1)], slot=1)  # the server takes it for running, but it is not
    host.gate.wait("running")
    for attempt in (running, queued, other):
        server.tell("recall", attempt)
    outcomes = server.wait_for(running, queued, other)
    assert [outcome["type"] for outcome in outcomes] == ["kept", "returned", "returned"]
    host.gate.open()
    wait_until(lambda: len(server.outcomes(running)) == 2, "an outcome")
    assert server.outcomes(running)[1]["type"] == "done"
    assert host.gate.calls == ["running"]


def test_of_a_revoked_attempt_nothing_is_heard_and_the_next_waits_until_it_returns(host):
    server = host.join(slots=2)
    server.submit(1, offered=describe("gate"))
    server.submit(2, source=WORDS)
    revoked = server.assign_map([("revoked", 1)], slot=0)
    host.gate.wait("revoked")
    server.tell("revoke", revoked)
    following = server.assign_map([("next", 1)], slot=0)
    ordinary = server.assign_map([(1, "a")], job=2, slot=1)  # the thread holds up nobody else
    assert server.wait_for(ordinary)["type"] == "done"
    assert host.gate.calls == ["revoked"]
    host.gate.open(2)
    assert server.wait_for(following)["type"] == "done"
    assert server.outcomes(revoked) == []
    assert revoked not in server.outputs


def test_an_attempt_revoked_while_it_waits_for_the_server_frees_the_thread(host):
    host.offered._functions["large"] = lambda key, n_bytes: [(key, bytes(n_bytes))]
    server = host.join(slots=1)
    server.grants = False
    server.submit(1, offered=describe("large"))
    stuck = server.assign_map([(1, 8 << 20)])
    wait_until(lambda: stuck in server.outputs, "output")
    server.tell("revoke", stuck)
    following = server.assign_map([(1, 10)])
    assert server.wait_for(following)["type"] == "done"
    assert server.outcomes(stuck) == []


def test_the_end_of_a_job_ends_its_attempts(host):
    server = host.join(slots=2)
    server.submit(1, offered=describe("gate"))
    server.submit(2, offered=describe("words"))
    ended = [server.assign_map([(number, 1)], slot=number) for number in range(2)]
    host.gate.wait(0)
    server.link.send(control("job_end", 1))
    following = server.assign_map([(1, "a")], job=2)
    host.gate.open(2)
    assert server.wait_for(following)["type"] == "done"
    assert [server.outcomes(attempt) for attempt in ended] == [[], []]
    assert host.gate.calls == [0]


def test_the_worker_of_the_next_server_starts_clean(host):
    first = host.join(slots=2)
    first.submit(1, offered=describe("gate"))
    for slot in range(2):
        first.assign_map([(f"first {slot}", 1)], slot=slot)
    host.gate.wait("first 0")
    first.link.close("the server died")
    host.workers[0].closed.wait(WAIT_S)
    second = host.join(slots=2)
    second.submit(1, offered=describe("gate"))
    attempts = [
        second.assign_map([(f"second {slot}", 2)], slot=slot) for slot in range(2)
    ]  # the same numbers
    gevent.sleep(0.05)
    assert host.gate.calls == ["first 0"]
    host.gate.open(3)
    assert [outcome["type"] for outcome in second.wait_for(*attempts)] == ["done", "done"]
    assert [second.records_of(attempt) for attempt in attempts] == [{"second 0": [2]}, {"second 1": [2]}]
    assert host.gate.calls == ["first 0", "second 0", "second 1"]


def test_what_the_server_before_had_waiting_is_given_up_at_once(host):
    host.offered._functions["large"] = lambda key, n_bytes: [(key, bytes(n_bytes))]
    first = host.join()
    first.grants = False
    first.submit(1, offered=describe("large"))
    stuck = first.assign_map([(1, 8 << 20)])
    wait_until(lambda: stuck in first.outputs, "output")
    first.link.close("the server died")
    second = host.join()
    second.submit(1, offered=describe("large"))
    assert second.wait_for(second.assign_map([(1, 10)]))["type"] == "done"


def test_short_tasks_are_sent_ahead_and_all_come_back(host):
    server = host.join(slots=4)
    server.submit(1, offered=describe("words", None, reducers.sum_values))
    attempts = []
    for start in range(0, 200, 8):
        wave = [server.assign_map([(start, "a b")], slot=number % 4) for number in range(8)]
        server.wait_for(*wave)
        attempts += wave
    assert {server.outcomes(attempt)[0]["type"] for attempt in attempts} == {"done"}
    assert all(server.records_of(attempt) == {"a": [1], "b": [1]} for attempt in attempts)


def test_a_failure_names_the_worker(host):
    server = host.join()
    server.submit(1, offered=describe("total"))
    failure = server.wait_for(server.assign_map([(1, "x")]))["failure"]
    assert failure["worker"] == "host/1"
    assert "unsupported operand" in failure["error"] or "not iterable" in failure["error"]


def test_an_attempt_of_what_nobody_offers_fails_and_the_worker_stays(forkers, tmp_path):
    ours, theirs = local_pair("local worker")
    server = FakeServer(ours)
    worker = WorkerRole(theirs, slots=1, forkers=forkers, scratch_dir=str(tmp_path), is_local=True)
    worker.start()
    server.submit(1, offered=describe("gate"))
    outcome = server.wait_for(server.assign_map([(1, 2)]))
    assert (outcome["type"], outcome["failure"]["kind"]) == ("failed", "options")
    assert "offers none" in outcome["failure"]["error"]
    assert not worker.close_reason
    worker.stop("the test is over")


@pytest.mark.parametrize("offered", [5, {}, {"phases": "map"}, {"phases": ["other"]}])
def test_a_description_that_makes_no_sense_fails_the_attempt(host, offered):
    server = host.join()
    server.submit(1, offered=offered)
    outcome = server.wait_for(server.assign_map([(1, 2)]))
    assert (outcome["type"], outcome["failure"]["kind"]) == ("failed", "options")


def test_grace_lets_the_function_end(host):
    server = host.join()
    server.submit(1, offered=describe("gate"))
    attempt = server.assign_map([("last", 1)])
    host.gate.wait("last")
    stopping = gevent.spawn(host.workers[0].stop, "it leaves", WAIT_S)
    gevent.sleep(0.02)
    host.gate.open()
    stopping.get(timeout=WAIT_S)
    assert server.outcomes(attempt)[0]["type"] == "done"
