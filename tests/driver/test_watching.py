"""watching: watchers get news and messages of workers, in order; a flood costs the link it comes from."""

import base64
import logging
import os
import signal
import threading
import time

import gevent
import pytest

import mmgevent as mmg
from mmgevent.access.handshake import derive_key
from mmgevent.driver.watching import PeerInfo
from mmgevent.engine.net import link as links
from mmgevent.engine.net import tls
from mmgevent.engine.net.backlog import Backlog
from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.engine.server import watchers
from mmgevent.engine.server.role import ServerRole
from mmgevent.errors import ProtocolError, UsageError
from mmgevent.wire.frames import CONTROL
from mmgevent.wire.hello import PYTHON_VERSION, dill_version
from mmgevent.wire.messages import MAX_OFFERS_BYTES, PROTOCOL, control, decode_message
from mmgevent.wire.user_messages import MAX_TELL_BYTES, MAX_WAITING_BYTES, Reassembler, tell_frames
from tests.ports import reserved_port

PASSWORD = "a password of this test"
DEADLINE_S = 20.0


def settle():
    for _ in range(3):
        gevent.idle()


def wait_until(condition):
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        gevent.sleep(0.005)


class Played:
    """The other end of a link, played by the test; with `reads=False` it says hello and looks at nothing."""

    def __init__(self, link, role, *, reads=True, **fields):
        self.link = link
        self.frames, self.messages, self.closed = [], [], None
        if role == "worker":
            fields = {"slots": 1, **fields}
        self.send(
            control(
                "hello",
                role=role,
                protocol=PROTOCOL,
                python=PYTHON_VERSION,
                dill=dill_version(),
                version="1",
                host="h",
                pid=1,
                **fields,
            )
        )
        if reads:
            self.read()

    def read(self):
        self.link.start(self._on_frame, self._on_close)

    def _on_frame(self, frame):
        if frame.kind == CONTROL:
            self.frames.append(frame)
            self.messages.append(decode_message(frame.payload))

    def _on_close(self, reason):
        self.closed = reason or "closed"

    def send(self, *frames):
        for frame in frames:
            self.link.send_in_lane(frame)

    def heard(self, *types):
        return [
            (frame.task, message)
            for frame, message in zip(self.frames, self.messages, strict=True)
            if message["type"] in types
        ]

    def told(self):
        """The messages that were received, by lane."""
        reassembler = Reassembler()
        found = []
        for frame, message in zip(self.frames, self.messages, strict=True):
            if message["type"] != "tell":
                reassembler.forget(frame.lane)
            elif (data := reassembler.take(frame, message)) is not None:
                found.append((frame.lane, data))
        return found


@pytest.fixture
def server():
    server = ServerRole("test", memory_bytes=10**8)
    yield server
    server.stop("the test is over")


def attach(server, role, *, is_local=False, **more):
    ours, theirs = local_pair(f"10.0.0.1:{role}")
    server.attach(ours, role, is_local=is_local)
    played = Played(theirs, role, **more)
    played.ours = ours  # the server's end
    settle()
    return played


def attach_watcher(server, **more):
    driver = attach(server, "driver", **more)
    driver.send(control("watch"))
    settle()
    return driver


def flood(played, peer=0, limit_bytes=4 * MAX_WAITING_BYTES):
    """Tell without an end, until the link closes; fails if it does not."""
    frames = tell_frames(bytes(MAX_TELL_BYTES), peer)
    sent = 0
    while played.closed is None:
        assert sent < limit_bytes
        played.send(*frames)
        sent += sum(len(frame.payload) for frame in frames)
        settle()
        if played.closed is None and any(m["type"] == "goodbye" for m in played.messages):
            wait_until(lambda: played.closed)


# the server


