"""The engine: the gevent process that holds links and roles for a driver or a command.

A driver starts one (`main`, below) and speaks frames with it over a socketpair.  The
first frame each way is the engine's own: a configuration in, "ready" or "failed" out.
After that the driver speaks with the server: with the role in this process, or, frame
by frame, with one on another machine.  When the driver's socket closes, everything
ends.  `mmg-server` and `mmg-worker` run the same roles in front (`engine/foreground.py`).

The template process is started before this module is imported, see `engine.start`:
both take 60 ms, and there are usually two cores.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from mmgevent.engine.configuration import Configuration
from mmgevent.errors import ConnectError, EngineError, MmgeventError, ProtocolError, StartError
from mmgevent.machine.resources import (
    collect_garbage_rarely,
    find_scratch_folder,
    open_process,
    raise_descriptor_limit,
    total_memory_bytes,
)
from mmgevent.wire.frames import CONTROL, HEADER_BYTES, MAX_PAYLOAD, Decoder, Frame
from mmgevent.wire.messages import control

if TYPE_CHECKING:
    from mmgevent.access.addresses import Address
    from mmgevent.engine.membership import Membership
    from mmgevent.engine.net.link import Link
    from mmgevent.engine.relay import NodeRelay
    from mmgevent.engine.server.role import ServerRole
    from mmgevent.engine.start import TemplateProcess
    from mmgevent.engine.worker.offering import Offering

log = logging.getLogger(__name__)

#: share of the machine's memory that segments may take before they spill, and its bounds
MEMORY_SHARE = 8
MIN_MEMORY_BYTES = 16 * 1024 * 1024
MAX_MEMORY_BYTES = 2 * 1024 * 1024 * 1024

#: pause between two attempts to connect, and up to as much again at random
RETRY_S = 0.2

#: Between two looks whether the driver still runs, where the system does not tell, seconds. Its socket mostly does.
PARENT_LOOK_S = 0.5

#: how long running tasks get when the driver has closed the cluster
STOP_S = 1.0


def default_memory_bytes() -> int:
    """Return how many bytes of segments a server holds in memory unless told."""
    return max(MIN_MEMORY_BYTES, min(MAX_MEMORY_BYTES, total_memory_bytes() // MEMORY_SHARE))


class Engine:
    """The roles and links of one process, for one driver."""

    def __init__(
        self,
        configuration: Configuration,
        template: TemplateProcess | None,
        offered_sock: Any = None,
        *,
        listening_sock: Any = None,
    ):
        """`offered_sock`: leads to the functions that the driver offers, if any.

        `listening_sock`: listens already where the configuration says.
        """
        from gevent.event import Event

        from mmgevent.engine.worker.forker import Forkers

        self._configuration = configuration
        self._forkers = Forkers(template)
        self._server: ServerRole | None = None
        self._workers: list[Any] = []
        self._listener: Any = None
        self._listening_sock = listening_sock
        self._remote: Link | None = None
        self._member: Membership | None = None
        self._relay: NodeRelay | None = None
        self._driver: Link | None = None
        self._is_stopping = False
        self._stop_reason = "the cluster closed"
        self._scratch = find_scratch_folder()
        #: set when the engine has to end
        self.ended = Event()
        self._offering: Offering | None = None
        if offered_sock is not None:
            from mmgevent.engine.worker.offering import Offering

            self._offering = Offering(offered_sock, self._on_offering_lost)

    def start(self) -> dict[str, Any]:
        """Start the roles that are asked for; return facts for the driver."""
        configuration = self._configuration
        if configuration.listen or configuration.join or configuration.elect:
            from mmgevent.engine.net.threads import start_thread_pool

            start_thread_pool()
        if self._configuration.elect is not None:
            self._member = self._make_member(self._configuration.elect)
            return {"pid": os.getpid()}
        if self._configuration.join is not None:
            return self._join_server(self._configuration.join)
        return self._hold_server()

    def serve_driver(self, sock: Any) -> None:
        """Speak with the driver over its socketpair from now on."""
        from mmgevent.engine.net.socket_link import SocketLink

        link = self._driver = SocketLink(sock, "driver", heartbeats=False)
        if self._server is not None:
            self._server.attach(link, "driver", is_local=True, when_closed=self.ended.set)
            return
        from mmgevent.engine.relay import NodeRelay, relay

        if self._remote is not None:
            relay(link, self._remote, self.ended)
        elif self._member is not None:
            self._relay = NodeRelay(link, self._member, self.ended)
            self._member.start()

    def stop(self) -> None:
        """End everything that this engine started (blocks for a second or two at most)."""
        self._is_stopping = True
        if self._member is not None:
            self._member.stop("the node closed")
        if self._listener is not None:
            self._listener.close()
        for worker in self._workers:
            worker.stop("the cluster closed", 0.0)
        if self._server is not None:
            self._server.stop(self._stop_reason)
        if self._remote is not None:
            self._remote.close("the driver closed", STOP_S)
        if self._offering is not None:
            self._offering.close()
        self._forkers.close()

    def _hold_server(self) -> dict[str, Any]:
        from mmgevent.engine.server.role import open_server

        configuration = self._configuration
        memory_bytes = configuration.memory_bytes or default_memory_bytes()
        self._server = open_server(memory_bytes=memory_bytes, spill_folder=self._scratch)
        facts: dict[str, Any] = {"pid": os.getpid()}
        if configuration.listen is not None:
            facts["address"] = self._listen(configuration.listen)
        if configuration.procs:
            from mmgevent.engine.net.local_link import local_pair

            ours, theirs = local_pair("local worker")
            self._server.attach(ours, "worker", is_local=True)
            self._add_worker(theirs, is_local=True)
        return facts

    def _listen(self, address: tuple[str, int]) -> tuple[str, int]:
        from mmgevent.access.handshake import derive_key
        from mmgevent.engine.net.listener import Listener, open_listener
        from mmgevent.engine.watchdog import start_watchdog

        assert self._server is not None
        sock = self._listening_sock or open_listener(*address)
        configuration = self._configuration
        key = derive_key(configuration.password or "")
        self._listener = Listener(
            sock, key, self._server.attach, self._on_listener_lost, certificates=configuration.certificates
        )
        start_watchdog()
        bound: tuple[str, int] = self._listener.address
        return bound

    def _join_server(self, address: tuple[str, int]) -> dict[str, Any]:
        from mmgevent.access.handshake import derive_key
        from mmgevent.engine.net import tls
        from mmgevent.engine.net.socket_link import SocketLink

        key = derive_key(self._configuration.password or "")
        where = tls.format_address(address)
        self._remote = SocketLink(self._connect_patiently(address, key), where)
        if self._configuration.procs:
            timeout, certificates = self._configuration.timeout, self._configuration.certificates
            worker_sock = tls.connect(address, key, "worker", timeout, certificates)
            self._add_worker(SocketLink(worker_sock, where))
        return {"pid": os.getpid(), "address": address}

    def _connect_patiently(self, address: tuple[str, int], key: bytes) -> Any:
        import gevent

        from mmgevent.engine.net import tls

        timeout, certificates = self._configuration.timeout, self._configuration.certificates
        until = time.monotonic() + self._configuration.patience
        while True:
            try:
                return tls.connect(address, key, "driver", timeout, certificates)
            except ConnectError:
                if time.monotonic() >= until:
                    raise
            gevent.sleep(RETRY_S * (1 + random.random()))

    def _make_member(self, addresses: list[Address]) -> Membership:
        from mmgevent.access.handshake import derive_key
        from mmgevent.engine.membership import Membership, Settings

        configuration = self._configuration
        settings = Settings(
            addresses,
            derive_key(configuration.password or ""),
            procs=configuration.procs,
            forkers=self._forkers,
            memory_bytes=configuration.memory_bytes or default_memory_bytes(),
            scratch=self._scratch,
            timeout=configuration.timeout,
            may_serve=configuration.may_serve,
            once=configuration.once,
            offers=configuration.offers,
            offering=self._offering,
            on_tell=self._on_tell,
            certificates=configuration.certificates,
        )
        return Membership(settings, self._on_member_change)

    def _on_member_change(self, member: Membership) -> None:
        if self._relay is not None:
            self._relay.on_change(member)

    def _on_tell(self, frame: Frame) -> None:
        if self._relay is not None:
            self._relay.tell_driver(frame)

    def _add_worker(self, link: Link, *, is_local: bool = False) -> None:
        from mmgevent.engine.worker.role import Worker

        worker = Worker(
            link,
            slots=self._configuration.procs,
            forkers=self._forkers,
            scratch_dir=self._scratch,
            offers=self._configuration.offers,
            offering=self._offering,
            is_local=is_local,
        )
        self._workers.append(worker)
        worker.closed.rawlink(self._on_worker_closed)
        worker.start()

    def _on_listener_lost(self, reason: str) -> None:
        """Where no worker can come any more: end, and let the driver start another engine at the address."""
        self._stop_reason = reason
        self.ended.set()

    def _on_offering_lost(self, reason: str) -> None:
        """A worker that offers what it cannot do is no use: end, and let the driver start another engine."""
        if not self._is_stopping:
            log.info("the offered functions are gone: %s", reason)
            self.ended.set()

    def _on_worker_closed(self, _: Any) -> None:
        """Without its own executors an engine is no use: end, and let the driver start another.

        Where there never was an executor another engine would have none, either: then the driver gets the reason.
        """
        if self._is_stopping:
            return
        worker = self._workers[-1]
        self._stop_reason = f"the executors of this machine are gone: {worker.close_reason}"
        if worker.is_short and not worker.has_run and self._driver is not None:
            self._driver.send(control("refused", code="start", error=worker.close_reason))
        else:
            log.error("%s", self._stop_reason)
        self.ended.set()


def main(template: TemplateProcess | StartError | None) -> None:
    """Run the engine of a driver: `--parent PID --fds N[,N] [--procs] [--listener N]`.

    `--procs` asks for `template`; `--listener` is the descriptor of a socket that listens already.

    `template` may be the error that kept it from starting, which the driver gets.
    The descriptors: a link to the driver, and one to the functions that it offers, if any.
    """
    arguments = sys.argv[1:]
    fd, *offered_fds = map(int, arguments[arguments.index("--fds") + 1].split(","))
    parent = int(arguments[arguments.index("--parent") + 1])
    raise_descriptor_limit()
    collect_garbage_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    logging.basicConfig(level=logging.WARNING, format="mmgevent engine: %(message)s")
    import gevent
    from gevent import socket

    sock, *offered = [socket.socket(fileno=number) for number in (fd, *offered_fds)]
    listening_sock = None
    if "--listener" in arguments:
        listening_sock = socket.socket(fileno=int(arguments[arguments.index("--listener") + 1]))
    for opened in (sock, *offered, *([listening_sock] if listening_sock else [])):
        opened.set_inheritable(False)
    engine = None
    try:
        configuration = Configuration.decode(bytes(_receive_frame(sock).payload))
        if configuration.verbose:
            logging.getLogger().setLevel(logging.INFO if configuration.verbose == 1 else logging.DEBUG)
        if isinstance(template, StartError):
            raise template
        engine = Engine(configuration, template, *offered, listening_sock=listening_sock)
        gevent.spawn(_watch_parent, parent, engine.ended)
        main_greenlet = gevent.getcurrent()

        def give_up(_: Any) -> None:
            gevent.kill(main_greenlet, EOFError("the driver is gone"))

        engine.ended.rawlink(give_up)
        facts = engine.start()  # may try for a minute to reach a server
        engine.ended.unlink(give_up)
        if configuration.verbose and not (configuration.listen or configuration.join or configuration.elect):
            _show_prints_as_they_are()
        gc.freeze()
        gc.enable()
        sock.sendall(Frame(CONTROL, json.dumps({"ready": facts}).encode()).encode())
        engine.serve_driver(sock)
        gevent.signal_handler(signal.SIGTERM, engine.ended.set)
        engine.ended.wait()
    except MmgeventError as error:
        _report_failure(sock, error)
    except (ConnectionError, EOFError) as error:
        log.debug("the driver went away: %s", error)
    finally:
        if engine is not None:
            engine.stop()
        elif template is not None and not isinstance(template, StartError):
            template.sock.close()
            template.process.wait()


def _report_failure(sock: Any, error: MmgeventError) -> None:
    failure: dict[str, Any] = {"error": type(error).__name__, "text": str(error)}
    if isinstance(error.__cause__, OSError):
        failure["errno"] = error.__cause__.errno
    try:
        sock.sendall(Frame(CONTROL, json.dumps({"failed": failure}).encode()).encode())
    except ConnectionError:
        log.debug("nobody is left to tell: %s", error)


class _PlainLines(logging.Formatter):
    """Show what executors print as it is, without saying which of them it was."""

    def format(self, record: logging.LogRecord) -> str:
        lines: Any = record.args
        return str(lines[0].text)  # a `supervisor.Printed`


def _show_prints_as_they_are() -> None:
    """Show what executors print as an inline run does: all of them run the functions of this engine's driver."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainLines())
    printed = logging.getLogger("mmgevent.printed")
    printed.addHandler(handler)
    printed.propagate = False


