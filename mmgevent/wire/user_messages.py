"""User messages: opaque bytes that programs send one another, as `tell` messages and back.

A driver that watches and the program of a worker send each other user messages through the
server.  One has at most MAX_TELL_BYTES and travels as one or more control frames of a lane, in
order; each frame but the last says that more follows.  The server passes the pieces on unread, so
only the receiver finds out that a piece is no base64.  Receivers do not trust senders: a
`Reassembler` holds at most one message of each.

User messages wait in lanes without credit.  Whoever passes them on compares what waits unsent with
the limits here.  A slow receiver loses whole messages, and nobody else is affected.  A driver that
sends more than workers read loses its own link.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from typing import Any

from mmgevent.errors import ProtocolError, UsageError
from mmgevent.wire.frames import Frame, Lane
from mmgevent.wire.messages import control

#: One user message, bytes. Larger data belongs in a file.
MAX_TELL_BYTES = 1024 * 1024

#: Data of a user message in one frame, bytes. As base64 it leaves room in a control frame.
PIECE_BYTES = 128 * 1024

#: One piece, base64 characters.
MAX_PIECE_CHARS = 4 * ((PIECE_BYTES + 2) // 3)

#: All pieces of a user message, base64 characters, for those who do not decode it. Twice the
#: bytes, since pieces may be short and each has its padding.
MAX_MESSAGE_CHARS = 2 * MAX_TELL_BYTES

#: Payload that may wait on a link for one receiver from one sender, bytes: six of the longest
#: messages.
MAX_WAITING_BYTES = 8 * 1024 * 1024

#: Payload that may wait on the link of one receiver from all senders, bytes.
MAX_RECEIVER_BYTES = 64 * 1024 * 1024

#: Payload from one driver that may wait on all links, bytes. So it may send the longest message to
#: more than a hundred workers at once.
MAX_SENDER_BYTES = 256 * 1024 * 1024

#: Senders whose message a receiver leaves out and whose next one it still waits for.
MAX_ABANDONED = 1000


def tell_frames(data: Any, peer: int = 0) -> list[Frame]:
    """Return the frames that send `data` (bytes-like) to worker `peer`, a number of the server's.

    Peer 0 is for workers: every driver that watches gets the message.  Raises UsageError if `data`
    is not bytes or too long.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(
            f"a message must be bytes, got {type(data).__name__}: encode it, for example with pickle or json"
        )
    view = memoryview(data).cast("B")
    if len(view) > MAX_TELL_BYTES:
        raise UsageError(
            f"a message of {len(view)} bytes is too long, at most {MAX_TELL_BYTES}: "
            "send several messages, or a path or address where the receiver can read the rest"
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
    """Return a last piece that is no base64, so that the receiver leaves the whole message out.

    It ends a message whose other pieces are lost.
    """
    return control("tell", *lane, data="!")


class MessageLength:
    """The length of a user message that comes in pieces, counted without decoding them."""

    __slots__ = ("_chars", "is_complete")

    def __init__(self) -> None:
        self._chars = 0
        #: No message has begun whose last piece is missing.
        self.is_complete = True

    def add(self, message: dict[str, Any]) -> None:
        """Count a `tell`.

        Raises ProtocolError for a piece or message that is too long, and for an endless message.
        """
        chars, more = len(message["data"]), message.get("more", False)
        if chars > MAX_PIECE_CHARS:
            raise ProtocolError(f"a piece of {chars} characters is too long, at most {MAX_PIECE_CHARS}")
        if more and not chars:
            raise ProtocolError("a piece of a message is empty, and more should follow")
        self._chars += chars
        if self._chars > MAX_MESSAGE_CHARS:
            raise ProtocolError(f"a message has more than {MAX_MESSAGE_CHARS} characters")
        self.is_complete = not more
        if self.is_complete:
            self._chars = 0


class Reassembler:
    """Joins the pieces of user messages; holds at most one message of each sender.

    A sender is the lane of its frames. A broken message is left out; the next messages are not.
    """

    def __init__(self, max_senders: int | None = None):
        """`max_senders`: senders that may be in the middle of a message at once.

        Over the limit the sender that is silent for longest loses its message. None if `forget` is
        called for every sender that leaves.
        """
        self._max_senders = max_senders
        self._begun: OrderedDict[Lane, bytearray] = OrderedDict()
        #: Senders in the middle of a message that is left out.
        self._abandoned: OrderedDict[Lane, None] = OrderedDict()

    def take(self, frame: Frame, message: dict[str, Any]) -> bytes | None:
        """Take a `tell`; return the message if this piece completes it, else None.

        Raises ProtocolError, once a message, if the message is no base64 or too long.
        """
        lane, more = frame.lane, message.get("more", False)
        if lane in self._abandoned:
            if not more:
                del self._abandoned[lane]
            return None
        begun = self._begun.pop(lane, None) or bytearray()
        try:
            _extend(begun, message["data"])
        except ProtocolError:
            if more:
                self._abandon(lane)
            raise
        if not more:
            return bytes(begun)
        self._begun[lane] = begun
        if self._max_senders is not None and len(self._begun) > self._max_senders:
            self._abandon(self._begun.popitem(last=False)[0])
        return None

    def forget(self, lane: Lane) -> None:
        """Drop the message that a sender has begun, since the sender left."""
        self._begun.pop(lane, None)
        self._abandoned.pop(lane, None)

    def _abandon(self, lane: Lane) -> None:
        self._abandoned[lane] = None
        if len(self._abandoned) > MAX_ABANDONED:
            self._abandoned.popitem(last=False)


def _extend(begun: bytearray, data: str) -> None:
    try:
        begun += base64.b64decode(data, validate=True)
    except ValueError as error:  # binascii.Error, or ValueError for characters beyond ASCII
        raise ProtocolError(f"a message is no base64: {error}") from None
    if len(begun) > MAX_TELL_BYTES:
        raise ProtocolError(f"a message has more than {MAX_TELL_BYTES} bytes")
