"""Links over real sockets of this machine, and within the process."""

from __future__ import annotations

import gc
import logging
import os
import resource
import time

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.queue import Queue

from mmgevent.engine.net import heartbeats
from mmgevent.engine.net import link as link_module
from mmgevent.engine.net.link import Link
from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.errors import LinkClosed, ProtocolError
from mmgevent.wire.frames import BATCH, CONTROL, GRANT, HEARTBEAT, MAX_PAYLOAD, Frame, split_payload
from mmgevent.wire.lanes import ReceiveWindow, grant_frame
from mmgevent.wire.messages import control, decode_message
from tests.new_objects import only_new_objects

MIB = 1024 * 1024


class End:
    """One started end of a link. It keeps the frames that it receives."""

    def __init__(self, link: Link, on_frame=None) -> None:
        self.link = link
        self.frames: Queue = Queue()
        self.reasons: list[str] = []
        self.ended = Event()
        link.start(on_frame or self.frames.put, self.on_close)

    def on_close(self, reason: str) -> None:
        self.reasons.append(reason)
        self.ended.set()

    def get(self) -> Frame:
        return self.frames.get(timeout=10)

    def wait_for_end(self) -> str:
        assert self.ended.wait(10)
        return self.reasons[0]


def live_greenlets() -> set[int]:
    gc.collect()
    return {id(o) for o in gc.get_objects() if isinstance(o, gevent.Greenlet) and not o.dead}


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_leaks():
    gevent.get_hub()
    descriptors = open_descriptors()
    with only_new_objects():
        greenlets = live_greenlets()
        yield
        for _ in range(3):  # gevent closes a socket one turn of the loop later
            gevent.sleep(0)
        assert live_greenlets() <= greenlets
    assert open_descriptors() <= descriptors
    assert not heartbeats.monitor


def plain_pair(name: str) -> tuple[Link, Link]:
    one, other = socket.socketpair()
    return SocketLink(one, name), SocketLink(other, name)


def tls_pair(name: str) -> tuple[Link, Link]:
    from mmgevent.access.handshake import derive_key
    from mmgevent.engine.net import tls

    key = derive_key("a password of the tests")
    context, digest = tls.server_context()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    try:
        connecting = gevent.spawn(tls.connect, listener.getsockname(), key, "worker", 10.0)
        accepted, _ = listener.accept()
        sock, role, leftover = tls.accept(accepted, context, digest, key, 10.0)
        assert role == "worker"
        return SocketLink(connecting.get(), name), SocketLink(sock, name, leftover)
    finally:
        listener.close()


@pytest.fixture(params=[plain_pair, tls_pair, local_pair], ids=["socketpair", "tls", "local"])
def pair(request):
    links = request.param("test")
    yield links
    for link in links:
        link.close()


def test_frames_arrive_in_order_and_equal(pair):
    sender, receiver = pair[0], End(pair[1])
    End(sender)
    sent = [control("goodbye", job=n, reason="x" * n) for n in range(300)]
    for frame in sent:
        sender.send(frame)
    assert [receiver.get() for _ in sent] == sent


def test_what_is_sent_before_start_waits_for_it(pair):
    pair[0].send(control("enough", job=1))
    End(pair[0])
    assert End(pair[1]).get().job == 1


def test_payloads_arrive_as_bytes_whatever_was_sent(pair):
    End(pair[0])
    receiver = End(pair[1])
    for payload in (bytearray(b"ab"), memoryview(b"ab")):
        pair[0].send_in_lane(Frame(BATCH, payload, 1, 1))
        assert receiver.get().payload == b"ab"
    pair[0].send_in_lane(Frame(BATCH, memoryview(b"ab"), 1, 1))
    assert type(receiver.get().payload) is bytes


