"""Bind and listen: the address that a name stands for, and a socket there.

Engines do it with gevent's sockets; a mincemeat Server does it in the user's process, with plain ones, so that
it has its port, or the reason why not, before its engine has started.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

from mmgevent.access.addresses import format_address, is_loopback
from mmgevent.errors import ListenError

BACKLOG = 1024  #: connections the system holds for us; a thousand workers may come at once


def open_listener(host: str, port: int, sockets: Any = socket) -> Any:
    """Bind and listen; "" is all IPv4 interfaces.  ListenError if the address cannot be had.

    `sockets`: the module whose sockets and resolver to use.
    """
    where = format_address((host or "0.0.0.0", port))
    try:
        found = sockets.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = choose_address(host, found)
        sock = sockets.socket(family, kind)
    except OSError as error:
        raise ListenError(f"cannot listen on {where}: {error.strerror or error}") from error
    try:
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # after a restart; two cannot listen with it
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
    """Return the one entry of what `getaddrinfo` found for a name that is listened on, and looked for by nodes.

    Resolvers rotate, and /etc/hosts often gives a machine its own name as 127.0.1.1: so that all machines take the
    same, it is the numerically smallest of the IPv4 addresses that others can reach, else of the IPv6 ones, and
    only where there are none one of this machine alone; `localhost` always is.
    """
    if len(found) == 1:
        return found[0]
    import ipaddress  # 8 ms, which a driver that starts an engine has no time for

    is_local_name = is_loopback(host)

    def rank(entry: Any) -> tuple[bool, bool, int, int]:
        address = ipaddress.ip_address(entry[4][0])
        # what names a link but not which is no use to others
        is_elsewhere = not address.is_loopback and not (address.version == 6 and address.is_link_local)
        return is_elsewhere == is_local_name, not address.is_loopback, address.version, int(address)

    return min(found, key=rank)