def test_a_driver_that_watches_hears_of_who_is_there_then_of_who_comes_and_goes(server):
    attach(server, "worker", name="first", slots=3, offers=["f", "g"])
    driver = attach_watcher(server)
    assert driver.heard("joined") == [
        (
            1,
            {
                "type": "joined",
                "name": "first",
                "address": "10.0.0.1:worker",
                "slots": 3,
                "offers": ["f", "g"],
            },
        )
    ]
    second = attach(server, "worker", name="second")
    assert driver.heard("joined")[1][0] == 2
    second.send(*tell_frames(b"bye"), control("goodbye", reason="enough"))
    wait_until(lambda: driver.heard("left"))
    assert [(peer, m["type"]) for peer, m in driver.heard("joined", "tell", "left")][1:] == [
        (2, "joined"),
        (2, "tell"),
        (2, "left"),
    ]
    assert "enough" in driver.heard("left")[0][1]["reason"]


def test_what_a_worker_tells_goes_to_every_driver_that_watches_and_to_no_other(server):
    worker = attach(server, "worker")
    worker.send(*tell_frames(b"nobody hears this"))
    settle()
    one, two, other = attach_watcher(server), attach_watcher(server), attach(server, "driver")
    data = os.urandom(300_000)
    worker.send(*tell_frames(data), *tell_frames(b""))
    settle()
    assert one.told() == two.told() == [((0, 1, 0), data), ((0, 1, 0), b"")]
    assert not other.told()


def test_a_driver_that_comes_in_the_middle_of_a_message_hears_the_next_one(server):
    worker, early = attach(server, "worker"), attach_watcher(server)
    first, *rest = tell_frames(bytes(300_000))
    worker.send(first)
    settle()
    late = attach_watcher(server)
    worker.send(*rest, *tell_frames(b"next"))
    settle()
    assert [data for _, data in early.told()] == [bytes(300_000), b"next"]
    assert [data for _, data in late.told()] == [b"next"]


def test_to_watch_again_is_to_begin_anew(server):
    worker, driver = attach(server, "worker"), attach_watcher(server)
    first, *rest = tell_frames(bytes(300_000))
    worker.send(first)
    settle()
    before = len(driver.frames)
    driver.send(control("watch"))
    settle()
    worker.send(*rest, *tell_frames(b"next"))
    settle()
    del driver.frames[:before], driver.messages[:before]
    assert [m["type"] for _, m in driver.heard("joined", "tell")] == ["joined", "tell"]
    assert driver.told() == [((0, 1, 0), b"next")]


def test_what_is_told_passes_unread(server):
    worker, driver = attach(server, "worker"), attach_watcher(server)
    worker.send(control("tell", data="no base64 at all \x00"))
    settle()
    assert driver.heard("tell")[0][1]["data"] == "no base64 at all \x00"
    assert worker.closed is None


def test_drivers_tell_one_worker_each_in_a_lane_of_its_own(server):
    worker, idle = attach(server, "worker"), attach(server, "worker")
    one, two = attach(server, "driver"), attach(server, "driver")
    first, second = tell_frames(b"1" * 300_000, 1), tell_frames(b"2" * 300_000, 1)
    for ours, theirs in zip(first, second, strict=True):  # their pieces mixed
        one.send(ours)
        two.send(theirs)
        settle()
    assert sorted(data for _, data in worker.told()) == [b"1" * 300_000, b"2" * 300_000]
    assert {lane[:2] for lane, _ in worker.told()} == {(0, 0)}
    assert not idle.told()


def test_what_is_told_to_a_worker_that_left_is_ignored(server):
    worker, driver = attach(server, "worker"), attach_watcher(server)
    first, *rest = tell_frames(bytes(300_000), 1)
    driver.send(first)
    worker.link.close("gone")
    settle()
    driver.send(*rest, *tell_frames(b"x", 1), *tell_frames(b"x", 77), control("dismiss", task=77, reason="r"))
    settle()
    assert driver.closed is None
    assert driver.heard("left")


def test_a_dismissed_worker_hears_why_and_its_link_closes(server):
    worker, other, driver = attach(server, "worker"), attach(server, "worker"), attach_watcher(server)
    driver.send(*tell_frames(b"last", 1), control("dismiss", task=1, reason="too slow"))
    wait_until(lambda: worker.closed)
    assert worker.heard("goodbye")[0][1]["reason"] == "too slow"
    assert [data for _, data in worker.told()] == [b"last"]
    wait_until(lambda: driver.heard("left"))
    assert other.closed is None


