"""The roles without a driver: what `mmg-server` and `mmg-worker` run.

Both run until a signal, and return an exit code that says why they ended. SIGINT ends them without
waiting for tasks. SIGTERM and SIGHUP let a worker finish the tasks that it runs, for a short grace.
A second signal, other than SIGHUP, ends the process at once. A worker may also have a lifetime and
an idle timeout (`departure`).
"""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.access.addresses import Address, format_address
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.engine.server_start import default_memory_bytes, make_server, start_listening
from mmgevent.engine.start import TemplateProcess, start_template
from mmgevent.errors import ConnectError, ListenError, MmgeventError, VersionMismatchError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import collect_garbage_rarely, find_scratch_folder, raise_descriptor_limit
from mmgevent.shown_text import shown

if TYPE_CHECKING:
    from mmgevent.engine.departure import Departure
    from mmgevent.engine.membership import Membership
    from mmgevent.engine.stay import WorkerSettings
    from mmgevent.engine.worker.role import WorkerRole

log = get_log("mmgevent")

#: First pause between two rounds over all addresses, seconds. It doubles each time, and up to as
#: much again is added at random.
FIRST_PAUSE_S = 0.1

#: Longest such pause, seconds.
MAX_PAUSE_S = 2.0


def run_server(
    host: str,
    port: int,
    *,
    password: str,
    certificates: Certificates = NO_CERTIFICATES,
    segment_memory: int | None = None,
    on_listening: Callable[[Address], None] | None = None,
    verbose: int = 0,
    log_format: str | None = None,
) -> int:
    """Serve jobs and workers until a signal. Return the exit code.

    `on_listening(address)` is called once workers can connect. `log_format`: see `set_up_logging`.

    Raises ListenError if it cannot listen at the address, or can no longer do so, and
    AuthenticationError if the certificates cannot be used.
    """
    set_up_logging(verbose, log_format)
    raise_descriptor_limit()
    collect_garbage_rarely()
    from mmgevent.access.handshake import derive_key
    from mmgevent.engine.departure import Departure
    from mmgevent.engine.net.listener import open_listener
    from mmgevent.engine.net.threads import start_thread_pool
    from mmgevent.engine.service_notice import ServiceManager
    from mmgevent.engine.stay import Stay

    start_thread_pool()
    manager = ServiceManager(os.environ)
    stop = Departure(Stay(), "server")
    server = make_server(segment_memory, find_scratch_folder())
    lost: list[str] = []

    def on_lost(reason: str) -> None:
        lost.append(reason)
        stop.event.set()

    sock = open_listener(host, port)
    listener = start_listening(server, sock, derive_key(password), on_lost, certificates)
    log.info("server listens on %s", format_address(listener.address))
    if on_listening is not None:
        on_listening(listener.address)
    manager.ready(f"listens on {format_address(listener.address)}")
    is_stopped = stop.wait()
    manager.stopping(lost[0] if lost else stop.reason)
    listener.close()
    server.stop(lost[0] if lost else stop.reason)
    if lost and not is_stopped:  # the end of this process frees the address for the next server
        raise ListenError(lost[0])
    return stop.code


def run_worker(addresses: list[Address], settings: WorkerSettings, verbose: int = 0) -> int:
    """Work for whichever server answers first, again and again. Return the exit code.

    It ends by a signal, after its stay or, with `once`, when a server says goodbye.

    Raises AuthenticationError and VersionMismatchError, since trying again would not help.
    """
    set_up_logging(verbose)
    raise_descriptor_limit()
    collect_garbage_rarely()
    template = start_template()
    return _WorkerLoop(addresses, settings, template).run()


def run_member(addresses: list[Address], settings: WorkerSettings, verbose: int = 0) -> int:
    """Be a worker of the server at one of these addresses, or that server, until it leaves.

    With a worker password it is a worker only. With `once` it leaves when its first server has
    ended. Returns the exit code.

    Raises ConnectError, with `once`, if there is no server and it cannot be one. Raises
    AuthenticationError and VersionMismatchError, since trying again would not help.
    """
    settings.certificates.check_for_equals()
    set_up_logging(verbose)
    raise_descriptor_limit()
    collect_garbage_rarely()
    template = start_template()
    from mmgevent.access.handshake import client_key
    from mmgevent.engine.departure import Departure
    from mmgevent.engine.member_settings import Settings
    from mmgevent.engine.membership import Membership
    from mmgevent.engine.net.threads import start_thread_pool
    from mmgevent.engine.worker.forkers import Forkers

    start_thread_pool()
    stop = Departure(settings.stay)
    key = client_key(settings.password)
    if not isinstance(key, bytes):
        log.warning("this worker has a worker password, so it joins servers and never becomes one")
    forkers = Forkers(template, settings.nice)
    member = Membership(
        Settings(
            addresses,
            key,
            procs=settings.procs,
            forkers=forkers,
            memory_bytes=default_memory_bytes(),
            scratch=find_scratch_folder(),
            once=settings.once,
            certificates=settings.certificates,
            name=settings.name,
            limits=settings.limits,
        ),
        lambda member: _on_change(member, settings.procs, stop),
    )
    try:
        member.start()
        stop.watch_idleness(member.busy_until)
        stop.event.wait()
        member.stop(stop.reason, stop.grace_s)
    finally:
        forkers.close()
    if member.error is not None:
        raise member.error
    return stop.code


