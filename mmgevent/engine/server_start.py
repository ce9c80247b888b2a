"""A server with all that it needs: its role, its listener, and the watchdog of its process.

There are three occasions: `mmg-server`, the engine of a driver that listens, and the member of a
cluster of equals that is elected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmgevent.machine.resources import total_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmgevent.access.certificates import Certificates
    from mmgevent.engine.net.listener import Listener
    from mmgevent.engine.server.role import ServerRole

#: Memory of the machine divided by this is the memory for segments, unless the user says how much.
SEGMENTS_SHARE = 8

#: Least memory for segments, bytes, unless the user says how much.
MIN_SEGMENTS_BYTES = 16 * 1024 * 1024

#: Most memory for segments, bytes, unless the user says how much.
MAX_SEGMENTS_BYTES = 2 * 1024 * 1024 * 1024


def default_memory_bytes() -> int:
    """Return how many bytes of segments a server keeps in memory unless the user says how much."""
    return max(MIN_SEGMENTS_BYTES, min(MAX_SEGMENTS_BYTES, total_memory_bytes() // SEGMENTS_SHARE))


def make_server(memory_bytes: int | None, spill_folder: str) -> ServerRole:
    """Return a server that nobody can reach yet, named after machine and process.

    `memory_bytes`: for segments; None for the default. `spill_folder`: for those that do not fit.
    """
    from mmgevent.engine.server.role import open_server

    return open_server(memory_bytes=memory_bytes or default_memory_bytes(), spill_folder=spill_folder)


def start_listening(
    server: ServerRole,
    sock: Any,
    key: bytes,
    on_lost: Callable[[str], None],
    certificates: Certificates,
) -> Listener:
    """Let workers and drivers connect to a server over a socket that listens.

    The listener owns `sock` from now on, but not if this raises an error: those are `Listener`'s.
    `key` is from `derive_key`. `on_lost(reason)` is called when nobody can connect any longer.
    """
    from mmgevent.engine.net.listener import Listener
    from mmgevent.engine.watchdog import start_watchdog

    start_watchdog()  # first: once there is a listener, it owns the socket
    return Listener(sock, key, server.attach, on_lost, certificates)
