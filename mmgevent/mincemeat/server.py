"""The Server of mincemeat scripts: an engine that listens, and one job after another.

The engine is a `LocalCluster` without executors of its own; workers join its port.  Its events are
workers that join and leave, their commands, and jobs that are done.  The thread that calls
`process` handles them, and calls the methods that a subclass overrides.
"""

from __future__ import annotations

import errno
import inspect
import os
import socket
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from mmgevent.access.addresses import DEFAULT_PORT
from mmgevent.driver.local_cluster import LocalCluster
from mmgevent.engine.net.listening import open_listener
from mmgevent.errors import JobCancelled, ListenError, MmgeventError, UsageError
from mmgevent.job.job import Job
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread
from mmgevent.mincemeat.channel import ServerChannel
from mmgevent.mincemeat.endpoint import Endpoint, Map
from mmgevent.mincemeat.schedule import Schedule
from mmgevent.mincemeat.taskmanager import TaskManager, Transaction

if TYPE_CHECKING:
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.watching import PeerInfo

log = get_log(__name__)

#: Datasources that subclasses define as class attributes, which would hide the property.
_class_datasources: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()

#: Attributes of a Server that belong to this process and do not travel with its functions.
_OWN = {"taskmanager", "schedule", "output", "password", "addr", "shuttout", "shutdown", "closed", "error"}


