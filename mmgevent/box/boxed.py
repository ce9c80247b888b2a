"""One executor in a box: its link, what it prints, its status page, its limits, its death.

This does with a plain thread what `engine.worker.supervisor` does with gevent.  Both give
`engine.worker.deaths` the same facts, so a death reads the same on every engine.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any, NamedTuple

from mmgevent.box.frames_link import FramesLink
from mmgevent.engine.start import TemplateProcess
from mmgevent.engine.worker.exits import Exit
from mmgevent.engine.worker.ring import LAST_WORDS_BYTES, Ring
from mmgevent.errors import EngineError
from mmgevent.executor.status_page import Position, StatusPage
from mmgevent.machine.resources import find_control_groups
from mmgevent.wire.frames import CODE, Frame, split_payload
from mmgevent.wire.lanes import CODE_WINDOW

#: Time between two looks at the limits of a job and at whether it has ended, seconds.
LOOK_S = 0.1

#: Time for an executor that has closed its link to end by itself, seconds. Then it is killed.
LINGER_S = 1.0

#: Time for the template to answer, seconds. It forks in 2 ms, and a busy machine is slower.
TEMPLATE_S = 60.0

#: Share of the memory limit at which the user is warned, once.
WARN_SHARE = 0.9

#: Size of one read of what executors print, bytes.
_READ_BYTES = 64 * 1024


class BoxLimits(NamedTuple):
    """The limits of a job, as `engine.worker.deaths` needs them."""

    task_timeout_s: float | None
    memory_limit_bytes: int | None
    #: None also if it has no setupfn
    setup_timeout_s: float | None

    @classmethod
    def of(cls, options: dict[str, Any]) -> BoxLimits:
        """Return the limits in a job's options."""
        return cls(*map(options.get, ("task_timeout", "memory_limit", "setup_timeout")))

    @property
    def are_any(self) -> bool:
        """Whether there is a limit to watch."""
        return any(limit is not None for limit in self)


