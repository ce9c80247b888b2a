"""The Server of mincemeat scripts: an engine that listens, and jobs handed in one after another.

The engine is a `LocalCluster` without executors of its own; workers join its port.  What comes
from there (workers that join and leave, their commands, jobs that are done) is handled, and the
methods a subclass overrides are called, in the thread that calls `process`.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import socket
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from mmgevent.access.addresses import DEFAULT_PORT
from mmgevent.driver.cluster import LocalCluster
from mmgevent.engine.net.listening import open_listener
from mmgevent.errors import JobCancelled, ListenError, MmgeventError, UsageError
from mmgevent.job.job import Job
from mmgevent.machine.resources import start_thread
from mmgevent.mincemeat.channel import ServerChannel
from mmgevent.mincemeat.endpoint import Endpoint, Map
from mmgevent.mincemeat.schedule import Schedule
from mmgevent.mincemeat.taskmanager import TaskManager, Transaction

if TYPE_CHECKING:
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.watching import PeerInfo

log = logging.getLogger(__name__)

#: datasources that subclasses define as class attributes, which would hide the property
_class_datasources: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()

#: attributes of a Server that belong to this process, not to functions that travel with it
_OWN = {"taskmanager", "schedule", "output", "password", "addr", "shuttout", "shutdown", "closed", "error"}


class Server(Endpoint):
    """Distribute map and reduce work over the workers that join.

    `mapfn(key, value)`, `collectfn`, `reducefn`, `finishfn` and `resultfn(txn, results)` are set as
    attributes, as keywords of `conn`, or defined by a subclass.  mapfn or reducefn None skips that phase;
    False, or mapfn None together with reducefn None, means the Clients' own methods.  Functions run as they
    are when a transaction begins; methods of a subclass run in executors on a copy of the attributes that
    were added to the object.
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
        #: (txn, results) of transactions that are done, oldest first, unless resultfn takes them
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
        """Travel, as the object of a method, with the attributes that were added to it and nothing else."""
        added = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in _OWN}
        return _make_copy, (type(self), added)

    def name(self) -> str:
        host, port = self.addr or (None, None)
        return f"Server@{host}:{port}"

    # running

    def run_server(
        self,
        password: str = "",
        port: int = DEFAULT_PORT,
        interface: str = "",
        asynchronous: bool = False,
    ) -> dict[Any, Any] | None:
        """Listen, process until all is done, and return the results of the first transaction.

        None with `asynchronous`, or where resultfn took them.  Raises as `conn` and `process`.
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
        """Listen on the port when this returns; unless `asynchronous`, return when all is done.

        The engine starts beside; what keeps it from that (StartError, ...) is raised by `process`, see `error`.
        `interface` "" is all interfaces; `port` 0 any free one, see `addr`.  Other keywords set attributes;
        None never does, and what the Server has not is ignored.  OSError where the address cannot be had
        (EADDRINUSE: another listens there), PasswordError for an empty password.
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
        """Wait for the engine, in a thread; have raised what keeps it from starting, unless this was closed."""
        try:
            cluster.wait_ready()
        except (MmgeventError, TimeoutError) as error:
            if not self.shutdown:
                log.error("%s: no engine: %s", self.name(), error)
                self._fail(error)
                self.handle_close()

    def finished(self, timeout: float = 0.0) -> bool:
        """Were all transactions done, and the Server therefore closed?  Never so with PERMANENT."""
        return self._wait_for(lambda: self.taskmanager.state == TaskManager.FINISHED, timeout)

    def authenticated(self, timeout: float = 0.0) -> bool:
        """Return True: workers prove the password before they are heard of."""
        return True

    # transactions

    def set_datasource(
        self,
        datasource: Any = None,
        txn: Any = None,
        allocation: int | None = None,
        cycle: int | None = None,
        retransmit: float | None = None,
        **unknown: Any,
    ) -> None:
        """Queue a transaction; from any thread, before or while the Server runs.

        `datasource`: anything whose `__iter__` gives keys and that has `__getitem__`; it is read one item at
        a time, never asked for its length, and may be endless with TaskManager.ONESHOT.  None queues nothing.
        `txn` comes back with the results.  `allocation`: CONTINUOUS or ONESHOT, one item for every worker.
        `cycle`: what happens after it.  `retransmit`: percent of the workers that may repeat what others are
        slow with.  What is None is taken from `taskmanager.defaults`.
        """
        for name in unknown:
            log.warning("%s: a transaction has no %s", self.name(), name)
        if datasource is not None:
            self.taskmanager.add(Transaction(datasource, txn, allocation, cycle, retransmit))

    def get_datasource(self) -> Any:
        """Return the datasource that is worked on, or the first that waits; None if there is none."""
        return self.taskmanager.datasource

    datasource = property(get_datasource, set_datasource)

    def results(self) -> dict[Any, Any] | None:
        """Take the results of the oldest transaction that is done, without its txn; None if there is none."""
        try:
            return self.output.popleft()[1]
        except IndexError:
            return None

    def resultfn(self, txn: Any, results: dict[Any, Any]) -> None:
        """Take the results of a transaction; this one puts them into `output`."""
        self.output.append((txn, results))

    def failfn(self, txn: Any, error: BaseException) -> None:
        """Take what a transaction failed with (a JobError, mostly).

        This one raises it out of `process`, which closes the Server, or, if the Server is PERMANENT, logs it.
        """
        if self.taskmanager.cycle != TaskManager.PERMANENT:
            raise error
        log.error("%s: transaction %s failed: %s", self.name(), txn, error)

    # commands

    def unrecognized_command(
        self, command: str, data: Any = None, txn: Any = None, chan: ServerChannel | None = None
    ) -> Any:
        """Handle a command of a Client; what is not true closes the channel it came by."""
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
        """Be told that a Client answered a ping."""

    # what the engine tells, in its reading thread

    def _on_joined(self, peer: PeerInfo) -> None:
        self._put(lambda: self._add_channel(peer))

    def _on_left(self, number: int, reason: str) -> None:
        self._put(lambda: self._remove_channel(number, reason))

    def _on_tell(self, number: int, data: bytes) -> None:
        if not self._put_message(data, lambda data: self._hear(number, data)) and self._cluster is not None:
            self._cluster.dismiss(number, "too many commands wait for the Server")

    # and what follows, in the thread that processes

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

    def _submit(self, job: Job) -> JobHandle:
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
            # As if by an exception: the engine ends first, whatever the user's datasource is still at.
            cluster.__exit__(JobCancelled, None, None)
        for channel in self.taskmanager.channels:
            channel.shutdown = channel.closed = True
        self.taskmanager.channels = {}
        self._channels = {}


