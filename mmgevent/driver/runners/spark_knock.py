"""Ask whether a Spark master listens at an address.  Spark itself asks a silent port for a minute.

A client of a master speaks first.  This one asks for a file that no master offers.  It is told that
there is none, and nothing is logged there.

A message is its length (8 bytes, these included), a byte that names its type, and the rest (see
`org.apache.spark.network.protocol.MessageEncoder`).
"""

from __future__ import annotations

import socket
import struct

#: Time for a master to answer, seconds.  Spark's own limit for an answer is 10 s.
ANSWER_S = 15.0

#: Length and type of a message.
_HEAD = struct.Struct(">QB")
#: Length of a text.
_LENGTH = struct.Struct(">i")
#: Type of a message that asks for a stream, and number of types that there are.
_STREAM_REQUEST, _TYPES = 6, 16
_FILE = b"/files/mmgevent"
#: Longest answer, bytes.
_MAX_ANSWER = 64 * 1024
#: First byte of what a server says over TLS that was asked without.
_TLS_ALERT = 0x15


def knock(link: socket.socket) -> None:
    """Raise OSError if what listens there says nothing, or what no master says.

    A master that wants TLS or a password may close the connection.  Spark then says why.
    """
    link.settimeout(ANSWER_S)
    body = _LENGTH.pack(len(_FILE)) + _FILE
    link.sendall(_HEAD.pack(_HEAD.size + len(body), _STREAM_REQUEST) + body)
    try:
        answer = link.recv(_HEAD.size, socket.MSG_WAITALL)
    except TimeoutError:
        raise OSError(f"it said nothing for {ANSWER_S:g} s, so it is no Spark master") from None
    if not answer or answer[0] == _TLS_ALERT:
        return
    if len(answer) == _HEAD.size:
        length, kind = _HEAD.unpack(answer)
        if length <= _MAX_ANSWER and kind < _TYPES:
            return
    raise OSError("what listens there is no Spark master")
