"""Read one frame from a socket that a link will have later."""

from __future__ import annotations

from typing import Any

from mmgevent.wire.frames import HEADER_BYTES, Decoder, Frame


def receive_frame(sock: Any) -> Frame:
    """Read exactly one frame (blocks), so that what follows is left to the link.

    Raises EOFError if the connection ends before the frame does, ProtocolError for what is no
    frame.
    """
    decoder = Decoder()
    header = _receive_exactly(sock, HEADER_BYTES)
    decoder.feed(header)
    frame = decoder.next_frame()  # checks the length, too
    if frame is None:
        decoder.feed(_receive_exactly(sock, int.from_bytes(header[4:8], "little")))
        frame = decoder.next_frame()
    assert frame is not None
    return frame


def _receive_exactly(sock: Any, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        more = sock.recv(n_bytes - len(data))
        if not more:
            raise EOFError(f"the connection ended after {len(data)} of {n_bytes} bytes")
        data += more
    return data
