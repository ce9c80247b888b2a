"""receiving: one frame is read, and not a byte of what follows."""

import socket

import pytest

from mmgevent.engine.net.receiving import receive_frame
from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import CONTROL, Frame
from mmgevent.wire.messages import control


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("frame", [Frame(CONTROL, b""), control("enough"), Frame(CONTROL, b"x" * 100_000)])
def test_what_follows_a_frame_is_left(pair, frame):
    ours, theirs = pair
    theirs.sendall(frame.encode() + b"next")
    got = receive_frame(ours)
    assert (got.kind, bytes(got.payload)) == (frame.kind, frame.payload)
    assert ours.recv(100) == b"next"


@pytest.mark.parametrize("length", [0, 10, -1])
def test_the_end_of_a_connection_within_a_frame_is_told(pair, length):
    ours, theirs = pair
    theirs.sendall(control("enough").encode()[:length])
    theirs.close()
    with pytest.raises(EOFError):
        receive_frame(ours)


def test_what_is_no_frame_is_refused_by_its_header(pair):
    ours, theirs = pair
    theirs.sendall(b"\xff" * 24)
    with pytest.raises(ProtocolError):
        receive_frame(ours)
