"""One executor as its worker sees it: its link, what it prints, its status page, its death.

The supervisor makes the descriptors and has the executor forked. From then on it keeps what is
needed once the executor is dead: the end of what it printed, and the status page, which names its
item. Printed lines go on while it runs.

The template reports a death. The end of the link or of a pipe does not count, since processes
forked by user code may keep those open. After the report the supervisor reads what is left in link
and pipes. Then it calls `on_death`, once, and nothing of the executor is left in this process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

import gevent
from gevent import socket
from gevent.event import Event

from mmgevent.engine.greenlets import OnFault, end_process, spawn
from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.engine.worker.exits import Exit
from mmgevent.engine.worker.forker import Forker
from mmgevent.engine.worker.job_limits import LimitedJob, find_excess
from mmgevent.engine.worker.printed import PrintedLines
from mmgevent.engine.worker.printout import Printout
from mmgevent.executor.status_page import Position, StatusPage
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import find_control_groups
from mmgevent.wire.frames import CODE, Frame, split_payload
from mmgevent.wire.lanes import CODE_WINDOW

log = get_log(__name__)

#: Time to read the link of a dead executor, seconds. It ends at once, unless another process has it
#: open.
DRAIN_S = 0.5

#: Time for an executor that has closed its link to end by itself, seconds. Then it is killed.
LINGER_S = 1.0


class Supervisor:
    """Starts one executor, carries its frames, and learns how it ended."""

    def __init__(
        self,
        forker: Forker,
        name: str,
        scratch_dir: str | None,
        on_frame: Callable[[Supervisor, Frame], None],
        on_death: Callable[[Supervisor, Exit], None],
        on_printed: Callable[[Supervisor, PrintedLines], bool],
        *,
        executors: int = 1,
        on_fault: OnFault = end_process,
    ):
        """`executors`: how many its worker has.

        `on_fault(greenlet)` is called if its end cannot be reported, by a fault of our own.

        The hub calls `on_frame`, which must not block, and so must not `on_printed`. A greenlet
        calls `on_death`, after the last frame and the last lines. `on_printed` returns whether it
        could send the lines.

        Raises OSError if there are no descriptors left. Then nothing was started, and all is closed
        again.
        """
        self._on_frame = on_frame
        self._on_death = on_death
        #: its position when it died
        self.last_position: Position | None = None
        #: why this worker killed it; None if it did not
        self.kill_cause: str | None = None
        #: "timeout" or "memory" if it was killed for a limit of its job
        self.broken_limit: str | None = None
        self.has_run = False  #: whether it has ever answered for an attempt
        self.item_count = 0  #: items that it has run, whatever became of them
        self.has_warned = False  #: whether the user was warned of its memory
        #: processes of this control group that the kernel had killed for lack of memory when it
        #: started
        self.memory_kills_before = find_control_groups().count_memory_kills() or 0
        with ExitStack() as opened:  # closed again unless all can be opened
            self._page, page_fd = StatusPage.create()
            token = self._page.mark_prints()
            opened.callback(self._page.close)
            opened.callback(os.close, page_fd)
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            opened.callback(theirs.close)
            printed, written = os.pipe()  # one for both streams, so that lines keep their order
            opened.callback(os.close, printed)
            opened.callback(os.close, written)
            descriptors = [theirs.fileno(), written, os.dup(written), page_fd]
            opened.pop_all()
        self.link = SocketLink(ours, name, heartbeats=False)
        theirs.detach()
        self.forker = forker
        self.child = forker.fork(descriptors, scratch_dir, executors)
        self._link_closed = Event()
        self._printout = Printout(printed, token, name, lambda lines: on_printed(self, lines), self._on_fault)
        self.link.start(lambda frame: self._on_frame(self, frame), self._on_link_close)
        self._watch_greenlet = spawn(on_fault, self._watch)

    def enforce(self, job: LimitedJob) -> str | None:
        """Kill it if it exceeds a limit of its job.

        Returns a warning while it is near its memory limit, else None. Set `has_warned` once it was
        shown.
        """
        if self.is_doomed:
            return None
        position = self._page.read()
        excess = find_excess(job, position, self.resident_bytes)
        if excess is None or excess.limit is None:
            return excess.text if excess is not None and not self.has_warned else None
        self.broken_limit = excess.limit
        if excess.limit == "timeout":
            self.last_position = position  # the next item is not to blame
        self.kill(excess.text)
        return None

    def send_job(self, frame: Frame, code: bytes | bytearray) -> None:
        """Send its job: the message, then the code as fast as it takes that."""
        lane = (frame.job, 0, 0)
        self.link.open_lane(lane, CODE_WINDOW)
        self.link.send(frame)
        for part in split_payload(CODE, code, frame.job):
            self.link.send_in_lane(part)
        self.link.close_lane(lane)

    def kill(self, cause: str) -> None:
        """Kill it and its process group. `on_death` follows. The first cause counts."""
        if self.kill_cause is None:
            self.kill_cause = cause
            log.debug("executor killed: %s: %s", self.link.name, cause)
        self.child.kill()

    @property
    def is_doomed(self) -> bool:
        """Whether it is dead or dying. It must get no more work."""
        return self.kill_cause is not None or self.link.is_closed or self.child.exited.ready()

    @property
    def pid(self) -> int | None:
        """Its process number, or None if it does not run (yet)."""
        return None if self.child.exited.ready() else self.child.pid

    def position(self) -> Position:
        """Return where it is now, or was when it died."""
        return self._page.read() if self.last_position is None else self.last_position

    def stacks(self) -> bytes:
        """Return all stacks that it was asked for and has written. It must run."""
        return self._page.stacks()

    def resident_bytes(self) -> int:
        """Return its memory in RAM now; 0 if it does not run."""
        import psutil  # only for jobs with a memory_limit

        if self.child.pid is None or self.child.exited.ready():
            return 0
        try:
            resident: int = psutil.Process(self.child.pid).memory_info().rss
            return resident
        except psutil.NoSuchProcess:
            return 0

    def last_words(self) -> str:
        """Return the end of what it printed."""
        return self._printout.last_words()

    def end_prints(self, *, has_more: bool) -> None:
        """Pass on what a task has printed, before its outcome. `has_more`: some is in the pipe."""
        self._printout.end_task(has_more=has_more)

    def join(self) -> None:
        """Wait until it is dead and `on_death` has returned."""
        self._watch_greenlet.join()

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        log.error("executor lost by a fault of our own: %s", self.link.name, exc_info=greenlet.exc_info)
        self.kill("internal error")  # `_watch` then reports its end

    def _on_link_close(self, reason: str) -> None:
        self._link_closed.set()

    def _watch(self) -> None:
        exited = self.child.exited
        gevent.wait([exited, self._link_closed], count=1)
        if not exited.ready():
            exited.wait(LINGER_S)
            if not exited.ready():
                self.kill("it closed its link")
        exit_: Exit = exited.get()
        self._link_closed.wait(DRAIN_S)
        self.link.close("its process ended")
        self._printout.close()
        self.last_position = self.position()
        self._page.close()
        log.debug("executor ended: %s: %s", self.link.name, exit_)
        self._on_death(self, exit_)