class _ListeningCluster(LocalCluster):
    """A LocalCluster without executors that has its port when it is made; its engine starts beside."""

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


#: Listeners on their way to their engines, and the threads that start those.
_open_listeners: dict[socket.socket, int] = {}


def _close_in_child() -> None:
    """In a child of another thread: or its copy would keep the port when the engine is gone."""
    for listener, starter in list(_open_listeners.items()):
        if threading.get_ident() != starter:  # else it is going to be the engine: gevent forks by itself
            listener.close()


os.register_at_fork(after_in_child=_close_in_child)


def _make_cluster(password: str, interface: str, port: int) -> _ListeningCluster:
    """Return the engine of a Server; raise what mincemeat did where the port cannot be had."""
    try:
        return _ListeningCluster(password, interface, port)
    except ListenError as error:
        raise _as_oserror(error) from error


def _as_oserror(error: ListenError) -> OSError:
    """Return what mincemeat raised where a port cannot be had: an OSError, mostly EADDRINUSE."""
    number = getattr(error.__cause__, "errno", None)
    return OSError(number if isinstance(number, int) and number > 0 else errno.EADDRNOTAVAIL, str(error))


def _make_copy(cls: type[Server], attributes: dict[str, Any]) -> Server:
    """Make the object of a method that travelled; it is connected to nothing."""
    copy = object.__new__(cls)
    vars(copy).update(attributes)
    return copy
