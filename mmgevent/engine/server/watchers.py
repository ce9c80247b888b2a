"""Drivers that watch workers, and the user messages that both send.

A driver that watches gets `joined` of each worker, then the user messages of that worker, then
`left`.  `joined` goes before every lane; messages and `left` go in the lane of the worker.  The
other way each driver has a lane of its own on the link of each worker.

User messages are passed on unread and have no credit.  Limits on what waits unsent (the numbers are
in `wire.user_messages`):

- A driver that does not read loses whole queued messages: of the worker that has more than
  MAX_WAITING_BYTES waiting for it or, if MAX_RECEIVER_BYTES of all workers wait, of the worker
  with the largest backlog.  Nobody else is affected.
- A driver that sends more than workers read loses its own link: if MAX_WAITING_BYTES wait for one
  worker or MAX_SENDER_BYTES for all.  The driver of the server's own engine loses the messages
  instead, since the engine may end with it, and every job of the server too.
- `joined` has only the limit of all control frames (`engine.net.link`): a driver that does not
  read while tens of thousands of workers join loses its link.
"""

from __future__ import annotations

from typing import Any

from mmgevent.engine.net.backlog import Backlog
from mmgevent.engine.net.link import Link
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.machine.logs import get_log
from mmgevent.wire.failures import shorten
from mmgevent.wire.frames import CONTROL, Frame, Lane
from mmgevent.wire.messages import control
from mmgevent.wire.numbers import next_number
from mmgevent.wire.user_messages import (
    MAX_RECEIVER_BYTES,
    MAX_SENDER_BYTES,
    MAX_WAITING_BYTES,
    MessageLength,
    broken_end,
)

log = get_log(__name__)

#: Reason of a worker that left, as passed on to drivers, bytes.
MAX_REASON_BYTES = 500

#: Time for a goodbye to reach a peer before its link closes, seconds.
GOODBYE_S = 2.0


class _Watcher:
    """One driver that watches."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.backlog = Backlog()
        #: Workers in the middle of a message of which the driver gets no more: it began to watch
        #: later, or it lost the earlier pieces.
        self.skipped: set[int] = set()

    def pass_on(self, worker: int, frame: Frame, is_last: bool) -> int:
        """Send a piece of a worker's message; return the bytes of this worker that wait."""
        if worker not in self.skipped:
            return self.backlog.put(self.link, frame)
        if is_last:
            self.skipped.discard(worker)
        return 0

    def drop_messages(self, lane: Lane, worker: WorkerRecord | None) -> None:
        """Drop what waits in the lane of a worker; the worker is None if it left."""
        link, number = self.link, lane[1]
        n_bytes = link.queued_bytes(lane)
        log.warning("dropped %d bytes of messages of worker %d: %s does not read", n_bytes, number, link.name)
        self.backlog.drop(link, lane)
        if worker is None:
            link.send_in_lane(control("left", task=number, reason="its last messages are lost"))
            return
        link.send_in_lane(_describe(worker))  # ends the message that was begun
        if not worker.message_length.is_complete:
            self.skipped.add(number)


