"""The frame codec: whole, byte by byte, cut anywhere, followed by anything, and garbage."""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest, xxh64_intdigest

from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import (
    BATCH,
    CONTROL,
    GRANT,
    HEADER_BYTES,
    HEARTBEAT,
    KIND_NAMES,
    MAX_PAYLOAD,
    OUTPUT,
    PAYLOAD_LIMITS,
    Decoder,
    Frame,
    split_payload,
)

#: the header of {"type":"enough"} about job 1
EXAMPLE = "01000000 11000000 01000000 00000000 00000000 9bb59efd"

u32 = st.integers(0, 2**32 - 1)


@st.composite
def frames(draw) -> Frame:
    kind = draw(st.sampled_from(sorted(KIND_NAMES)))
    least, most = PAYLOAD_LIMITS[kind]
    payload = draw(st.binary(min_size=least, max_size=min(most, 300)))
    return Frame(kind, payload, draw(u32), draw(u32), draw(u32))


def decode_all(decoder: Decoder) -> list[Frame]:
    return list(iter(decoder.next_frame, None))


def decode_in(pieces: list[bytes]) -> list[Frame]:
    decoder, found = Decoder(), []
    for piece in pieces:
        decoder.feed(piece)
        found += decode_all(decoder)
    assert decoder.pending_bytes == 0
    return found


EXAMPLES = [
    Frame(CONTROL, b'{"type":"enough"}', 1),
    Frame(HEARTBEAT),
    Frame(GRANT, b"\0\0\4\0", 1, 2, 3),
    Frame(OUTPUT, bytes(range(256)), 2**32 - 1, 2**32 - 1, 2**32 - 1),
    Frame(BATCH, b"", 1, 1),
]
WIRE = b"".join(frame.encode() for frame in EXAMPLES)


def test_the_header_is_laid_out_as_docs_protocol_says():
    frame = Frame(OUTPUT, b"abc", 7, 8, 9)
    start = struct.pack("<BBHIIII", 5, 0, 0, 3, 7, 8, 9)
    checksum = xxh3_64_intdigest(b"abc", seed=xxh64_intdigest(start)) & 0xFFFFFFFF
    assert frame.encode() == start + struct.pack("<I", checksum) + b"abc"
    assert len(frame.encode_header()) == HEADER_BYTES == 24


def test_the_example_of_docs_protocol_is_true():
    assert Frame(CONTROL, b'{"type":"enough"}', 1).encode()[:24].hex(" ", 4) == EXAMPLE
    assert f"`{EXAMPLE}`" in (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")


@given(st.lists(frames(), max_size=8))
def test_frames_come_back_whole(sent):
    assert decode_in([b"".join(frame.encode() for frame in sent)]) == sent


def test_frames_come_back_byte_by_byte():
    assert decode_in([bytes([byte]) for byte in WIRE]) == EXAMPLES


def test_frames_come_back_cut_at_every_split():
    for cut in range(len(WIRE) + 1):
        assert decode_in([WIRE[:cut], WIRE[cut:]]) == EXAMPLES


@given(st.data())
def test_frames_come_back_from_pieces_of_any_size(data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(WIRE)), max_size=10)))
    bounds = [0, *cuts, len(WIRE)]
    assert decode_in([WIRE[a:b] for a, b in itertools.pairwise(bounds)]) == EXAMPLES


@given(frames(), st.binary(max_size=HEADER_BYTES - 1))
def test_trailing_bytes_stay_pending(frame, tail):
    decoder = Decoder()
    decoder.feed(frame.encode() + tail)
    assert decode_all(decoder) == [frame]
    assert decoder.pending_bytes == len(tail)


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_garbage_gives_frames_or_need_more_or_a_lasting_error(pieces):
    decoder = Decoder()
    for piece in pieces:
        decoder.feed(piece)
        try:
            decode_all(decoder)
        except ProtocolError as error:
            decoder.feed(Frame(HEARTBEAT).encode())
            with pytest.raises(ProtocolError, match=re.escape(str(error))):
                decoder.next_frame()
            return


@pytest.mark.parametrize("position", range(HEADER_BYTES + 3))
def test_no_changed_byte_goes_unnoticed(position):
    wire = bytearray(Frame(OUTPUT, b"abc", 7, 8, 9).encode())
    for bit in range(8):
        changed = bytearray(wire)
        changed[position] ^= 1 << bit
        decoder = Decoder()
        decoder.feed(changed)
        try:
            assert decoder.next_frame() is None  # a longer length: waits for bytes
        except ProtocolError:
            continue
        decoder.feed(bytes(MAX_PAYLOAD))
        with pytest.raises(ProtocolError):
            decoder.next_frame()


@pytest.mark.parametrize("kind", sorted(KIND_NAMES))
def test_a_length_beyond_the_kind_is_refused_before_the_payload_comes(kind):
    most = PAYLOAD_LIMITS[kind][1]
    decoder = Decoder()
    decoder.feed(struct.pack("<BBHIIIII", kind, 0, 0, most + 1, 0, 0, 0, 0))
    with pytest.raises(ProtocolError, match=KIND_NAMES[kind]):
        decoder.next_frame()
    with pytest.raises(ValueError, match=KIND_NAMES[kind]):
        Frame(kind, bytes(most + 1)).encode_header()


def test_what_no_peer_would_take_is_not_encoded():
    for frame in (Frame(9), Frame(GRANT), Frame(CONTROL, b"", 2**32), Frame(CONTROL, b"", -1)):
        with pytest.raises(ValueError, match=r"[fF]rame"):
            frame.encode_header()


def test_the_header_of_a_decoded_frame_is_kept_for_relaying():
    wire = EXAMPLES[3].encode()
    (frame,) = decode_in([wire])
    assert frame.encode_header() is frame.encode_header()
    assert frame.encode() == wire


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD])
def test_split_payload_borrows_and_loses_nothing(size):
    data = bytearray(size)
    parts = list(split_payload(BATCH, data, 1, 2, 3))
    assert b"".join(part.payload for part in parts) == data
    assert all(len(part.payload) <= MAX_PAYLOAD and part.lane == (1, 2, 3) for part in parts)
    if parts:
        data[0] = 1
        assert parts[0].payload[0] == 1
    assert decode_in([part.encode() for part in parts]) == parts