def _on_change(member: Membership, procs: int, stop: Departure) -> None:
    _tell_state(member, procs)
    if member.state == "closed":
        stop.event.set()


def _tell_state(member: Membership, procs: int) -> None:
    if member.state == "server" and member.address is not None:
        log.warning(
            "elected: this is the server at %s, with %s", format_address(member.address), _slots(procs)
        )
    elif member.state == "worker" and member.address is not None:
        log.warning("joined the server at %s with %s", format_address(member.address), _slots(procs))
    elif member.state != "closed":
        log.warning("%s", member.reason)


def _slots(count: int) -> str:
    return f"{count} slot{'s' * (count != 1)}"


class _WorkerLoop:
    """Connect, work, and connect again."""

    def __init__(self, addresses: list[Address], settings: WorkerSettings, template: TemplateProcess):
        from mmgevent.access.handshake import client_key
        from mmgevent.engine.departure import Departure
        from mmgevent.engine.net.threads import start_thread_pool
        from mmgevent.engine.worker.forkers import Forkers

        start_thread_pool()
        self._addresses = addresses
        self._settings = settings
        self._key = client_key(settings.password)
        self._forkers = Forkers(template, settings.nice)
        self._tried: dict[Address, str] = {}
        #: when the last task of an earlier worker ended, by `monotonic`; 0.0 if there was none
        self._busy_until_s = 0.0
        self._worker: WorkerRole | None = None
        self._stop = Departure(settings.stay)
        self._stop.watch_idleness(self._busy_until)

    def run(self) -> int:
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                worker = self._connect()
                if worker is not None:
                    if self._work(worker):
                        return self._stop.code
                    pause_s = FIRST_PAUSE_S
                if self._stop.wait(pause_s * (1 + random.random())):
                    return self._stop.code
                pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        finally:
            self._forkers.close()

    def _busy_until(self) -> float:
        """Return when the last task ended: now, if one runs."""
        if self._worker is not None:
            self._busy_until_s = max(self._busy_until_s, self._worker.busy_until_s)
        return self._busy_until_s

    def _connect(self) -> WorkerRole | None:
        """Return the worker of the first address that answers, or None if none does."""
        from mmgevent.engine.net.socket_link import SocketLink
        from mmgevent.engine.worker.role import WorkerRole

        for address in self._addresses:
            try:
                sock = self._connect_unless_stopped(address)
            except ConnectError as error:
                if self._tried.get(address) != str(error):  # warn once, not every second
                    log.warning("%s; waiting for a server there", error)
                    self._tried[address] = str(error)
                continue
            if sock is None:
                return None
            self._tried.pop(address, None)
            worker = WorkerRole(
                SocketLink(sock, format_address(address)),
                slots=self._settings.procs,
                forkers=self._forkers,
                name=self._settings.name,
                scratch_dir=find_scratch_folder(),
                limits=self._settings.limits,
                on_drain=self._stop.drain,
            )
            where = format_address(address)
            worker.accepted.rawlink(lambda _, where=where: self._tell_joined(where))
            worker.start()
            return worker
        return None

    def _connect_unless_stopped(self, address: Address) -> Any:
        """Return the TLS socket, or None once this process is about to leave.

        Otherwise that would wait up to 10 s for a server that does not answer.
        """
        from mmgevent.engine.greenlets import spawn_awaited
        from mmgevent.engine.net import tls

        def connect() -> Any:
            try:
                return tls.connect(address, self._key, "worker", certificates=self._settings.certificates)
            except MmgeventError as error:
                return error

        trying = spawn_awaited(connect)
        self._stop.also(trying)
        self._stop.event.wait()
        if self._stop.is_due:
            trying.kill()
            return None
        self._stop.event.clear()
        found = trying.get()
        if isinstance(found, MmgeventError):
            raise found
        return found

    def _tell_joined(self, where: str) -> None:
        log.warning("joined the server at %s with %s", where, _slots(self._settings.procs))

    def _work(self, worker: WorkerRole) -> bool:
        """Wait for the end of a worker or of this process.

        Return whether that was the last worker.
        """
        self._worker = worker
        self._stop.also(worker.closed)
        self._stop.event.wait()
        if self._stop.is_due:
            worker.stop(self._stop.reason, self._stop.grace_s)
            return True
        self._stop.event.clear()
        self._busy_until()
        self._worker = None
        if worker.refusal is not None:
            code, text = worker.refusal
            text = shown(text)
            raise VersionMismatchError(text) if code == "version" else ConnectError(text)
        log.warning("left the server: %s", worker.close_reason)
        return self._settings.once and worker.has_goodbye


def set_up_logging(verbose: int, log_format: str | None = None) -> None:
    """Log to stderr, in plain lines or, with the format "json", one JSON object a line.

    `verbose`: -1 for errors only, 0 also warnings, 1 also what happens, 2 everything.
    """
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    if log_format == "json":
        from mmgevent.engine.json_log import JsonLogLines

        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLogLines())
        logging.basicConfig(level=level, handlers=[handler])
        return
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
