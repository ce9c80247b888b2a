"""Heartbeats: find out that a peer is dead although its connection stays open.

Every link with heartbeats sends something now and then, so a peer that sends nothing for SILENCE_S
is dead. One greenlet looks at all links. That costs less than timers, which every frame would have
to start again.
"""

from __future__ import annotations

import time
from typing import Protocol

import gevent

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Longest time without anything sent, seconds. Then a link sends a heartbeat: two in each
#: SILENCE_S.
HEARTBEAT_S = 7.0

#: Longest time without anything received, seconds. Then the peer is dead.
SILENCE_S = 15.0

#: Time between two looks at all links, seconds. Links may exceed the limits above by so much.
SCAN_S = 0.5


class Heartbeating(Protocol):
    """A link with heartbeats."""

    def check_heartbeat(self, elapsed_s: float) -> None:
        """Count the time since the last look. Send a heartbeat, or close, if it is due."""

    def close_soon(self, reason: str = "") -> None:
        """Close without waiting."""


class Monitor:
    """One greenlet that looks at every link with heartbeats. It ends when there are none."""

    def __init__(self) -> None:
        self._links: set[Heartbeating] = set()
        self._greenlet: gevent.Greenlet | None = None

    def __len__(self) -> int:
        """Return how many links it looks at."""
        return len(self._links)

    def add(self, link: Heartbeating) -> None:
        """Look at this link from now on."""
        self._links.add(link)
        if self._greenlet is None:
            self._greenlet = spawn(end_process, self._run)

    def discard(self, link: Heartbeating) -> None:
        """Look at this link no more. Idempotent."""
        self._links.discard(link)
        if not self._links and self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def _run(self) -> None:
        seen = time.monotonic()
        while True:
            gevent.sleep(SCAN_S)
            now = time.monotonic()
            # While this loop was held up, so were the readers: that was not the peers' silence.
            elapsed_s = min(now - seen, 2 * SCAN_S)
            seen = now
            for link in list(self._links):
                try:
                    link.check_heartbeat(elapsed_s)
                except Exception as error:  # the links behind it are looked at all the same
                    log.exception("link closed by a fault of our own: %s", link)
                    link.close_soon(f"internal error: {type(error).__name__}: {error}")


#: The monitor of this process's links.
monitor = Monitor()
