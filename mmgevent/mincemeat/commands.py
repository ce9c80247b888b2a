"""Commands that programs send one another, as opaque bytes: `(command, data, txn)`, pickled.

They pass through the engine's server, which never looks inside.  Only the users' processes at both
ends decode them, and both have proved the password.  They are pickled rather than written as JSON,
so payloads keep their tuples, bytes and keys of any type.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

from mmgevent.errors import ProtocolError, UsageError
from mmgevent.wire.user_messages import MAX_TELL_BYTES

#: Header of a message: its number on this connection, modulo 2**32.  Messages that a slow receiver
#: does not take are dropped on the way.  The number shows it, so that no parts of two commands are
#: joined.
_NUMBER = struct.Struct(">I")
#: Payload of one message, bytes: the largest message between programs less
#: its number and the byte that says whether more follows.
PART_BYTES = MAX_TELL_BYTES - _NUMBER.size - 1
#: Largest command, bytes.  The limit on what waits for a slow receiver is twice that.  More data
#: should be the result of a job.
MAX_COMMAND_BYTES = 4 * 1024 * 1024

_LAST, _MORE = b"\0", b"\1"

Command = tuple[str, Any, Any]


def encode_command(command: str, data: Any, txn: Any) -> list[bytes]:
    """Return the messages that carry one command.

    Raises UsageError for a name that is no str, and for data that cannot be pickled or is too
    large.
    """
    if not isinstance(command, str):
        raise UsageError(f"a command is named by a str, got {type(command).__name__}")
    try:
        payload = pickle.dumps((command, data, txn), protocol=4)
    except Exception as error:  # pickle raises whatever the objects' own methods raise
        raise UsageError(f"the data of command {command!r} cannot be pickled: {error}") from error
    if len(payload) > MAX_COMMAND_BYTES:
        raise UsageError(
            f"command {command!r} has {len(payload):,} bytes, at most {MAX_COMMAND_BYTES:,} may be sent; "
            f"send a name or path of the data, or make it the result of a job"
        )
    starts = range(0, len(payload), PART_BYTES)
    return [(_LAST if at == starts[-1] else _MORE) + payload[at : at + PART_BYTES] for at in starts]


def number_message(number: int, message: bytes) -> bytes:
    """Return a message with its number: 0 for the first of a connection."""
    return _NUMBER.pack(number % 2**32) + message


class CommandReader:
    """Joins the messages of one peer to commands."""

    def __init__(self) -> None:
        self._next: int | None = None  # a reader that begins late has missed some
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, message: bytes) -> Command | None:
        """Add a message with its number; return the command that it completes, or None.

        Raises ProtocolError for a message that is no part of a command, and if earlier messages are
        missing.
        """
        if len(message) <= _NUMBER.size:
            raise ProtocolError("received no command; both sides must be mmgevent.mincemeat")
        (number,) = _NUMBER.unpack_from(message)
        if self._next not in (None, number):
            raise ProtocolError("commands were lost: this side did not keep up with the sender")
        self._next = (number + 1) % 2**32
        mark, part = message[_NUMBER.size : _NUMBER.size + 1], message[_NUMBER.size + 1 :]
        self._size += len(part)
        if mark not in (_LAST, _MORE) or self._size > MAX_COMMAND_BYTES:
            raise ProtocolError(
                "received no command, or one that is too long; both sides must be mmgevent.mincemeat"
            )
        self._parts.append(part)
        if mark == _MORE:
            return None
        payload = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        try:
            command, data, txn = pickle.loads(payload)
        except Exception as error:  # a damaged pickle or a missing class may raise anything
            raise ProtocolError(
                f"a command cannot be decoded here: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(command, str):
            raise ProtocolError(f"a command is named by a str, got {type(command).__name__}")
        return command, data, txn
