"""When and why a role without a driver leaves: a signal, the end of its lifetime, or idleness.

`stay` says what that means for a worker. After a second signal the process ends at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import gevent
from gevent.event import Event

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.engine.stay import Stay
from mmgevent.machine.logs import get_log
from mmgevent.wire.limits import MAX_TIMEOUT_S

log = get_log("mmgevent")

#: Exit codes after SIGHUP, SIGINT and SIGTERM, as shells report them.
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143


class Linkable(Protocol):
    """A gevent Event or Greenlet."""

    def rawlink(self, callback: Callable[[object], object]) -> object:
        """Call `callback` when it is set, or when it ends."""


class Departure:
    """The end of this process, as an event. The first cause counts."""

    def __init__(self, stay: Stay, what: str = "worker"):
        """Listen for signals and start the clock of the lifetime. `what` is the role that leaves."""
        self.event = Event()
        #: whether the process is about to leave
        self.is_due = False
        #: exit code: that of the signal, else 0
        self.code = 0
        #: why it leaves, for logs and goodbyes
        self.reason = ""
        self._is_drained = False
        self._stay = stay
        self._what = what
        for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):
            gevent.signal_handler(number, self._on_signal, code)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup does that
            gevent.signal_handler(signal.SIGHUP, self._on_signal, HUNG_UP)
        if stay.lifetime_s is not None:
            reason = f"its lifetime of {stay.lifetime_s:g} s is over"
            spawn(end_process, self._leave, reason, delay_s=max(0.0, stay.lifetime_s - stay.end_grace_s))

    @property
    def grace_s(self) -> float:
        """Return the time for running tasks, seconds. Ctrl-C grants none, a drain what they need."""
        if self._is_drained:
            return MAX_TIMEOUT_S
        return 0.0 if self.code == INTERRUPTED else self._stay.end_grace_s

    def drain(self, reason: str) -> None:
        """Leave once the running tasks are done. A signal ends the process at once from now on."""
        self._is_drained = self._is_drained or not self.is_due
        self._leave(reason)

    def watch_idleness(self, busy_until: Callable[[], float]) -> None:
        """Leave after the idle timeout, if there is one.

        `busy_until()` returns when the last task ended, by `monotonic`: now, if one runs; 0.0 if
        there was none.
        """
        if self._stay.idle_timeout_s is not None:
            spawn(end_process, self._watch_idleness, busy_until, self._stay.idle_timeout_s)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process is about to leave, or for so long. Return whether it is."""
        if not self.is_due:
            self.event.wait(timeout_s)
        return self.is_due

    def also(self, event: Linkable) -> None:
        """Set `self.event` also when `event` is set or ends."""
        event.rawlink(lambda _: self.event.set())

    def _watch_idleness(self, busy_until: Callable[[], float], timeout_s: float) -> None:
        idle_since = monotonic()
        while not self.is_due:
            idle_since = max(idle_since, busy_until())
            left_s = idle_since + timeout_s - monotonic()
            if left_s <= 0:
                self._leave(f"it had no task for {timeout_s:g} s")
                return
            gevent.sleep(left_s)

    def _leave(self, reason: str) -> None:
        if not self.is_due:
            log.warning("%s leaves: %s", self._what, reason)
            self._set(reason)

    def _on_signal(self, code: int) -> None:
        if self.code and code == HUNG_UP:
            return  # kernel and shell both send one when a terminal is closed
        if self.code or (self.is_due and (self._is_drained or code == INTERRUPTED)):
            os._exit(code)  # the second signal; children die with this process
        if self.is_due:
            return  # it leaves already, within the same grace
        self.code = code
        self._set(f"the {self._what} was stopped")

    def _set(self, reason: str) -> None:
        self.is_due = True
        self.reason = reason
        self.event.set()