def test_a_bulk_lane_arrives_whole_while_control_round_trips_stay_quick(pair):
    total = 64 * MIB
    lane, window = (1, 7, 0), ReceiveWindow(MIB)
    got, arrived = 0, Event()

    def receive(frame: Frame) -> None:
        nonlocal got
        if frame.kind == CONTROL:
            return pair[1].send(frame)
        window.received(len(frame.payload))
        got += len(frame.payload)
        grant = window.consumed(len(frame.payload))
        if grant:
            pair[1].send(grant_frame(lane, grant))
        if got == total:
            arrived.set()

    End(pair[1], receive)
    sender = End(pair[0])
    pair[0].open_lane(lane, MIB)
    for frame in split_payload(BATCH, bytes(total), *lane):
        pair[0].send_in_lane(frame)
    pair[0].close_lane(lane)
    overtaking: list[int] = []  # bytes that arrived during a round trip
    while not arrived.is_set():
        begun = got
        pair[0].send(control("enough", job=1))
        sender.get()
        overtaking.append(got - begun)
    assert got == total
    assert len(overtaking) > 10
    assert sorted(overtaking)[len(overtaking) // 2] <= 4 * MIB


def test_a_lane_without_grants_sends_its_window_and_no_more(pair):
    End(pair[0])
    receiver = End(pair[1])
    pair[0].open_lane((1, 1, 0), 1000)
    pair[0].send_in_lane(Frame(BATCH, bytes(3000), 1, 1))
    pair[0].send(control("enough"))
    first, second = receiver.get(), receiver.get()
    assert {first.kind, second.kind} == {BATCH, CONTROL}
    assert pair[0].queued_bytes((1, 1, 0)) == 2000
    pair[1].send(grant_frame((1, 1, 0), 2000))
    assert len(receiver.get().payload) == 2000


def test_grants_are_taken_for_own_lanes_and_passed_on_for_others(pair):
    sender, receiver = End(pair[0]), End(pair[1])
    pair[0].open_lane((1, 1, 0), 1000)
    pair[1].send(grant_frame((1, 1, 0), 5))
    pair[1].send(grant_frame((2, 2, 2), 6))
    relayed = sender.get()
    assert (relayed.kind, relayed.lane) == (GRANT, (2, 2, 2))
    assert receiver.frames.empty()


def test_wait_for_room_returns_once_the_lane_has_drained(pair):
    End(pair[0])
    receiver = End(pair[1])
    lane = (1, 1, 0)
    pair[0].open_lane(lane, MAX_PAYLOAD)
    for frame in split_payload(BATCH, bytes(4 * MAX_PAYLOAD), *lane):
        pair[0].send_in_lane(frame)
    with pytest.raises(TimeoutError):
        pair[0].wait_for_room(lane, MAX_PAYLOAD, 0.01)
    waiting = gevent.spawn(pair[0].wait_for_room, lane, MAX_PAYLOAD, 10)
    receiver.get()
    pair[1].send(grant_frame(lane, 2 * MAX_PAYLOAD))
    waiting.get(timeout=10)
    assert pair[0].queued_bytes(lane) <= MAX_PAYLOAD
    assert not pair[0]._room


def test_wait_for_room_raises_when_the_link_closes(pair):
    End(pair[0])
    End(pair[1])
    pair[0].open_lane((1, 1, 0), 1)
    pair[0].send_in_lane(Frame(BATCH, b"12345", 1, 1))
    waiting = gevent.spawn(pair[0].wait_for_room, (1, 1, 0), 0, 10)
    gevent.sleep(0)
    pair[1].close("enough of it")
    with pytest.raises(LinkClosed):
        waiting.get(timeout=10)


def test_dropping_a_lane_makes_room(pair):
    End(pair[0])
    pair[0].open_lane((1, 1, 0), 1)
    pair[0].send_in_lane(Frame(BATCH, b"12345", 1, 1))
    waiting = gevent.spawn(pair[0].wait_for_room, (1, 1, 0), 0, 10)
    gevent.sleep(0)
    assert pair[0].drop_lane((1, 1, 0)) > 0
    waiting.get(timeout=10)


def test_what_waited_in_a_dropped_lane_does_not_arrive(pair):
    End(pair[0])
    receiver = End(pair[1])
    pair[0].send_in_lane(Frame(BATCH, b"12345", 1, 1))
    pair[0].send_in_lane(Frame(BATCH, b"67", 1, 2))
    assert pair[0].drop_lane((1, 1, 0)) == 5
    pair[0].send_in_lane(control("returned", 1, 1))
    assert receiver.get().task == 2
    assert receiver.get().kind == CONTROL


def test_close_is_idempotent_and_told_once_at_each_end(pair):
    here, there = End(pair[0]), End(pair[1])
    pair[0].close("done with it")
    pair[0].close("again")
    assert here.reasons == ["done with it"]
    assert "closed" in there.wait_for_end()
    assert len(there.reasons) == 1
    assert pair[0].is_closed
    pair[0].send(control("enough"))
    pair[0].send_in_lane(Frame(BATCH, b"", 1, 1))


def test_close_with_flush_delivers_what_waits_first(pair):
    End(pair[0])
    receiver = End(pair[1])
    sent = list(split_payload(BATCH, bytes(8 * MIB), 1, 1))
    for frame in sent:
        pair[0].send_in_lane(frame)
    pair[0].send(control("goodbye", reason="bye"))
    # the peer goes on sending: what it sends is dropped and does not reset the connection
    for _ in range(100):
        pair[1].send(control("enough"))
    pair[0].close("leaving", flush_s=10.0)
    assert "closed" in receiver.wait_for_end()
    assert decode_message(receiver.get().payload)["reason"] == "bye"
    assert [receiver.get() for _ in sent] == sent


def test_what_was_drained_arrives_though_the_link_closes_at_once(pair):
    End(pair[0])
    sent = list(split_payload(BATCH, bytes(5 * MIB - 100), 1, 1))
    for frame in sent:
        pair[0].send_in_lane(frame)
    gevent.sleep(0.01)  # until no more goes without a reader
    receiver = End(pair[1])
    pair[0].drain(10.0)
    pair[0].close("leaving")
    assert "closed" in receiver.wait_for_end()
    assert [receiver.get() for _ in range(receiver.frames.qsize())] == sent


def test_close_with_flush_gives_up_on_a_peer_that_does_not_read(pair):
    End(pair[0])
    for frame in split_payload(BATCH, bytes(32 * MIB), 1, 1):
        pair[0].send_in_lane(frame)
    pair[0].close("leaving", flush_s=0.05)
    assert pair[0]._closer.dead


def test_two_ends_that_close_with_flush_at_once_do_not_wait_for_one_another(pair):
    for link in pair:
        End(link)
    closing = [gevent.spawn(link.close, "leaving", 60.0) for link in pair]
    assert len(gevent.joinall(closing, timeout=10)) == 2


def test_a_link_can_be_closed_from_its_own_callback(pair):
    receiver = End(pair[1], lambda frame: pair[1].close("heard enough"))
    here = End(pair[0])
    pair[0].send(control("enough"))
    assert receiver.wait_for_end() == "heard enough"
    assert "closed" in here.wait_for_end()


def test_a_protocol_error_of_the_callback_closes_the_link_with_its_text(pair):
    def refuse(frame: Frame) -> None:
        raise ProtocolError("not in this state")

    receiver = End(pair[1], refuse)
    End(pair[0])
    pair[0].send(control("enough"))
    assert receiver.wait_for_end() == "not in this state"


def test_a_bug_of_the_callback_is_logged_with_its_traceback_and_closes_the_link(pair, caplog):
    receiver = End(pair[1], lambda frame: 1 / 0)
    End(pair[0])
    with caplog.at_level(logging.ERROR):
        pair[0].send(control("enough"))
        assert "ZeroDivisionError" in receiver.wait_for_end()
    assert caplog.records[0].exc_info is not None


def test_a_link_never_started_closes_and_tells_whoever_starts_it_later(pair):
    pair[0].close("before it began")
    pair[1].close()
    assert End(pair[0]).wait_for_end() == "before it began"


def test_on_frame_is_never_called_from_within_send():
    one, other = local_pair("test")
    inside = False
    answered = Event()

    def answer(frame: Frame) -> None:
        assert not inside
        if frame.job < 50:
            other.send(control("enough", job=frame.job + 1))

    def echo(frame: Frame) -> None:
        nonlocal inside
        inside = True
        one.send(frame)
        inside = False
        if frame.job == 50:
            answered.set()

    there = End(other, answer)
    here = End(one, echo)
    other.send(control("enough", job=1))
    assert answered.wait(10)
    one.close()
    assert here.reasons == [""]
    assert there.wait_for_end() == "the other end closed the link"


def test_garbage_closes_only_the_link_it_came_on():
    bad_sock, raw = socket.socketpair()
    bad = End(SocketLink(bad_sock, "bad"))
    here, there = map(End, plain_pair("good"))
    raw.sendall(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert "not a frame" in bad.wait_for_end()
    assert raw.recv(1) == b""
    here.link.send(control("enough"))
    assert there.get().kind == CONTROL
    raw.close()
    here.link.close()
    there.wait_for_end()


def test_a_connection_cut_within_a_frame_says_so():
    sock, raw = socket.socketpair()
    end = End(SocketLink(sock, "cut"))
    raw.sendall(control("enough").encode()[:-1])
    raw.close()
    assert end.wait_for_end() == "the peer closed the connection in the middle of a frame"


@pytest.mark.parametrize("make_pair", [plain_pair, tls_pair], ids=["socketpair", "tls"])
def test_a_flood_of_short_frames_holds_up_no_other_link(make_pair):
    """Each frame costs its link 1 ms here. Thousands of them are read at once, and many wait in TLS."""
    taken = []

    def take_a_millisecond(frame):
        taken.append(frame)
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass

    here, there = make_pair("flood")
    flooded, flooding = End(here, take_a_millisecond), End(there)
    one, other = map(End, plain_pair("good"))
    for _ in range(4000):
        flooding.link.send(control("enough"))
    most = 0
    for _ in range(30):
        before = len(taken)
        one.link.send(control("enough"))
        other.get()
        most = max(most, len(taken) - before)
    assert taken
    assert most < 200, f"{most} frames of one link came before the first of another"
    for end in (flooded, flooding, one, other):
        end.link.close()


def test_bytes_read_before_the_link_got_the_socket_are_not_lost():
    sock, raw = socket.socketpair()
    whole = control("enough", job=1).encode() + control("enough", job=2).encode()
    end = End(SocketLink(sock, "leftover", leftover=whole[:30]))
    raw.sendall(whole[30:])
    assert [end.get().job, end.get().job] == [1, 2]
    end.link.close()
    raw.close()


def test_what_the_peer_said_before_it_closed_is_heard_though_writing_fails():
    sock, raw = socket.socketpair()
    link = SocketLink(sock, "refused")
    link.send(control("enough"))
    raw.sendall(control("refused", code="full", error="no room").encode())
    raw.close()
    end = End(link)
    assert decode_message(end.get().payload)["code"] == "full"
    end.wait_for_end()
    assert len(end.reasons) == 1


def test_a_peer_that_never_reads_is_closed_before_it_costs_unbounded_memory(monkeypatch):
    monkeypatch.setattr(link_module, "MAX_CONTROL_BYTES", 1000)
    here, there = plain_pair("deaf")
    end = End(here)
    for _ in range(1000):
        here.send(control("enough"))
    assert here.is_closed
    assert end.wait_for_end().startswith("does not read")
    there.close()


def test_idle_links_exchange_heartbeats_and_stay(monkeypatch):
    monkeypatch.setattr(heartbeats, "SCAN_S", 0.01)
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(heartbeats, "SILENCE_S", 0.2)
    sock, raw = socket.socketpair()
    end = End(SocketLink(sock, "idle"))
    beat = Frame(HEARTBEAT).encode()
    for _ in range(20):
        assert raw.recv(len(beat)) == beat
        raw.sendall(beat)
    assert end.frames.empty()
    assert not end.reasons
    assert "silent" in end.wait_for_end()
    raw.close()


def test_time_in_which_our_own_loop_stood_still_is_not_the_peers_silence(monkeypatch):
    monkeypatch.setattr(heartbeats, "SCAN_S", 0.01)
    monkeypatch.setattr(heartbeats, "SILENCE_S", 0.75)
    sock, raw = socket.socketpair()
    end = End(SocketLink(sock, "stalled"))
    gevent.sleep(0.03)
    time.sleep(1.0)  # the loop is blocked on purpose
    gevent.sleep(0.05)
    assert not end.reasons
    assert end.wait_for_end() == "silent for 0.75 s"
    raw.close()


def test_a_link_with_frames_left_is_not_silent():
    """Its turn has not come, so it has not looked whether its peer has sent more."""
    left = []

    def look():
        left.append(end.link._is_read_due)
        for _ in range(3):  # two are one silence, if nothing was read between them
            end.link.check_heartbeat(heartbeats.SILENCE_S)

    def take_a_turn(frame):
        if not left:
            gevent.spawn(look)  # runs behind this turn
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass
        end.frames.put(frame)

    sock, raw = socket.socketpair()
    end = End(SocketLink(sock, "busy", heartbeats=False), take_a_turn)
    raw.sendall(control("enough").encode() * 5)
    for _ in range(5):
        end.get()
    assert left[0]
    assert not end.reasons
    while end.link._is_read_due:
        gevent.sleep(0)
    end.link.check_heartbeat(heartbeats.SILENCE_S)
    end.link.check_heartbeat(heartbeats.SILENCE_S)
    assert end.wait_for_end() == f"silent for {heartbeats.SILENCE_S:g} s"
    raw.close()


def test_a_link_without_heartbeats_may_be_silent(monkeypatch):
    monkeypatch.setattr(heartbeats, "SCAN_S", 0.01)
    monkeypatch.setattr(heartbeats, "SILENCE_S", 0.05)
    sock, raw = socket.socketpair()
    quiet = End(SocketLink(sock, "executor", heartbeats=False))
    watched_sock, other_raw = socket.socketpair()
    watched = End(SocketLink(watched_sock, "worker"))
    watched.wait_for_end()
    assert not quiet.reasons
    quiet.link.close()
    raw.close()
    other_raw.close()


@pytest.fixture
def many_descriptors():
    """Enough descriptors for a thousand links, if the system allows more than 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4096:
        wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_links_cost_one_monitor_and_close_without_a_trace(many_descriptors):
    before = len(live_greenlets())
    ends = []
    for n in range(500):
        ends += map(End, plain_pair(str(n)))
    for end in ends:
        end.link.send(control("enough"))
    assert all(end.get().kind == CONTROL for end in ends)
    assert len(live_greenlets()) == before + 1
    gevent.joinall([gevent.spawn(end.link.close) for end in ends])
    assert all(len(end.reasons) == 1 for end in ends)