def test_the_servers_own_worker_cannot_be_dismissed(server):
    own, driver = attach(server, "worker", is_local=True), attach_watcher(server)
    assert driver.heard("joined")[0][1]["address"] == "local"
    driver.send(control("dismiss", task=1, reason="r"))
    settle()
    assert own.closed is None
    assert not own.heard("goodbye")


@pytest.mark.parametrize("role", ["worker", "driver"])
@pytest.mark.parametrize(
    "frames",
    [
        [control("tell", task=1, data="x" * 200_000)],
        [control("tell", task=1, data="", more=True)],
        [control("tell", task=1, data="x" * 170_000, more=True)] * 13,
    ],
    ids=["piece", "empty", "message"],
)
def test_tells_of_lengths_that_cannot_be_close_their_link_only(server, role, frames):
    worker, driver = attach(server, "worker"), attach_watcher(server)
    teller = worker if role == "worker" else driver
    teller.send(*frames)
    wait_until(lambda: teller.closed)
    assert (driver if role == "worker" else worker).closed is None


def test_a_worker_may_not_offer_names_without_a_bound(server):
    fine = attach(server, "worker", offers=[f"function_{n}" for n in range(300)])
    worker = attach(server, "worker", offers=["x" * MAX_OFFERS_BYTES])
    wait_until(lambda: worker.closed)
    assert fine.closed is None


# floods


@pytest.mark.parametrize("is_local", [False, True])
def test_a_driver_that_does_not_read_loses_whole_messages_and_no_worker_pays(server, is_local):
    driver = attach_watcher(server, reads=False, is_local=is_local)
    calm, teller, reader = attach(server, "worker"), attach(server, "worker"), attach_watcher(server)
    calm.send(*tell_frames(b"calm"))
    for n in range(20):
        teller.send(*tell_frames(bytes([n]) * MAX_TELL_BYTES))
        settle()
        assert driver.ours.queued_bytes((0, 2, 0)) <= MAX_WAITING_BYTES
    driver.read()
    teller.send(*tell_frames(b"again"))
    wait_until(lambda: ((0, 2, 0), b"again") in driver.told())
    assert ((0, 1, 0), b"calm") in driver.told()
    assert all(len(set(data)) == 1 for _, data in driver.told() if len(data) > 5)  # none of two halves
    assert len(reader.told()) == 22
    assert not reader.heard("left")
    assert not driver.heard("left")
    assert [end.closed for end in (driver, calm, teller, reader)] == [None] * 4


def test_where_many_workers_fill_the_link_of_a_driver_messages_are_dropped(server, monkeypatch):
    monkeypatch.setattr(watchers, "MAX_RECEIVER_BYTES", 10_000_000)
    driver = attach_watcher(server, reads=False)
    workers = [attach(server, "worker") for _ in range(4)]
    for n, worker in enumerate(workers):
        for _ in range(n + 1):  # 1.4, 2.8, 4.2 and 5.6 MB
            worker.send(*tell_frames(bytes(MAX_TELL_BYTES)))
            settle()
    assert sum(driver.ours.queued_bytes((0, n, 0)) for n in range(1, 5)) <= 10_000_000
    assert driver.ours.queued_bytes((0, 1, 0)) > MAX_TELL_BYTES  # who told the least has lost nothing
    assert [worker.closed for worker in workers] == [None] * 4
    assert not driver.ours.is_closed


