"""Ports that nobody has, from below the range that the system takes ports for connections from."""

import random
import socket

_LOWEST, _HIGHEST = 15000, 32000


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
