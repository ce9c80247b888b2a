"""Functions that this process offers, called by a test that plays the engine over a socketpair."""

import os
import re
import socket
import subprocess
import sys
import threading

import pytest

from mmgevent import reducers
from mmgevent.executor.channel import Channel
from mmgevent.executor.offered import OfferedFunctions
from mmgevent.job.functions import Functions
from mmgevent.tasks import records
from mmgevent.wire.frames import CONTROL, INPUT, OUTPUT, split_payload
from mmgevent.wire.lanes import INPUT_WINDOW, OUTPUT_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.positions import position_of

WAIT_S = 20.0
PARTITIONS = 4


class FakeEngine:
    """The engine's end: assigns by hand, and grants credit for output unless `grants` is off."""

    def __init__(self, functions):
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        ours.settimeout(WAIT_S)
        self.offered = OfferedFunctions(theirs, functions)
        self.grants = True
        self.outputs = {}
        self._windows = {}
        self._last = 0

    def assign(self, described, phase="map", items=(), parts=(), n_bytes=None):
        """Assign a map of items, or a reduce of [(partition, segment)]. `n_bytes`: input that is sent."""
        self._last += 1
        lane = (1, self._last, self._last)
        if phase == "map":
            data = records.encode_items(list(items))
            fields = {"lo": 0, "hi": len(items)}
        else:
            data = b"".join(segment for _, segment in parts)
            fields = {"parts": [[partition, len(segment)] for partition, segment in parts]}
        self.channel.open_lane(lane, INPUT_WINDOW)
        self.channel.send(*self.frames_of(lane, described, data, n_bytes, phase=phase, **fields))
        return lane

    def assign_at_once(self, *wanted, between=()):
        """Assign maps of ("a", 1), by their descriptions. Their frames alternate, as lanes send them.

        `between`: what is assigned and done after the descriptions have come and before the rest does.
        """
        data = records.encode_items([("a", 1)])
        rows = []
        for described in wanted:
            self._last += 1
            lane = (self._last, self._last, self._last)
            rows.append(self.frames_of(lane, described, data, phase="map", lo=0, hi=1))
        announced, *rest = zip(*rows, strict=True)
        self.channel.send(*announced)
        for described in between:
            self.result(self.assign(described, items=[("b", 1)]))
        self.channel.send(*(frame for frames in rest for frame in frames))
        return [frames[0].lane for frames in rows]

    def frames_of(self, lane, described, data, n_bytes=None, **fields):
        return [
            control("job", *lane, options={"offered": described}, code_bytes=0, fingerprint=""),
            control("assign", *lane, slot=0, size=len(data), partitions=PARTITIONS, **fields),
            *split_payload(INPUT, data[:n_bytes], *lane),
        ]

    def revoke(self, lane):
        self.channel.send(control("revoke", *lane))

    def next_message(self):
        """Return the next message, with its lane. Output before it is kept and granted."""
        while True:
            frame = self.channel.next_frame()
            if frame.kind == CONTROL:
                message = decode_message(frame.payload)
                self.outputs.setdefault(frame.lane, bytearray()).extend(message.get("inline", b""))
                return frame.lane, message
            self._take_output(frame)

    def wait_for_output(self, lane):
        """Wait until the attempt that runs has sent as much output as it had credit for."""
        while len(self.outputs.get(lane, b"")) < OUTPUT_WINDOW:
            self._take_output(self.channel.next_frame())

    def _take_output(self, frame):
        assert frame.kind == OUTPUT
        self.outputs.setdefault(frame.lane, bytearray()).extend(frame.payload)
        window = self._windows.setdefault(frame.lane, ReceiveWindow(OUTPUT_WINDOW))
        window.received(len(frame.payload))
        if self.grants and (n_bytes := window.consumed(len(frame.payload))):
            self.channel.send_first(grant_frame(frame.lane, n_bytes))

    def outcome(self, lane):
        """Return the outcome of this attempt, which is the one that runs."""
        answered, message = self.next_message()
        assert answered == lane
        return message

    def result(self, lane):
        message = self.outcome(lane)
        assert message["type"] == "done", message
        return self.records_of(lane)

    def records_of(self, lane):
        found = {}
        for _, data in records.decode_flush(bytes(self.outputs.get(lane, b""))):
            segment = records.decode_segment(data)
            for key, value in zip(segment.keys, segment.values, strict=True):
                found.setdefault(key, []).extend(value if segment.grouped else [value])
        return found

    def close(self):
        self.offered.close()
        self.channel.shut_down()
        self.channel.abandon()
        self.offered._thread.join(WAIT_S)
        assert not self.offered._thread.is_alive()


