"""lanes: which frame goes next, and how much may be on its way."""

from __future__ import annotations

import gc
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import CONTROL, GRANT, HEARTBEAT, OUTPUT, Frame
from mmgevent.wire.lanes import Outbox, ReceiveWindow, grant_frame, granted_bytes

A, B, C = (1, 1, 1), (1, 1, 2), (1, 1, 3)


def output(lane, payload=b"x" * 100) -> Frame:
    return Frame(OUTPUT, payload, *lane)


def drain(outbox: Outbox) -> list[Frame]:
    return list(iter(outbox.next_frame, None))


def is_forgotten(outbox: Outbox, lane) -> bool:
    return lane not in outbox._lanes and lane not in outbox._ready


def test_control_goes_before_every_lane():
    outbox = Outbox()
    outbox.put_in_lane(output(A))
    outbox.put(Frame(HEARTBEAT))
    outbox.put(Frame(CONTROL))
    assert [frame.kind for frame in drain(outbox)] == [HEARTBEAT, CONTROL, OUTPUT]
    assert outbox.control_bytes == 0


def test_lanes_take_turns_however_much_each_holds():
    outbox = Outbox()
    for lane, count in ((A, 5), (B, 1), (C, 2)):
        for _ in range(count):
            outbox.put_in_lane(output(lane))
    assert [frame.lane for frame in drain(outbox)] == [A, B, C, A, C, A, A, A]


def test_a_lane_without_credit_holds_up_no_other():
    outbox = Outbox()
    outbox.open_lane(A, 150)
    for _ in range(3):
        outbox.put_in_lane(output(A))
        outbox.put_in_lane(output(B))
    assert [frame.lane for frame in drain(outbox)] == [A, B, A, B, B]
    assert not outbox
    assert outbox.queued_bytes(A) == 150


def test_a_frame_beyond_the_credit_is_cut():
    outbox = Outbox()
    outbox.open_lane(A, 30)
    outbox.put_in_lane(output(A, bytes(range(100))))
    assert outbox.next_frame().payload == bytes(range(30))
    assert outbox.next_frame() is None
    outbox.grant(A, 1000)
    assert outbox.next_frame().payload == bytes(range(30, 100))


def test_control_in_a_lane_keeps_its_place_and_needs_no_credit():
    outbox = Outbox()
    outbox.open_lane(A, 100)
    started, done = Frame(CONTROL, b"started", *A), Frame(CONTROL, b"done", *A)
    outbox.put_in_lane(started)
    outbox.put_in_lane(output(A))
    outbox.put_in_lane(done)
    assert [frame.kind for frame in drain(outbox)] == [CONTROL, OUTPUT, CONTROL]
    outbox.put_in_lane(output(A))
    outbox.put_in_lane(done)
    assert drain(outbox) == []
    outbox.grant(A, 100)
    assert [frame.kind for frame in drain(outbox)] == [OUTPUT, CONTROL]


def test_lanes_are_forgotten_when_they_can_be():
    outbox = Outbox()
    outbox.put_in_lane(output(A))  # never opened
    outbox.open_lane(B, 10)
    outbox.put_in_lane(output(B))
    outbox.open_lane(C, 10)
    drain(outbox)
    assert is_forgotten(outbox, A)
    outbox.close_lane(B)
    outbox.close_lane(C)
    assert not is_forgotten(outbox, B)
    assert is_forgotten(outbox, C)
    outbox.grant(B, 1000)
    drain(outbox)
    assert is_forgotten(outbox, B)


def test_late_grants_and_closes_are_ignored():
    outbox = Outbox()
    outbox.grant(A, 100)
    outbox.close_lane(A)
    assert outbox.drop_lane(A) == 0
    outbox.put_in_lane(output(B))
    outbox.grant(B, 100)  # has no window
    assert not outbox.has_window(B)
    assert len(drain(outbox)) == 1
    assert not outbox._lanes


def test_dropping_a_lane_says_what_was_lost_and_leaves_the_turn():
    outbox = Outbox()
    outbox.open_lane(A, 100)
    for _ in range(3):
        outbox.put_in_lane(output(A))
        outbox.put_in_lane(output(B))
    assert outbox.next_frame().lane == A
    assert outbox.drop_lane(A) == 200
    assert outbox.queued_bytes(A) == 0
    assert [frame.lane for frame in drain(outbox)] == [B, B, B]
    outbox.open_lane(A, 5)  # and may be opened again


