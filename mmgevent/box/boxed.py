"""One executor in a box: its link, what it prints, its status page, its limits, its death.

This does with a plain thread what `engine.worker.supervisor` does with gevent.  Both give
`engine.worker.deaths` the same facts, so a death reads the same on every engine.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack
from time import monotonic
from typing import Any, NamedTuple

from mmgevent.box.frames_link import FramesLink
from mmgevent.box.template_link import TemplateLink
from mmgevent.engine.worker.exits import Exit
from mmgevent.engine.worker.job_limits import find_excess
from mmgevent.engine.worker.printed import PrintedLines, PrintReader
from mmgevent.engine.worker.ring import LAST_WORDS_BYTES, RING_BYTES, Ring
from mmgevent.executor.status_page import Position, StatusPage
from mmgevent.machine.resources import find_control_groups
from mmgevent.wire.frames import CODE, Frame, split_payload
from mmgevent.wire.lanes import CODE_WINDOW

#: Time between two looks at the limits of a job and at whether it has ended, seconds.
LOOK_S = 0.1

#: Time for an executor that has closed its link to end by itself, seconds. Then it is killed.
LINGER_S = 1.0

#: Size of one read of what executors print, bytes.
_READ_BYTES = 64 * 1024

#: Most reads in a row of what an executor prints. It may print faster than this process reads.
_MAX_READS = RING_BYTES // _READ_BYTES + 1


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

    _reader: PrintReader | None = None  # until it has a status page

    def __init__(self, template: TemplateLink, limits: BoxLimits):
        """Ask for it. Raises OSError if descriptors are short."""
        self._template = template
        self._limits = limits
        self._ring = Ring()
        self._look_due_s = 0.0
        #: when it is killed, if its link has ended and it has not
        self._linger_until_s: float | None = None
        #: see `engine.worker.deaths.DeadExecutor`
        self.broken_limit: str | None = None
        self.kill_cause: str | None = None
        self.memory_kills_before = find_control_groups().count_memory_kills() or 0
        #: whether it has ever answered for an attempt
        self.has_run = False
        self._has_warned = False
        self._last_position: Position | None = None
        with ExitStack() as opened:  # closed again unless all can be opened
            self._page, page_fd = StatusPage.create()
            self._reader = PrintReader(self._page.mark_prints())
            opened.callback(self._page.close)
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            self._printed, written = os.pipe()
            opened.callback(os.close, self._printed)
            os.set_blocking(self._printed, False)
            descriptors = [theirs.fileno(), written, os.dup(written), page_fd]
            try:
                self._fork = template.fork(descriptors)
            finally:
                theirs.close()
                for fd in descriptors[1:]:
                    os.close(fd)
            opened.pop_all()
        self.link = FramesLink(ours)

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._fork.exit

    def send_job(self, frame: Frame, code: bytes) -> None:
        """Send its job: the message, then the code as fast as it takes that."""
        self.link.send_first(frame)
        self.link.open_lane((frame.job, 0, 0), CODE_WINDOW)
        for part in split_payload(CODE, code, frame.job):
            self.link.send_in_lane(part)

    def step(self) -> list[Frame]:
        """Wait until something happens, for at most LOOK_S. Return the frames that it sent.

        An executor whose link has ended is killed if it lives on for LINGER_S.
        """
        self.link.flush()
        waiting = select.poll()  # `select.select` fails where the host has a thousand files open
        waiting.register(self._template, select.POLLIN)
        if not self.link.has_ended:
            waiting.register(self.link, select.POLLIN | (select.POLLOUT if self.link.wants_to_write else 0))
        if self._printed >= 0:
            waiting.register(self._printed, select.POLLIN)
        ready = {fd for fd, events in waiting.poll(LOOK_S * 1000) if events != select.POLLOUT}
        frames = list(self.link.receive()) if self.link.fileno() in ready else []
        if self._printed in ready:
            self._read_printed()
        self._template.receive()
        self._template.look()
        if self.exit is not None:
            return [*frames, *self.link.receive_rest()]
        if self.link.has_ended:
            self._end_lingering()
        self.link.flush()
        return frames

    def enforce_limits(self) -> str | None:
        """Kill it if it exceeds a limit. Return a warning while it is near its memory limit."""
        if not self._limits.are_any or monotonic() < self._look_due_s or self.kill_cause is not None:
            return None
        self._look_due_s = monotonic() + LOOK_S
        position = self._page.read()
        excess = find_excess(self._limits, position, self._resident_bytes)
        if excess is None:
            return None
        if excess.limit is None:
            has_warned, self._has_warned = self._has_warned, True
            return None if has_warned else excess.text
        self.broken_limit = excess.limit
        if excess.limit == "timeout":
            self._last_position = position  # the next item is not to blame
        self.kill(excess.text)
        return None

    def kill(self, cause: str) -> None:
        """Kill it and its process group. The first cause counts."""
        if self.kill_cause is None:
            self.kill_cause = cause
        self._fork.kill()

    def position(self) -> Position:
        """Return where it is now, or was when it was killed."""
        return self._page.read() if self._last_position is None else self._last_position

    def last_words(self) -> str:
        """Return the end of what it printed."""
        if self._printed >= 0:
            self._read_printed()
        return self._ring.tail(LAST_WORDS_BYTES, bytes if self._reader is None else self._reader.strip)

    def take_printed(self) -> PrintedLines | None:
        """Return lines that it has printed, for one message; None if there are no more."""
        return self._reader.take() if self._reader else None

    def end_prints(self) -> None:
        """Read what a task has printed, to its end."""
        self._read_printed()
        if self._reader is not None:
            self._reader.end_line(monotonic())

    def close(self) -> None:
        """Kill it if it runs, and release what belongs to it. Its template reaps it. Idempotent."""
        self.kill("its job ended")
        self.abandon()

    def abandon(self) -> None:
        """In a forked child of this process: close the descriptors, and touch nothing else."""
        self.link.close()
        self._page.close()
        self._close_printed()

    def _end_lingering(self) -> None:
        if self._linger_until_s is None:
            self._linger_until_s = monotonic() + LINGER_S
        elif monotonic() > self._linger_until_s:
            self.kill("it closed its link")

    def _read_printed(self) -> None:
        """Read what it printed.  At the end of the pipe, which user code may close, close it, too."""
        for _ in range(_MAX_READS if self._printed >= 0 else 0):
            try:
                data = os.read(self._printed, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_printed()
                return
            self._ring.add(data)
            if self._reader is not None:
                self._reader.feed(data, monotonic())

    def _close_printed(self) -> None:
        if self._printed >= 0:
            os.close(self._printed)
            self._printed = -1

    def _resident_bytes(self) -> int:
        import psutil  # only for jobs with a memory_limit

        if self._fork.pid is None:
            return 0
        try:
            resident: int = psutil.Process(self._fork.pid).memory_info().rss
            return resident
        except psutil.NoSuchProcess:
            return 0
