"""Links between two roles of one process: frames are passed on as they are, without encoding."""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import Event

from mmgevent.engine.net.link import BURST_COUNT, Link
from mmgevent.wire.frames import Frame


class LocalLink(Link):
    """One end of a link within this process. `local_pair` makes both."""

    _peer: LocalLink

    def __init__(self, name: str) -> None:
        super().__init__(name)
        #: the hub's loop, once the link has started
        self._loop: Any = None
        self._is_carry_due = False
        #: set when this end receives nothing more
        self._deaf = Event()

    def _start(self) -> None:
        self._loop = gevent.get_hub().loop
        self._listen()

    def _wake(self) -> None:
        self._peer._listen()

    def _listen(self) -> None:
        """Have the hub look for frames of the peer."""
        if self._loop is not None and not self._is_carry_due:
            self._is_carry_due = True
            self._loop.run_callback(self._carry)

    def _carry(self) -> None:
        """Deliver frames of the peer, up to a limit. Called by the hub."""
        self._is_carry_due = False
        try:
            self._carry_burst()
        except Exception as error:
            self._begin_close(self._own_fault(error, "reading"))

    def _carry_burst(self) -> None:
        for _ in range(BURST_COUNT):
            if self._closing:
                self._deaf.set()  # the peer may be closing, too, and wait for it
                return
            frame = self._peer._next_frame()
            if frame is None:
                if self._peer._closing:
                    self._deaf.set()
                    self._begin_close("the other end closed the link")
                return
            self._deliver(_own(frame))
        self._listen()

    def _finish(self, flush_s: float) -> None:
        peer = self._peer
        if flush_s > 0 and peer._loop is not None:
            self._wake()
            peer._deaf.wait(flush_s)
        self._deaf.set()
        peer._begin_close("the other end closed the link")


def local_pair(name: str) -> tuple[Link, Link]:
    """Return the two ends of a link within this process."""
    one, other = LocalLink(name), LocalLink(name)
    one._peer, other._peer = other, one
    return one, other


def _own(frame: Frame) -> Frame:
    """Return the frame with a payload of its own, as frames from sockets have."""
    if isinstance(frame.payload, bytes):
        return frame
    return Frame(frame.kind, bytes(frame.payload), *frame.lane)