def test_what_workers_told_that_left_since_is_dropped_rather_than_others_closed(server, monkeypatch):
    monkeypatch.setattr(watchers, "MAX_RECEIVER_BYTES", 10_000_000)
    driver = attach_watcher(server, reads=False)
    for _ in range(10):
        passing = attach(server, "worker")
        passing.send(*tell_frames(bytes(MAX_TELL_BYTES)), *tell_frames(bytes(MAX_TELL_BYTES)))
        settle()
        passing.link.close("on to the next")
        settle()
    stayer = attach(server, "worker")
    stayer.send(*tell_frames(b"still here"))
    settle()
    assert not driver.ours.is_closed
    assert stayer.closed is None
    assert sum(driver.ours.queued_bytes((0, n, 0)) for n in range(1, 12)) <= 10_000_000
    driver.read()
    wait_until(lambda: len(driver.heard("left")) >= 10)
    assert ((0, 11, 0), b"still here") in driver.told()
    assert {peer for peer, _ in driver.heard("left")} == set(range(1, 11))


def test_a_driver_that_floods_a_worker_which_does_not_read_loses_its_own_link(server):
    worker, other = attach(server, "worker", reads=False), attach(server, "worker")
    flooder, calm = attach(server, "driver"), attach_watcher(server)
    flood(flooder, peer=1)
    assert "more messages than" in flooder.heard("goodbye")[0][1]["reason"]
    assert not worker.ours.is_closed
    assert other.closed is None
    assert calm.closed is None
    assert not calm.heard("left")


def test_a_driver_that_floods_all_workers_a_little_loses_its_own_link(server, monkeypatch):
    monkeypatch.setattr(watchers, "MAX_SENDER_BYTES", 10_000_000)
    workers = [attach(server, "worker", reads=False) for _ in range(8)]
    driver = attach(server, "driver")
    for number in range(1, 9):
        driver.send(*tell_frames(bytes(MAX_TELL_BYTES), number))
    wait_until(lambda: driver.closed)
    assert not any(worker.ours.is_closed for worker in workers)


def test_where_the_servers_own_driver_floods_a_worker_its_messages_are_lost(server):
    slow, other = attach(server, "worker", reads=False), attach(server, "worker")
    driver = attach_watcher(server, is_local=True)
    for n in range(10):
        driver.send(*tell_frames(bytes([n]) * MAX_TELL_BYTES, 1))
        settle()
        assert slow.ours.queued_bytes((0, 0, 1)) <= MAX_WAITING_BYTES
    driver.send(*tell_frames(b"fine", 2))
    settle()
    assert not slow.ours.is_closed
    slow.read()
    driver.send(*tell_frames(b"again", 1))
    settle()
    wait_until(lambda: slow.heard("tell")[-1][1]["data"] == base64.b64encode(b"again").decode())
    pieces = [message["data"] for _, message in slow.heard("tell")]
    assert "!" in pieces
    assert [data for _, data in other.told()] == [b"fine"]
    assert driver.closed is None
    assert not driver.heard("left")


def test_a_message_that_its_driver_leaves_in_the_middle_is_ended_and_left_out(server):
    worker, driver = attach(server, "worker"), attach(server, "driver")
    first, *_ = tell_frames(bytes(300_000), 1)
    driver.send(*tell_frames(b"whole", 1), first)
    settle()
    driver.link.close("gone")
    wait_until(lambda: len(worker.heard("tell")) == 3)
    reassembler = Reassembler()
    pieces = [decode_message(frame.payload) for frame in worker.frames if b'"tell"' in frame.payload]
    lane = next(frame for frame in worker.frames if b'"tell"' in frame.payload)
    assert reassembler.take(lane, pieces[0]) == b"whole"
    assert reassembler.take(lane, pieces[1]) is None
    with pytest.raises(ProtocolError):
        reassembler.take(lane, pieces[2])
    assert len({frame.lane for frame in worker.frames if b'"tell"' in frame.payload}) == 1


def test_a_driver_that_does_not_read_while_workers_come_without_an_end_is_closed(server, monkeypatch):
    monkeypatch.setattr(links, "MAX_CONTROL_BYTES", 20_000)
    driver = attach_watcher(server, reads=False)
    for _ in range(1000):
        worker = attach(server, "worker")
        worker.link.close("never mind")
        if driver.ours.is_closed:
            break
    assert driver.ours.is_closed
    assert attach(server, "worker").closed is None


