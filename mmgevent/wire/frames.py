"""Frames: bytes to frames and back, nothing else.

Every link between two processes carries frames: a fixed header of 24 bytes, then the payload.
This module knows how long a frame of each kind may be, and whether a frame arrived whole.  Other
modules know what a payload says (`messages`), in what order frames go out (`lanes`), and how bytes
travel (`engine.net.link`, and the blocking sockets of drivers and executors).

Any bytes fed to a `Decoder` give a frame, "need more" or `ProtocolError`. The decoder checks the
length of a frame against its kind before it waits for the payload. So it never holds more than one
frame and the bytes that it was fed last.

The checksum covers header and payload; the header is the seed.  It finds torn buffers and bugs of
mmgevent.  TLS protects against people.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from xxhash import xxh3_64_intdigest, xxh64_intdigest

from mmgevent.errors import ProtocolError

CONTROL = 1  #: one JSON object
CODE = 2  #: bytes of a job's code
BATCH = 3  #: bytes of a batch, driver to server
INPUT = 4  #: bytes of an attempt's input
OUTPUT = 5  #: bytes of an attempt's output
RESULT = 6  #: bytes of results, server to driver
GRANT = 7  #: u32: bytes that may be sent in this lane in addition
HEARTBEAT = 8  #: nothing

#: Kinds whose payloads are bulk bytes and wait for credit (see `lanes`).
DATA_KINDS = frozenset({CODE, BATCH, INPUT, OUTPUT, RESULT})

KIND_NAMES = {
    CONTROL: "CONTROL",
    CODE: "CODE",
    BATCH: "BATCH",
    INPUT: "INPUT",
    OUTPUT: "OUTPUT",
    RESULT: "RESULT",
    GRANT: "GRANT",
    HEARTBEAT: "HEARTBEAT",
}

#: Largest payload, bytes. It takes 0.1 ms at gevent's 3 GB/s, so control frames never wait long.
MAX_PAYLOAD = 256 * 1024

#: {kind: (least, most)}: length of the payload, bytes.
PAYLOAD_LIMITS = {
    **dict.fromkeys((CONTROL, CODE, BATCH, INPUT, OUTPUT, RESULT), (0, MAX_PAYLOAD)),
    GRANT: (4, 4),
    HEARTBEAT: (0, 0),
}

_HEADER = struct.Struct("<BBHIIIII")  # kind, flags, reserved, length, job, task, attempt, checksum
_CHECKED_HEADER = struct.Struct("<BBHIIII")  # the part of it that the checksum covers
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_CHECKED_BYTES = _CHECKED_HEADER.size

#: (job, task, attempt)
Lane = tuple[int, int, int]
Payload = bytes | bytearray | memoryview


class Frame:
    """One frame.  It must not change after it was queued or passed on.

    `payload` is a bytes-like object of format "B" that the frame borrows: do not change a
    bytearray under it.  Frames from a `Decoder` hold bytes.  `job`, `task` and `attempt` are
    unsigned 32-bit numbers; 0 means none.
    """

    __slots__ = ("_header", "attempt", "job", "kind", "message", "payload", "task")

    def __init__(
        self, kind: int, payload: Payload = b"", job: int = 0, task: int = 0, attempt: int = 0
    ) -> None:
        self.kind = kind
        self.payload = payload
        self.job = job
        self.task = task
        self.attempt = attempt
        self._header: bytes | None = None
        #: The decoded payload, once `messages.message_of` was called.
        self.message: dict[str, Any] | None = None

    @property
    def lane(self) -> Lane:
        return (self.job, self.task, self.attempt)

    def encode_header(self) -> bytes:
        """Return the 24 bytes that go before the payload; computed once.

        Raises ValueError for a payload that is too long for the kind and for a number that does
        not fit: the peer would close the link.
        """
        if self._header is None:
            self._header = self._build_header()
        return self._header

    def encode(self) -> bytes:
        """Return header and payload joined (a copy)."""
        return b"".join((self.encode_header(), self.payload))

    def _build_header(self) -> bytes:
        length = len(self.payload)
        if self.kind not in PAYLOAD_LIMITS:
            raise ValueError(f"unknown frame kind {self.kind!r}")
        least, most = PAYLOAD_LIMITS[self.kind]
        if not least <= length <= most:
            raise ValueError(f"a {KIND_NAMES[self.kind]} frame holds {least} to {most} bytes, not {length}")
        try:
            start = _CHECKED_HEADER.pack(self.kind, 0, 0, length, self.job, self.task, self.attempt)
        except struct.error as error:
            raise ValueError(f"{self!r} has a number that is no u32: {error}") from None
        return start + _CHECKSUM.pack(_checksum(start, self.payload))

    def __repr__(self) -> str:
        kind = KIND_NAMES.get(self.kind, self.kind)
        return f"<Frame {kind} {self.job}/{self.task}/{self.attempt} {len(self.payload)} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return self.kind == other.kind and self.lane == other.lane and self.payload == other.payload

    __hash__ = None  # type: ignore[assignment]


class Decoder:
    """Turn the bytes of one direction of a link into frames.

    After a ProtocolError the decoder raises the same error again: bytes behind a wrong header have
    no meaning.
    """

    __slots__ = ("_buffer", "_error", "_offset")

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._offset = 0  # bytes of the buffer that are decoded
        self._error: str | None = None

    def feed(self, data: Payload) -> None:
        """Add received bytes of any length.  Bytes objects are kept, others are copied."""
        if self._offset == len(self._buffer):  # the usual case: whole frames, sliced from `data`
            self._buffer = data if type(data) is bytes else bytes(data)
        else:
            if type(self._buffer) is not bytearray:
                self._buffer = bytearray(memoryview(self._buffer)[self._offset :])
            elif self._offset:
                del self._buffer[: self._offset]
            self._buffer += data
        self._offset = 0

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None if more bytes are needed.

        Call it after each `feed` until it returns None.  Raises ProtocolError for an unknown kind,
        flags or reserved bits, a length that the kind does not have, and a wrong checksum.
        """
        if self._error is not None:
            raise ProtocolError(self._error)
        start = self._offset + HEADER_BYTES
        available = len(self._buffer) - start
        if available < 0:
            return None
        kind, flags, reserved, length, job, task, attempt, checksum = _HEADER.unpack_from(
            self._buffer, self._offset
        )
        if kind not in PAYLOAD_LIMITS or flags or reserved:
            raise self._broken(f"not a frame: kind {kind}, flags {flags}, reserved {reserved}")
        least, most = PAYLOAD_LIMITS[kind]
        if not least <= length <= most:
            raise self._broken(
                f"a {KIND_NAMES[kind]} frame of {length} bytes came, expected {least} to {most}"
            )
        if available < length:
            return None
        end = start + length
        if type(self._buffer) is bytes:
            header, payload = self._buffer[self._offset : start], self._buffer[start:end]
        else:
            with memoryview(self._buffer) as view:
                header, payload = view[self._offset : start].tobytes(), view[start:end].tobytes()
        if _checksum(header[:_CHECKED_BYTES], payload) != checksum:
            raise self._broken(f"a {KIND_NAMES[kind]} frame of {length} bytes came with a wrong checksum")
        self._offset = end
        frame = Frame(kind, payload, job, task, attempt)
        frame._header = header
        return frame

    @property
    def pending_bytes(self) -> int:
        """Return the number of bytes fed that are no whole frame.

        At the end of a link, more than 0 means that the link was cut.
        """
        return len(self._buffer) - self._offset

    def _broken(self, text: str) -> ProtocolError:
        self._error = text
        return ProtocolError(text)