class Server(Endpoint):
    """Distribute map and reduce work over the workers that join.

    `mapfn(key, value)`, `collectfn`, `reducefn`, `finishfn` and `resultfn(txn, results)` are set as
    attributes or keywords of `conn`, or defined by a subclass.

    - If mapfn or reducefn is None, its phase is skipped.
    - If one is False, or both are None, the Clients' own methods are used.
    - A transaction uses the functions as they are when it begins.
    - Methods of a subclass run in executors, on a copy of the attributes that were added to the
      object.
    """

    mapfn: Any = None
    collectfn: Any = None
    reducefn: Any = None
    finishfn: Any = None
    #: TaskManager.SINGLEUSE or PERMANENT; None leaves the TaskManager's default
    cycle: int | None = None

    def __init__(
        self, map: Map | None = None, schedule: Schedule | None = None, shuttout: float | None = None
    ):
        super().__init__(map, schedule, shuttout)
        self.taskmanager = TaskManager(self)
        #: (txn, results) of finished transactions, oldest first; empty if resultfn takes them
        self.output: deque[tuple[Any, dict[Any, Any]]] = deque()
        self.password: str | None = None
        #: (interface, port) it listens on
        self.addr: tuple[str, int] | None = None
        self._cluster: _ListeningCluster | None = None
        self._channels: dict[int, ServerChannel] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "datasource" in vars(cls) and not isinstance(vars(cls)["datasource"], property):
            _class_datasources[cls] = vars(cls)["datasource"]
            del cls.datasource

    def __reduce__(self) -> Any:
        """Travel, as the object of a method, with only the attributes that were added to it."""
        added = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in _OWN}
        return _make_copy, (type(self), added)

    def name(self) -> str:
        host, port = self.addr or (None, None)
        return f"Server@{host}:{port}"

    # Running.

    def run_server(
        self,
        password: str = "",
        port: int = DEFAULT_PORT,
        interface: str = "",
        asynchronous: bool = False,
    ) -> dict[Any, Any] | None:
        """Listen, process until all is done, and return the results of the first transaction.

        Return None with `asynchronous`, or if resultfn took the results.  Raises the errors of
        `conn` and `process`.
        """
        self.conn(password=password, port=port, interface=interface, asynchronous=asynchronous)
        return self.results()

    def conn(
        self,
        password: str | None = "",
        port: int = DEFAULT_PORT,
        interface: str = "",
        asynchronous: bool = False,
        **credentials: Any,
    ) -> None:
        """Listen on the port; unless `asynchronous`, process until all is done.

        `interface`: "" is all interfaces.  `port`: 0 is any free port, see `addr`.
        Other keywords set attributes, unless they are None or the Server has no such attribute.

        This does not wait for the engine. If the engine cannot start, `process` raises the error
        (StartError, ...), see `error`.

        Raises OSError if the address cannot be bound (EADDRINUSE: another process listens there),
        and PasswordError for an empty password.
        """
        if self._cluster is not None and not self.closed:
            raise UsageError(f"{self.name()} listens already: close it first, or make another Server")
        self.addr = (interface, port)
        self._configure(credentials)
        self.password = password
        self._cluster = cluster = _make_cluster(password or "", interface, port)
        self.addr = cluster.bound_address
        self.taskmanager.open(self.cycle)
        self._open()
        cluster.watch(self._on_joined, self._on_left, self._on_tell)
        start_thread(
            threading.Thread(
                target=self._see_start, args=(cluster,), name=f"mincemeat-start-{self.name()}", daemon=True
            )
        )
        if not asynchronous:
            self.process()

    def _configure(self, credentials: dict[str, Any]) -> None:
        for name, value in credentials.items():
            if value is None or not hasattr(self, name):
                log.info("%s ignores %s", self.name(), name)
            else:
                setattr(self, name, value)
        for cls in type(self).__mro__:
            if cls in _class_datasources and self.datasource is None:
                own = _class_datasources[cls]
                self.datasource = own(self) if inspect.isfunction(own) else own

    def _see_start(self, cluster: LocalCluster) -> None:
        """Wait for the engine, in a thread; if it cannot start, have `process` raise the error."""
        try:
            cluster.wait_ready()
        except (MmgeventError, TimeoutError) as error:
            if not self.shutdown:
                log.error("%s: no engine: %s", self.name(), error)
                self._fail(error)
                self.handle_close()

    def finished(self, timeout: float = 0.0) -> bool:
        """Return whether all transactions were done and so the Server closed.

        Never with PERMANENT.
        """
        return self._wait_for(lambda: self.taskmanager.state == TaskManager.FINISHED, timeout)

    def authenticated(self, timeout: float = 0.0) -> bool:
        """Return True: only workers that have proved the password are noticed."""
        return True

    # Transactions.

    def set_datasource(
        self,
        datasource: Any = None,
        txn: Any = None,
        allocation: int | None = None,
        cycle: int | None = None,
        retransmit: float | None = None,
        **unknown: Any,
    ) -> None:
        """Queue a transaction; from any thread, before the Server runs or while it does.

        `datasource`: an object with `__iter__`, which gives keys, and `__getitem__`.  It is read
        one item at a time and never asked for its length.  With TaskManager.ONESHOT it may be
        endless.  None queues nothing.
        `txn`: any id; it is returned with the results.
        `allocation`: CONTINUOUS, or ONESHOT for one item for every worker.
        `cycle`: SINGLEUSE or PERMANENT, what happens after the transaction.
        `retransmit`: percent of the workers that may repeat slow tasks of others.
        An argument that is None is taken from `taskmanager.defaults`.
        """
        for name in unknown:
            log.warning("%s: a transaction has no %s", self.name(), name)
        if datasource is not None:
            self.taskmanager.add(Transaction(datasource, txn, allocation, cycle, retransmit))

    def get_datasource(self) -> Any:
        """Return the datasource of the current transaction, or of the first that waits.

        None if there is none.
        """
        return self.taskmanager.datasource

    datasource = property(get_datasource, set_datasource)

    def results(self) -> dict[Any, Any] | None:
        """Remove and return the results of the oldest finished transaction.

        None if there is none.
        """
        try:
            return self.output.popleft()[1]
        except IndexError:
            return None

    def resultfn(self, txn: Any, results: dict[Any, Any]) -> None:
        """Receive the results of a transaction; this method puts them into `output`."""
        self.output.append((txn, results))

    def failfn(self, txn: Any, error: BaseException) -> None:
        """Receive the error of a transaction that failed (mostly a JobError).

        This method raises it from `process`, which closes the Server.  A PERMANENT Server only logs
        it.
        """
        if self.taskmanager.cycle != TaskManager.PERMANENT:
            raise error
        log.error("%s: transaction %s failed: %s", self.name(), txn, error)

    # Commands.

    def unrecognized_command(
        self, command: str, data: Any = None, txn: Any = None, chan: ServerChannel | None = None
    ) -> Any:
        """Handle a command of a Client; a false result closes its channel."""
        return False

    def ping(
        self,
        message: Any = None,
        payload: Any = None,
        now: float | None = None,
        backchannel: float | bool | None = False,
    ) -> None:
        """Ping every Client, each with the name of its channel as payload."""
        for channel in self.taskmanager.channels:
            channel.ping(message, channel.name(), now, backchannel)

    def pong(self, chan: ServerChannel, command: str, data: Any, txn: Any) -> None:
        """Note that a Client answered a ping."""

    # What runs in the engine's reading thread.

    def _on_joined(self, peer: PeerInfo) -> None:
        self._put(lambda: self._add_channel(peer))

    def _on_left(self, number: int, reason: str) -> None:
        self._put(lambda: self._remove_channel(number, reason))

    def _on_tell(self, number: int, data: bytes) -> None:
        if not self._put_message(data, lambda data: self._hear(number, data)) and self._cluster is not None:
            self._cluster.dismiss(number, "too many commands wait for the Server")

    # What runs in the thread that processes.

    def _add_channel(self, peer: PeerInfo) -> None:
        if peer.number not in self._channels:
            channel = self._channels[peer.number] = ServerChannel(self, peer)
            self.taskmanager.channels = {**self.taskmanager.channels, channel: None}
            log.info("%s opened", channel.name())

    def _remove_channel(self, number: int, reason: str) -> None:
        channel = self._channels.pop(number, None)
        if channel is None:
            return
        log.info("%s closed: %s", channel.name(), reason)
        channel.handle_close()
        channel.closed = True
        self.taskmanager.channels = {c: None for c in self.taskmanager.channels if c is not channel}

    def _hear(self, number: int, data: bytes) -> None:
        channel = self._channels.get(number)
        if channel is not None and not channel.shutdown:
            channel._receive(data)

    def _advance(self) -> None:
        self.taskmanager.advance()

    def _deliver(self, txn: Any, results: dict[Any, Any]) -> None:
        resultfn: Any = self.resultfn
        if resultfn is None:
            self.output.append((txn, results))
        else:
            resultfn(txn, results)

    def _submit(self, job: Job[Any, Any]) -> JobHandle[Any, Any]:
        assert self._cluster is not None
        return self._cluster.submit(job, on_notice=lambda text: log.info("%s: %s", self.name(), text))

    def _tell(self, channel: ServerChannel, data: bytes) -> None:
        assert self._cluster is not None
        self._cluster.tell(channel.number, data)

    def _dismiss(self, channel: ServerChannel) -> None:
        if self._cluster is not None and not self.shutdown:
            self._cluster.dismiss(channel.number, "the Server closed this connection")

    def _shut_down(self) -> None:
        cluster = self._cluster
        if cluster is not None:
            self.taskmanager.cancel()
            # As by an exception: the engine ends first, even if the user's datasource waits.
            cluster.__exit__(JobCancelled, None, None)
        for channel in self.taskmanager.channels:
            channel.shutdown = channel.closed = True
        self.taskmanager.channels = {}
        self._channels = {}


