"""The Client of mincemeat scripts: a worker with one executor.

It is a `Node` that never becomes the server and ends with the server it found.  Functions that the
Server sends run in an executor.  The methods `mapfn`, `collectfn` and `reducefn` of a subclass are
offered to Servers that send none.  They run here, in a thread of the engine's, one task at a time.
Commands are handled in the thread that calls `process`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mmgevent.access.addresses import DEFAULT_PORT
from mmgevent.driver.node import Node
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    MmgeventError,
    StartError,
    UsageError,
    VersionMismatchError,
)
from mmgevent.machine.logs import get_log
from mmgevent.mincemeat.channel import INTRODUCTION, Conversation
from mmgevent.mincemeat.endpoint import MAX_UNPROCESSED_BYTES, MESSAGE_BYTES, Endpoint, Map
from mmgevent.mincemeat.schedule import Schedule, timer
from mmgevent.mincemeat.taskmanager import COLLECTFN, MAPFN, REDUCE_ONLY, REDUCEFN, reduce_whole
from mmgevent.wire.hello import VERSION

log = get_log(__name__)

#: Time to start an engine and prove the password, seconds.  A busy machine takes long.
CONNECT_S = 60.0


class Client(Conversation, Endpoint):
    """Work for one Server until it ends."""

    mapfn: Any = None
    collectfn: Any = None
    reducefn: Any = None
    password: str | None = None

    def __init__(
        self, map: Map | None = None, schedule: Schedule | None = None, shuttout: float | None = None
    ):
        super().__init__(map, schedule, shuttout)
        self._begin()
        self._node: Node | None = None
        self._is_lost = False
        self._is_made = threading.Event()  # `_node` is set, which its thread's calls use
        self._connect_by_s = 0.0
        self._telling = threading.Lock()  # guards the two below, and the order of messages
        self._unsent: list[bytes] | None = None  # messages that wait for the connection
        self._unsent_bytes = 0
        #: (host, port) of the Server
        self.addr: tuple[str, int] | None = None
        #: "Done" from the moment when the Server has proved the password; None before
        self.auth: str | None = None
        #: the error that refused or ended the connection, such as AuthenticationError or
        #: ConnectError; None before
        self.error: Exception | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if vars(cls).get("mapfn") or vars(cls).get("reducefn"):
            import mmgevent.executor.offered  # noqa: F401 # 45 ms, too long for a constructor

    def name(self) -> str:
        host, port = self.addr or (None, None)
        return f"Client>{host}:{port}"

    def conn(
        self,
        interface: str = "",
        port: int = DEFAULT_PORT,
        password: str | None = None,
        asynchronous: bool = False,
        **credentials: Any,
    ) -> None:
        """Begin to connect; unless `asynchronous`, work until the Server ends.

        `interface`: the Server's host; "" is localhost.
        `password`: None for the attribute. Raises PasswordError if it is empty.
        Other keywords are ignored.

        `authenticated` waits for the connection.  If it is refused, that returns False and `error`
        says why.
        """
        for name in credentials:
            log.info("%s ignores %s", self.name(), name)
        if self._node is not None and not self.closed:
            raise UsageError(f"{self.name()} is connected already: close it first, or make another Client")
        if password is not None:
            self.password = password
        self.addr = (interface or "localhost", port)
        self.auth, self.error, self._is_lost = None, None, False
        self._connect(self.addr)
        if not asynchronous:
            self.process()

    def _connect(self, address: tuple[str, int]) -> None:
        self._begin()
        self._is_made.clear()
        try:
            self._node = Node(
                address,
                procs=1,
                may_serve=False,
                once=True,
                password=self.password or "",
                functions=self._offers(),
                on_state=self._on_state,
                on_tell=self._on_tell,
            )
            self._open()
            self._connect_by_s = timer() + CONNECT_S
            self._unsent, self._unsent_bytes = [], 0
            self.send_command(INTRODUCTION, VERSION)  # goes first
        finally:
            self._is_made.set()

    def _refuse(self, error: Exception) -> None:
        is_known = isinstance(error, (AuthenticationError, VersionMismatchError, ConnectError, StartError))
        self.error = error if is_known else ConnectError(f"no Server at {self.name()}: {error}")
        log.warning("%s: no connection: %s", self.name(), error)
        self.handle_close()

    def _offers(self) -> dict[str, Callable[..., Any]]:
        """Return the methods that Servers without functions of their own may use."""
        offers: dict[str, Callable[..., Any]] = {}
        if self.mapfn:
            offers = {MAPFN: self.mapfn, COLLECTFN: self.collectfn or _keep_values}
        if self.reducefn:
            offers |= {REDUCEFN: self.reducefn, REDUCE_ONLY: reduce_whole(self.reducefn)}
        return offers

    def authenticated(self, timeout: float | None = 0.0) -> bool:
        """Wait up to `timeout` seconds; return whether the Server has proved the password.

        It stays True when the Server has ended.  The time to connect does not count, unless
        `timeout` is 0: an engine has to start first.
        """
        if timeout is not None and timeout > 0 and self._is_connecting():
            timeout = max(timeout, self._connect_by_s - timer())
        return (
            self._wait_for(lambda: self.auth is not None or self._is_gone(), timeout)
            and self.auth is not None
        )

    def _is_connecting(self) -> bool:
        return self._node is not None and self.auth is None and not self._is_gone()

    def finished(self, timeout: float | None = 0.0) -> bool:
        """Wait up to `timeout` seconds.

        Return whether the Server has ended or this Client is closed.
        """
        return self._wait_for(self._is_gone, timeout)

    def _is_gone(self) -> bool:
        return self.shutdown or self.closed or self._is_lost

    def pong(self, command: str, data: Any, txn: Any) -> None:
        """Note that the Server answered a ping."""

    def _handle_pong(self, command: str, data: Any, txn: Any) -> None:
        self.pong(command, data, txn)

    def _tell(self, data: bytes) -> None:
        with self._telling:
            if self._unsent is not None and self.auth is None:  # not connected yet
                self._unsent_bytes += MESSAGE_BYTES + len(data)
                if self._unsent_bytes <= MAX_UNPROCESSED_BYTES:
                    self._unsent.append(data)
                    return
                self._unsent = None
            elif self._node is not None and not self.shutdown:
                self._node.tell_drivers(data)
                return
        if not self.shutdown:
            log.error("%s: too many commands wait for the Server: closing", self.name())
            self.handle_close()

    # What runs in threads of the node.

    def _on_state(self, state: str, reason: str) -> None:
        self._is_made.wait()
        if state == "worker" and self.auth is None:
            log.info("%s authenticated", self.name())
            self._note_authenticated()
        elif state == "closed" and not self.shutdown:
            self._is_lost = True
            if self.auth is None:
                self._refuse(self._find_refusal())
            else:
                log.info("%s: the Server was lost: %s", self.name(), reason)
            self._wake()

    def _note_authenticated(self) -> None:
        node = self._node
        assert node is not None
        with self._telling:
            for data in self._unsent or []:
                node.tell_drivers(data)
            self._unsent = None
            self.auth = "Done"
        self._wake()

    def _find_refusal(self) -> Exception:
        """Return the error that closed the node."""
        assert self._node is not None
        try:
            self._node.wait("worker", 0)
        except (MmgeventError, TimeoutError) as error:
            return error
        raise AssertionError("a closed node is no worker")

    def _on_tell(self, peer: int, data: bytes) -> None:
        if not self._put_message(data, self._receive):
            log.error("%s: too many commands wait to be processed: closing", self.name())
            self.handle_close()

    # What runs in the thread that processes.

    def _advance(self) -> None:
        if self._is_lost and not self.shutdown:
            self.handle_close()
        elif self._is_connecting() and timer() > self._connect_by_s:
            self._refuse(ConnectError(f"no Server at {self.name()}: no answer in {CONNECT_S:g} s"))

    def _shut_down(self) -> None:
        if self._node is not None:
            self._node.close()


def _keep_values(key: Any, values: list[Any]) -> list[Any]:
    return values