def split_payload(kind: int, data: Payload, job: int = 0, task: int = 0, attempt: int = 0) -> Iterator[Frame]:
    """Cut `data` into frames of at most MAX_PAYLOAD bytes that borrow it (no copy).

    `data` is contiguous, of any format.  Empty data gives no frame.
    """
    view = memoryview(data).cast("B")
    for start in range(0, len(view), MAX_PAYLOAD):
        yield Frame(kind, view[start : start + MAX_PAYLOAD], job, task, attempt)


def join_payloads(pieces: Iterable[Payload]) -> Iterator[Payload]:
    """Join small pieces to payloads of at most MAX_PAYLOAD bytes. Larger pieces stay unchanged."""
    joined: list[Payload] = []
    joined_bytes = 0
    for piece in pieces:
        if joined and joined_bytes + len(piece) > MAX_PAYLOAD:
            yield joined[0] if len(joined) == 1 else b"".join(joined)
            joined, joined_bytes = [], 0
        joined.append(piece)
        joined_bytes += len(piece)
    if joined:
        yield joined[0] if len(joined) == 1 else b"".join(joined)


def _checksum(header_start: bytes, payload: Payload) -> int:
    return xxh3_64_intdigest(payload, seed=xxh64_intdigest(header_start)) & 0xFFFFFFFF
