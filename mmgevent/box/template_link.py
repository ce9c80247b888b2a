"""The template of a box: ask it for executors, and learn how they end.

User code can kill or stop the template, its parent. The end of its socket tells of a death. A
template that is stopped, or hangs, does not answer pings and is killed (`engine.worker.silence` has
the rule). Its executors die with it, whoever ends it.

Nothing here waits: the box looks when the socket is ready, and calls `receive` and `look`.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from time import monotonic
from typing import Any

from mmgevent.engine.start import TemplateProcess
from mmgevent.engine.worker.exits import Exit, describe_template_end
from mmgevent.engine.worker.silence import Finding, Silence
from mmgevent.machine.processes import look_at

#: Time between two pings of a template whose executor runs a task, seconds. It answers in 1 ms.
PING_S = 5.0

#: Time for a template to end by itself once its socket is closed, seconds.
END_S = 2.0

#: Size of one read from a template, bytes.
READ_BYTES = 64 * 1024

#: Request that the template answers at once.
_PING = b'{"ping": 1}\n'


class Fork:
    """An executor that was asked for."""

    def __init__(self) -> None:
        #: process id, once it is forked
        self.pid: int | None = None
        #: how it ended; None while it runs
        self.exit: Exit | None = None
        self._is_doomed = False

    def kill(self) -> None:
        """Kill it and its process group, as soon as it is forked. Idempotent."""
        self._is_doomed = True
        if self.pid is None or self.exit is not None:
            return
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # no group yet, or it is gone
                kill(self.pid, signal.SIGKILL)

    def _forked(self, pid: int) -> None:
        self.pid = pid
        if self._is_doomed:
            self.kill()


class TemplateLink:
    """One template process, owned from now on. One thread uses it at a time."""

    def __init__(self, template: TemplateProcess):
        self._process = template.process
        self._sock = template.sock
        self._sock.setblocking(False)
        self._begun_line = b""
        self._last_token = 0
        #: token -> executor that has not ended
        self._forks: dict[int, Fork] = {}
        #: whether it ever forked an executor, answered anything, and answered since the last ping
        self._has_forked = self._has_answered = self._is_heard = False
        self._is_asked = False
        #: pings that it was sent, and those that it answered
        self._pings = self._pongs = 0
        self._look_due_s = 0.0
        self._silence = Silence()
        self._finding: Finding | None = None
        #: what its executors ended with when it ended; None while it can fork
        self.end: Exit | None = None

    def fileno(self) -> int:
        """Return the descriptor, for `poll`."""
        return self._sock.fileno()

    def fork(self, descriptors: list[int]) -> Fork:
        """Ask for an executor with these descriptors: socket, stdout, stderr, status page.

        They stay the caller's. The fork ends at once if the template has ended.
        """
        fork = Fork()
        self._last_token += 1
        request = {"fork": self._last_token, "scratch_dir": None, "executors": 1}
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self._forks[self._last_token] = fork
        self._send(json.dumps(request).encode() + b"\n", [rights])
        fork.exit = self.end
        return fork

    def receive(self) -> None:
        """Read what it says, as far as that is there, and note its end."""
        while self.end is None:
            try:
                data = self._sock.recv(READ_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._note_end()
                return
            *lines, self._begun_line = (self._begun_line + data).split(b"\n")
            for line in lines:
                self._take_report(json.loads(line))

    def look(self) -> None:
        """Kill it if it will never answer. Call this again and again while an executor runs."""
        if self.end is not None or monotonic() < self._look_due_s:
            return
        self._look_due_s = monotonic() + PING_S
        look = look_at(self._process.pid)  # first: it may answer after it
        self.receive()
        if not self._is_asked or self._is_heard:
            self._silence.end()
        elif finding := self._silence.note(look, has_answered=self._has_answered):
            self._finding = finding
            self._note_end()
        self._is_heard, self._is_asked = False, True
        self._ping()

    def answers(self, timeout_s: float) -> bool:
        """Return whether it answers a ping within this time.

        If so, executors that it was to fork are forked, and killed if nobody wants them.
        """
        if self.end is not None:
            return False
        self._ping()
        until_s = monotonic() + timeout_s
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        self.receive()
        while self.end is None and self._pongs < self._pings:
            left_s = until_s - monotonic()
            if left_s <= 0:
                return False
            waiting.poll(left_s * 1000)
            self.receive()
        return self.end is None

    def close(self) -> None:
        """End it and its executors. Idempotent."""
        if self._sock.fileno() >= 0:
            self.receive()  # an executor that has ended is no longer there: its pid may be another's
        for fork in self._forks.values():
            fork.kill()
        self._sock.close()
        self._reap()

    def abandon(self) -> None:
        """In a forked child of the host: close the descriptor, and touch nothing else."""
        self._sock.close()

    def _ping(self) -> None:
        self._pings += 1
        self._send(_PING, [])

    def _send(self, data: bytes, ancillary: list[Any]) -> None:
        """Send a short request. A template with thousands of unread ones gets no more pings."""
        if self.end is not None:
            return
        try:
            self._sock.sendmsg([data], ancillary)
        except BlockingIOError:
            return  # it is silent: `look` counts that
        except ConnectionError:
            self.receive()
            self._note_end()

    def _take_report(self, report: dict[str, Any]) -> None:
        self._has_answered = self._is_heard = True
        if "pong" in report:
            self._pongs += 1
        elif "forked" in report:
            self._has_forked = True
            self._forks[report["forked"]]._forked(report["pid"])
        elif "refused" in report:
            self._forks.pop(report["refused"]).exit = Exit(None, 0, report["error"])
        elif "exited" in report:
            token = next(token for token, fork in self._forks.items() if fork.pid == report["exited"])
            self._forks.pop(token).exit = Exit(report["status"], report["maxrss_kb"])

    def _note_end(self) -> None:
        """Note that it has ended, or is to be ended, with all its executors."""
        if self.end is not None:
            return
        if self._finding is not None:
            self._process.kill()
        self._reap()
        how = describe_template_end(self._process.poll())
        self.end = Exit(None, 0, template=how)
        if self._finding is not None:
            self.end = Exit(None, 0, template=self._finding.cause, is_fact=self._finding.is_fact)
        elif not self._has_forked:  # no job can have ended it
            self.end = Exit(None, 0, f"the template process ended at its start: {how}")
        for fork in self._forks.values():
            fork.kill()  # the kernel killed it with the template, but not its process group
            fork.exit = self.end
        self._forks.clear()

    def _reap(self) -> None:
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
