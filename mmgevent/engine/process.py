"""The engine: the gevent process that has the links and roles of one driver.

A driver starts its engine (`main`, below) and exchanges frames with it over a socketpair. The first
frame in each direction is the engine's own: a configuration from the driver, "ready" or "failed" to
it. After that the driver speaks with the server, which is in this process or on another machine.
When the driver's socket closes, everything ends. `mmg-server` and `mmg-worker` run the same roles
without a driver (`engine/foreground.py`).

The template process is started before this module is imported, see `engine.start`: both take 60 ms,
and most machines have several cores.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from mmgevent.engine.configuration import Configuration
from mmgevent.engine.server_start import default_memory_bytes, make_server, start_listening
from mmgevent.errors import ConnectError, MmgeventError, StartError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import (
    collect_garbage_rarely,
    find_scratch_folder,
    raise_descriptor_limit,
)
from mmgevent.wire.frames import CONTROL, Frame
from mmgevent.wire.messages import control

if TYPE_CHECKING:
    from mmgevent.access.addresses import Address
    from mmgevent.engine.membership import Membership
    from mmgevent.engine.net.link import Link
    from mmgevent.engine.relay import NodeRelay
    from mmgevent.engine.server.role import ServerRole
    from mmgevent.engine.start import TemplateProcess
    from mmgevent.engine.worker.offering import Offering

log = get_log(__name__)

#: Pause between two attempts to connect, seconds. Up to as much again is added at random.
RETRY_S = 0.2

#: Time for the last frames to reach a server elsewhere when the driver has closed the cluster,
#: seconds.
STOP_S = 1.0


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
        """`offered_sock`: a socket to the functions that the driver offers, if any.

        `listening_sock`: a socket that listens already at the address in the configuration.
        """
        from gevent.event import Event

        from mmgevent.engine.worker.forkers import Forkers

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
        #: set when this engine has to end
        self.ended = Event()
        self._offering: Offering | None = None
        if offered_sock is not None:
            from mmgevent.engine.worker.offering import Offering

            self._offering = Offering(offered_sock, self._on_offering_lost)

    def start(self) -> dict[str, Any]:
        """Start the roles in the configuration. Return facts for the driver."""
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
        """Exchange frames with the driver over its socketpair from now on."""
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
        """End everything that this engine started (blocks for two seconds at most)."""
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
        configuration = self._configuration
        self._server = make_server(configuration.memory_bytes, self._scratch)
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
        from mmgevent.engine.net.listener import open_listener

        assert self._server is not None
        sock = self._listening_sock or open_listener(*address)
        key, certificates = derive_key(self._configuration.password or ""), self._configuration.certificates
        self._listener = start_listening(self._server, sock, key, self._on_listener_lost, certificates)
        bound: tuple[str, int] = self._listener.address
        return bound

    def _join_server(self, address: tuple[str, int]) -> dict[str, Any]:
        from mmgevent.access.addresses import format_address
        from mmgevent.access.handshake import derive_key
        from mmgevent.engine.net import tls
        from mmgevent.engine.net.socket_link import SocketLink

        key = derive_key(self._configuration.password or "")
        where = format_address(address)
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
        from mmgevent.engine.member_settings import Settings
        from mmgevent.engine.membership import Membership

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
        from mmgevent.engine.worker.role import WorkerRole

        worker = WorkerRole(
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
        """End: nobody can connect now. The driver starts another engine at the address."""
        self._stop_reason = reason
        self.ended.set()

    def _on_offering_lost(self, reason: str) -> None:
        """End: nobody can call the offered functions. The driver starts another engine."""
        if not self._is_stopping:
            log.info("the offered functions can no longer be called: %s", reason)
            self.ended.set()

    def _on_worker_closed(self, _: Any) -> None:
        """End: this engine has no executors left. The driver starts another engine.

        If there never was an executor, another engine would have none either. Then the driver gets
        the reason.
        """
        if self._is_stopping:
            return
        worker = self._workers[-1]
        self._stop_reason = f"the executors of this machine have ended: {worker.close_reason}"
        if worker.is_short and not worker.has_run and self._driver is not None:
            self._driver.send(control("refused", code="start", error=worker.close_reason))
        else:
            log.error("%s", self._stop_reason)
        self.ended.set()


def main(template: TemplateProcess | StartError | None) -> None:
    """Run the engine of a driver: `--parent PID --fds N[,N] [--procs] [--listener N]`.

    `--fds`: descriptors of sockets to the driver and to the functions that it offers, if any.
    `--procs`: there will be executors, so there is a `template`. `--listener`: descriptor of a
    socket that listens already.

    `template`: an error, which the driver gets, if the template could not be started.
    """
    raise_descriptor_limit()
    collect_garbage_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    logging.basicConfig(level=logging.WARNING, format="mmgevent engine: %(message)s")
    import gevent

    from mmgevent.engine.greenlets import spawn
    from mmgevent.engine.net.receiving import receive_frame
    from mmgevent.engine.parent import watch_parent

    parent, (sock, *offered), listening_sock = _take_arguments(sys.argv[1:])
    engine = None
    try:
        configuration = Configuration.decode(bytes(receive_frame(sock).payload))
        if configuration.verbose:
            logging.getLogger().setLevel(logging.INFO if configuration.verbose == 1 else logging.DEBUG)
            logging.getLogger("mmgevent.printed").disabled = True  # the driver gets what is printed
        if isinstance(template, StartError):
            raise template
        engine = Engine(configuration, template, *offered, listening_sock=listening_sock)
        ended = engine.ended
        spawn(lambda greenlet: ended.set(), watch_parent, parent, ended)
        main_greenlet = gevent.getcurrent()

        def give_up(_: Any) -> None:
            gevent.kill(main_greenlet, EOFError("the driver has ended"))

        engine.ended.rawlink(give_up)
        facts = engine.start()  # may need a minute to reach a server
        engine.ended.unlink(give_up)
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


def _take_arguments(arguments: list[str]) -> tuple[int, list[Any], Any]:
    """Return the parent's process id, the sockets of `--fds`, and the one that listens, if any."""
    from gevent import socket

    def socket_of(fd: str) -> Any:
        sock = socket.socket(fileno=int(fd))
        sock.set_inheritable(False)
        return sock

    given = dict(itertools.pairwise(arguments))
    listening_sock = socket_of(given["--listener"]) if "--listener" in given else None
    sockets = [socket_of(fd) for fd in given["--fds"].split(",")]
    return int(given["--parent"]), sockets, listening_sock


def _report_failure(sock: Any, error: MmgeventError) -> None:
    failure: dict[str, Any] = {"error": type(error).__name__, "text": str(error)}
    if isinstance(error.__cause__, OSError):
        failure["errno"] = error.__cause__.errno
    try:
        sock.sendall(Frame(CONTROL, json.dumps({"failed": failure}).encode()).encode())
    except ConnectionError:
        log.debug("the driver has ended and does not learn: %s", error)
