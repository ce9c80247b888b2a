"""Telling: opaque bytes of programs, as `tell` messages and back.

What one program tells another is at most MAX_TELL_BYTES long and travels as one or more
control frames of a lane, in order; all but the last say that more follows.  The server
passes them on unread, so only the receiver finds out that what came is no base64; and
since whoever tells is not trusted, a `Reassembler` holds no more of a sender than one message.

Tells wait in lanes without credit. Whoever passes them on looks at what waits unsent against
the bounds here.  What a slow receiver does not take it loses, whole messages, and nobody else pays for it;
a driver that tells more than workers take pays itself.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from typing import Any

from mmgevent.errors import ProtocolError, UsageError
from mmgevent.wire.frames import Frame, Lane
from mmgevent.wire.messages import control

#: of one message
MAX_TELL_BYTES = 1024 * 1024
#: of a message in one frame: as base64 it leaves room in a control frame
PIECE_BYTES = 128 * 1024
#: base64 characters of a piece
MAX_PIECE_CHARS = 4 * ((PIECE_BYTES + 2) // 3)
#: and of all pieces of a message, for those who do not decode it; pieces may be short, each with its padding
MAX_MESSAGE_CHARS = 2 * MAX_TELL_BYTES

#: payload that may wait on a link for one receiver from one sender: six messages of the greatest length
MAX_WAITING_BYTES = 8 * 1024 * 1024
#: and on the link of one receiver from all senders
MAX_RECEIVER_BYTES = 64 * 1024 * 1024
#: and on all links from one driver; a hundred and more workers may be told a message of the greatest length at once
MAX_SENDER_BYTES = 256 * 1024 * 1024
#: senders whose message a receiver leaves out and whose next one it still waits for
MAX_SPOILT = 1000


def tell_frames(data: Any, peer: int = 0) -> list[Frame]:
    """Return the frames that tell `data` (bytes or the like) to `peer`, a server's number of a worker.

    Peer 0 is whom it may concern: the drivers, for a worker.  UsageError for what is not bytes, or too long.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(
            f"what is told must be bytes, got {type(data).__name__}: encode it, with pickle or json say"
        )
    view = memoryview(data).cast("B")
    if len(view) > MAX_TELL_BYTES:
        raise UsageError(
            f"{len(view)} bytes are too many to tell at once, at most {MAX_TELL_BYTES}: "
            "send several messages, or a path or address where the rest can be had"
        )
    starts = range(0, max(1, len(view)), PIECE_BYTES)
    return [
        control(
            "tell",
            task=peer,
            data=base64.b64encode(view[start : start + PIECE_BYTES]).decode("ascii"),
            more=True if start != starts[-1] else None,
        )
        for start in starts
    ]


def broken_end(lane: Lane) -> Frame:
    """Return the last piece of a message whose rest will not come: no base64, so that the receiver leaves it out."""
    return control("tell", *lane, data="!")


class MessageLength:
    """The length of a message that comes in pieces, counted without decoding them."""

    __slots__ = ("_chars", "is_complete")

    def __init__(self) -> None:
        self._chars = 0
        #: no message has begun whose end did not come
        self.is_complete = True

    def add(self, message: dict[str, Any]) -> None:
        """Count a `tell`; ProtocolError for a piece or a message that is too long, and for an endless one."""
        chars, more = len(message["data"]), message.get("more", False)
        if chars > MAX_PIECE_CHARS:
            raise ProtocolError(f"a piece of {chars} characters was told, at most {MAX_PIECE_CHARS} may be")
        if more and not chars:
            raise ProtocolError("a piece of nothing was told, with more to follow")
        self._chars += chars
        if self._chars > MAX_MESSAGE_CHARS:
            raise ProtocolError(f"a message of more than {MAX_MESSAGE_CHARS} characters was told")
        self.is_complete = not more
        if self.is_complete:
            self._chars = 0


class Reassembler:
    """Puts pieces together again; holds at most one message of each sender, of at most MAX_TELL_BYTES.

    A sender is the lane of its frames.  Messages that cannot be are left out, the ones behind them are not.
    """

    def __init__(self, max_senders: int | None = None):
        """`max_senders`: in the middle of a message at once; beyond, the one longest silent loses its message.

        None where `forget` is called for every sender that goes.
        """
        self._max_senders = max_senders
        self._begun: OrderedDict[Lane, bytearray] = OrderedDict()
        #: senders in the middle of a message that is left out
        self._spoilt: OrderedDict[Lane, None] = OrderedDict()

    def take(self, frame: Frame, message: dict[str, Any]) -> bytes | None:
        """Take a `tell`; return the message that is complete with it, else None.

        ProtocolError, once a message, for one that is no base64 or too long; it is left out.
        """
        lane, more = frame.lane, message.get("more", False)
        if lane in self._spoilt:
            if not more:
                del self._spoilt[lane]
            return None
        begun = self._begun.pop(lane, None) or bytearray()
        try:
            _extend(begun, message["data"])
        except ProtocolError:
            if more:
                self._spoil(lane)
            raise
        if not more:
            return bytes(begun)
        self._begun[lane] = begun
        if self._max_senders is not None and len(self._begun) > self._max_senders:
            self._spoil(self._begun.popitem(last=False)[0])
        return None

    def forget(self, lane: Lane) -> None:
        """Drop what a sender has begun: it is gone."""
        self._begun.pop(lane, None)
        self._spoilt.pop(lane, None)

    def _spoil(self, lane: Lane) -> None:
        self._spoilt[lane] = None
        if len(self._spoilt) > MAX_SPOILT:
            self._spoilt.popitem(last=False)


def _extend(begun: bytearray, data: str) -> None:
    try:
        begun += base64.b64decode(data, validate=True)
    except ValueError as error:  # of binascii, or for what is no ASCII
        raise ProtocolError(f"what was told is no base64: {error}") from None
    if len(begun) > MAX_TELL_BYTES:
        raise ProtocolError(f"more than {MAX_TELL_BYTES} bytes were told at once")
