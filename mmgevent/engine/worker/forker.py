"""The engine's side of template processes: ask for executors, and learn how they ended.

A `Forker` is one template process. `Forkers` has one for each kind of executors, and starts another
when one has died. A kind is monkey-patched or not, and has certain interpreter flags. Each link has
a new worker; all workers of an engine use the same forkers.

`fork` never blocks. Greenlets of the forker send the request and read the answer. Meanwhile frames
for the executor wait in its socket.
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import signal
import socket as plain_socket
import subprocess
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent import socket
from gevent.event import AsyncResult, Event
from gevent.hub import get_hub

from mmgevent.engine.start import TemplateProcess, start_template
from mmgevent.engine.worker.exits import Exit
from mmgevent.errors import EngineError
from mmgevent.executor.template import FORK_DESCRIPTORS
from mmgevent.machine.resources import open_process

log = logging.getLogger(__name__)

#: Most templates of one kind that are started within RESTART_PERIOD_S. More would not work either.
MAX_STARTS = 5

#: Period of MAX_STARTS, seconds.
RESTART_PERIOD_S = 60.0

#: Templates without executors that are kept besides the first one. Each takes 12 MiB of memory, and
#: the next job of its kind begins 0.15 s sooner.
MAX_IDLE_TEMPLATES = 2

#: Time for a template to end by itself once its socket is closed, seconds.
END_S = 2.0

#: Time between two looks at whether a template has ended, seconds, on systems that do not report
#: it. A template ends within some 5 ms.
END_LOOK_S = 0.01

#: Largest niceness: the lowest priority.
MAX_NICE = 19

#: Size of one read from a template, bytes.
READ_BYTES = 64 * 1024


class Child:
    """An executor that was asked for."""

    def __init__(self) -> None:
        #: process id, once it is forked
        self.pid: int | None = None
        #: its `Exit`, once it is dead and reaped
        self.exited: AsyncResult = AsyncResult()
        self._is_doomed = False

    def kill(self) -> None:
        """Kill it and its process group, as soon as it is forked. Idempotent."""
        self._is_doomed = True
        if self.pid is None or self.exited.ready():
            return
        for kill in (os.killpg, os.kill):
            try:
                kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has no process group yet, or is being reaped right now

    def _forked(self, pid: int) -> None:
        self.pid = pid
        if self._is_doomed:
            self.kill()


class Forker:
    """One template process, owned from now on."""

    def __init__(self, template: TemplateProcess):
        self._process = template.process
        self._sock = socket.socket(fileno=template.sock.detach())
        self._requests: deque[tuple[bytes, list[int]]] = deque()
        self._wakeup = Event()
        #: token -> executor that has not ended
        self._children: dict[int, Child] = {}
        #: pid -> token
        self._tokens: dict[int, int] = {}
        self._last_token = 0
        self._is_closing = False
        #: set when the template and all its executors have ended
        self.dead = Event()
        self._writer = gevent.spawn(self._write)
        self._writer.link_exception(lambda writer: self._process.kill())  # gevent has logged why
        self._reader = gevent.spawn(self._read)

    @property
    def pid(self) -> int:
        """Process id of the template."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can fork."""
        return not self.dead.is_set() and not self._is_closing

    @property
    def is_idle(self) -> bool:
        """Whether it has no executors, and no requests for any."""
        return not self._children

    def fork(self, descriptors: list[int], scratch_dir: str | None, executors: int = 1) -> Child:
        """Ask for an executor with these descriptors: socket, stdout, stderr, status page.

        They are closed here once they were sent. `executors`: how many its worker has; they share
        the memory.
        """
        assert len(descriptors) == FORK_DESCRIPTORS
        child = Child()
        if not self.is_alive:
            _close(descriptors)
            child.exited.set(Exit(None, 0))
            return child
        self._last_token += 1
        self._children[self._last_token] = child
        request = {"fork": self._last_token, "scratch_dir": scratch_dir, "executors": executors}
        self._requests.append((json.dumps(request).encode() + b"\n", descriptors))
        self._wakeup.set()
        return child

    def close(self) -> None:
        """End the template and all its executors. Returns when they are reaped. Idempotent."""
        self._is_closing = True
        self._wakeup.set()
        if not self.dead.wait(END_S):
            self._process.kill()
        self.dead.wait()
        gevent.joinall([self._reader, self._writer])

    def _write(self) -> None:
        try:
            while not self._is_closing:
                while self._requests:
                    request, descriptors = self._requests[0]
                    rights = (plain_socket.SOL_SOCKET, plain_socket.SCM_RIGHTS, array.array("i", descriptors))
                    sent = self._sock.sendmsg([request], [rights])
                    self._requests.popleft()
                    _close(descriptors)
                    self._sock.sendall(request[sent:])
                self._wakeup.clear()
                self._wakeup.wait()
            self._sock.shutdown(plain_socket.SHUT_WR)  # the template then ends, with its children
        except OSError as error:
            log.debug("template lost while writing: %s", error)  # the reader sees the end

    def _read(self) -> None:
        try:
            buffer = b""
            while data := self._sock.recv(READ_BYTES):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    self._take_report(json.loads(line))
        except Exception:
            log.exception("template abandoned: %s", self.pid)
        finally:
            self._end()

    def _take_report(self, report: dict[str, Any]) -> None:
        if "forked" in report:
            self._tokens[report["pid"]] = report["forked"]
            self._children[report["forked"]]._forked(report["pid"])
        elif "refused" in report:
            self._children.pop(report["refused"]).exited.set(Exit(None, 0, report["error"]))
        else:
            token = self._tokens.pop(report["exited"])
            self._children.pop(token).exited.set(Exit(report["status"], report["maxrss_kb"]))

    def _end(self) -> None:
        """Remove what is left of the template, which has ended or is about to end."""
        if not self._is_closing:
            log.warning("template died: %s", self.pid)
        self._is_closing = True
        self._wakeup.set()
        self._sock.close()
        for _, descriptors in self._requests:
            _close(descriptors)
        self._requests.clear()
        if not wait_for_process(self._process, END_S):
            self._process.kill()
            wait_for_process(self._process, None)
        for child in self._children.values():
            child.kill()  # the kernel killed it with the template, but not its process group
            child.exited.set(Exit(None, 0))
        self._children.clear()
        self.dead.set()


