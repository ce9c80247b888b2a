"""The API of mincemeat.py, over this engine: `import mmgevent.mincemeat as mincemeat`.

docs/from-mincemeat.md says what differs from the original, and what a script needs besides.
"""

from __future__ import annotations

from mmgevent.access.addresses import DEFAULT_PORT
from mmgevent.mincemeat.channel import ServerChannel
from mmgevent.mincemeat.client import Client
from mmgevent.mincemeat.daemons import (
    Client_daemon,
    Client_HB,
    Client_HB_daemon,
    Mincemeat_daemon,
    Server_daemon,
    Server_HB,
    Server_HB_daemon,
)
from mmgevent.mincemeat.endpoint import process
from mmgevent.mincemeat.schedule import next_future_time, timer, trigger
from mmgevent.mincemeat.server import Server
from mmgevent.mincemeat.taskmanager import TaskManager
from mmgevent.wire.hello import VERSION

__all__ = [
    "DEFAULT_PORT",
    "VERSION",
    "Client",
    "Client_HB",
    "Client_HB_daemon",
    "Client_daemon",
    "Mincemeat_daemon",
    "Server",
    "ServerChannel",
    "Server_HB",
    "Server_HB_daemon",
    "Server_daemon",
    "TaskManager",
    "next_future_time",
    "process",
    "timer",
    "trigger",
]
