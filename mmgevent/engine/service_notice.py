"""Notices to the service manager (systemd): ready, stopping, alive.

The protocol is that of sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names, a path or,
with "@", an abstract name. If WATCHDOG_USEC is set, the service manager ends a process that does
not say in time that it is alive. A greenlet says so, so a blocked hub is noticed.

Nothing here can fail a server: a socket that does not answer is logged once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import gevent
from gevent import socket

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Share of the time that the service manager grants, after which the next sign of life is due.
BEAT_SHARE = 0.5

#: Shortest time between two signs of life, seconds.
MIN_BEAT_S = 0.01


class ServiceManager:
    """The service manager of this process, if there is one that wants notices."""

    def __init__(self, environ: Mapping[str, str]):
        """Take the address from the environment, which is `os.environ`."""
        self._address = _address_of(environ.get("NOTIFY_SOCKET", ""))
        self._beat_s = _beat_of(environ) if self._address is not None else None
        self._beating: gevent.Greenlet | None = None
        self._has_failed = False

    def ready(self, status: str) -> None:
        """Say that the server serves, and what it is in words; then say from time to time that it lives."""
        self._send(f"READY=1\nSTATUS={status}")
        if self._beat_s is not None:
            self._beating = spawn(end_process, self._beat, self._beat_s)

    def stopping(self, status: str) -> None:
        """Say that the server ends, and why."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _beat(self, seconds: float) -> None:
        while True:
            self._send("WATCHDOG=1")
            gevent.sleep(seconds)

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(self._address)
                sock.send(text.encode("utf-8", "replace"))
        except (OSError, ValueError) as error:  # ValueError: a path that no socket can have
            if not self._has_failed:
                self._has_failed = True
                log.warning("the service manager gets no notices: NOTIFY_SOCKET: %s", error)


def _address_of(name: str) -> str | bytes | None:
    """Return the address of a socket as `connect` takes it; None if it is no such address."""
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    if name and not name.startswith("/"):
        log.warning("NOTIFY_SOCKET is no path and no abstract name: no notices are sent to it")
        return None
    return name or None


def _beat_of(environ: Mapping[str, str]) -> float | None:
    """Return the time between two signs of life; None if nobody waits for them."""
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit()) or int(text[:18]) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # another process of the service
    return max(MIN_BEAT_S, int(text[:18]) / 1e6 * BEAT_SHARE)
