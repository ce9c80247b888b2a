"""relay: the driver of a node and its links to servers, over links of one process."""

import gevent
import pytest
from gevent.event import Event

from mmgevent.engine import relay
from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.relay import NodeRelay
from mmgevent.errors import ConnectError, VersionMismatchError
from mmgevent.wire.messages import control, decode_message

#: for what must happen: reached only when something is broken
LATE_S = 10.0


def wait_until(is_so):
    with gevent.Timeout(LATE_S, AssertionError("did not happen")):
        while not is_so():
            gevent.sleep(0.005)


class Place:
    """A member as a relay sees it, at a server elsewhere that may refuse links at first."""

    state, reason, address, error = "worker", "", ("127.0.0.1", 1), None
    presence = worker = None

    def __init__(self, refusals):
        self._refusals = refusals
        self.server = None  # its end of the link
        self.heard = []

    def open_link(self):
        if self._refusals:
            raise self._refusals.pop()
        ours, self.server = local_pair("server")
        self.server.start(
            lambda frame: self.heard.append((decode_message(frame.payload)["type"], frame.job)),
            lambda reason: None,
        )
        return ours


class House:
    """A relay, its driver and its place."""

    def __init__(self, refusals=()):
        self.place = Place(list(refusals))
        self.driver, theirs = local_pair("driver")
        self.heard = []
        self.driver.start(lambda frame: self.heard.append(decode_message(frame.payload)), lambda reason: None)
        self.relay = NodeRelay(theirs, self.place, Event())

    def submit(self, job):
        self.driver.send(control("submit", job, name="test", options={}, code_bytes=1, fingerprint=""))

    def close(self):
        self.relay._drop_server()
        self.driver.close()


@pytest.fixture
def make_house(monkeypatch):
    monkeypatch.setattr(relay, "FIRST_PAUSE_S", 0.01)
    houses = []

    def make(*refusals):
        houses.append(House(refusals))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


@pytest.mark.parametrize("refusal", [ConnectError, VersionMismatchError])
def test_a_driver_whose_link_is_refused_is_told_and_gets_the_next_one(make_house, refusal):
    house = make_house(refusal("nor now"), refusal("not you"))
    house.submit(1)
    wait_until(lambda: house.heard)
    assert (house.heard[0]["state"], house.heard[0]["reason"]) == ("connecting", "not you")
    wait_until(lambda: house.heard[-1]["state"] == "worker")
    house.submit(2)
    wait_until(lambda: house.place.heard == [("submit", 2)])


def test_after_a_fault_of_our_own_the_driver_is_told_and_gets_the_next_link(make_house, monkeypatch):
    monkeypatch.setattr(relay, "MAX_PAUSE_S", 0.01)
    house = make_house(ZeroDivisionError("of the test"))
    house.submit(1)
    wait_until(lambda: house.heard)
    assert house.heard[0]["state"] == "connecting"
    assert "ZeroDivisionError" in house.heard[0]["reason"]
    wait_until(lambda: house.heard[-1]["state"] == "worker")
    house.submit(2)
    wait_until(lambda: house.place.heard == [("submit", 2)])


def test_the_surroundings_of_a_nodes_driver_go_nowhere(make_house):
    house = make_house()
    sizes = {"code_bytes": 1, "context_bytes": 5}
    house.driver.send(control("submit", 1, name="test", options={}, fingerprint="", **sizes))
    wait_until(lambda: house.driver.is_closed)
    assert house.place.heard == []


LAST_WORDS = {
    "job_done": {"stats": {}},
    "job_failed": {"failure": {}},
    "rejected": {"error": "no"},
    "moved": {"address": "127.0.0.1:2"},
}


@pytest.mark.parametrize("word", LAST_WORDS)
def test_jobs_that_are_over_are_forgotten(make_house, word):
    house = make_house()
    for job in (1, 2):
        house.submit(job)
    wait_until(lambda: len(house.place.heard) == 2)
    house.place.server.send(control("notice", 1, text="not the last word"))
    house.place.server.send(control(word, 1, **LAST_WORDS[word]))
    wait_until(lambda: [m["type"] for m in house.heard] == ["notice", word])
    assert house.relay._jobs == {2}
    house.driver.send(control("input_end", 1, batches=1))
    house.driver.send(control("cancel", 2, reason="enough"))
    wait_until(lambda: house.place.heard[2:] == [("cancel", 2)])
    assert house.relay._jobs == set()
