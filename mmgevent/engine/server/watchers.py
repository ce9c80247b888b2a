"""Who watches: drivers that are told of workers, and what programs at both ends tell one another.

A watching driver gets `joined` of a worker before what that worker tells, and `left`
after: `joined` goes before every lane, tells and `left` in the lane of the peer.  The other way
each driver has a lane of its own on the link of the worker it tells.

Tells are passed on unread, and they have no credit, so here is what bounds them (the numbers
are in `telling`).  A driver that does not read loses what waits for it, whole messages, of the
worker that has more than MAX_WAITING_BYTES waiting there or, with MAX_RECEIVER_BYTES of all, the most: nobody
else feels it.  A driver that tells more than workers take loses its own link: with MAX_WAITING_BYTES for one
of them, or MAX_SENDER_BYTES for all; the one in the server's own engine, whose end may be that of the server,
loses the messages instead.  `joined` has no such bound, but that of all control frames (`engine.net.link`): it closes
a driver that does not read while tens of thousands of workers come, which is right.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

import gevent

from mmgevent.engine.net.backlog import Backlog
from mmgevent.engine.net.link import Link
from mmgevent.wire.failures import shorten
from mmgevent.wire.frames import CONTROL, Frame, Lane
from mmgevent.wire.messages import control
from mmgevent.wire.telling import (
    MAX_RECEIVER_BYTES,
    MAX_SENDER_BYTES,
    MAX_WAITING_BYTES,
    MessageLength,
    broken_end,
)

if TYPE_CHECKING:
    from mmgevent.engine.server.peers import DriverPeer, WorkerPeer

log = logging.getLogger(__name__)

MAX_REASON_BYTES = 500  #: of what a peer said when it left, passed on to drivers
GOODBYE_S = 2.0  #: for a goodbye to reach a peer before its link closes


class _Watcher:
    """One driver that watches."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.backlog = Backlog()
        #: workers that are in the middle of a message of which the driver gets nothing more: it came
        #: later than that, or has not taken what was before
        self.skipped: set[int] = set()

    def tell(self, worker: int, frame: Frame, is_last: bool) -> int:
        """Pass on a piece of what a worker tells; return the bytes that wait of this worker."""
        if worker not in self.skipped:
            return self.backlog.put(self.link, frame)
        if is_last:
            self.skipped.discard(worker)
        return 0

    def lose(self, link: Link, lane: Lane, worker: WorkerPeer | None) -> None:
        """Drop what waits in the lane of a worker; None if that has left."""
        number = lane[1]
        n_bytes = link.queued_bytes(lane)
        log.warning("dropped %d bytes that worker %d told: %s does not take them", n_bytes, number, link.name)
        self.backlog.drop(link, lane)
        if worker is None:
            link.send_in_lane(control("left", task=number, reason="what it told last is lost"))
            return
        link.send_in_lane(_describe(number, worker))  # whatever message was begun ends here
        if not worker.told.is_complete:
            self.skipped.add(number)


