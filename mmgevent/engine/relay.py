"""Carry a driver's frames to a server elsewhere, and back.

`relay` joins two links for as long as both last. `connect()` uses it. `NodeRelay` is for nodes: the
driver's link stays while servers change. Each server has a link of its own, opened when the driver
first needs it.

Frames are passed on unread, except control frames of a node. These show which jobs the current
server knows.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import gevent

from mmgevent import errors
from mmgevent.access.addresses import format_address
from mmgevent.engine.greenlets import spawn
from mmgevent.engine.tell_relay import MessageRoutes, PeerNews, PeerTells, ProgramInbox
from mmgevent.errors import MmgeventError, ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import CONTROL, GRANT, Frame
from mmgevent.wire.listings import QUESTIONS
from mmgevent.wire.messages import control, message_of
from mmgevent.wire.prints import is_printed

if TYPE_CHECKING:
    from mmgevent.engine.membership import Membership
    from mmgevent.engine.net.link import Link
    from mmgevent.engine.worker.role import WorkerRole

log = get_log(__name__)

#: Time for queued frames to reach a driver whose link closes, seconds.
FLUSH_S = 1.0

#: First pause between two tries to open a link for the driver, seconds. It doubles each time, and
#: up to as much again is added at random.
FIRST_PAUSE_S = 0.05

#: Longest such pause, seconds.
MAX_PAUSE_S = 2.0

#: Most frames that wait while a link to the server is opened. Each job has its `submit` and a
#: window of code.
MAX_WAITING_FRAMES = 10_000

#: The last message of a server about a job is one of these.
_LAST_WORDS = {"job_done", "job_failed", "rejected", "moved"}


def relay(driver: Link, remote: Link, ended: Any) -> None:
    """Join the links of a driver and a remote server.

    Sets `ended` (an Event) when the driver leaves.
    """

    def on_remote_close(reason: str) -> None:
        driver.send(control("goodbye", reason=f"the server is lost: {reason}"))
        driver.close(reason, FLUSH_S)

    told, watched = PeerTells(), PeerNews(driver)

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
    """Return whether a frame is about a worker, for or from a driver that watches."""
    return frame.kind == CONTROL and not frame.job and frame.task != 0


def _pass(frame: Frame, to: Link) -> None:
    """Pass a frame on as it came: in its lane, or before every lane."""
    is_of_job = frame.kind == CONTROL and not frame.task and not frame.attempt
    if is_of_job and is_printed(frame):
        to.send_if_room(frame)
    elif frame.kind == GRANT or is_of_job:
        to.send(frame)
    else:
        to.send_in_lane(frame)


class NodeRelay:
    """The link of a node's driver, and the link to its current server."""

    def __init__(self, driver: Link, member: Membership, ended: Any):
        """Sets `ended` (an Event) when the driver leaves. Call `member.start` after this."""
        self._driver = driver
        self._member = member
        self._server: Link | None = None
        self._opening: gevent.Greenlet | None = None
        #: frames for the link that is being opened
        self._held: list[Frame] = []
        #: jobs that were submitted over the current link, or wait for it
        self._jobs: set[int] = set()
        #: whether the node has its place, but its driver no link to the server
        self._is_cut_off = False
        #: messages about workers to the driver, and of the driver to workers
        self._watched, self._told_peers = PeerNews(driver), PeerTells()
        #: messages to the program of this node's worker, and of that program to drivers
        self._host = ProgramInbox(driver)
        self._told_drivers: MessageRoutes[WorkerRole] = MessageRoutes()
        driver.start(self._on_driver_frame, lambda reason: ended.set())

    def on_change(self, member: Membership) -> None:
        """Report a change of the node's state to the driver.

        Jobs that were submitted before are lost.
        """
        self._drop_server()
        self._is_cut_off = False
        self._host.change_server()
        self._driver.send(self._state_frame())
        if member.presence is not None:
            self._use(member.presence)

    def tell_driver(self, frame: Frame) -> None:
        """Pass on a message of a driver elsewhere to the program of this node's worker."""
        self._host.tell(frame, message_of(frame))

    # -- from the driver

    def _on_driver_frame(self, frame: Frame) -> None:
        if frame.kind != CONTROL:
            if frame.job in self._jobs:
                self._forward(frame)
            return
        message = message_of(frame)
        type_ = message["type"]
        if type_ == "hello":
            return  # each link to a server begins with one
        if type_ == "tell" and not frame.task:
            worker = self._told_drivers.route(frame, message, self._member.worker)
            if worker is not None:
                worker.tell(frame)
        elif type_ == "tell":
            self._told_peers.pass_on(frame, message, self._server)
        elif self._is_cut_off or self._member.state not in ("worker", "server"):
            if type_ in ("submit", *QUESTIONS):
                self._driver.send(self._state_frame(frame.job))
        elif type_ == "submit":
            self._jobs.add(frame.job)
            if message.get("context_bytes"):  # a node's job must not depend on where the server is
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
        if len(self._held) >= MAX_WAITING_FRAMES:
            self._cut_off(f"{MAX_WAITING_FRAMES} frames wait for a link to the server")
            return
        self._held.append(frame)
        if self._opening is None:
            self._opening = spawn(self._on_fault, self._open)

    # -- to the server

    def _open(self) -> None:
        """Open a link to the server for the frames that wait.

        Tries until the node's place changes.
        """
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
            if self._opening is gevent.getcurrent():  # else the next one has begun
                self._opening = None
        self._use(link)
        if self._is_cut_off:
            self._is_cut_off = False
            self._driver.send(self._state_frame())

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        """Report to the driver that its jobs are lost, and try again after a pause."""
        log.error("no link to the server by a fault of our own", exc_info=greenlet.exc_info)
        self._cut_off(f"internal error: {type(greenlet.exception).__name__}: {greenlet.exception}")
        if self._opening is None and self._server is None:
            self._opening = spawn(self._on_fault, self._open, delay_s=MAX_PAUSE_S)

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
                return  # the end of the link follows
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
            self._cut_off(f"the server is lost: {reason}")
            if link is self._member.presence:
                self._member.lose(reason)
            elif self._opening is None:
                pause_s = FIRST_PAUSE_S * (1 + random.random())
                self._opening = spawn(self._on_fault, self._open, delay_s=pause_s)

    def _drop_server(self) -> None:
        """Close the link to a server that is no longer ours."""
        if self._opening is not None:
            self._opening.kill(block=False)
            self._opening = None
        link, self._server = self._server, None
        self._watched.change_server()
        self._held.clear()
        self._jobs.clear()
        if link is not None and link is not self._member.presence:
            link.close_soon("the node's server changed")

    def _cut_off(self, reason: str) -> None:
        """Report to the driver that its jobs are lost, although the node still has its place."""
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
    """Return the name of the nearest class of an error that the receiver knows."""
    return next(c.__name__ for c in type(error).__mro__ if hasattr(errors, c.__name__))
