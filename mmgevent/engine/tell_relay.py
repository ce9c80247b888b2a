"""Relay the `tell` messages of programs, in an engine between its driver and a server elsewhere.

A message travels in pieces, and links may change before the last piece. So `MessageRoutes` sends
all pieces of a message the same way. These messages need no credit. So `ProgramInbox` and
`PeerNews` limit the bytes that wait for the driver, and `PeerTells` limits those that wait for the
server. The limits are those of `wire.user_messages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mmgevent.engine.net.backlog import Backlog, waiting_bytes
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import Frame, Lane
from mmgevent.wire.messages import control, message_of
from mmgevent.wire.user_messages import MAX_RECEIVER_BYTES, MAX_SENDER_BYTES, MAX_WAITING_BYTES, broken_end

if TYPE_CHECKING:
    from mmgevent.engine.net.link import Link

log = get_log(__name__)

T = TypeVar("T")


class MessageRoutes(Generic[T]):
    """Where the pieces of each message go: where the first one went, or None for nowhere."""

    def __init__(self) -> None:
        self._begun: dict[Lane, T | None] = {}

    def route(self, frame: Frame, message: dict[str, Any], now: T | None) -> T | None:
        """Return where this `tell` goes. `now`: where it goes if it begins a message."""
        where = self._begun.pop(frame.lane, now)
        if message.get("more", False):
            self._begun[frame.lane] = where
        return where

    def cut(self) -> list[tuple[Lane, T]]:
        """Return the lanes of incomplete messages, and where their pieces went.

        Their rest will not come.
        """
        begun, self._begun = self._begun, {}
        return [(lane, where) for lane, where in begun.items() if where is not None]


class ProgramInbox:
    """Messages of drivers elsewhere to the program of this engine's worker."""

    def __init__(self, driver: Link) -> None:
        """`driver`: the link to that program."""
        self._driver = driver
        self._pieces: MessageRoutes[Link] = MessageRoutes()

    def tell(self, frame: Frame, message: dict[str, Any]) -> None:
        """Pass on a piece of a message.

        A message that begins while too much waits is dropped: its sender does not wait for credit.
        """
        is_full = waiting_bytes(self._driver, frame.lane) > MAX_WAITING_BYTES
        link = self._pieces.route(frame, message, None if is_full else self._driver)
        if link is not None:
            link.send_in_lane(frame)
        elif not message.get("more", False):
            log.warning(
                "dropped a message: %d bytes wait for a program that does not listen", MAX_WAITING_BYTES
            )

    def change_server(self) -> None:
        """End incomplete messages: the next server does not have their rest."""
        for lane, link in self._pieces.cut():
            link.send_in_lane(broken_end(lane))


class PeerNews:
    """Messages of and about workers, from the server to a driver that watches."""

    def __init__(self, driver: Link) -> None:
        self._driver = driver
        self._backlog = Backlog()
        #: lane of a worker that has not left -> its `joined`
        self._present: dict[Lane, Frame] = {}
        #: lanes whose message is incomplete
        self._begun: set[Lane] = set()
        #: lanes of incomplete messages whose rest is dropped
        self._skipped: set[Lane] = set()

    def pass_on(self, frame: Frame) -> None:
        """Send the driver a frame about a peer.

        Whole messages are dropped if the driver does not read.
        """
        message = message_of(frame)
        lane = frame.lane
        if message["type"] == "tell":
            (self._begun.add if message.get("more", False) else self._begun.discard)(lane)
            if lane in self._skipped:
                self._skipped &= self._begun
                return
        else:
            self._note(message["type"], frame)
        if self._backlog.put(self._driver, frame) > MAX_WAITING_BYTES:
            self._drop(lane)
        while self._backlog.exceeds(MAX_RECEIVER_BYTES):
            self._drop(self._backlog.longest()[1])

    def _note(self, type_: str, frame: Frame) -> None:
        """Note that a worker has joined or left. No message of it is incomplete then."""
        self._begun.discard(frame.lane)
        self._skipped.discard(frame.lane)
        if type_ == "joined":
            self._present[frame.lane] = frame
        else:
            self._present.pop(frame.lane, None)

    def _drop(self, lane: Lane) -> None:
        n_bytes = self._driver.queued_bytes(lane)
        log.warning("dropped %d bytes of messages of worker %d: this program does not read", n_bytes, lane[1])
        self._backlog.drop(self._driver, lane)
        left = control("left", task=lane[1], reason="its last messages are lost")
        # A second `joined` of a worker only ends its incomplete message at the driver.
        self._driver.send_in_lane(self._present.get(lane, left))
        if lane in self._begun:
            self._skipped.add(lane)

    def change_server(self) -> None:
        """Drop everything: the peers of the next server have the same numbers."""
        self._backlog.drop_all()
        self._present.clear()
        self._begun.clear()
        self._skipped.clear()


class PeerTells:
    """Messages of a driver to workers, on their way to the server."""

    def __init__(self) -> None:
        self._pieces: MessageRoutes[Link] = MessageRoutes()
        self._backlog = Backlog()

    def pass_on(self, frame: Frame, message: dict[str, Any], server: Link | None) -> None:
        """Send a piece to the server, if there is one.

        The link closes if too much waits for the server.
        """
        link = self._pieces.route(frame, message, server)
        if link is None or link.is_closed:
            return
        self._backlog.put(link, frame)
        if self._backlog.exceeds(MAX_SENDER_BYTES):
            self._backlog.drop_all()
            log.warning("link closed: %s: %d bytes of messages wait for it", link.name, MAX_SENDER_BYTES)
            link.close_soon("this program sends more messages than the server reads")