def test_a_backlog_counts_what_each_frame_takes_beside_its_payload():
    backlog = Backlog()
    one, other = local_pair("test")
    one.start(lambda frame: None, lambda reason: None)
    frame = control("tell", task=1, data="abcd")
    waiting = [backlog.put(one, frame) for _ in range(100)][-1]
    assert waiting > 100 * (len(frame.payload) + 200)
    assert backlog.exceeds(100 * (len(frame.payload) + 200))
    backlog.drop(one, frame.lane)
    assert not backlog.exceeds(0)
    assert backlog.put(one, frame) < 2000
    one.close("the test is over")
    other.close("the test is over")


def test_a_backlog_forgets_lanes_that_have_drained():
    backlog = Backlog()
    one, other = local_pair("test")
    other.start(lambda frame: None, lambda reason: None)
    one.start(lambda frame: None, lambda reason: None)
    for number in range(1, 1000):
        backlog.put(one, control("tell", task=number, data="abcd"))
        settle()
    assert len(backlog._lanes) < 200
    assert not backlog.exceeds(1000)
    one.close("the test is over")


# a cluster


def flood_at_most(flooder, total_bytes=64 * 1024 * 1024):
    """Tell so much, as fast as the line takes it."""
    frames, sent = tell_frames(bytes(MAX_TELL_BYTES)), 0
    until = time.monotonic() + 2 * DEADLINE_S
    while sent < total_bytes:
        assert time.monotonic() < until
        assert flooder.closed is None
        if flooder.link.queued_bytes((0, 0, 0)) < MAX_WAITING_BYTES:
            flooder.send(*frames)
            sent += MAX_TELL_BYTES
        gevent.sleep(0.001)


def assert_it_works(cluster):
    """Run a job; no played worker may be there, or it would be given some of it."""
    assert cluster.run(mmg.Job({1: 2}, reducefn=mmg.reducers.sum_values)) == {1: 2}


class Seen:
    """What the callbacks of `watch` were called with."""

    def __init__(self, cluster):
        self.joined, self.left, self.told, self.threads = [], [], [], set()
        cluster.watch(self._on_joined, self._on_left, self._on_tell)

    def _on_joined(self, peer):
        self.threads.add(threading.current_thread().name)
        self.joined.append(peer)

    def _on_left(self, number, reason):
        self.left.append((number, reason))

    def _on_tell(self, number, data):
        self.told.append((number, data))


@pytest.fixture
def cluster():
    with mmg.LocalCluster(1, listen="127.0.0.1:0", password=PASSWORD) as cluster:
        yield cluster


@pytest.fixture
def join():
    joined = []

    def join(cluster, **fields):
        sock = tls.connect(cluster.address, derive_key(PASSWORD), "worker")
        joined.append(Played(SocketLink(sock, "test"), "worker", **fields))
        return joined[-1]

    yield join
    for worker in joined:
        worker.link.close("the test is over")


def test_a_cluster_sees_its_workers_and_both_tell_each_other_things(cluster, join):
    seen = Seen(cluster)
    wait_until(lambda: seen.joined)
    assert seen.joined[0].address == "local"
    worker = join(cluster, name="played", slots=2, offers=["f"])
    wait_until(lambda: len(seen.joined) == 2)
    peer = seen.joined[1]
    assert isinstance(peer, PeerInfo)
    assert (peer.name, peer.slots, peer.offers) == ("played", 2, ("f",))
    assert peer.address.startswith("127.0.0.1:")
    data = os.urandom(MAX_TELL_BYTES)
    worker.send(*tell_frames(data), *tell_frames(b"short"))
    wait_until(lambda: len(seen.told) == 2)
    assert seen.told == [(peer.number, data), (peer.number, b"short")]
    cluster.tell(peer.number, data)
    cluster.tell(peer.number, b"")
    wait_until(lambda: len(worker.told()) == 2)
    assert [told for _, told in worker.told()] == [data, b""]
    cluster.dismiss(peer.number, "no longer needed")
    wait_until(lambda: worker.closed and seen.left)
    assert worker.heard("goodbye")[0][1]["reason"] == "no longer needed"
    assert seen.left[0][0] == peer.number
    cluster.tell(peer.number, b"nobody")
    cluster.dismiss(peer.number, "nobody")
    assert seen.threads == {"mmgevent-engine-reader"}
    assert_it_works(cluster)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt, gevent.GreenletExit])
