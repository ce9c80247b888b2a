"""Frames to bytes and back, beside a length prefix; and the handshake, beside the two HMACs that it is for."""

import hmac
import os
import struct

import pytest

from mmgevent.access.handshake import ClientHandshake, ServerHandshake, derive_key
from mmgevent.wire.frames import CONTROL, INPUT, Decoder, Frame
from mmgevent.wire.messages import decode_message, encode_message

COUNT = 100  #: frames a round

PAYLOADS = {"100 of 200 bytes": b"x" * 200, "100 of 256 KiB": b"x" * 262_144, "100 without payload": b""}


@pytest.fixture(params=list(PAYLOADS))
def payload(request, benchmark):
    benchmark.group = f"frames, {request.param}"
    return PAYLOADS[request.param]


def test_frames(benchmark, payload):
    def run():
        data = b"".join(Frame(INPUT, payload, 1, n, n).encode() for n in range(COUNT))
        decoder = Decoder()
        decoder.feed(data)
        frames = 0
        while decoder.next_frame() is not None:
            frames += 1
        return frames

    assert benchmark(run) == COUNT


def test_frames_plain(benchmark, payload):
    header = struct.Struct("<BIIII")

    def run():
        data = b"".join(header.pack(INPUT, len(payload), 1, n, n) + payload for n in range(COUNT))
        frames = at = 0
        while at < len(data):
            length = header.unpack_from(data, at)[1]
            at += header.size
            bytes(data[at : at + length])
            at += length
            frames += 1
        return frames

    assert benchmark(run) == COUNT


@pytest.mark.benchmark(group="message, an assign there and back")
def test_message(benchmark):
    fields = {"phase": "map", "slot": 1, "size": 1000, "partitions": 64, "lo": 0, "hi": 10, "skip": []}

    def run():
        decoder = Decoder()
        decoder.feed(Frame(CONTROL, encode_message("assign", **fields), 1, 2, 3).encode())
        return decode_message(decoder.next_frame().payload)

    assert benchmark(run) == {"type": "assign", **fields}


@pytest.mark.benchmark(group="handshake, both sides")
def test_handshake(benchmark):
    key, certificate = derive_key("a password for a benchmark"), bytes(32)

    def run():
        client, server = ClientHandshake(key, certificate, "worker"), ServerHandshake(key, certificate)
        to_server = client.start()
        while not (client.done and server.done):
            to_client = server.feed(to_server)
            to_server = client.feed(to_client)
        return server.role

    assert benchmark(run) == "worker"


@pytest.mark.benchmark(group="handshake, both sides")
def test_handshake_plain(benchmark):
    key, certificate = os.urandom(32), bytes(32)

    def run():
        transcript = os.urandom(32) + os.urandom(32) + certificate
        proofs = [hmac.digest(key, label + transcript, "sha256") for label in (b"client", b"server") * 2]
        return hmac.compare_digest(proofs[0], proofs[2]) and hmac.compare_digest(proofs[1], proofs[3])

    assert benchmark(run)


@pytest.mark.benchmark(group="key of a password, once a process")
def test_derive_key(benchmark):
    benchmark.pedantic(derive_key.__wrapped__, ("a password for a benchmark",), rounds=5)