class _ListeningCluster(LocalCluster):
    """A LocalCluster without executors that has its port before its engine has started."""

    def __init__(self, password: str, interface: str, port: int):
        with open_listener(interface, port) as listener:
            _open_listeners[listener] = threading.get_ident()
            self._listener = listener
            address = listener.getsockname()
            self.bound_address: tuple[str, int] = (address[0], address[1])
            try:
                super().__init__(0, listen=self.bound_address, password=password)
            finally:
                del _open_listeners[listener]


#: Listeners that their engines do not have yet, and the threads that start those engines.
_open_listeners: dict[socket.socket, int] = {}


def _close_in_child() -> None:
    """Close the listeners in a child of another thread: its copies would keep the ports."""
    for listener, starter in list(_open_listeners.items()):
        if threading.get_ident() != starter:  # else the child becomes the engine
            listener.close()


os.register_at_fork(after_in_child=_close_in_child)


def _make_cluster(password: str, interface: str, port: int) -> _ListeningCluster:
    """Return the engine of a Server; raise the OSError of mincemeat if the port cannot be had."""
    try:
        return _ListeningCluster(password, interface, port)
    except ListenError as error:
        raise _as_oserror(error) from error


def _as_oserror(error: ListenError) -> OSError:
    """Return mincemeat's error for a port that cannot be had: mostly EADDRINUSE."""
    number = getattr(error.__cause__, "errno", None)
    return OSError(number if isinstance(number, int) and number > 0 else errno.EADDRNOTAVAIL, str(error))


def _make_copy(cls: type[Server], attributes: dict[str, Any]) -> Server:
    """Make the object of a method that travelled; it is not connected."""
    copy = object.__new__(cls)
    vars(copy).update(attributes)
    return copy