def test_a_callback_that_fails_is_logged_and_harms_nothing_else(cluster, join, caplog, error):
    told = []

    def fail(*args):
        raise error("of the user")

    cluster.watch(fail, fail, lambda number, data: told.append(data))
    worker = join(cluster)
    until = time.monotonic() + DEADLINE_S
    while not told and time.monotonic() < until:
        worker.send(*tell_frames(b"heard"))
        gevent.sleep(0.02)
    worker.link.close("gone")
    wait_until(lambda: sum("of the user" in str(r.exc_info) for r in caplog.records) >= 3)  # 2 joined, 1 left
    assert_it_works(cluster)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_done_callback_that_fails_leaves_nobody_waiting(cluster, caplog, error):
    called = []

    def fail(handle):
        raise error("of the user")

    handle = cluster.submit(mmg.Job([(1, 1)], lambda key, value: [(key, time.sleep(0.2) or value)]))
    handle.add_done_callback(fail)
    handle.add_done_callback(called.append)
    joiner = threading.Thread(target=handle.join, daemon=True)
    joiner.start()
    joiner.join(DEADLINE_S)
    assert not joiner.is_alive()
    assert called == [handle]
    assert "of the user" in caplog.text
    assert_it_works(cluster)


def test_a_worker_that_tells_no_base64_is_dismissed_and_the_others_are_heard(cluster, join, caplog):
    seen = Seen(cluster)
    bad, good = join(cluster, name="bad"), join(cluster, name="good")
    wait_until(lambda: len(seen.joined) == 3)
    with caplog.at_level(logging.WARNING):
        bad.send(control("tell", data="!!!!"))
        wait_until(lambda: bad.closed)
    wait_until(lambda: seen.left)
    good.send(*tell_frames(b"fine"))
    wait_until(lambda: seen.told)
    assert [data for _, data in seen.told] == [b"fine"]
    assert good.closed is None


def test_a_flood_while_the_program_does_not_listen_costs_messages_and_no_workers_link(cluster, join):
    gate, joined, left, told = threading.Event(), [], [], []

    def listen(number, data):
        assert gate.wait(2 * DEADLINE_S)
        told.append((number, len(data)))

    cluster.watch(joined.append, lambda number, reason: left.append((number, reason)), listen)
    flooder, calm = join(cluster, name="flooder"), join(cluster, name="calm")
    wait_until(lambda: len(joined) == 3)
    pid = cluster._engine.pid
    try:
        calm.send(*tell_frames(b"calm"))
        flood_at_most(flooder)
    finally:
        gate.set()
    number = next(peer.number for peer in joined if peer.name == "flooder")
    flooder.send(*tell_frames(b"again"))
    wait_until(lambda: (number, 5) in told)
    wait_until(lambda: any(n != number for n, _ in told))
    assert not left
    assert calm.closed is None
    assert flooder.closed is None
    assert cluster._engine.pid == pid
    assert_it_works(cluster)


def test_when_the_engine_dies_all_have_left_and_those_of_the_next_one_join(cluster):
    seen = Seen(cluster)
    wait_until(lambda: seen.joined)
    first = seen.joined[0].number
    os.kill(cluster._engine.pid, signal.SIGKILL)
    wait_until(lambda: len(seen.joined) == 2)
    assert [number for number, _ in seen.left] == [first]
    assert seen.joined[1].number != first
    cluster.tell(first, b"to one that is gone")
    assert_it_works(cluster)


def test_a_cluster_that_is_connected_watches_the_next_server_at_the_address():
    with reserved_port() as port:
        address = ("127.0.0.1", port)
        first = mmg.LocalCluster(1, listen=address, password=PASSWORD)
        first.wait_ready()
        with mmg.connect(address, password=PASSWORD) as driver:
            seen = Seen(driver)
            wait_until(lambda: seen.joined)
            first.close()
            wait_until(lambda: seen.left)
            with mmg.LocalCluster(1, listen=address, password=PASSWORD):
                wait_until(lambda: len(seen.joined) == 2)
        assert seen.left[0][0] != seen.joined[1].number


