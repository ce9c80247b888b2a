"""Pass on what programs tell one another, in an engine between a driver and a server elsewhere.

Links come and go here while messages are under way in pieces, so `Pieces` sees to it that all of a
message goes one way.  Tells have no credit, so `WatchedPeers` bounds what waits for a driver that
does not listen, and `ToldPeers` what waits for the server: see `wire.user_messages`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import gevent

from mmgevent.engine.net.backlog import Backlog, waiting_bytes
from mmgevent.wire.frames import Frame, Lane
from mmgevent.wire.messages import control, message_of
from mmgevent.wire.user_messages import MAX_RECEIVER_BYTES, MAX_SENDER_BYTES, MAX_WAITING_BYTES, broken_end

if TYPE_CHECKING:
    from mmgevent.engine.net.link import Link

log = logging.getLogger(__name__)

T = TypeVar("T")


class Pieces(Generic[T]):
    """Where the pieces of each message go: where the first one went; None for nowhere."""

    def __init__(self) -> None:
        self._begun: dict[Lane, T | None] = {}

    def route(self, frame: Frame, message: dict[str, Any], now: T | None) -> T | None:
        """Return where this `tell` goes; `now` is where it does if it begins a message."""
        where = self._begun.pop(frame.lane, now)
        if message.get("more", False):
            self._begun[frame.lane] = where
        return where

    def cut(self) -> list[tuple[Lane, T]]:
        """Return the lanes that are in the middle of a message, and where to; their rest will not come."""
        begun, self._begun = self._begun, {}
        return [(lane, where) for lane, where in begun.items() if where is not None]


class Host:
    """What drivers elsewhere tell the program of this engine's worker."""

    def __init__(self, driver: Link) -> None:
        """`driver` is the link to that program."""
        self._driver = driver
        self._pieces: Pieces[Link] = Pieces()

    def tell(self, frame: Frame, message: dict[str, Any]) -> None:
        """Pass a piece on.  A message that comes while much waits is dropped: nobody here can stop its sender."""
        is_full = waiting_bytes(self._driver, frame.lane) > MAX_WAITING_BYTES
        link = self._pieces.route(frame, message, None if is_full else self._driver)
        if link is not None:
            link.send_in_lane(frame)
        elif not message.get("more", False):
            log.warning(
                "dropped a message: %d bytes wait for a program that does not listen", MAX_WAITING_BYTES
            )

    def change_server(self) -> None:
        """What was begun is not ended by the next server."""
        for lane, link in self._pieces.cut():
            link.send_in_lane(broken_end(lane))


class WatchedPeers:
    """What a server says of workers to a driver that watches."""

    def __init__(self, driver: Link) -> None:
        self._driver = driver
        self._backlog = Backlog()
        #: of workers that have not left: their `joined`
        self._present: dict[Lane, Frame] = {}
        #: in the middle of a message, and those of them of whose message the driver gets nothing more
        self._begun: set[Lane] = set()
        self._skipped: set[Lane] = set()

    def pass_on(self, frame: Frame) -> None:
        """Send a frame about a peer to the driver.  What the driver does not take is dropped, whole messages."""
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
            self._lose(lane)
        while self._backlog.exceeds(MAX_RECEIVER_BYTES):
            self._lose(self._backlog.longest()[1])

    def _note(self, type_: str, frame: Frame) -> None:
        """A worker has come or gone; either way it is in no message."""
        self._begun.discard(frame.lane)
        self._skipped.discard(frame.lane)
        if type_ == "joined":
            self._present[frame.lane] = frame
        else:
            self._present.pop(frame.lane, None)

    def _lose(self, lane: Lane) -> None:
        n_bytes = self._driver.queued_bytes(lane)
        log.warning("dropped %d bytes that worker %d told: this program does not take them", n_bytes, lane[1])
        self._backlog.drop(self._driver, lane)
        left = control("left", task=lane[1], reason="what it told last is lost")
        # For a worker that is known, `joined` does no more than to end whatever message was begun.
        self._driver.send_in_lane(self._present.get(lane, left))
        if lane in self._begun:
            self._skipped.add(lane)

    def change_server(self) -> None:
        """The peers of the next server have the same numbers: nothing of these may come after."""
        self._backlog.drop_all()
        self._present.clear()
        self._begun.clear()
        self._skipped.clear()


class ToldPeers:
    """What a driver tells workers, on its way to the server."""

    def __init__(self) -> None:
        self._pieces: Pieces[Link] = Pieces()
        self._backlog = Backlog()

    def pass_on(self, frame: Frame, message: dict[str, Any], server: Link | None) -> None:
        """Send a piece to the server, or to nobody; a driver that tells more than the line takes loses its server."""
        link = self._pieces.route(frame, message, server)
        if link is None or link.is_closed:
            return
        self._backlog.put(link, frame)
        if self._backlog.exceeds(MAX_SENDER_BYTES):
            self._backlog.drop_all()
            log.warning("link closed: %s: %d bytes of tells wait for it", link.name, MAX_SENDER_BYTES)
            gevent.spawn(link.close, "this program tells more than the line to the server takes")