class _Teller:
    """A driver that tells workers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.backlog = Backlog()
        #: by worker, while it is in the middle of a message
        self.begun: dict[int, MessageLength] = {}
        #: workers that get nothing more of the message in the middle of which they are
        self.skipped: set[int] = set()
        self.is_cut_off = False


class Watchers:
    """The drivers that watch the workers of one server, and everybody who tells."""

    def __init__(self, workers: dict[int, WorkerPeer]):
        """`workers` is the server's own table, by number."""
        self._workers = workers
        self._watchers: dict[DriverPeer, _Watcher] = {}
        self._tellers: dict[DriverPeer, _Teller] = {}
        self._teller_numbers = itertools.count(1)

    # drivers

    def add(self, driver: DriverPeer) -> None:
        """A driver watches from now on; one that does already begins anew."""
        before = self._watchers.pop(driver, None)
        if before is not None:
            before.backlog.drop_all()
        watcher = self._watchers[driver] = _Watcher(driver.link)
        for number, worker in self._workers.items():
            if not worker.told.is_complete:
                watcher.skipped.add(number)
            driver.link.send(_describe(number, worker))

    def remove(self, driver: DriverPeer) -> None:
        """A driver is gone.  What it has told is passed on still, but for a message that it has begun only."""
        self._watchers.pop(driver, None)
        teller = self._tellers.pop(driver, None)
        if teller is not None:
            for number in teller.begun:
                self._workers[number].link.send_in_lane(broken_end((0, 0, teller.number)))

    def tell_worker(self, driver: DriverPeer, frame: Frame, message: dict[str, Any]) -> None:
        """Pass on what a driver tells a worker; ProtocolError for lengths that cannot be."""
        number = frame.task
        teller = self._tellers.get(driver)
        if teller is None:
            teller = self._tellers[driver] = _Teller(next(self._teller_numbers))
        if teller.is_cut_off:
            return
        length = teller.begun.get(number) or MessageLength()
        length.add(message)
        worker = self._workers.get(number)
        if length.is_complete or worker is None:
            teller.begun.pop(number, None)
        else:
            teller.begun[number] = length
        if worker is None:
            return  # it left
        if number in teller.skipped:
            if length.is_complete:
                teller.skipped.discard(number)
            return
        passed = Frame(CONTROL, bytes(frame.payload), 0, 0, teller.number)
        waiting = teller.backlog.put(worker.link, passed)
        if waiting > MAX_WAITING_BYTES or teller.backlog.exceeds(MAX_SENDER_BYTES):
            self._stop_teller(driver, teller)

    def _stop_teller(self, driver: DriverPeer, teller: _Teller) -> None:
        """End a driver that tells more than the workers take.

        Not one of the server's own engine, whose end may be that of the server, and of everybody's jobs: that one
        loses the messages for the worker which has the most waiting.  No worker goes: it may only be slow.
        """
        if not driver.is_local:
            teller.is_cut_off = True
            part_with(driver.link, "it tells more than the workers take")
            return
        link, lane = teller.backlog.longest()
        log.warning("dropped %d bytes: %s does not take what it is told", link.queued_bytes(lane), link.name)
        teller.backlog.drop(link, lane)
        link.send_in_lane(broken_end(lane))
        teller.skipped |= {n for n in teller.begun if n in self._workers and self._workers[n].link is link}

    def dismiss(self, number: int, reason: str) -> None:
        """Say goodbye to a worker, for a driver.  The one in the server's own engine stays."""
        worker = self._workers.get(number)
        if worker is None:
            return
        if worker.is_local:
            log.warning("not dismissed, since it is the server's own: %s", worker.link.name)
        else:
            part_with(worker.link, shorten(reason, MAX_REASON_BYTES))

    # workers

    def joined(self, number: int, worker: WorkerPeer) -> None:
        frame = _describe(number, worker)
        for watcher in self._watchers.values():
            watcher.link.send(frame)

    def left(self, number: int, reason: str) -> None:
        """A worker is gone: say so behind everything that it told."""
        frame = control("left", task=number, reason=shorten(reason, MAX_REASON_BYTES))
        for watcher in self._watchers.values():
            watcher.skipped.discard(number)
            watcher.link.send_in_lane(frame)
        for teller in self._tellers.values():
            teller.begun.pop(number, None)
            teller.skipped.discard(number)

    def tell_drivers(self, worker: WorkerPeer, frame: Frame, message: dict[str, Any]) -> None:
        """Pass on what a worker tells all drivers that watch; ProtocolError for lengths that cannot be."""
        worker.told.add(message)
        passed = Frame(CONTROL, bytes(frame.payload), 0, worker.number)
        for watcher in self._watchers.values():
            waiting = watcher.tell(worker.number, passed, worker.told.is_complete)
            if waiting > MAX_WAITING_BYTES:
                watcher.lose(watcher.link, passed.lane, worker)
            while watcher.backlog.exceeds(MAX_RECEIVER_BYTES):
                link, lane = watcher.backlog.longest()
                watcher.lose(link, lane, self._workers.get(lane[1]))


def part_with(link: Link, reason: str) -> None:
    """Say goodbye and close a link; does not block."""
    log.warning("link closed: %s: %s", link.name, reason)
    link.send(control("goodbye", reason=reason))
    gevent.spawn(link.close, reason, GOODBYE_S)


def _describe(number: int, worker: WorkerPeer) -> Frame:
    return control(
        "joined",
        task=number,
        name=worker.link.name,
        address=worker.address,
        slots=worker.slots,
        offers=sorted(worker.offers),
    )
