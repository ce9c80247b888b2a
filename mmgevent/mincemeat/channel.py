"""Commands in both directions between a Server and one Client.

`Conversation` is what both ends do: it sends commands, answers pings, and passes other commands to
`unrecognized_command`.  `ServerChannel` is the Server's end, one for each worker.
"""

from __future__ import annotations

import socket
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from mmgevent.errors import ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.mincemeat.commands import CommandReader, encode_command, number_message

if TYPE_CHECKING:
    from mmgevent.driver.watching import PeerInfo

log = get_log(__name__)

#: The first command of a Client.  Workers of other kinds do not send it, and answer no pings.
INTRODUCTION = "mincemeat client"


class Conversation(ABC):
    """One end of a connection."""

    shutdown: bool
    closed: bool

    def _begin(self) -> None:
        self._reader = CommandReader()
        self._sending = threading.Lock()  # keeps the messages of one command together
        self._sent = 0  # number of messages

    if TYPE_CHECKING:

        def name(self) -> str: ...

        def handle_close(self) -> None: ...

    @abstractmethod
    def _tell(self, data: bytes) -> None:
        """Send bytes to the other end; they are dropped if it is no longer connected."""

    def send_command(self, command: str, data: Any = None, txn: Any = None) -> None:
        """Send a command, from any thread, without waiting for it to arrive.

        `data` and `txn` are anything that can be pickled. The command is dropped if the connection
        is closed. Raises UsageError if `data` or `txn` cannot be pickled or are too large.
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
        """Do as `send_command`, which any thread may call; `timeout` has no effect."""
        self.send_command(command, data, txn)

    def ping(
        self,
        message: Any = None,
        payload: Any = None,
        now: float | None = None,
        backchannel: float | bool | None = False,
    ) -> None:
        """Send a "ping" that carries `(message, payload)`.

        Its txn is the time, as text.  The "pong" carries it back.
        """
        if message is None:
            message = f"from {socket.gethostname()}"
        if payload is None:
            payload = self.name()
        self.send_command("ping", (message, payload), txn=f"{time.time() if now is None else now:.6f}")

    def unrecognized_command(self, command: str, data: Any = None, txn: Any = None) -> Any:
        """Handle a command of the script's own; a false result closes this connection."""
        return False

    def _receive(self, message: bytes) -> None:
        """Handle a received message.

        If anything is wrong with it, this connection closes and no other.
        """
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


class Hub(Protocol):
    """What a ServerChannel needs of its Server."""

    def unrecognized_command(
        self, command: str, data: Any = None, txn: Any = None, chan: ServerChannel | None = None
    ) -> Any: ...

    def pong(self, chan: ServerChannel, command: str, data: Any, txn: Any) -> None: ...

    def _tell(self, channel: ServerChannel, data: bytes) -> None: ...

    def _dismiss(self, channel: ServerChannel) -> None: ...


class ServerChannel(Conversation):
    """The Server's end of the connection to one worker."""

    def __init__(self, server: Hub, peer: PeerInfo):
        self._begin()
        self.server = server
        self.number = peer.number
        #: (host, port) of the worker
        self.addr = _split(peer.address)
        #: whether the worker runs a Client, which answers commands; plain workers do not
        self.is_client = False
        self.shutdown = False
        self.closed = False

    def name(self) -> str:
        return f"SvrChn>{self.addr[0]}:{self.addr[1]}"

    def handle_close(self) -> None:
        """Close the connection to this worker; called again when it is closed."""
        if not self.shutdown and not self.closed:
            self.shutdown = True
            self.server._dismiss(self)

    def unrecognized_command(self, command: str, data: Any = None, txn: Any = None) -> Any:
        """Pass the command to the Server, with this channel."""
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