def test_a_node_and_the_driver_of_its_server_tell_each_other_things(cluster):
    seen, heard = Seen(cluster), []
    with mmg.Node(
        cluster.address,
        procs=1,
        password=PASSWORD,
        may_serve=False,
        on_tell=lambda peer, data: heard.append((peer, data)),
    ) as node:
        node.wait("worker", DEADLINE_S)
        wait_until(lambda: len(seen.joined) == 2)
        number = next(peer.number for peer in seen.joined if peer.address != "local")
        data = os.urandom(700_000)
        node.tell_drivers(data)
        wait_until(lambda: seen.told)
        assert seen.told == [(number, data)]
        cluster.tell(number, data)
        wait_until(lambda: heard)
        assert heard == [(0, data)]
    wait_until(lambda: seen.left)
    assert seen.left[0][0] == number


def test_a_node_that_watches_sees_the_workers_of_each_server_in_turn(cluster):
    with mmg.Node(cluster.address, procs=1, password=PASSWORD) as node:
        seen = Seen(node)
        wait_until(lambda: len(seen.joined) == 2)
        assert node.state == "worker"
        before = {peer.number for peer in seen.joined}
        cluster.close()
        node.wait("server", 3 * DEADLINE_S)
        wait_until(lambda: len(seen.joined) > 2)
        assert before <= {number for number, _ in seen.left}
        assert not before & {peer.number for peer in seen.joined[2:]}
        present = {peer.number for peer in seen.joined} - {number for number, _ in seen.left}
        assert len(present) == 1


def test_a_flood_ends_at_the_engine_of_a_program_that_does_not_listen(cluster, join):
    gate, joined, left, told = threading.Event(), [], [], []
    with mmg.connect(cluster.address, password=PASSWORD) as driver:
        driver.watch(
            joined.append,
            lambda number, reason: left.append((number, reason)),
            lambda number, data: (gate.wait(3 * DEADLINE_S), told.append((number, data))),
        )
        flooder = join(cluster, name="flooder")
        wait_until(lambda: len(joined) == 2)
        number = next(peer.number for peer in joined if peer.name == "flooder")
        try:
            flood_at_most(flooder)
        finally:
            gate.set()
        flooder.send(*tell_frames(b"again"))
        wait_until(lambda: (number, b"again") in told)
        assert not left
        assert flooder.closed is None
        assert_it_works(driver)


def test_watching_is_checked(cluster):
    with pytest.raises(UsageError, match="watch"):
        cluster.tell(1, b"x")
    with pytest.raises(UsageError, match="three functions"):
        cluster.watch(print, print, None)
    seen = Seen(cluster)
    with pytest.raises(UsageError, match="already"):
        Seen(cluster)
    wait_until(lambda: seen.joined)
    with pytest.raises(UsageError, match="bytes"):
        cluster.tell(seen.joined[0].number, "text")
    with pytest.raises(UsageError, match="too long"):
        cluster.tell(seen.joined[0].number, bytes(MAX_TELL_BYTES + 1))
    with pytest.raises(UsageError, match="number"):
        cluster.tell("h/1", b"x")
    cluster.close()
    with pytest.raises(UsageError, match="closed"):
        Seen(cluster)
    assert not [t for t in threading.enumerate() if t.name == "mmgevent-watch"]


def test_the_watch_of_a_cluster_that_cannot_start_ends():
    held = mmg.LocalCluster(1, listen="127.0.0.1:0", password=PASSWORD)
    try:
        other = mmg.LocalCluster(1, listen=held.address, password=PASSWORD)
        seen = Seen(other)
        with pytest.raises(mmg.ListenError):
            other.wait_ready()
        wait_until(lambda: not any(t is other._watch._thread for t in threading.enumerate()))
        other.close()
        assert not seen.joined
    finally:
        held.close()
