"""Bind and listen: which address a name means, and a socket that listens there.

Engines use gevent sockets. A mincemeat Server uses plain sockets, in the user's process: so it has
its port, or the reason why not, before its engine has started.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

from mmgevent.access.addresses import format_address, is_loopback
from mmgevent.errors import ListenError

#: Connections that the system keeps until they are accepted. A thousand workers may connect at
#: once.
BACKLOG = 1024


def open_listener(host: str, port: int, sockets: Any = socket) -> Any:
    """Bind and listen. Return the socket. The host "" is all IPv4 interfaces.

    `sockets`: the module whose sockets and resolver are used.

    Raises ListenError if that is impossible at this address.
    """
    where = format_address((host or "0.0.0.0", port))
    try:
        found = sockets.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = choose_address(host, found)
        sock = sockets.socket(family, kind)
    except OSError as error:
        raise ListenError(f"cannot listen on {where}: {error.strerror or error}") from error
    try:
        # For a restart at the same port. Two servers still cannot listen at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        advice = ""
        if error.errno == errno.EADDRINUSE:
            advice = ": another program listens there; stop it or choose another port"
        elif error.errno == errno.EADDRNOTAVAIL:
            advice = ": this machine does not have that address; a PORT alone listens on all it has"
        elif error.errno == errno.EACCES:
            advice = ": ports below 1024 need privileges; choose a higher one"
        raise ListenError(f"cannot listen on {where}: {error.strerror}{advice}") from error
    return sock


def choose_address(host: str, found: Sequence[Any]) -> Any:
    """Return one entry of what `getaddrinfo` found for a name, the same on all machines.

    Resolvers rotate their answers, and /etc/hosts often gives a machine its own name as 127.0.1.1.
    So the choice is the numerically smallest of, in this order: IPv4 addresses that others can
    reach, IPv6 addresses that others can reach, addresses of this machine alone. For `localhost`
    only the last count.
    """
    if len(found) == 1:
        return found[0]
    import ipaddress  # takes 8 ms, which a driver that starts an engine need not pay

    is_local_name = is_loopback(host)

    def rank(entry: Any) -> tuple[bool, bool, int, int]:
        address = ipaddress.ip_address(entry[4][0])
        # A link-local address does not say which link, so it is of no use to others.
        is_elsewhere = not address.is_loopback and not (address.version == 6 and address.is_link_local)
        return is_elsewhere == is_local_name, not address.is_loopback, address.version, int(address)

    return min(found, key=rank)