def test_an_open_lane_is_not_opened_twice():
    outbox = Outbox()
    outbox.open_lane(A, 100)
    with pytest.raises(ValueError, match="already open"):
        outbox.open_lane(A, 100)


def test_a_lane_opened_after_it_was_filled_waits_from_then_on():
    outbox = Outbox()
    outbox.put_in_lane(output(A))
    outbox.put_in_lane(output(A))
    outbox.open_lane(A, 100)
    assert len(drain(outbox)) == 1


def test_the_cost_of_a_frame_does_not_grow_with_the_lanes():
    def seconds_for(lanes: int) -> float:
        outbox = Outbox()
        for n in range(lanes):
            outbox.open_lane((1, 1, n), 0)  # blocked
            outbox.put_in_lane(output((1, 1, n)))
        begun = time.process_time()  # of this process alone, whatever else the machine does
        for _ in range(2000):
            outbox.put_in_lane(output((2, 2, 2)))
            assert outbox.next_frame() is not None
        return time.process_time() - begun

    gc.disable()  # it would look at the lanes, and at all that other tests have left
    try:
        assert min(seconds_for(20_000) for _ in range(5)) < 5 * min(seconds_for(10) for _ in range(5))
    finally:
        gc.enable()


def test_a_window_grants_once_half_of_it_is_due():
    window = ReceiveWindow(1000)
    window.received(600)
    assert window.consumed(499) == 0
    assert window.consumed(101) == 600
    window.received(1000)
    assert window.consumed(0) == 0


def test_more_than_was_granted_is_a_protocol_error():
    window = ReceiveWindow(1000)
    window.received(1000)
    with pytest.raises(ProtocolError):
        window.received(1)


def test_more_cannot_be_consumed_than_was_received():
    with pytest.raises(ValueError, match="consumed"):
        ReceiveWindow(1000).consumed(1)


def test_a_widened_window_grants_the_difference_and_what_was_due():
    window = ReceiveWindow(1000)
    window.received(100)
    assert window.consumed(100) == 0
    assert window.widen(5000) == 4100
    assert window.widen(500) == 0
    window.received(5000)


@given(st.integers(1, 2**32 - 1))
def test_grants_come_back(n_bytes):
    frame = grant_frame(A, n_bytes)
    assert frame.lane == A
    assert granted_bytes(frame) == n_bytes


@pytest.mark.parametrize("n_bytes", [0, -1, 2**32])
def test_a_grant_of_nothing_or_too_much_is_not_made(n_bytes):
    with pytest.raises(ValueError, match="grant"):
        grant_frame(A, n_bytes)


@pytest.mark.parametrize("frame", [Frame(GRANT, bytes(4)), Frame(HEARTBEAT), Frame(GRANT, b"123")])
def test_what_grants_nothing_is_a_protocol_error(frame):
    with pytest.raises(ProtocolError):
        granted_bytes(frame)


class Transfer(RuleBasedStateMachine):
    """One lane from an outbox to a window, with frames of any size: nothing is lost, nothing gets stuck."""

    @initialize(window=st.integers(1, 500))
    def open(self, window):
        self.outbox, self.window = Outbox(), ReceiveWindow(window)
        self.outbox.open_lane(A, window)
        self.sent = self.arrived = b""
        self.held = 0
        self.count = 0

    @rule(size=st.integers(0, 400))
    def put(self, size):
        self.count += 1
        payload = bytes([self.count % 256]) * size
        self.outbox.put_in_lane(output(A, payload))
        self.sent += payload

    @precondition(lambda self: self.outbox)
    @rule()
    def carry(self):
        payload = bytes(self.outbox.next_frame().payload)
        self.window.received(len(payload))
        self.arrived += payload
        self.held += len(payload)

    @precondition(lambda self: self.held)
    @rule(share=st.floats(0, 1))
    def consume(self, share):
        size = round(self.held * share)
        self.held -= size
        self.grant(self.window.consumed(size))

    @rule(more=st.integers(1, 300))
    def widen(self, more):
        self.grant(self.window.widen(self.window.window_bytes + more))

    def grant(self, n_bytes):
        if n_bytes:
            self.outbox.grant(A, n_bytes)

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "sent"):
            assert self.sent.startswith(self.arrived)
            assert self.outbox.queued_bytes(A) == len(self.sent) - len(self.arrived)
            assert self.held <= self.window.window_bytes

    def teardown(self):
        if not hasattr(self, "sent"):
            return
        while self.outbox or self.held:
            while self.outbox:
                self.carry()
            self.consume(1.0)
        assert self.arrived == self.sent


TestTransfer = Transfer.TestCase
