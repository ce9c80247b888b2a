"""user_messages: bytes to frames and back; what is not trusted costs one message at most."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgevent.errors import ProtocolError, UsageError
from mmgevent.wire import user_messages
from mmgevent.wire.frames import CONTROL, MAX_PAYLOAD
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.user_messages import MAX_TELL_BYTES, PIECE_BYTES, MessageLength, Reassembler, tell_frames


def take(reassembler, frame):
    return reassembler.take(frame, decode_message(frame.payload))


def take_all(reassembler, frames):
    return [data for frame in frames if (data := take(reassembler, frame)) is not None]


def piece(data, more=None, sender=1):
    return control("tell", 0, sender, data=data, more=more)


SIZES = [0, 1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 7, MAX_TELL_BYTES]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_told_comes_back_whole_in_frames_that_fit(size):
    data = bytes(n % 251 for n in range(size))
    frames = tell_frames(data, 7)
    assert {frame.lane for frame in frames} == {(0, 7, 0)}
    assert all(frame.kind == CONTROL and len(frame.payload) <= MAX_PAYLOAD for frame in frames)
    messages = [decode_message(frame.payload) for frame in frames]
    assert [m.get("more", False) for m in messages] == [True] * (len(frames) - 1) + [False]
    assert len(frames) == max(1, -(-size // PIECE_BYTES))
    assert take_all(Reassembler(), frames) == [data]


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 9))
def test_pieces_of_any_size_and_senders_in_any_turn_give_the_messages_of_each(told, size):
    reassembler = Reassembler()
    queues = []
    for sender, data in enumerate(told, 1):
        cuts = [data[start : start + size] for start in range(0, max(1, len(data)), size)]
        queues.append(
            [
                piece(base64.b64encode(cut).decode(), True if n < len(cuts) - 1 else None, sender)
                for n, cut in enumerate(cuts)
            ]
        )
    came = {}
    while any(queues):
        for sender, queue in enumerate(queues, 1):
            if queue and (data := take(reassembler, queue.pop(0))) is not None:
                assert sender not in came
                came[sender] = data
    assert came == dict(enumerate(told, 1))


@pytest.mark.parametrize("data", ["text", None, 5, [1]])
def test_what_is_not_bytes_cannot_be_told(data):
    with pytest.raises(UsageError, match="must be bytes"):
        tell_frames(data)


def test_bytes_likes_are_told_as_the_bytes_they_are():
    for data in (bytearray(b"abc"), memoryview(b"abc"), memoryview(b"abcd").cast("I")):
        assert take_all(Reassembler(), tell_frames(data)) == [bytes(data)]


def test_a_byte_too_many_is_refused_where_it_is_told():
    with pytest.raises(UsageError, match=f"{MAX_TELL_BYTES + 1} bytes"):
        tell_frames(bytes(MAX_TELL_BYTES + 1))


@pytest.mark.parametrize("data", ["!", "abc", "é", "YQ==YQ==", "Y Q=", "\ud800"])
def test_what_is_no_base64_is_an_error_and_the_next_message_is_not(data):
    reassembler = Reassembler()
    with pytest.raises(ProtocolError, match="base64"):
        take(reassembler, piece(data))
    assert take_all(reassembler, tell_frames(b"next", 1)) == [b"next"]


def test_a_message_that_is_too_long_is_an_error_once_and_left_out_to_its_end():
    reassembler = Reassembler()
    *pieces, _ = tell_frames(bytes(MAX_TELL_BYTES), 1)
    more = piece("YWJj" * (PIECE_BYTES // 3), more=True)
    assert take_all(reassembler, pieces) == []
    take(reassembler, more)
    with pytest.raises(ProtocolError, match="more than"):
        take(reassembler, more)
    assert take_all(reassembler, [more, more, piece("YQ==")]) == []
    assert take_all(reassembler, tell_frames(b"next", 1)) == [b"next"]


def test_what_a_sender_has_begun_can_be_forgotten():
    reassembler = Reassembler()
    assert take(reassembler, piece("YQ==", more=True)) is None
    reassembler.forget((0, 1, 0))
    assert take(reassembler, piece("Yg==")) == b"b"


def test_beyond_a_number_of_senders_the_one_longest_silent_loses_its_message_and_no_other():
    reassembler = Reassembler(max_senders=2)
    for sender in (1, 2, 1, 3):  # 2 is the longest silent
        take(reassembler, piece("YQ==", more=True, sender=sender))
    ends = [take(reassembler, piece("Yg==", sender=sender)) for sender in (1, 2, 3)]
    assert ends == [b"aab", None, b"ab"]
    assert take(reassembler, piece("Yw==", sender=2)) == b"c"


def test_what_is_kept_of_senders_whose_message_is_left_out_is_bounded():
    reassembler = Reassembler(max_senders=1)
    for sender in range(1, 2 * user_messages.MAX_ABANDONED):
        take(reassembler, piece("YQ==", more=True, sender=sender))
    assert len(reassembler._begun) == 1
    assert len(reassembler._abandoned) == user_messages.MAX_ABANDONED


def test_lengths_are_counted_without_decoding():
    length = MessageLength()
    for frame in tell_frames(bytes(MAX_TELL_BYTES)):
        length.add(decode_message(frame.payload))
    assert length.is_complete
    length.add({"data": "no base64!", "more": True})
    assert not length.is_complete
    length.add({"data": ""})
    assert length.is_complete


@pytest.mark.parametrize(
    "messages",
    [
        [{"data": "x" * (user_messages.MAX_PIECE_CHARS + 1)}],
        [{"data": "", "more": True}],
        [{"data": "x" * user_messages.MAX_PIECE_CHARS, "more": True}] * 12,
    ],
    ids=["piece", "empty", "message"],
)
def test_lengths_that_cannot_be_are_errors(messages):
    length = MessageLength()
    *fine, wrong = messages
    for message in fine:
        length.add(message)
    with pytest.raises(ProtocolError):
        length.add(wrong)
