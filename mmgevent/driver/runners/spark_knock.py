"""Ask whether a Spark master listens at an address.  Spark itself asks a silent port for a minute.

A client of a master speaks first.  This one asks for a file that no master offers.  It is told that
there is none, and nothing is logged there.

A message is its length (8 bytes, these included), a byte that names its type, and the rest (see
`org.apache.spark.network.protocol.MessageEncoder`).
"""

from __future__ import annotations

import socket
import struct
from urllib.parse import urlsplit

from mmgevent.errors import ConnectError, UsageError

#: Time for a connection to be made, seconds. Spark itself tries for minutes.
CONNECT_S = 5.0

#: Ports that Spark listens on, where an address names none.
_PORTS = {"spark": 7077, "sc": 15002}

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


def reach(where: str) -> None:
    """Raise ConnectError unless somebody listens at one of the addresses."""
    problems = []
    for each in urlsplit(where).netloc.split(","):
        host, _, port = each.rpartition(":") if ":" in each.rpartition("]")[2] else (each, "", "")
        if port and not (port.isascii() and port.isdigit()):
            raise UsageError(f"the port of {where} is no number: expected HOST:PORT, got {each!r}")
        if not host or (":" in host and not host.startswith("[")):
            raise UsageError(f"{where} names no host: expected sc://HOST[:PORT] or spark://HOST:PORT")
        number = int(port) if port else _PORTS[where.partition(":")[0]]
        try:
            with socket.create_connection((host.strip("[]"), number), CONNECT_S) as link:
                if where.startswith("spark:"):
                    knock(link)
            return
        except (OSError, OverflowError) as error:
            problems.append(f"{host}:{number}: {getattr(error, 'strerror', None) or error}")
    raise ConnectError(f"nobody answers at {where} ({'; '.join(problems)})")


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
