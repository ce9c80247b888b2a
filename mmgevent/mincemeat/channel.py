"""Commands in both directions between a Server and one Client.

`Conversation` is what both ends do: send commands, answer pings, give the rest to
`unrecognized_command`.  `ServerChannel` is the Server's end, one for each worker.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from mmgevent.errors import ProtocolError
from mmgevent.mincemeat.commands import CommandReader, encode_command, number_message

if TYPE_CHECKING:
    from mmgevent.driver.cluster import PeerInfo
    from mmgevent.mincemeat.server import Server

log = logging.getLogger(__name__)

#: the first command of a Client: workers of other kinds answer no ping, and need not
INTRODUCTION = "mincemeat client"


class Conversation(ABC):
    """One end of a connection."""

    shutdown: bool
    closed: bool

    def _begin(self) -> None:
        self._reader = CommandReader()
        self._sending = threading.Lock()  # the messages of one command follow one another
        self._sent = 0  # messages

    if TYPE_CHECKING:

        def name(self) -> str: ...

        def handle_close(self) -> None: ...

    @abstractmethod
    def _tell(self, data: bytes) -> None:
        """Send bytes to the other end; what cannot arrive any more is dropped."""

    def send_command(self, command: str, data: Any = None, txn: Any = None) -> None:
        """Send a command, from any thread, without waiting for it to arrive.

        `data` and `txn` are anything that can be pickled.  UsageError for what cannot, or is too big.
        Dropped where the connection is gone.
        """
        messages = encode_command(command, data, txn)
        if self.closed:
            log.info("%s is closed: command %s dropped", self.name(), command)
            return
        with self._sending:
            for message in messages:
                self._tell(number_message(self._sent, message))
                self._sent += 1

    def send_command_backchannel(
        self, command: str, data: Any = None, txn: Any = None, timeout: float | None = None
    ) -> None:
        """Do as `send_command`, which any thread may call; `timeout` is not needed any more."""
        self.send_command(command, data, txn)

    def ping(
        self,
        message: Any = None,
        payload: Any = None,
        now: float | None = None,
        backchannel: float | bool | None = False,
    ) -> None:
        """Send a "ping" that carries `(message, payload)`; its txn is the time, as text, and comes back with the "pong"."""
        if message is None:
            message = f"from {socket.gethostname()}"
        if payload is None:
            payload = self.name()
        self.send_command("ping", (message, payload), txn=f"{time.time() if now is None else now:.6f}")

    def unrecognized_command(self, command: str, data: Any = None, txn: Any = None) -> Any:
        """Handle a command of one's own; what is not true closes this connection."""
        return False

    def _receive(self, message: bytes) -> None:
        """Handle what came; whatever is wrong with it closes this connection, and no other."""
        try:
            command = self._reader.feed(message)
            if command is not None and not self._process_command(*command):
                log.error("%s: command %r is not known: closing", self.name(), command[0])
                self.handle_close()
        except ProtocolError as error:
            log.error("%s: closing: %s", self.name(), error)
            self.handle_close()
        except Exception:  # the user's own method
            log.exception("%s: a command failed: closing", self.name())
            self.handle_close()

    def _process_command(self, command: str, data: Any, txn: Any) -> Any:
        if command == "ping":
            payload = data[1] if isinstance(data, tuple) and len(data) == 2 else None
            self.send_command("pong", (f"from {socket.gethostname()}", payload), txn)
            return True
        if command == "pong":
            self._handle_pong(command, data, txn)
            return True
        return self.unrecognized_command(command, data, txn)

    @abstractmethod
    def _handle_pong(self, command: str, data: Any, txn: Any) -> None: ...


class ServerChannel(Conversation):
    """The Server's end of the connection to one worker."""

    def __init__(self, server: Server, peer: PeerInfo):
        self._begin()
        self.server = server
        self.number = peer.number
        #: (host, port) of the worker
        self.addr = _split(peer.address)
        #: it runs a Client, which has a process to answer commands; others are plain workers
        self.is_client = False
        self.shutdown = False
        self.closed = False

    def name(self) -> str:
        return f"SvrChn>{self.addr[0]}:{self.addr[1]}"

    def handle_close(self) -> None:
        """Close the connection to this worker; called again when it is gone."""
        if not self.shutdown and not self.closed:
            self.shutdown = True
            self.server._dismiss(self)

    def unrecognized_command(self, command: str, data: Any = None, txn: Any = None) -> Any:
        """Give the command to the Server, with this channel."""
        return self.server.unrecognized_command(command, data, txn, chan=self)

    def _tell(self, data: bytes) -> None:
        self.server._tell(self, data)

    def _process_command(self, command: str, data: Any, txn: Any) -> Any:
        if command == INTRODUCTION:
            self.is_client = True
            return True
        return super()._process_command(command, data, txn)

    def _handle_pong(self, command: str, data: Any, txn: Any) -> None:
        self.server.pong(self, command, data, txn)

    def __repr__(self) -> str:
        return f"<{self.name()}{' closed' if self.closed else ''}>"


def _split(address: str) -> tuple[str, int | None]:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else (address, None)