class Kind(NamedTuple):
    """What the executors of a template have in common."""

    greenlets: bool  #: whether they are monkey-patched, to run items in greenlets
    flags: tuple[str, ...]  #: interpreter flags, see `interpreter.GROUPS`


class Forkers:
    """The forkers of one engine. Each is started when it is needed, and again when it has died."""

    def __init__(self, template: TemplateProcess | None = None, nice: int = 0):
        """`template`: one without greenlets that was started already, owned from now on.

        `nice`: added to the niceness of this process, for templates; executors inherit it.
        """
        self._nice = nice
        #: kind -> its forker, the longest unused first
        self._forkers: dict[Kind, Forker] = {}
        self._starts: dict[Kind, deque[float]] = {}
        self._first = Kind(False, template.flags if template is not None else ())
        self._ending: set[gevent.Greenlet] = set()
        self._is_closed = False
        if template is not None:
            self._forkers[self._first] = Forker(self._lower_priority(template))

    def get(self, greenlets: bool = False, flags: Sequence[str] = ()) -> Forker:
        """Return a live forker of executors with these interpreter flags, started now if need be.

        `greenlets`: the executors run items in greenlets. Call `fork` at once: a forker without
        executors may be ended when another one is started.

        Raises EngineError if it has died too often, or after `close`, and StartError if it cannot
        be started.
        """
        if self._is_closed:
            raise EngineError("the engine is closing: it starts no more executors")
        kind = Kind(greenlets, tuple(flags))
        forker = self._forkers.get(kind)
        if forker is None or not forker.is_alive:
            starts = self._starts.setdefault(kind, deque(maxlen=MAX_STARTS))
            if len(starts) == MAX_STARTS and monotonic() - starts[0] < RESTART_PERIOD_S:
                raise EngineError(
                    f"the template process died {MAX_STARTS} times in {monotonic() - starts[0]:.0f} s"
                )
            self._end_idle()
            forker = Forker(self._lower_priority(start_template(greenlets=greenlets, flags=kind.flags)))
            starts.append(monotonic())
        self._forkers.pop(kind, None)
        self._forkers[kind] = forker  # last, since it was used last
        return forker

    def close(self) -> None:
        """End all templates with their executors. Idempotent."""
        self._is_closed = True
        for forker in self._forkers.values():
            forker.close()
        gevent.joinall(list(self._ending))

    def _lower_priority(self, template: TemplateProcess) -> TemplateProcess:
        if self._nice:
            nice = min(MAX_NICE, os.getpriority(os.PRIO_PROCESS, 0) + self._nice)
            with contextlib.suppress(ProcessLookupError):  # it has died: the reader of its socket sees that
                os.setpriority(os.PRIO_PROCESS, template.process.pid, nice)
        return template

    def _end_idle(self) -> None:
        """End the longest unused templates without executors, to make room for one more."""
        idle = [kind for kind, forker in self._forkers.items() if forker.is_idle and kind != self._first]
        for kind in idle[: max(0, len(idle) - MAX_IDLE_TEMPLATES + 1)]:
            del self._starts[kind]  # it did not die
            greenlet = gevent.spawn(self._forkers.pop(kind).close)
            self._ending.add(greenlet)
            greenlet.link(self._ending.discard)


def wait_for_process(process: subprocess.Popen[bytes], timeout_s: float | None) -> bool:
    """Wait, without blocking the hub, until a process has ended and is reaped.

    Return whether it has.
    """
    if process.poll() is not None:
        return True
    fd = open_process(process.pid)
    with gevent.Timeout(timeout_s, False):
        if fd is None:
            while process.poll() is None:
                gevent.sleep(END_LOOK_S)
        else:
            try:
                watcher = get_hub().loop.io(fd, 1)
                get_hub().wait(watcher)
                watcher.close()
            finally:
                os.close(fd)
    return process.poll() is not None


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
