"""What anybody may send, as functions that take any bytes: the targets of fuzzing.

A target returns, or raises AssertionError where a promise is broken; whatever else it raises is a fault as well.
What it promises: a parser gives what it parses, asks for more, or raises the one error that closes that link; cutting
the bytes elsewhere changes nothing; what is held is bounded however large the numbers in a header are.

Checksums and proofs stop random bytes at the door, so targets put the right ones in where the first byte says so.
`fuzz_engine` looks for inputs by coverage; inputs that were found to break a target are in `FOUND`, for ever.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import struct
from collections.abc import Callable, Iterator
from typing import Any

from xxhash import xxh3_64_intdigest, xxh64_intdigest

from mmgevent import _speedups
from mmgevent._speedups import _fallback
from mmgevent.access.handshake import (
    LENDER_REFUSAL,
    PROOF_BYTES,
    REFUSAL,
    SERVER_HELLO_BYTES,
    ClientHandshake,
    LenderHandshake,
    ServerHandshake,
)
from mmgevent.access.worker_key import SIGNATURE_BYTES, server_key
from mmgevent.engine.server.role import ServerRole
from mmgevent.engine.server.terms import read_rules
from mmgevent.engine.worker.held import CachedJob, ReceiveWindow
from mmgevent.errors import JobError, MmgeventError, OptionError, ProtocolError
from mmgevent.tasks import records
from mmgevent.wire import failures
from mmgevent.wire.flushes import FLUSH_HEAD, FLUSH_ROW, MAX_ROWS, FlushReader
from mmgevent.wire.frames import (
    BATCH,
    CODE,
    GRANT,
    HEADER_BYTES,
    INPUT,
    KIND_NAMES,
    MAX_PAYLOAD,
    OUTPUT,
    PAYLOAD_LIMITS,
    RESULT,
    Decoder,
    Frame,
)
from mmgevent.wire.hello import PYTHON_VERSION
from mmgevent.wire.lanes import granted_bytes
from mmgevent.wire.messages import MESSAGES, PROTOCOL, control, decode_message, encode_message
from mmgevent.wire.shapes import (
    COUNT,
    COUNTERS,
    COUNTS,
    FAILURE,
    FLAG,
    INLINE,
    LISTS,
    NUMBER,
    OBJECT,
    ROWS,
    STRING,
    STRINGS,
)
from tests.trust.cluster_simulation import SimulatedLink, settle

KEY, CERTIFICATE = bytes(32), b"c" * 32
CLIENT_NONCE, SERVER_NONCE = b"n" * 32, b"m" * 32

#: first bytes from here on: the client of a handshake is a lender
LENDS = 0x80


def cut(data: bytes, step: int) -> Iterator[bytes]:
    """Yield the data in pieces of `step` bytes, 0: whole."""
    step = step or max(1, len(data))
    return (data[at : at + step] for at in range(0, len(data), step))


# frames


def decode(pieces: Iterator[bytes]) -> tuple[list[Frame], str | None]:
    """Return the frames in the pieces and the error that ended them."""
    decoder, found = Decoder(), []
    for piece in pieces:
        decoder.feed(piece)
        try:
            found += iter(decoder.next_frame, None)
        except ProtocolError as error:
            return found, str(error)
        assert decoder.pending_bytes < HEADER_BYTES + MAX_PAYLOAD, "more than one frame is held"
    return found, None


def seal_frames(data: bytes) -> bytes:
    """Put the right checksum into every frame of the data, as far as its headers say where frames are."""
    sealed, at = bytearray(data), 0
    while at + HEADER_BYTES <= len(sealed):
        start, length = bytes(sealed[at : at + 20]), struct.unpack_from("<I", sealed, at + 4)[0]
        payload = sealed[at + HEADER_BYTES : at + HEADER_BYTES + length]
        checksum = xxh3_64_intdigest(bytes(payload), seed=xxh64_intdigest(start)) & 0xFFFFFFFF
        struct.pack_into("<I", sealed, at + 20, checksum)
        at += HEADER_BYTES + length
    return bytes(sealed)


def frames(data: bytes) -> None:
    """First byte: seal or not, and how the rest is cut."""
    if not data:
        return
    wire = seal_frames(data[1:]) if data[0] & 1 else data[1:]
    found, error = decode(iter([wire]))
    assert decode(cut(wire, data[0] >> 1)) == (found, error)
    for frame in found:
        least, most = PAYLOAD_LIMITS[frame.kind]
        assert least <= len(frame.payload) <= most
        if frame.kind == GRANT:
            try:
                assert granted_bytes(frame) > 0
            except ProtocolError:
                assert frame.payload == bytes(4)
    assert wire.startswith(b"".join(Frame(f.kind, f.payload, *f.lane).encode() for f in found))


# messages


def messages(data: bytes) -> None:
    try:
        message = decode_message(data)
    except ProtocolError:
        return
    fields = MESSAGES[message["type"]]
    assert message.keys() - {"type"} <= fields.keys()
    assert all(name in message for name, field in fields.items() if field.required)
    if len(data) < MAX_PAYLOAD // 6:  # so that it fits with escapes, too
        assert decode_message(encode_message(**message)) == message


def objects(data: bytes) -> None:
    """The free-form objects of messages, as those who read them check them."""
    try:
        thing = decode_message(b'{"type":"failed","failure":' + data + b"}")["failure"]
    except ProtocolError:
        return
    with contextlib.suppress(OptionError):
        rules = read_rules(thing)
        assert rules.retries >= 0
        assert rules.allocation in ("continuous", "oneshot")
    job = CachedJob(Frame(1, b"", 1), {"options": thing, "code_bytes": 0}, ReceiveWindow(1))
    assert len(job.fault or "") < 1000
    failure = failures.bound(thing)
    control("job_failed", 1, failure=failure, code="failed")  # it can be told
    assert str(JobError.from_failure(failure))


# segments


def read_flushes(pieces: Iterator[bytes]) -> FlushReader | str:
    reader = FlushReader()
    for piece in pieces:
        try:
            reader.feed(piece)
        except ProtocolError as error:
            return str(error)
        assert len(reader._buffer) <= FLUSH_HEAD.size + MAX_ROWS * FLUSH_ROW.size
    return reader


def flushes(data: bytes) -> None:
    """First byte: how the rest is cut. The server's reader and `decode_flush` see the same segments."""
    if not data:
        return
    output = data[1:]
    reader = read_flushes(iter([output]))
    again = read_flushes(cut(output, data[0]))
    if not isinstance(reader, FlushReader) or not isinstance(again, FlushReader):
        assert reader == again
        return
    for name in ("partitions", "records", "offsets", "lengths", "bounds", "is_whole"):
        assert getattr(reader, name) == getattr(again, name)
    rows = list(zip(reader.partitions, reader.offsets, reader.lengths, strict=True))
    for first, end in itertools.pairwise(reader.bounds):
        assert list(reader.partitions[first:end]) == sorted(set(reader.partitions[first:end]))
    if reader.is_whole:
        assert records.decode_flush(output) == [(p, memoryview(output)[o : o + n]) for p, o, n in rows]


