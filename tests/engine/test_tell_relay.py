"""tell_relay: all pieces of a message go one way though links change, and what waits is limited."""

import gevent
import pytest

from mmgevent.engine import tell_relay
from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.tell_relay import MessageRoutes, PeerNews, PeerTells, ProgramInbox
from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import Frame
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.user_messages import MAX_TELL_BYTES, MAX_WAITING_BYTES, Reassembler, tell_frames


def settle():
    for _ in range(3):
        gevent.idle()


class End:
    """Two ends of a link: `near` is sent to, and `far` hears it once it reads."""

    def __init__(self):
        self.near, self.far = local_pair("test")
        self.frames, self.closed = [], None
        self.near.start(lambda frame: None, self._on_close)

    def _on_close(self, reason):
        self.closed = reason

    def read(self):
        self.far.start(self.frames.append, lambda reason: None)
        settle()

    def heard(self, type):
        messages = [(frame.task, decode_message(frame.payload)) for frame in self.frames]
        return [(task, message) for task, message in messages if message["type"] == type]


@pytest.fixture
def make_end():
    made = []

    def make():
        made.append(End())
        return made[-1]

    yield make
    for end in made:
        end.near.close("the test is over")


def told(frames):
    reassembler = Reassembler()
    found = []
    for frame in frames:
        message = decode_message(frame.payload)
        if message["type"] != "tell":
            reassembler.forget(frame.lane)
            continue
        try:
            data = reassembler.take(frame, message)
        except ProtocolError:
            continue
        if data is not None:
            found.append(data)
    return found


def pieces(data, lane):
    return [Frame(frame.kind, frame.payload, *lane) for frame in tell_frames(data)]


def test_pieces_go_where_the_first_one_went():
    routes = MessageRoutes()
    first, second, third = tell_frames(bytes(300_000))
    (whole,) = tell_frames(b"whole")
    went = []
    for frame, now in [
        (first, "a"),
        (second, "b"),
        (third, None),
        (whole, None),
        (first, None),
        (third, "c"),
    ]:
        went.append(routes.route(frame, decode_message(frame.payload), now))
    assert went == ["a", "a", "a", None, None, None]
    assert routes.cut() == []
    routes.route(first, decode_message(first.payload), "a")
    assert routes.cut() == [((0, 0, 0), "a")]
    assert routes.route(whole, decode_message(whole.payload), "b") == "b"


def test_a_host_that_does_not_listen_loses_whole_messages_and_no_pieces(make_end):
    end = make_end()
    host = ProgramInbox(end.near)
    for _ in range(20):
        for frame in pieces(bytes(MAX_TELL_BYTES), (0, 0, 1)):
            host.tell(frame, decode_message(frame.payload))
    assert end.near.queued_bytes((0, 0, 1)) < MAX_WAITING_BYTES + 2 * MAX_TELL_BYTES
    end.read()
    for frame in pieces(b"again", (0, 0, 1)):
        host.tell(frame, decode_message(frame.payload))
    settle()
    assert set(told(end.frames)) == {bytes(MAX_TELL_BYTES), b"again"}
    assert 5 <= len(told(end.frames)) < 20


def test_what_a_driver_began_to_tell_is_not_ended_by_one_of_the_next_server(make_end):
    end = make_end()
    end.read()
    host = ProgramInbox(end.near)
    first, *_ = pieces(bytes(300_000), (0, 0, 1))
    host.tell(first, decode_message(first.payload))
    host.change_server()
    (other,) = pieces(b"other", (0, 0, 1))
    host.tell(other, decode_message(other.payload))
    settle()
    assert told(end.frames) == [b"other"]


def test_a_driver_that_does_not_read_loses_whole_messages_and_no_peer_pays(make_end):
    driver = make_end()
    watched = PeerNews(driver.near)
    for peer in (1, 2):
        watched.pass_on(control("joined", task=peer, name="n", address="a", slots=1, offers=[]))
    watched.pass_on(tell_frames(b"calm", 2)[0])
    for n in range(20):
        for frame in tell_frames(bytes([n]) * MAX_TELL_BYTES, 1):
            watched.pass_on(frame)
            assert driver.near.queued_bytes((0, 1, 0)) <= MAX_WAITING_BYTES
    driver.read()
    for frame in tell_frames(b"again", 1):
        watched.pass_on(frame)
    settle()
    found = told(driver.frames)
    assert {b"calm", b"again"} <= set(found)
    assert all(len(set(data)) == 1 for data in found if data not in (b"calm", b"again"))  # none is mixed
    assert not driver.heard("left")
    assert {task for task, _ in driver.heard("joined")} == {1, 2}
    assert driver.closed is None


def test_what_is_dropped_of_a_peer_that_has_left_leaves_its_end(make_end, monkeypatch):
    monkeypatch.setattr(tell_relay, "MAX_RECEIVER_BYTES", 3_000_000)
    driver = make_end()
    watched = PeerNews(driver.near)
    for peer in (1, 2):
        watched.pass_on(control("joined", task=peer, name="n", address="a", slots=1, offers=[]))
        for frame in tell_frames(bytes(MAX_TELL_BYTES), peer) * 2:
            watched.pass_on(frame)
        watched.pass_on(control("left", task=peer, reason="done"))
    driver.read()
    assert {task for task, _ in driver.heard("left")} == {1, 2}


def test_the_peers_of_the_next_server_begin_with_nothing_of_the_former(make_end):
    driver = make_end()
    watched = PeerNews(driver.near)
    for frame in tell_frames(bytes(300_000), 1):
        watched.pass_on(frame)
    watched.change_server()
    watched.pass_on(control("left", task=1, reason="new"))
    driver.read()
    assert [decode_message(frame.payload)["type"] for frame in driver.frames] == ["left"]


def test_a_program_that_tells_more_than_the_line_takes_loses_its_server(make_end, monkeypatch):
    monkeypatch.setattr(tell_relay, "MAX_SENDER_BYTES", 5_000_000)
    former, server, after = make_end(), make_end(), make_end()
    after.read()
    peers = PeerTells()
    first, second, *_ = tell_frames(bytes(300_000), 3)
    peers.pass_on(first, decode_message(first.payload), former.near)
    while not server.near.is_closed:
        for frame in tell_frames(bytes(MAX_TELL_BYTES), 7):
            peers.pass_on(frame, decode_message(frame.payload), server.near)
        settle()
        assert server.near.queued_bytes((0, 7, 0)) <= 5_000_000
    assert "more messages than" in server.closed
    peers.pass_on(second, decode_message(second.payload), after.near)  # its beginning went elsewhere
    settle()
    assert not after.frames