def _receive_frame(sock: Any) -> Frame:
    """Read exactly one frame, so that what follows is left to the link."""
    decoder = Decoder()
    header = _receive_exactly(sock, HEADER_BYTES)
    length = int.from_bytes(header[4:8], "little")
    if length > MAX_PAYLOAD:
        raise ProtocolError(f"a configuration of {length} bytes came")
    decoder.feed(header + _receive_exactly(sock, length))
    frame = decoder.next_frame()
    if frame is None:
        raise EngineError("the driver sent half a frame")
    return frame


def _receive_exactly(sock: Any, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        more = sock.recv(n_bytes - len(data))
        if not more:
            raise EOFError("the driver closed its socket")
        data += more
    return data


def _watch_parent(parent: int, ended: Any) -> None:
    """End when the parent process does, even if a child of its own still holds the socket."""
    import gevent

    is_child = os.getppid() == parent  # else it has ended, or what MMG_PYTHON names stands between
    try:
        fd = open_process(parent)
    except ProcessLookupError:
        ended.set()
        return
    if fd is None:
        while not _has_ended(parent, is_child):
            gevent.sleep(PARENT_LOOK_S)
    elif not _has_ended(parent, is_child):
        hub = gevent.get_hub()
        hub.wait(hub.loop.io(fd, 1))
    ended.set()


def _has_ended(parent: int, is_child: bool) -> bool:
    if is_child:
        return os.getppid() != parent
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it has become another user's
        pass
    return False