@pytest.fixture
def offer():
    engines = []

    def make(**functions):
        engines.append(FakeEngine(functions))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def describe(mapfn=None, collectfn=None, reducefn=None):
    return Functions.of(mapfn, collectfn, reducefn).describe_offered()


class Gate:
    """A function that reports its call and waits until it may continue."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.calls = []

    def __call__(self, key, value):
        self.calls.append(key)
        self.entered.release()
        assert self.go.acquire(timeout=WAIT_S)
        return [(key, value)]

    def wait(self):
        assert self.entered.acquire(timeout=WAIT_S)


def segment(groups):
    return records.encode_segment(list(groups), list(groups.values()), grouped=True)


def test_a_map_sees_the_state_of_this_process(offer):
    seen = []

    def remember(key, value):
        seen.append(value)
        yield threading.current_thread().name, len(seen)

    engine = offer(remember=remember)
    for expected in ([1, 2], [3, 4]):
        lane = engine.assign(describe("remember"), items=[("a", 1), ("b", 2)])
        assert engine.result(lane) == {"mmgevent-offered": expected}
    assert seen == [1, 2, 1, 2]


@pytest.mark.parametrize("between", [(), (describe("two"),)], ids=["together", "apart"])
def test_attempts_of_two_jobs_at_once_are_each_run_by_their_own_function(offer, between):
    engine = offer(one=lambda key, value: [(key, 1)], two=lambda key, value: [(key, 2)])
    lanes = engine.assign_at_once(describe("one"), describe("two"), between=between)
    assert [engine.result(lane) for lane in lanes] == [{"a": [1]}, {"a": [2]}]


def test_a_reduce_of_either_form(offer):
    engine = offer(
        total=lambda key, values: sum(values), all=lambda groups: [(key, max(v)) for key, v in groups]
    )
    parts = [(0, segment({"a": [1, 2]})), (1, segment({"b": [3]}))]
    assert engine.result(engine.assign(describe(reducefn="total"), "reduce", parts=parts)) == {
        "a": [3],
        "b": [3],
    }
    assert engine.result(engine.assign(describe(reducefn="all"), "reduce", parts=parts)) == {
        "a": [2],
        "b": [3],
    }


def test_records_are_collected_or_folded_as_in_an_executor(offer):
    engine = offer(words=lambda key, text: [(word, 1) for word in text.split()], total=lambda k, v: sum(v))
    items = [(1, "a b a"), (2, "a")]
    for described in (describe("words", "total"), describe("words", None, reducers.sum_values)):
        assert engine.result(engine.assign(described, items=items)) == {"a": [3], "b": [1]}
    assert engine.result(engine.assign(describe("words", None, "total"), items=items)) == {
        "a": [1, 1, 1],
        "b": [1],
    }
    top = describe("words", None, reducers.top_values(2))
    assert engine.result(engine.assign(top, items=items)) == {"a": [1, 1], "b": [1]}


def test_an_offered_function_that_is_a_known_reducer_is_no_fold(offer):
    # Elsewhere the name may mean another function, so the records were not folded before the shuffle.
    engine = offer(words=lambda k, text: [(word, 1) for word in text.split()], count=reducers.count_values)
    assert engine.result(engine.assign(describe("words", None, "count"), items=[(1, "a a")])) == {"a": [1, 1]}
    parts = [(0, segment({"a": [5, 5]}))]
    assert engine.result(engine.assign(describe("words", None, "count"), "reduce", parts=parts)) == {"a": [2]}


def test_more_output_than_a_window_arrives_whole(offer):
    engine = offer(many=lambda key, count: ((f"{i:060d}", i) for i in range(count)))
    found = engine.result(engine.assign(describe("many"), items=[(1, 100_000)]))
    assert len(found) == 100_000
    assert sum(found[f"{99_999:060d}"]) == 99_999


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_function_raises_is_told_and_the_thread_lives_on(offer, error):
    def fail(key, value):
        if value:
            raise error("no such luck")
        return [(key, value)]

    engine = offer(fail=fail)
    message = engine.outcome(engine.assign(describe("fail"), items=[("good", 0), ("bad", 1)]))
    assert (message["type"], message["item"]) == ("failed", position_of(1))
    assert message["failure"]["kind"] == "exception"
    assert (message["failure"]["function"], message["failure"]["key"]) == ("mapfn", "'bad'")
    assert error.__name__ in message["failure"]["error"]
    assert "raise error" in message["failure"]["traceback"]
    assert engine.result(engine.assign(describe("fail"), items=[("good", 0)])) == {"good": [0]}


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (describe("other"), "no function named 'other' is offered here.*offered: one, two"),
        (describe("one"), "mapfn.*1 required positional parameter"),
        (describe("two", None, "none"), "none"),
        ({"phases": ["map"], "mapfn": 5}, "must be a name"),
        ({"phases": ["map"], "mapfn": "two", "reducefn": "reducers.open"}, "no 'open'"),
        (None, "no description"),
    ],
)
def test_what_cannot_be_called_in_its_role_fails_clearly(offer, described, words):
    engine = offer(one=lambda groups: groups, two=lambda key, value: [(key, value)])
    lane = engine.assign(described, items=[(1, 2)])
    answered, message = engine.next_message()
    assert (answered, message["type"], message["failure"]["kind"]) == (lane, "failed", "options")
    assert re.search(words, message["failure"]["error"])
    assert engine.result(engine.assign(describe("two"), items=[(1, 2)])) == {1: [2]}


def test_an_attempt_revoked_while_it_waits_for_input_gives_up(offer):
    engine = offer(two=lambda key, value: [(key, value)])
    lane = engine.assign(describe("two"), items=[(1, "x" * 1000)], n_bytes=100)
    engine.revoke(lane)
    assert engine.next_message() == (lane, {"type": "returned"})
    assert engine.result(engine.assign(describe("two"), items=[(1, 2)])) == {1: [2]}


@pytest.mark.parametrize("phase", ["map", "reduce"])
def test_an_attempt_revoked_while_it_waits_for_credit_gives_up(offer, phase):
    def large(groups):
        for key, _values in groups:
            for _ in range(4):
                yield key, os.urandom(OUTPUT_WINDOW)

    engine = offer(large=lambda key, value: [(key, os.urandom(4 * OUTPUT_WINDOW))], groups=large)
    engine.grants = False
    if phase == "map":
        lane = engine.assign(describe("large"), items=[(1, 2)])
    else:
        lane = engine.assign(describe(reducefn="groups"), "reduce", parts=[(0, segment({"a": [1]}))])
    engine.wait_for_output(lane)
    engine.revoke(lane)
    assert engine.next_message() == (lane, {"type": "returned"})
    assert len(engine.outputs.get(lane, b"")) <= OUTPUT_WINDOW
    engine.grants = True
    lane = engine.assign(describe("large"), items=[(1, 2)])
    assert len(engine.result(lane)[1][0]) == 4 * OUTPUT_WINDOW


def test_an_attempt_revoked_before_it_began_is_never_called(offer):
    gate = Gate()
    engine = offer(gate=gate)
    first = engine.assign(describe("gate"), items=[("first", 1)])
    gate.wait()
    second = engine.assign(describe("gate"), items=[("second", 1)])
    engine.revoke(second)
    third = engine.assign(describe("gate"), items=[("third", 1)])
    gate.go.release(3)
    assert engine.result(first) == {"first": [1]}
    assert engine.outcome(second) == {"type": "returned"}
    assert engine.result(third) == {"third": [1]}
    assert gate.calls == ["first", "third"]


def test_a_late_revoke_and_late_input_harm_nobody(offer):
    def fail(key, value):
        raise ValueError

    engine = offer(two=lambda key, value: [(key, value)], fail=fail)
    lane = engine.assign(describe("two"), items=[(1, 2)])
    assert engine.result(lane) == {1: [2]}
    engine.revoke(lane)
    engine.channel.send(*split_payload(INPUT, b"x" * 100, *lane))
    assert engine.result(engine.assign(describe("two"), items=[(3, 4)])) == {3: [4]}


def test_the_thread_ends_with_its_link_whatever_it_waits_for(offer):
    idle = offer(two=lambda key, value: [(key, value)])
    hungry = offer(two=lambda key, value: [(key, value)], other=print)
    hungry.assign(describe("two"), items=[(1, 2)], n_bytes=10)
    full = offer(large=lambda key, value: [(key, os.urandom(4 * OUTPUT_WINDOW))])
    full.grants = False
    full.wait_for_output(full.assign(describe("large"), items=[(1, 2)]))
    for engine in (idle, hungry, full):
        engine.channel.shut_down()  # as when the engine died
        engine.offered._thread.join(WAIT_S)
        assert not engine.offered._thread.is_alive()


def test_closing_does_not_wait_for_a_function_that_runs(offer):
    gate = Gate()
    engine = offer(gate=gate)
    engine.assign(describe("gate"), items=[("first", 1)])
    gate.wait()
    engine.offered.close()
    assert engine.offered._thread.is_alive()
    gate.go.release()
    engine.offered._thread.join(WAIT_S)
    assert not engine.offered._thread.is_alive()


def test_a_function_may_close_what_offers_it(offer):
    engines = []
    engines.append(offer(close=lambda key, value: [(key, engines[0].offered.close())]))
    engines[0].assign(describe("close"), items=[(1, 2)])
    engines[0].offered._thread.join(WAIT_S)
    assert not engines[0].offered._thread.is_alive()


def test_the_next_engine_waits_for_the_function_that_still_runs_for_the_last(offer):
    gate = Gate()
    first = offer(gate=gate)
    first.assign(describe("gate"), items=[("first", 1)])
    gate.wait()
    first.offered.close()
    second = offer(gate=gate)
    lane = second.assign(describe("gate"), items=[("second", 1)])
    assert not gate.entered.acquire(timeout=0.2)
    gate.go.release(2)
    assert second.result(lane) == {"second": [1]}
    assert gate.calls == ["first", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_of_this_process_keeps_nothing_open(offer):
    engine = offer(two=lambda key, value: [(key, value)])
    fd = engine.offered._channel._sock.fileno()
    child = os.fork()
    if child == 0:
        try:
            engine.offered.abandon()
            os.fstat(fd)
        except OSError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine.result(engine.assign(describe("two"), items=[(1, 2)])) == {1: [2]}


PATCHED = """
from gevent import monkey; monkey.patch_all()
import gevent, socket, threading
from tests.executor.test_offered import FakeEngine, describe

def nap(key, value):
    gevent.sleep(0)
    return [(key, type(threading.current_thread()).__name__)]

ticks = []
engine = FakeEngine({"nap": nap})
gevent.spawn(lambda: ticks.append(1))
lane = engine.assign(describe("nap"), items=[(1, 2)])
assert engine.result(lane) == {1: ["Thread"]}, engine.records_of(lane)
assert ticks and "gevent" in type(engine.offered._channel._sock).__module__
engine.close()
print("good")
"""


def test_where_gevent_has_patched_everything_the_thread_is_a_greenlet():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    run = subprocess.run(
        [sys.executable, "-c", PATCHED], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.stdout, run.returncode) == ("good\n", 0), run.stderr
