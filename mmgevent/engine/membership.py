"""A place in a cluster of equals: worker of the server, or the server itself.

`Membership.run` finds a place, stays in it until it is lost, and finds the next one. Nobody
appoints a server: `engine.net.election` lets the operating system decide. When a server ends, its
jobs are not moved. The drivers have everything, and resubmit them to the next server.

After a network was split there may be two servers. So a server that is not on the first address of
its list looks for another server on the addresses before its own. If it finds one, it accepts no
more jobs. It ends when its last job is done, or after MOVE_S.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from mmgevent.access.addresses import Address, format_address
from mmgevent.access.worker_key import main_key
from mmgevent.engine.greenlets import Greenlets, end_process, spawn
from mmgevent.engine.member_settings import Settings
from mmgevent.engine.net import election, tls
from mmgevent.engine.net.link import Link
from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.engine.place_search import PlaceSearch
from mmgevent.engine.server_start import make_server, start_listening
from mmgevent.engine.worker.role import WorkerRole
from mmgevent.errors import ConnectError, MmgeventError, UsageError, VersionMismatchError
from mmgevent.machine.logs import get_log

if TYPE_CHECKING:
    from mmgevent.engine.net.listener import Listener
    from mmgevent.engine.server.role import ServerRole

log = get_log(__name__)

#: Longest pause before a member looks for its next place, seconds. It is random, so that not all
#: members look at the same moment.
FIRST_PAUSE_S = 0.02

#: Pause after the first round in which no place was found, seconds. It doubles each time, and up to
#: as much again is added at random.
NEXT_PAUSE_S = 0.1

#: Longest such pause, seconds.
MAX_PAUSE_S = 2.0

#: Time between two looks for a server on earlier addresses, seconds.
EARLIER_S = 5.0

#: Time for the jobs of a server that gives up its place, seconds.
MOVE_S = 10.0

#: Pause before the server's own executors are started again after a fault, seconds.
AGAIN_S = 1.0

OnChange = Callable[["Membership"], None]


class Membership:
    """One engine's place in the cluster."""

    def __init__(self, settings: Settings, on_change: OnChange):
        """`on_change(self)` is called after each change of `state`; it must not block."""
        self._settings = settings
        self._on_change = on_change
        #: "connecting", "worker", "server", "occupied" or "closed"
        self.state = "connecting"
        #: why it has no server
        self.reason = ""
        #: where the server is, as written in the list of addresses
        self.address: Address | None = None
        #: what ended it, if trying again would not help
        self.error: MmgeventError | None = None
        #: the worker of this place; None if there is none, or if `procs` is 0
        self.worker: WorkerRole | None = None
        #: the link of this place if it has no worker; when it ends, the place is lost
        self.presence: Link | None = None
        #: whether it ever had a place; then no refusal is final
        self._had_place = False
        #: when its last task ended, as far as `busy_until` knows
        self._busy_until_s = 0.0
        #: state and reason at the last call of `on_change`
        self._told = ("", "")
        self._server: ServerRole | None = None
        #: set when this place is lost
        self._lost = Event()
        self._stop_reason: str | None = None
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = spawn(end_process, self.run)

    def run(self) -> None:
        """Be in one place after another, until `stop` or until trying again would not help."""
        pause_s = NEXT_PAUSE_S
        try:
            while self._stop_reason is None:
                try:
                    self._find_place()
                    pause_s = NEXT_PAUSE_S
                    self._rest(FIRST_PAUSE_S * random.random())
                except election.NoPlaceError as error:
                    if self._settings.once:
                        raise
                    self._change("occupied" if error.is_occupied else "connecting", str(error))
                    self._rest(pause_s * (1 + random.random()))
                    pause_s = min(MAX_PAUSE_S, 2 * pause_s)
                if self._settings.once:
                    break
        except MmgeventError as error:
            self.error = error
            self.reason = str(error)
        except Exception as error:
            log.exception("member closed by a fault of our own")
            self.error = MmgeventError(f"internal error: {type(error).__name__}: {error}")
            self.reason = str(self.error)
        self._change("closed", self._stop_reason or self.reason)

    def stop(self, reason: str, grace_s: float = 0.0) -> None:
        """Leave the cluster (blocks). Running tasks get `grace_s` seconds. Idempotent."""
        self._stop_reason = self._stop_reason or reason
        if self.worker is not None:
            self.worker.stop(reason, grace_s)
        self._lost.set()
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            if self.state in ("connecting", "occupied"):
                self._greenlet.kill()
            self._greenlet.join()
        self._change("closed", reason)

    def busy_until(self) -> float:
        """Return when the last task of its workers ended, by `monotonic`; 0.0 if there was none.

        While a task runs here, or this server has a job, that is now.
        """
        if self._server is not None and not self._server.idle.is_set():
            self._busy_until_s = monotonic()
        elif self.worker is not None:
            self._busy_until_s = max(self._busy_until_s, self.worker.busy_until_s)
        return self._busy_until_s

    def open_link(self) -> Link:
        """Return a link for this engine's driver to the server of this place (may block).

        The driver's hello was sent on it. The place may change while this blocks.

        Raises ConnectError, AuthenticationError or VersionMismatchError if there can be no link.
        """
        if self._server is not None:
            ours, theirs = local_pair("own driver")
            self._server.attach(theirs, "driver", is_local=True)
            ours.send(election.driver_hello())
            return ours
        if self.address is None:
            raise ConnectError(self.reason or "no server yet")
        if self.presence is not None and not self.presence.is_closed:
            return self.presence
        address = election.canonical(self.address)
        settings = self._settings
        sock = tls.connect(address, settings.key, "driver", settings.timeout, settings.certificates)
        return self._greet(sock, self.address)

    def _greet(self, sock: Any, address: Address) -> Link:
        """Return the link of a driver whose hello the server has answered.

        Raises an error of `greet`.
        """
        try:
            election.greet(sock, address, self._settings.timeout)
        except BaseException:
            sock.close()
            raise
        return SocketLink(sock, format_address(address))

    # -- places

    def _find_place(self) -> None:
        """Find a place and stay in it until it is lost.

        Raises NoPlaceError, AuthenticationError or VersionMismatchError if there is none.
        """
        search = PlaceSearch(self._settings.addresses, self._find, is_first=not self._had_place)
        while True:
            place = search.next_place()
            self._lost.clear()
            try:
                self._take(place)
                return
            except election.LostServerError as error:
                if search.is_contested(place, error):
                    self._rest(election.CONTEST_PAUSE_S * (1 + random.random()))
            except (VersionMismatchError, election.NoPlaceError) as error:
                search.refuse(place, error)  # another address may have a place

    def _find(self, addresses: Sequence[Address]) -> election.Joined | election.Elected:
        settings = self._settings
        return election.bind_or_connect(
            addresses,
            settings.key,
            self._role,
            may_serve=settings.may_serve,
            timeout=settings.timeout,
            certificates=settings.certificates,
        )

    @property
    def _role(self) -> str:
        return "worker" if self._settings.procs else "driver"

    def _take(self, place: election.Joined | election.Elected) -> None:
        """Stay in this place until it is lost.

        Raises VersionMismatchError, and NoPlaceError if the server does not accept this member.
        Raises LostServerError if the server was lost before its hello.
        """
        if self._stop_reason is not None:
            place.sock.close()
        elif isinstance(place, election.Elected):
            self._serve(place)
        elif self._role == "worker":
            self._work(place)
        else:
            self._attend(place)

    def _work(self, place: election.Joined) -> None:
        """Be the worker of a server elsewhere."""
        worker = self._make_worker(SocketLink(place.sock, format_address(place.address)))
        worker.accepted.rawlink(lambda _: self._arrive("worker", place.address))
        try:
            self._lost.wait()
        finally:
            worker.stop(self._stop_reason or "the member moved on")
            self._leave(worker.close_reason)
        if worker.refusal is not None:
            code, text = worker.refusal
            text = f"{format_address(place.address)}: {text}"
            final = {"version": VersionMismatchError, "slots": UsageError}.get(code)  # refused again
            raise election.NoPlaceError([text], True) if final is None else final(text)
        if not worker.accepted.is_set() and self._stop_reason is None:
            where = format_address(place.address)
            raise election.LostServerError(f"lost {where} before its hello: {worker.close_reason}")

    def _attend(self, place: election.Joined) -> None:
        """Use a server elsewhere for this engine's driver, without a worker."""
        try:
            link = self.presence = self._greet(place.sock, place.address)
        except election.LostServerError:
            raise
        except ConnectError as error:
            raise election.NoPlaceError([str(error)], True) from error
        self._arrive("worker", place.address)
        try:
            self._lost.wait()
        finally:
            self.presence = None
            link.close("the member moved on", 1.0)
            self._leave(self.reason)

    def lose(self, reason: str) -> None:
        """Note that this place is lost. Called by whoever reads its link."""
        self.reason = reason
        self._lost.set()

    def _serve(self, place: election.Elected) -> None:
        """Be the server."""
        settings = self._settings
        server = make_server(settings.memory_bytes, settings.scratch)
        listener = self._listen(place, server)
        greenlets = Greenlets(self._on_fault)
        reason = "the member leaves"
        try:
            if not election.is_reached(
                place.address, settings.key, listener.digest, settings.timeout, settings.certificates
            ):
                where = format_address(place.address)
                raise election.NoPlaceError(
                    [f"listening on {where}, but what answers there is another"], True
                )
            if advice := election.find_reach(place):
                log.warning("elected, but %s", advice)
            self._server = server
            if settings.procs:
                greenlets.spawn(self._employ_own, server)
            earlier = settings.addresses[: list(settings.addresses).index(place.address)]
            if earlier:
                greenlets.spawn(self._look_for_earlier, server, earlier, listener.digest)
            self._arrive("server", place.address)
            self._lost.wait()
            reason = self._stop_reason or self.reason or reason
        finally:
            self._server = None
            greenlets.kill()
            if self.worker is not None:
                self.worker.stop(reason)
            listener.close()
            server.stop(reason)
            self._leave(reason)

    def _listen(self, place: election.Elected, server: ServerRole) -> Listener:
        """Let others connect to this server.

        Raises NoPlaceError if that is impossible now. The address is free again then.
        """
        try:
            key, certificates = main_key(self._settings.key), self._settings.certificates
            return start_listening(server, place.sock, key, self.lose, certificates)
        except BaseException as error:
            place.sock.close()
            if not isinstance(error, OSError):
                raise
            where = format_address(place.address)
            raise election.NoPlaceError([f"cannot be the server at {where} now: {error}"], False) from error

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        """Give up the place: a part of the server has ended by a fault."""
        log.error("server given up by a fault of our own", exc_info=greenlet.exc_info)
        self.lose(f"internal error: {type(greenlet.exception).__name__}: {greenlet.exception}")

    def _employ_own(self, server: ServerRole) -> None:
        """Be a worker, too: keep this machine's executors at work for the server in this engine."""
        while True:
            ours, theirs = local_pair("local worker")
            server.attach(ours, "worker", is_local=True)
            worker = self._make_worker(theirs, is_local=True)
            worker.closed.wait()
            if self._lost.is_set() or self._stop_reason is not None:
                return
            log.error("own executors have ended: %s", worker.close_reason)
            gevent.sleep(AGAIN_S)

    def _make_worker(self, link: Link, *, is_local: bool = False) -> WorkerRole:
        settings = self._settings
        worker = WorkerRole(
            link,
            slots=settings.procs,
            forkers=settings.forkers,
            name=settings.name,
            scratch_dir=settings.scratch,
            limits=settings.limits,
            offers=settings.offers,
            offering=settings.offering,
            is_local=is_local,
            on_tell=settings.on_tell,
        )
        self.worker = worker
        if not is_local:
            worker.closed.rawlink(lambda _: self._lost.set())
        worker.start()
        return worker

    def _look_for_earlier(self, server: ServerRole, earlier: Sequence[Address], digest: bytes) -> None:
        """Give up the place when there is another server on an address before this one."""
        settings = self._settings
        own = (settings.key, digest, settings.timeout, settings.certificates)
        while (found := election.find_server(earlier, *own)) is None:
            gevent.sleep(EARLIER_S)
        where = format_address(found)
        log.warning("there is a server at %s: this one takes no more jobs and closes", where)
        server.move(where)
        with gevent.Timeout(MOVE_S, False):
            server.idle.wait()
        self.lose(f"the server moved to {where}")

    # -- changes

    def _arrive(self, state: str, address: Address) -> None:
        self.address = address
        self._had_place = True
        self._change(state, "")

    def _leave(self, reason: str) -> None:
        self.busy_until()
        was_there, self.address = self.address is not None, None
        self.worker = None
        self.reason = reason
        if was_there and self._stop_reason is None and not self._settings.once:
            self._change("connecting", reason)

    def _change(self, state: str, reason: str) -> None:
        if self.state != "closed" and ((state, reason) != self._told or state in ("worker", "server")):
            self._told = self.state, self.reason = state, reason
            self._on_change(self)

    def _rest(self, seconds: float) -> None:
        """Wait for so many seconds, or until `stop`."""
        if self._stop_reason is None:
            self._lost.clear()
            self._lost.wait(seconds)