class BoxedExecutor:
    """One executor, forked by a template of this process."""

    def __init__(self, template: TemplateProcess, limits: BoxLimits, said: bytearray):
        """Have it forked. Raises OSError if descriptors are short, EngineError if that fails.

        `said`: the beginning of a line of the template, which is read by one executor after another.
        """
        self._template = template
        self._said = said
        self._limits = limits
        self._ring = Ring()
        self._look_due_s = 0.0
        #: see `engine.worker.deaths.DeadExecutor`
        self.broken_limit: str | None = None
        self.kill_cause: str | None = None
        self.memory_kills_before = find_control_groups().count_memory_kills() or 0
        #: whether it has ever answered for an attempt
        self.has_run = False
        self._has_warned = False
        self._last_position: Position | None = None
        self._pid: int | None = None
        #: how it ended; None while it runs
        self.exit: Exit | None = None
        with ExitStack() as opened:  # closed again unless all can be opened
            self._page, page_fd = StatusPage.create()
            opened.callback(self._page.close)
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            self._printed, written = os.pipe()
            opened.callback(os.close, self._printed)
            os.set_blocking(self._printed, False)
            descriptors = [theirs.fileno(), written, os.dup(written), page_fd]
            try:
                self._request(descriptors)
            finally:
                theirs.close()
                for fd in descriptors[1:]:
                    os.close(fd)
            opened.pop_all()
        self.link = FramesLink(ours)

    def send_job(self, frame: Frame, code: bytes) -> None:
        """Send its job: the message, then the code as fast as it takes that."""
        self.link.send_first(frame)
        self.link.open_lane((frame.job, 0, 0), CODE_WINDOW)
        for part in split_payload(CODE, code, frame.job):
            self.link.send_in_lane(part)

    def step(self) -> list[Frame]:
        """Wait until something happens, for at most LOOK_S. Return the frames that it sent."""
        self.link.flush()
        if self.link.has_ended:
            self._wait_for_end()
            return list(self.link.receive_rest())
        waiting = select.poll()  # `select.select` fails where the host has a thousand files open
        waiting.register(self.link, select.POLLIN | (select.POLLOUT if self.link.wants_to_write else 0))
        waiting.register(self._template.sock, select.POLLIN)
        if self._printed >= 0:
            waiting.register(self._printed, select.POLLIN)
        ready = {fd for fd, events in waiting.poll(LOOK_S * 1000) if events != select.POLLOUT}
        frames = list(self.link.receive()) if self.link.fileno() in ready else []
        if self._printed in ready:
            self._read_printed()
        if self._template.sock.fileno() in ready:
            self._read_reports()
            if self.exit is not None:
                frames += self.link.receive_rest()
        self.link.flush()
        return frames

    def enforce_limits(self) -> str | None:
        """Kill it if it exceeds a limit. Return a warning while it is near its memory limit."""
        if not self._limits.are_any or monotonic() < self._look_due_s or self.kill_cause is not None:
            return None
        self._look_due_s = monotonic() + LOOK_S
        position = self._page.read()
        limit_s = self._limits.setup_timeout_s if position.is_setup else self._limits.task_timeout_s
        memory_bytes = self._limits.memory_limit_bytes
        if limit_s is not None and position.running_s > limit_s:
            self.broken_limit = "timeout"
            self._last_position = position  # the next item is not to blame
            self.kill("its setupfn took too long" if position.is_setup else "an item took too long")
        elif memory_bytes is not None:
            used = self._resident_bytes()
            if used > memory_bytes:
                self.broken_limit = "memory"
                self.kill("it had grown too large")
            elif used > WARN_SHARE * memory_bytes and not self._has_warned:
                self._has_warned = True
                return f"it uses {used >> 20} MiB of memory_limit, {memory_bytes >> 20} MiB"
        return None

    def kill(self, cause: str) -> None:
        """Kill it and its process group. The first cause counts."""
        if self.kill_cause is None:
            self.kill_cause = cause
        if self._pid is None or self.exit is not None:
            return
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):  # it has no process group yet, or is being reaped
                kill(self._pid, signal.SIGKILL)

    def position(self) -> Position:
        """Return where it is now, or was when it was killed."""
        return self._page.read() if self._last_position is None else self._last_position

    def last_words(self) -> str:
        """Return the end of what it printed."""
        if self._printed >= 0:
            self._read_printed()
        return self._ring.tail(LAST_WORDS_BYTES)

    def close(self) -> None:
        """Kill it if it runs, and release what belongs to it. Its template reaps it. Idempotent."""
        self.kill("its job ended")
        self.abandon()

    def abandon(self) -> None:
        """In a forked child of this process: close the descriptors, and touch nothing else."""
        self.link.close()
        self._page.close()
        self._close_printed()

    def _request(self, descriptors: list[int]) -> None:
        sock = self._template.sock
        sock.settimeout(TEMPLATE_S)
        request = json.dumps({"fork": 1, "scratch_dir": None, "executors": 1}).encode() + b"\n"
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        try:
            sent = sock.sendmsg([request], [rights])
            sock.sendall(request[sent:])
            while self._pid is None:
                self._read_reports()
                if self.exit is not None:
                    raise EngineError(f"no executor can be started: {self.exit}")
        except TimeoutError as error:
            raise EngineError(
                f"no executor can be started: its template did not answer for {TEMPLATE_S:g} s"
            ) from error
        except OSError as error:
            raise EngineError("no executor can be started: its template process ended") from error

    def _read_reports(self) -> None:
        """Read what the template says (blocks if it says nothing). The first child that ends is ours.

        A child before this one may be reported first: its number tells.
        """
        try:
            data = self._template.sock.recv(_READ_BYTES)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            self.exit = Exit(None, 0)
            return
        *lines, rest = (self._said + data).split(b"\n")
        self._said[:] = rest
        for line in map(json.loads, lines):
            if "forked" in line:
                self._pid = line["pid"]
            elif "refused" in line:
                self.exit = Exit(None, 0, line["error"])
            elif line["exited"] == self._pid:
                self.exit = Exit(line["status"], line["maxrss_kb"])

    def _wait_for_end(self) -> None:
        """Wait until it is reaped: it has closed its link.  Kill it if it lives on."""
        until_s = monotonic() + LINGER_S
        while self.exit is None:
            left_s = until_s - monotonic()
            if left_s <= 0:
                self.kill("it closed its link")
                left_s = TEMPLATE_S
                until_s = monotonic() + TEMPLATE_S
            waiting = select.poll()
            waiting.register(self._template.sock, select.POLLIN)
            if waiting.poll(left_s * 1000):
                self._read_reports()

    def _read_printed(self) -> None:
        """Read what it printed.  At the end of the pipe, which user code may close, close it, too."""
        while self._printed >= 0:
            try:
                data = os.read(self._printed, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_printed()
                return
            self._ring.add(data)

    def _close_printed(self) -> None:
        if self._printed >= 0:
            os.close(self._printed)
            self._printed = -1

    def _resident_bytes(self) -> int:
        import psutil  # only for jobs with a memory_limit

        try:
            resident: int = psutil.Process(self._pid).memory_info().rss
            return resident
        except psutil.NoSuchProcess:
            return 0
