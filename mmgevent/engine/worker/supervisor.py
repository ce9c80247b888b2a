"""One executor as its worker sees it: link, output, page, death.

The supervisor makes the descriptors, has the executor forked, and from then on keeps what may be
needed once it is dead: the last of what it printed, and the page that names the item it is on.

A death is the template's report, never the end of the link or of a pipe: processes forked by user
code may keep those open. After the report what still lies in link and pipes is taken, then
`on_death` is called, once, and nothing of the executor is left in this process.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gevent
from gevent import os as gevent_os
from gevent import socket
from gevent.event import Event

from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.engine.worker.forker import Exit, Forker
from mmgevent.executor.page import Page, Position
from mmgevent.machine.resources import find_control_groups
from mmgevent.wire.frames import CODE, Frame, split_payload
from mmgevent.wire.lanes import CODE_WINDOW

log = logging.getLogger(__name__)
#: Gets what executors print, as `Printed`, at level INFO: mmg-run -v shows it.
printed = logging.getLogger("mmgevent.printed")

#: bytes kept of what an executor prints
RING_BYTES = 64 * 1024
#: bytes of it that a failure carries
LAST_WORDS_BYTES = 4 * 1024
#: how long the link of a dead executor is read on; its end comes at once unless somebody else holds it
DRAIN_S = 0.5
#: an executor that closed its link and has not ended after so long is killed
LINGER_S = 1.0
#: share of its memory limit from which on the user is warned, once
WARN_SHARE = 0.9
#: Longest line of what executors print that is shown whole, bytes; more is held for nobody.
MAX_LINE_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024


class Ring:
    """The last RING_BYTES of what was added, and how much went before."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._held = 0
        #: bytes that were dropped
        self.dropped_bytes = 0

    def add(self, data: bytes) -> None:
        """Append; drops whole chunks from the front while enough is left without them."""
        self._chunks.append(data)
        self._held += len(data)
        while self._held - len(self._chunks[0]) >= RING_BYTES:
            self.dropped_bytes += len(self._chunks[0])
            self._held -= len(self._chunks.popleft())

    def tail(self, n_bytes: int) -> str:
        """The last `n_bytes` as text, saying how much is missing before them."""
        data = b"".join(self._chunks)
        missing = self.dropped_bytes + max(0, len(data) - n_bytes)
        text = data[-n_bytes:].decode("utf-8", "replace")
        return f"... {missing} bytes left out ...\n{text}" if missing else text


class Printed:
    """What an executor printed, whole lines of it; decoded only if somebody logs it."""

    def __init__(self, executor: str, data: bytes):
        self._executor = executor
        self._data = data

    @property
    def text(self) -> str:
        """The lines as they were printed."""
        return self._data.decode("utf-8", "replace").rstrip("\n")

    def __str__(self) -> str:
        return "\n".join(f"{self._executor} printed: {line}" for line in self.text.split("\n"))