#: columns: bools, pickles of lists, and cuts of them; nothing here can be unpickled to anything worse than an error
COLUMNS = b"".join(
    [
        b"\x04\1",
        b"\x04\0",
        b"\x80\x05]\x94.",
        b"\x80\x05]\x94(K\x01K\x02e.",
        b"\x80\x05}\x94.",
        b"\x80\x05K\x01.",
    ]
)


def segments(data: bytes) -> None:
    """A header of any bytes, before columns that are harmless to unpickle; first byte: seal or not, and offset."""
    if not data:
        return
    header, offset = data[1:41], data[0] >> 1
    for part in (header, data):
        for read in (records.segment_size, records.segment_count):
            with contextlib.suppress(records.SegmentError):
                assert read(part) >= 0
    segment = bytearray(bytes(offset) + header + COLUMNS)
    if data[0] & 1 and len(header) == records.SEGMENT_HEADER_BYTES:
        key_bytes, value_bytes = struct.unpack_from("<QQ", header, 16)
        columns = bytes(segment[offset + 40 :][: key_bytes + value_bytes])
        checksum = xxh3_64_intdigest(columns, seed=xxh64_intdigest(header[:32]))
        struct.pack_into("<Q", segment, offset + 32, checksum)
    try:
        found = records.decode_segment(segment, offset)
    except records.SegmentError:
        return
    assert len(found.keys) == len(found.values) == records.segment_count(segment, offset)
    assert found.end == offset + records.segment_size(segment, offset)


