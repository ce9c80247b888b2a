"""Ports that nobody has, and that nobody gets by chance."""

import contextlib
import random
import socket
import sys
from collections.abc import Iterator

#: below the range that the system takes ports for connections from

_LOWEST, _HIGHEST = 15000, 32000


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of this machine's, held.

    It is bound, and so neither given to others nor to connections, and it refuses connections.  A server that sets
    SO_REUSEADDR, as ours do, can listen there meanwhile, any number of times.  Where the system does not allow
    that, the port is only known to have been free.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that can be listened on, and that no connection is given by chance."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(1000):
        port = random.randrange(_LOWEST, _HIGHEST)
        try:
            with socket.create_server((host, port), family=family):
                return port
        except OSError:
            continue  # somebody has it
    raise AssertionError(f"no free port on {host} between {_LOWEST} and {_HIGHEST}")