class _Sender:
    """A driver that sends user messages to workers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.backlog = Backlog()
        #: {worker: length so far} of the messages that the driver has begun.
        self.begun: dict[int, MessageLength] = {}
        #: Workers that get no more of the message that the driver has begun.
        self.skipped: set[int] = set()
        self.is_cut_off = False


class Watchers:
    """The drivers that watch the workers of one server, and the drivers that send to them.

    A driver is known by its link.
    """

    def __init__(self, workers: Workers):
        self._workers = workers
        self._watchers: dict[Link, _Watcher] = {}
        self._senders: dict[Link, _Sender] = {}
        self._last_sender = 0

    # drivers

    def add(self, driver: Link) -> None:
        """Let a driver watch. A driver that already watches starts again from the beginning."""
        before = self._watchers.pop(driver, None)
        if before is not None:
            before.backlog.drop_all()
        watcher = self._watchers[driver] = _Watcher(driver)
        for worker in self._workers:
            if not worker.message_length.is_complete:
                watcher.skipped.add(worker.number)
            driver.send(_describe(worker))

    def remove(self, driver: Link) -> None:
        """Forget a driver that disconnected.  Its whole messages are still passed on."""
        self._watchers.pop(driver, None)
        sender = self._senders.pop(driver, None)
        if sender is not None:
            for number in sender.begun:
                self._workers[number].link.send_in_lane(broken_end((0, 0, sender.number)))

    def tell_worker(self, driver: Link, frame: Frame, message: dict[str, Any], *, is_local: bool) -> None:
        """Pass a piece of a driver's message on to a worker.

        `is_local`: the driver is that of the server's own engine.  Raises ProtocolError for a piece
        or a message that is too long.
        """
        number = frame.task
        sender = self._senders.get(driver)
        if sender is None:
            used = {each.number for each in self._senders.values()}
            self._last_sender = next_number(self._last_sender, used)
            sender = self._senders[driver] = _Sender(self._last_sender)
        if sender.is_cut_off:
            return
        length = sender.begun.get(number) or MessageLength()
        length.add(message)
        worker = self._workers.get(number)
        if length.is_complete or worker is None:
            sender.begun.pop(number, None)
        else:
            sender.begun[number] = length
        if worker is None:
            return  # it left
        if number in sender.skipped:
            if length.is_complete:
                sender.skipped.discard(number)
            return
        passed = Frame(CONTROL, bytes(frame.payload), 0, 0, sender.number)
        waiting = sender.backlog.put(worker.link, passed)
        if waiting <= MAX_WAITING_BYTES and not sender.backlog.exceeds(MAX_SENDER_BYTES):
            return
        if is_local:
            self._drop_longest(sender)
        else:
            sender.is_cut_off = True
            say_goodbye(driver, "it sends more messages than the workers read")

    def _drop_longest(self, sender: _Sender) -> None:
        """Drop a driver's messages for the worker with the largest backlog.

        The worker stays: it may only be slow.
        """
        link, lane = sender.backlog.longest()
        log.warning("dropped %d bytes of messages: %s does not read", link.queued_bytes(lane), link.name)
        sender.backlog.drop(link, lane)
        link.send_in_lane(broken_end(lane))
        for number in sender.begun:
            worker = self._workers.get(number)
            if worker is not None and worker.link is link:
                sender.skipped.add(number)

    def dismiss(self, number: int, reason: str) -> None:
        """Say goodbye to a worker, for a driver.  The worker of the server's own engine stays."""
        worker = self._workers.get(number)
        if worker is None:
            return
        if worker.is_local:
            log.warning("not dismissed, since it is the server's own: %s", worker.link.name)
        elif not worker.is_dismissed:
            worker.is_dismissed = True
            say_goodbye(worker.link, shorten(reason, MAX_REASON_BYTES))

    # workers

    def joined(self, worker: WorkerRecord) -> None:
        """Report a worker that joined to every driver that watches."""
        frame = _describe(worker)
        for watcher in self._watchers.values():
            watcher.link.send(frame)

    def left(self, number: int, reason: str) -> None:
        """Report a worker that left to every driver that watches, after the worker's messages."""
        frame = control("left", task=number, reason=shorten(reason, MAX_REASON_BYTES))
        for watcher in self._watchers.values():
            watcher.skipped.discard(number)
            watcher.link.send_in_lane(frame)
        for sender in self._senders.values():
            sender.begun.pop(number, None)
            sender.skipped.discard(number)

    def tell_drivers(self, worker: WorkerRecord, frame: Frame, message: dict[str, Any]) -> None:
        """Pass a piece of a worker's message on to every driver that watches.

        Raises ProtocolError for a piece or a message that is too long.
        """
        worker.message_length.add(message)
        passed = Frame(CONTROL, bytes(frame.payload), 0, worker.number)
        for watcher in self._watchers.values():
            waiting = watcher.pass_on(worker.number, passed, worker.message_length.is_complete)
            if waiting > MAX_WAITING_BYTES:
                watcher.drop_messages(passed.lane, worker)
            while watcher.backlog.exceeds(MAX_RECEIVER_BYTES):
                _, lane = watcher.backlog.longest()
                watcher.drop_messages(lane, self._workers.get(lane[1]))


def say_goodbye(link: Link, reason: str) -> None:
    """Say goodbye and close a link; does not block."""
    log.warning("link closed: %s: %s", link.name, reason)
    link.send(control("goodbye", reason=reason))
    link.close_soon(reason, GOODBYE_S)


def _describe(worker: WorkerRecord) -> Frame:
    return control(
        "joined",
        task=worker.number,
        name=worker.name,
        address=worker.address,
        slots=worker.slots,
        offers=sorted(worker.offers),
    )