def columns(data: bytes) -> None:
    """A column of any bytes; first byte: the number of its elements, 255: more than there can be."""
    if not data:
        return
    count = 1 << 60 if data[0] == 255 else data[0]
    answers: list[Any] = []
    for twin in (_speedups, _fallback):
        try:
            answers.append(repr(twin.decode_column(data[1:], count)))
        except ValueError as error:
            answers.append(error.args)
    assert answers[0] == answers[1]
    if isinstance(answers[0], str):
        column = _speedups.decode_column(data[1:], count)
        again = _speedups.encode_column(column)
        assert len(column) == count
        assert again == _fallback.encode_column(column)
        assert again is None or repr(_speedups.decode_column(again, count)) == answers[0]


# handshakes


@functools.cache
def conversation(lends: bool = False) -> tuple[bytes, bytes, bytes, bytes]:
    """What two sides with the right password say, the nonces being those of the targets."""
    client, server = new_client(lends), new_server()
    hello = client.start()
    answer = server.feed(hello)
    proof = client.feed(answer)
    return hello, answer, proof, server.feed(proof)


def new_client(lends: bool) -> ClientHandshake:
    if lends:
        return LenderHandshake(server_key(KEY).worker_key, CERTIFICATE, CLIENT_NONCE)
    return ClientHandshake(KEY, CERTIFICATE, "worker", CLIENT_NONCE)


def new_server() -> ServerHandshake:
    return ServerHandshake(KEY, CERTIFICATE, SERVER_NONCE)


def listen_to(machine: ClientHandshake | ServerHandshake, data: bytes, step: int) -> bytes:
    """Feed a side as whoever carries it does, who reads no more than is needed; what it said."""
    said = b""
    for piece in cut(data, step):
        while piece and machine.needed:
            assert machine.needed <= SIGNATURE_BYTES, "more than a fixed-size message is waited for"
            now, piece = piece[: machine.needed], piece[machine.needed :]
            said += machine.feed(now)
        if not machine.needed:
            break
    assert not (machine.done and machine.error)
    assert machine.done or machine.leftover == b""
    assert isinstance(machine.ended(), MmgeventError)
    return said


def server_handshake(data: bytes) -> None:
    """What a client may say first; first byte: how it is cut, a right hello before it, and that of a lender."""
    if not data:
        return
    said = (conversation(data[0] >= LENDS)[0] if data[0] & 1 else b"") + data[1:]
    lends = said[9:10] == b"\3"
    hello, answer, proof, last = conversation(lends)
    server = new_server()
    told = listen_to(server, said, data[0] % LENDS >> 1)
    assert server.done == said.startswith(hello + proof)
    refusal = LENDER_REFUSAL if lends else REFUSAL
    assert told in (b"", answer, answer + refusal, answer + last) or told.startswith(answer[:9])
    assert len(told) <= SERVER_HELLO_BYTES + SIGNATURE_BYTES
    assert server.done or last not in told


def client_handshake(data: bytes) -> None:
    """What a server may answer; first byte as above."""
    if not data:
        return
    lends = data[0] >= LENDS
    _, answer, proof, last = conversation(lends)
    said = (answer if data[0] & 1 else b"") + data[1:]
    client = new_client(lends)
    client.start()
    told = listen_to(client, said, data[0] % LENDS >> 1)
    assert client.done == said.startswith(answer + last)
    assert len(told) in (0, PROOF_BYTES), "the client says more than its proof"
    assert told in (b"", proof) or not said.startswith(answer)


