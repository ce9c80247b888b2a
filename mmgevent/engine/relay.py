"""Carry a driver's frames to the server, and back, where the server is elsewhere.

`relay` joins two links for as long as both last: what `connect()` has.  `NodeRelay` is a
node's: the driver's link stays while servers come and go, each with a link of its own,
opened when the driver first wants something of that server.

Frames pass undecoded but for the control frames of a node's driver, which say what
has to be said again to the next server, and what must not.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

import gevent

from mmgevent import errors
from mmgevent.access.addresses import format_address
from mmgevent.engine.passing import Host, Pieces, ToldPeers, WatchedPeers
from mmgevent.errors import MmgeventError, ProtocolError
from mmgevent.wire.frames import CONTROL, GRANT, Frame
from mmgevent.wire.messages import control, message_of

if TYPE_CHECKING:
    from mmgevent.engine.membership import Membership
    from mmgevent.engine.net.link import Link
    from mmgevent.engine.worker.role import WorkerRole

log = logging.getLogger(__name__)

#: for what waits to reach a driver or server whose link is closed
FLUSH_S = 1.0
#: pauses between two tries to get the driver a link again, growing, with as much again at random
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0
#: frames that wait while a link to the server is opened: of each job its submit and a window of code
MAX_HELD_FRAMES = 10_000
#: what a server says of a job last
_LAST_WORDS = {"job_done", "job_failed", "rejected", "moved"}


def relay(driver: Link, remote: Link, ended: Any) -> None:
    """Join the link of a driver to that of a remote server; `ended` (an Event) is set when the driver leaves."""

    def on_remote_close(reason: str) -> None:
        driver.send(control("goodbye", reason=f"the server is gone: {reason}"))
        driver.close(reason, FLUSH_S)

    told, watched = ToldPeers(), WatchedPeers(driver)

    def on_driver_frame(frame: Frame) -> None:
        if _is_about_peer(frame) and (message := message_of(frame))["type"] == "tell":
            told.pass_on(frame, message, remote)
        else:
            _pass(frame, remote)

    def on_remote_frame(frame: Frame) -> None:
        if _is_about_peer(frame):
            watched.pass_on(frame)
        else:
            _pass(frame, driver)

    driver.start(on_driver_frame, lambda reason: ended.set())
    remote.start(on_remote_frame, on_remote_close)


def _is_about_peer(frame: Frame) -> bool:
    """Is it about a worker, for or from a driver that watches?"""
    return frame.kind == CONTROL and not frame.job and frame.task != 0


def _pass(frame: Frame, to: Link) -> None:
    """Send a frame on; lanes keep their order, what is before every lane stays there."""
    is_of_job = frame.kind == CONTROL and not frame.task and not frame.attempt
    if frame.kind == GRANT or is_of_job:
        to.send(frame)
    else:
        to.send_in_lane(frame)


class NodeRelay:
    """The driver of a node, and the server of the moment."""

    def __init__(self, driver: Link, member: Membership, ended: Any):
        """`ended` (an Event) is set when the driver leaves; `member.start` comes after this."""
        self._driver = driver
        self._member = member
        self._server: Link | None = None
        self._opening: gevent.Greenlet | None = None
        self._held: list[Frame] = []  # for the link that is being opened
        self._jobs: set[int] = set()  # handed in over this link, or held for it
        self._is_cut_off = False  # the node has its place, but its driver no link to the server
        # What the driver is told of workers and tells them; what its own worker is told, and tells.
        self._watched, self._told_peers = WatchedPeers(driver), ToldPeers()
        self._host = Host(driver)
        self._told_drivers: Pieces[WorkerRole] = Pieces()
        driver.start(self._on_driver_frame, lambda reason: ended.set())

    def on_change(self, member: Membership) -> None:
        """Tell the driver that its node's state has changed; what was handed in before is lost."""
        self._drop_server()
        self._is_cut_off = False
        self._host.change_server()
        self._driver.send(self._state_frame())
        if member.presence is not None:
            self._use(member.presence)

    def tell_driver(self, frame: Frame) -> None:
        """Pass on what a driver elsewhere tells this node's worker; a host that does not read is not waited for."""
        self._host.tell(frame, message_of(frame))

    # from the driver

    def _on_driver_frame(self, frame: Frame) -> None:
        if frame.kind != CONTROL:
            if frame.job in self._jobs:
                self._forward(frame)
            return
        message = message_of(frame)
        type_ = message["type"]
        if type_ == "hello":
            return  # each link to a server has had one
        if type_ == "tell" and not frame.task:
            worker = self._told_drivers.route(frame, message, self._member.worker)
            if worker is not None:
                worker.tell(frame)
        elif type_ == "tell":
            self._told_peers.pass_on(frame, message, self._server)
        elif self._is_cut_off or self._member.state not in ("worker", "server"):
            if type_ in ("submit", "list_workers"):
                self._driver.send(self._state_frame(frame.job))
        elif type_ == "submit":
            self._jobs.add(frame.job)
            if message.get("context_bytes"):  # a node's job runs alike wherever the server is
                raise ProtocolError("the surroundings of a node's driver stay at home")
            self._forward(frame)
        elif not frame.job or frame.job in self._jobs:
            self._forward(frame)
            if type_ == "cancel":
                self._jobs.discard(frame.job)

    def _forward(self, frame: Frame) -> None:
        if self._server is not None:
            _pass(frame, self._server)
            return
        if len(self._held) >= MAX_HELD_FRAMES:
            self._cut_off(f"{MAX_HELD_FRAMES} frames wait for a link to the server")
            return
        self._held.append(frame)
        if self._opening is None:
            self._opening = gevent.spawn(self._open)

    # to the server

    def _open(self) -> None:
        """Open a link to the server, for what is held; a node that is cut off tries until its place changes."""
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                try:
                    link = self._member.open_link()
                    break
                except MmgeventError as error:
                    self._cut_off(str(error))
                gevent.sleep(pause_s * (1 + random.random()))
                pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        finally:
            if self._opening is gevent.getcurrent():  # else another was begun meanwhile, for the next place
                self._opening = None
        self._use(link)
        if self._is_cut_off:
            self._is_cut_off = False
            self._driver.send(self._state_frame())

    def _use(self, link: Link) -> None:
        self._server = link
        link.start(
            lambda frame: self._on_server_frame(link, frame), lambda reason: self._on_close(link, reason)
        )
        held, self._held = self._held, []
        for frame in held:
            _pass(frame, link)

    def _on_server_frame(self, link: Link, frame: Frame) -> None:
        if link is not self._server:
            return
        if frame.kind == CONTROL and not frame.task:
            type_ = message_of(frame)["type"]
            if type_ == "goodbye":
                return  # its end follows
            if type_ in _LAST_WORDS:
                self._jobs.discard(frame.job)
        if _is_about_peer(frame):
            self._watched.pass_on(frame)
        else:
            _pass(frame, self._driver)

    def _on_close(self, link: Link, reason: str) -> None:
        if link is self._server:
            self._server = None
            self._watched.change_server()
            self._cut_off(f"the server is gone: {reason}")
            if link is self._member.presence:
                self._member.lose(reason)
            elif self._opening is None:
                self._opening = gevent.spawn_later(FIRST_PAUSE_S * (1 + random.random()), self._open)

    def _drop_server(self) -> None:
        """Let go of the link to a server that is no longer ours."""
        if self._opening is not None:
            self._opening.kill(block=False)
            self._opening = None
        link, self._server = self._server, None
        self._watched.change_server()
        self._held.clear()
        self._jobs.clear()
        if link is not None and link is not self._member.presence:
            gevent.spawn(link.close, "the node's server changed", 0.0)

    def _cut_off(self, reason: str) -> None:
        """Tell the driver that what it wanted of the server is lost, though the node has its place still."""
        self._held.clear()
        self._jobs.clear()
        if not self._is_cut_off:
            self._is_cut_off = True
            self._driver.send(self._state_frame(0, reason))

    def _state_frame(self, job: int = 0, reason: str | None = None) -> Frame:
        member = self._member
        return control(
            "node",
            job,
            state="connecting" if self._is_cut_off else member.state,
            reason=member.reason if reason is None else reason,
            address=None if member.address is None else format_address(member.address),
            error=None if member.error is None else _public_name(member.error),
        )


def _public_name(error: MmgeventError) -> str:
    """Return the class of an error that its receiver knows."""
    return next(c.__name__ for c in type(error).__mro__ if hasattr(errors, c.__name__))
