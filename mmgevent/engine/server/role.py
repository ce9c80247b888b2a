"""The server role of an engine: links, goodbyes and ticks.

A server schedules tasks and keeps segments.  It never runs or unpickles user code.  Each link has
a peer (`peers`), which checks what frames may say and calls the conductor (`conductor`).  Nothing
here trusts a number that a peer sent.

Everything runs in one gevent hub, and no handler of a frame blocks.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import gevent
from gevent.event import Event

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.engine.net.link import Link
from mmgevent.engine.scheduler.scheduler import TICK_S
from mmgevent.engine.server.conductor import Conductor
from mmgevent.engine.server.driver_peers import DriverPeer
from mmgevent.engine.server.jobs import Jobs
from mmgevent.engine.server.peers import LenderPeer, Peer, WorkerPeer
from mmgevent.machine.logs import get_log
from mmgevent.wire.messages import control

log = get_log(__name__)

#: Time for goodbyes to reach peers when the server ends, seconds.
GOODBYE_S = 1.0

#: Ticks that fail in a row, for no job alone, before the process ends: those of 1 s.
MAX_TICK_FAULTS = 10

#: Time between two progress messages of a job, seconds. People read no faster.
PROGRESS_S = 0.25

#: What a link may do, by the role that its peer has proved.
PEER_CLASSES: dict[str, type[Peer]] = {"worker": WorkerPeer, "driver": DriverPeer, "lender": LenderPeer}


def open_server(*, memory_bytes: int, spill_folder: str | None) -> ServerRole:
    """Return a server that is named after this machine and process."""
    name = f"{socket.gethostname()}-{os.getpid()}"
    return ServerRole(name, memory_bytes=memory_bytes, spill_folder=spill_folder)


class ServerRole:
    """A server: its links, from the hello to the goodbye, and its clock."""

    def __init__(self, name: str, *, memory_bytes: int, spill_folder: str | None = None):
        """`name` begins the names of jobs.

        `memory_bytes` limits the segments of all jobs in memory, and once more their batches.
        Segments over the limit go to files in `spill_folder`.
        """
        self.conductor = Conductor(Jobs(name, memory_bytes, spill_folder), self._start_ticking)
        self._peers: set[Peer] = set()
        self._ticker: gevent.Greenlet | None = None

    @property
    def idle(self) -> Event:
        """Return the event that is set while there are no jobs."""
        return self.conductor.jobs.idle

    def attach(
        self, link: Link, role: str, *, is_local: bool = False, when_closed: Callable[[], None] | None = None
    ) -> None:
        """Serve a link whose peer proved a password; `role` is one of PEER_CLASSES.

        `is_local`: the peer is a role of this engine or the engine's own driver, so it has our
        version and gets the driver's context.  `when_closed` is called after the link closed.
        """
        peer = PEER_CLASSES[role](self.conductor, link, is_local)
        self._peers.add(peer)

        def on_close(reason: str) -> None:
            self._peers.discard(peer)
            peer.on_close(reason)
            if when_closed is not None:
                when_closed()

        link.start(peer.on_frame, on_close)

    def move(self, address: str) -> None:
        """Accept no more jobs, and refer every peer to the server at `address`."""
        self.conductor.moved_to = address
        for peer in self._peers:
            peer.link.send(control("moved", address=address))

    def stop(self, reason: str) -> None:
        """Say goodbye to every peer and close all links (blocks for up to GOODBYE_S).

        Drivers resubmit unfinished jobs to the next server here.
        """
        peers = list(self._peers)
        for peer in peers:
            peer.link.send(control("goodbye", reason=reason))
            peer.link.close_soon(reason, GOODBYE_S)
        for peer in peers:
            peer.link.close(reason)  # waits
        if self._ticker is not None:
            self._ticker.kill()

    def _start_ticking(self) -> None:
        if self._ticker is None:
            self._ticker = spawn(end_process, self._tick)

    def _tick(self) -> None:
        """Call the scheduler and send progress while there are jobs.

        What fails for one job ends that job (see `Conductor.tick`). What fails for all ends the
        process, if it comes again and again: no job could be trusted to end.
        """
        progress_due_s = 0.0
        faults = 0
        while True:
            gevent.sleep(TICK_S)
            if not self.conductor.jobs:
                self._ticker = None
                return
            try:
                self.conductor.tick()
                if time.monotonic() >= progress_due_s:
                    progress_due_s = time.monotonic() + PROGRESS_S
                    self.conductor.send_progress()
                faults = 0
            except Exception:
                faults += 1
                if faults == MAX_TICK_FAULTS:
                    raise
                log.exception("a tick of the server failed")