def changed_handshake(data: bytes) -> None:
    """Two sides with the right password, and a middle that changes bytes: (step, position, xor) each.

    A byte over: the client is a lender.
    """
    edits = [data[at : at + 3] for at in range(0, len(data) - 2, 3)]
    client, server = new_client(len(data) % 3 == 1), new_server()
    machines, message, step, is_changed = (server, client), client.start(), 0, [False] * 4
    while message and step < 4:
        changed = bytearray(message)
        for _, position, xor in (edit for edit in edits if edit[0] == step):
            changed[position % len(changed)] ^= xor
        is_changed[step] = changed != message
        message = machines[step % 2].feed(bytes(changed))
        step += 1
    assert server.done == (not any(is_changed[:3]))
    assert client.done == (not any(is_changed))


# whoever has proved the password


class Strangers:
    """A server with an honest worker and driver, and one of each that sends anything that has the form of a message."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []  # what `SimulatedLink` and the log of the server have to say
        self.server = ServerRole("s", memory_bytes=10**6)
        self.strange = [
            self._attach("worker", slots=2),
            self._attach("driver"),
        ]  # who comes first is given first
        self.honest = [self._attach("worker", slots=1), self._attach("driver")]

    def _attach(self, role: str, **fields: int) -> SimulatedLink:
        link = SimulatedLink(role, self)
        self.server.attach(link, role, is_local=True)
        who = {
            "protocol": PROTOCOL,
            "python": PYTHON_VERSION,
            "dill": "x",
            "version": "1",
            "host": "h",
            "pid": 1,
        }
        link.push(control("hello", role=role, **who, **fields).encode())
        settle()
        return link


#: kinds of data with what they carry
DATA = [
    Frame(CODE, b"c"),
    Frame(BATCH, b"b"),
    Frame(
        OUTPUT,
        records.encode_flush({0: records.encode_segment([1], [2]), 2: records.encode_segment([3], [4])}),
    ),
    Frame(OUTPUT, b"MMGF\0\0\0\0"),
    Frame(OUTPUT, b"x"),
    Frame(RESULT, b"r"),
    Frame(GRANT, b"\1\0\0\0"),
    Frame(GRANT, bytes(4)),
    Frame(INPUT, b""),
]

#: for each shape of a field what is sent of it
VALUES: dict[str, list[Any]] = {
    COUNT.words: [1, 0, 2, 3, len(DATA[2].payload), 40, 2**32, 2**63 - 1],
    NUMBER.words: [0, 0.5, 1e300, 2**63 - 1],
    STRING.words: ["x", "", "\ud800", "9" * 300, "QUJD"],
    FLAG.words: [False, True],
    OBJECT.words: [
        {}, {"error": "e"}, {"partitions": 4}, {"partitions": 10**9}, {"needs": ["f"]}, {"allocation": "oneshot"},
        {"max_skipped": 0.5, "retries": 1}, {"max_skipped": 9}, {"error": [1e300], "kind": 1},
    ],
    FAILURE.words: [{}, {"error": "e", "key": None}, {"kind": "exception", "item": 2**63 - 1}],
    COUNTS.words: [[], [1], [0, 1, 2**63 - 1]],
    STRINGS.words: [[], ["f"], ["x" * 3000]],
    ROWS.words: [[], [{}], [{"batch": 1, "error": "e", "seconds": 1e300}], [{"x": [{}]}] * 40],
    LISTS.words: [[], [[]], [[1e300, "k", 1]], [["x", None], [{}]]],
    COUNTERS.words: [{}, {"c": 1}, {"c": 0, "d": 2**53}],
    INLINE.words: [b"b", DATA[2].payload, DATA[3].payload, b"x" * 40],
}  # fmt: skip


def peers(data: bytes) -> None:
    """Each seven bytes and those of its fields are a frame: who, what, job, task, attempt, field values."""
    stream = iter(data)
    strangers = Strangers()
    server, handler = strangers.server, Complaints(strangers.faults)
    logging.getLogger("mmgevent").addHandler(handler)
    try:
        for who in stream:
            what, job, task, attempt = (next(stream, 0) for _ in range(4))
            types = list(MESSAGES)
            lane = (job % 4, task % 5, attempt % 9)
            if what < len(DATA):
                frame = Frame(DATA[what].kind, DATA[what].payload, *lane)
            else:
                type_ = types[what % len(types)]
                fields: dict[str, Any] = {}
                for name, field in MESSAGES[type_].items():
                    choices = VALUES.get(field.shape.words) or [v for v in ODD if field.shape.fits(v)]
                    pick = next(stream, 0)
                    if field.required or pick & 1:
                        fields[name] = choices[(pick >> 1) % len(choices)]
                frame = control(type_, *lane, **fields)
            link = strangers.strange[who % 2]
            link.push(frame.encode())
            settle()
            while link.pull():
                pass
        for link in strangers.strange:
            link.lose()
        settle()
        assert not strangers.faults, strangers.faults
        assert not any(link.is_closed for link in strangers.honest), "somebody else's link was closed"
        assert not server.conductor.jobs
        assert not server.conductor.attempts
        assert server.conductor.jobs.memory.used_bytes == 0
        assert server.conductor.workers.slot_count == 1
    finally:
        logging.getLogger("mmgevent").removeHandler(handler)
        for link in (*strangers.honest, *strangers.strange):
            link.lose()
        settle()
        server.stop("the target is over")


class Complaints(logging.Handler):
    """Collects what is logged as a fault of our own."""

    def __init__(self, faults: list[Exception]):
        super().__init__(logging.ERROR)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        self._faults.append(AssertionError(record.getMessage()))


ODD: list[Any] = ["map", "worker", "server", "closed", "busy", [[1, 2]], [[1, 2, 3]]]


def frame_of(who: int, type_: str, job: int = 0, task: int = 0, attempt: int = 0, **picks: int) -> bytes:
    """Write a message for `peers`; `picks`: which value of a field, the first if not said; bytes: none if not said."""
    what = list(MESSAGES).index(type_)
    while what < len(DATA):
        what += len(MESSAGES)
    values = bytes(
        0 if field.shape is INLINE and name not in picks else 2 * picks.get(name, 0) + 1
        for name, field in MESSAGES[type_].items()
    )
    return bytes([who, what, job, task, attempt]) + values


#: a job from its submission to the results, by the strangers themselves
WHOLE_JOB = b"".join(
    [
        frame_of(1, "submit", 1),
        bytes([1, 0, 1, 0, 0]),
        frame_of(1, "batch", 1, 1),
        bytes([1, 1, 1, 1, 0]),
        frame_of(1, "input_end", 1),
        bytes([0, 2, 1, 1, 1]),
        frame_of(0, "done", 1, 1, 1, size=4),
        bytes([0, 2, 1, 2, 2]),
        frame_of(0, "done", 1, 2, 2, size=4),
        bytes([0, 2, 1, 3, 3]),
        frame_of(0, "done", 1, 3, 3, size=4),
    ]
)

#: the same in fewer frames
WHOLE_JOB_INLINE = b"".join(
    [
        frame_of(1, "submit", 1),
        bytes([1, 0, 1, 0, 0]),
        frame_of(1, "batch", 1, 1, inline=0),
        frame_of(1, "input_end", 1),
        *(frame_of(0, "done", 1, n, n, size=4, inline=1) for n in (1, 2, 3)),
    ]
)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        frames,
        messages,
        objects,
        flushes,
        segments,
        columns,
        server_handshake,
        client_handshake,
        changed_handshake,
        peers,
    )
}


def planted(data: bytes) -> None:
    """Broken by whatever has a segment's magic and version: no target, but what a search must find from nothing."""
    try:
        records.segment_size(data)
    except records.SegmentError:
        return
    raise AssertionError("found")


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with, one at least of everything the target knows."""
    hello, answer, proof, last = conversation()
    lender_hello, _, lender_proof, signature = conversation(lends=True)
    flush = records.encode_flush({p: records.encode_segment([p], ["v"]) for p in (0, 3, 4095)})
    header = records.encode_segment([1, 2], [3, 4], grouped=False, hashed=True)[:40]
    fitting = struct.pack("<4sBBHQQQQ", b"MMGS", 2, 1, 0, 2, 11, 0, 0)
    wire = b"".join(
        Frame(
            kind, bytes(range(1, 9))[: PAYLOAD_LIMITS[kind][1]][: max(4, PAYLOAD_LIMITS[kind][0])], 1, 2, 3
        ).encode()
        for kind in KIND_NAMES
    )
    return {
        "planted": [b""],
        "frames": [b"\0" + wire, b"\1" + wire, b"\7" + wire, b"\1" + control("enough", 1).encode()],
        "messages": [example(type_) for type_ in MESSAGES],
        "objects": [
            b'{"retries":2,"retransmit":0.5,"allocation":"oneshot","max_skipped":0.1,"needs":["f"]}',
            b'{"kind":"exception","error":"E","traceback":"t","key":"k","function":"mapfn","advice":"a"}',
            b'{"task_timeout":1.5,"memory_limit":16777216,"partitions":32,"greenlets":9,"name":"n"}',
            b'{"offered":{"phases":["map","reduce"]},"last_words":"w","item":1,"worker":null}',
        ],
        "flushes": [
            b"\0" + flush,
            b"\1" + flush + flush,
            b"\5" + FLUSH_HEAD.pack(b"MMGF", 0),
            b"\3" + flush[:30],
        ],
        "segments": [b"\1" + header, b"\0" + header, b"\1" + fitting, b"\7" + fitting],
        "columns": [
            bytes([len(column)]) + (_fallback.encode_column(column) or b"")
            for column in (
                *(
                    [],
                    [1, 2, -1],
                    [n << 40 for n in range(9)],
                    [1.5, -0.0],
                    [True, False],
                    ["a", "é"],
                    [b"a", b""],
                ),
                *([("a", 1), ("b", 2)], [[1], [], [2, 3]], ["a", "b"] * 9, [["a"] * 9], [("a", (b"b",))] * 5),
            )
        ],
        "server_handshake": [
            b"\0" + hello + proof,
            b"\1" + proof,
            b"\3" + proof,
            b"\0GET / HTTP/1.1\r\n",
            b"\x80" + lender_hello + lender_proof,
            b"\x81" + proof,
        ],
        "client_handshake": [
            b"\0" + answer + last,
            b"\1" + last,
            b"\3" + REFUSAL,
            b"\0SSH-2.0-x\r\n",
            b"\x81" + signature,
            b"\x81" + last,
        ],
        "peers": [
            WHOLE_JOB,
            WHOLE_JOB_INLINE,
            *(frame_of(who, type_, 1, 1, 1) for type_ in MESSAGES for who in (0, 1)),
        ],
        "changed_handshake": [b"", b"\0\0\1", b"\1\1\1", b"\2\2\2", b"\3\3\3\3\3\3", b"\3\3\3\0"],
    }[target]


def example(type_: str) -> bytes:
    """A message of this type with every field."""
    values = {"an integer": 1, "a number": 1.5, "a string": "s", "true": True, "an object": {}}
    fields = {}
    for name, field in MESSAGES[type_].items():
        words = field.shape.words
        fits = [
            v
            for v in (
                *values.values(),
                b"bytes",
                [1],
                ["s"],
                [[1, 2]],
                [[1, 2, 3]],
                [{}],
                words.split("'")[-2:][0],
            )
            if field.shape.fits(v)
        ]
        fields[name] = fits[0]
    return encode_message(type_, **fields)


def words(target: str) -> set[str]:
    """Words that the target's inputs are made of: a dictionary for mutations."""
    if target == "messages":
        return {f'"{word}"' for type_, fields in MESSAGES.items() for word in (type_, *fields, "type")}
    if target == "objects":
        text = "".join(seed.decode() for seed in seeds(target))
        return {f'"{word}"' for word in text.split('"') if word.isidentifier()} | {
            "NaN",
            "Infinity",
            "1e999",
            "null",
        }
    return set() if target == "planted" else {"MMGF", "MMGS", "MMGEVENT"}


#: (target, input): what was found to break a target once
FOUND: list[tuple[str, bytes]] = [
    ("objects", b'{"error":1e999}'),
    ("objects", b'{"traceback":1}'),
    ("objects", b'{"error":[' + b'"' * 2 + b',""' * 80_000 + b"]}"),
]