class Supervisor:
    """Starts one executor, carries frames to and from it, knows how it ended."""

    def __init__(
        self,
        forker: Forker,
        name: str,
        scratch_dir: str | None,
        on_frame: Callable[[Supervisor, Frame], None],
        on_death: Callable[[Supervisor, Exit], None],
        *,
        executors: int = 1,
    ):
        """`executors`: how many its worker has.

        `on_frame` comes from the hub and must not block; `on_death` after its last call, from a greenlet.

        OSError when there are no descriptors left; then nothing was started, and all is closed again.
        """
        self._on_frame = on_frame
        self._on_death = on_death
        self._ring = Ring()
        #: descriptor -> what was printed to it since the last line end, to be shown with the rest of its line
        self._begun_lines: dict[int, bytes] = {}
        #: where it was when it died
        self.last_position: Position | None = None
        #: why this worker killed it; None while it did not
        self.kill_cause: str | None = None
        #: "timeout" or "memory" when that was a limit of the job
        self.broken_limit: str | None = None
        #: whether it ever answered for an attempt
        self.has_run = False
        #: whether the user was warned of how much memory it has
        self.has_warned = False
        #: processes of this control group that the kernel had killed for want of memory before this one began
        self.memory_kills_before = find_control_groups().count_memory_kills() or 0
        with ExitStack() as opened:  # what to close if it cannot all be had
            self._page, page_fd = Page.create()
            opened.callback(self._page.close)
            opened.callback(os.close, page_fd)
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            opened.callback(theirs.close)
            stdout, child_stdout = _open_pipe(opened)
            stderr, child_stderr = _open_pipe(opened)
            opened.pop_all()
        self.link = SocketLink(ours, name, heartbeats=False)
        descriptors = [theirs.detach(), child_stdout, child_stderr, page_fd]
        self.child = forker.fork(descriptors, scratch_dir, executors)
        self._link_closed = Event()
        self._watcher: gevent.Greenlet | None = None
        self._drains = [(fd, self._spawn(self._drain, fd)) for fd in (stdout, stderr)]
        self.link.start(lambda frame: self._on_frame(self, frame), self._on_link_close)
        self._watch_greenlet = self._spawn(self._watch)

    def enforce(
        self, item_limit_s: float | None, memory_limit_bytes: int | None, setup_limit_s: float | None = None
    ) -> str | None:
        """Kill it if the item it is on, or its setupfn, takes longer, or it has more memory, than that.

        Returns what to warn of while it is near its limit of memory; whoever says so sets `has_warned`.
        """
        if self.is_doomed:
            return None
        position = self._page.read()
        limit_s = setup_limit_s if position.is_setup else item_limit_s
        if limit_s is not None and position.running_s > limit_s:
            self.broken_limit = "timeout"
            self.last_position = position  # by now it may be on the next item, which is not to blame
            self.kill("its setupfn took too long" if position.is_setup else "an item took too long")
        elif memory_limit_bytes is not None:
            used = self.resident_bytes()
            if used > memory_limit_bytes:
                self.broken_limit = "memory"
                self.kill("it had grown too large")
            elif used > WARN_SHARE * memory_limit_bytes and not self.has_warned:
                return f"it uses {used >> 20} MiB of memory_limit, {memory_limit_bytes >> 20} MiB"
        return None

    def send_job(self, frame: Frame, code: bytes | bytearray) -> None:
        """Tell it its job: the message, then the code as fast as it takes it."""
        lane = (frame.job, 0, 0)
        self.link.open_lane(lane, CODE_WINDOW)
        self.link.send(frame)
        for part in split_payload(CODE, code, frame.job):
            self.link.send_in_lane(part)
        self.link.close_lane(lane)

    def kill(self, cause: str) -> None:
        """Kill it and its process group; `on_death` follows. The first cause counts."""
        if self.kill_cause is None:
            self.kill_cause = cause
            log.debug("executor killed: %s: %s", self.link.name, cause)
        self.child.kill()

    @property
    def is_doomed(self) -> bool:
        """Whether it is dead or dying: it must get no more work."""
        return self.kill_cause is not None or self.link.is_closed or self.child.exited.ready()

    def position(self) -> Position:
        """Where it is now, or was when it died."""
        return self._page.read() if self.last_position is None else self.last_position

    def resident_bytes(self) -> int:
        """Memory it has in RAM now; 0 when it is not running."""
        import psutil  # for jobs with a memory_limit only

        if self.child.pid is None or self.child.exited.ready():
            return 0
        try:
            resident: int = psutil.Process(self.child.pid).memory_info().rss
            return resident
        except psutil.NoSuchProcess:
            return 0

    def last_words(self) -> str:
        """The end of what it printed."""
        return self._ring.tail(LAST_WORDS_BYTES)

    def join(self) -> None:
        """Wait until it is dead and `on_death` has returned."""
        self._watch_greenlet.join()

    def _spawn(self, function: Callable[..., None], *args: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(self._on_fault)
        return greenlet

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        log.error("executor lost by a fault of our own: %s", self.link.name, exc_info=greenlet.exception)
        self.kill("internal error")

    def _on_link_close(self, reason: str) -> None:
        self._link_closed.set()

    def _drain(self, fd: int) -> None:
        """Read what it prints, for ever: a full pipe would stop it."""
        gevent_os.make_nonblocking(fd)
        while data := gevent_os.nb_read(fd, _READ_BYTES):
            self._ring.add(data)
            self._show(fd, data)
            gevent.sleep(0)  # nb_read does not give way while there is something to read

    def _show(self, fd: int, data: bytes, *, is_last: bool = False) -> None:
        """Log the lines that are whole by now; the rest too once it is longer than any line, or the last."""
        if not printed.isEnabledFor(logging.INFO):
            return
        data = self._begun_lines.pop(fd, b"") + data
        end = len(data) if is_last or len(data) > MAX_LINE_BYTES else data.rfind(b"\n") + 1
        if end:
            printed.info("%s", Printed(self.link.name, data[:end]))
        if end < len(data):
            self._begun_lines[fd] = data[end:]

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
        self._end_drains()
        self.last_position = self.position()
        self._page.close()
        log.debug("executor ended: %s: %s", self.link.name, exit_)
        self._on_death(self, exit_)

    def _end_drains(self) -> None:
        """Take what is left in the pipes, which others may hold open, and close them."""
        gevent.killall([greenlet for _, greenlet in self._drains])
        for fd, _ in self._drains:
            try:
                for _ in range(RING_BYTES // _READ_BYTES + 1):  # others may go on writing
                    data = os.read(fd, _READ_BYTES)
                    self._ring.add(data)
                    self._show(fd, data)
            except BlockingIOError:
                pass  # empty
            finally:
                self._show(fd, b"", is_last=True)
                os.close(fd)


def _open_pipe(opened: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    opened.callback(os.close, reader)
    opened.callback(os.close, writer)
    return reader, writer
