"""The engine's side of the template process: ask for executors, learn of their ends.

A `Forker` is one template process; `Forkers` keeps one of each kind and starts another when one has
died. A kind is monkey-patched or not, and has the interpreter's flags of the jobs that need it. Workers come and go with their links, the forkers stay.

`fork` never blocks: the request is sent and answered by greenlets of the forker, and what the
executor is told meanwhile waits in its socket.
"""

from __future__ import annotations

import array
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
from mmgevent.errors import EngineError
from mmgevent.executor.template import FORK_DESCRIPTORS
from mmgevent.machine.resources import open_process

log = logging.getLogger(__name__)

#: templates of one kind that may be started within RESTART_PERIOD_S; more means that it cannot work
MAX_STARTS = 5
RESTART_PERIOD_S = 60.0
#: templates without executors that are kept besides the one that was there first: each takes 12 MiB of memory, and
#: the next job of its kind begins 0.15 s sooner
MAX_IDLE_TEMPLATES = 2
#: how long a template may take to end by itself once its socket is closed
END_S = 2.0
#: Between two looks whether a template has ended, where the system does not tell, seconds: it takes some 5 ms to end.
END_LOOK_S = 0.01
READ_BYTES = 64 * 1024


class Exit(NamedTuple):
    """How an executor ended."""

    status: int | None  #: as `os.wait` gives it; None: its template died, or it could not be forked
    maxrss_kb: int  #: its largest resident size
    error: str | None = None  #: why there is no status

    def __str__(self) -> str:
        if self.status is None:
            return self.error or "its template process ended"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return f"signal {number} ({_name_of_signal(number)})"
        if os.WIFEXITED(self.status):
            return f"exit code {os.WEXITSTATUS(self.status)}"
        return f"wait status {self.status}"


def _name_of_signal(number: int) -> str:
    """Return the name of a signal; most real-time signals are known by their distance from the first."""
    try:
        return signal.Signals(number).name
    except ValueError:
        first = getattr(signal, "SIGRTMIN", None)
        return "of no known name" if first is None or number < first else f"SIGRTMIN+{number - first}"


class Child:
    """An executor that was asked for."""

    def __init__(self) -> None:
        #: None until it is forked
        self.pid: int | None = None
        #: an Exit, once it is dead and reaped
        self.exited: AsyncResult = AsyncResult()
        self._is_doomed = False

    def kill(self) -> None:
        """Kill it and its process group, at once or as soon as it is forked. Idempotent."""
        self._is_doomed = True
        if self.pid is None or self.exited.ready():
            return
        for kill in (os.killpg, os.kill):
            try:
                kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has no group yet, or is being reaped right now

    def _forked(self, pid: int) -> None:
        self.pid = pid
        if self._is_doomed:
            self.kill()


class Forker:
    """One template process, which this takes over."""

    def __init__(self, template: TemplateProcess):
        self._process = template.process
        self._sock = socket.socket(fileno=template.sock.detach())
        self._requests: deque[tuple[bytes, list[int]]] = deque()
        self._wakeup = Event()
        self._children: dict[int, Child] = {}  # by token, until they exited
        self._tokens: dict[int, int] = {}  # by pid
        self._last_token = 0
        self._is_closing = False
        #: set when the template is gone, and with it every executor
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
        """Whether it may still fork."""
        return not self.dead.is_set() and not self._is_closing

    @property
    def is_idle(self) -> bool:
        """Whether it has no executors, nor any that were asked for."""
        return not self._children

    def fork(self, descriptors: list[int], scratch_dir: str | None, executors: int = 1) -> Child:
        """Ask for an executor with these descriptors (socket, stdout, stderr, page), closed once sent.

        `executors`: how many its worker has; they share the memory.
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
        """End the template and all its executors; returns when they are reaped. Idempotent."""
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
            self._sock.shutdown(plain_socket.SHUT_WR)  # the template sees the end, kills, reports, ends
        except OSError as error:
            log.debug("template gone while writing: %s", error)  # the reader sees the end

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
        """The template is gone or going: see that nothing of it is left."""
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
            child.kill()  # the kernel did, with the template; its process group is left
            child.exited.set(Exit(None, 0))
        self._children.clear()
        self.dead.set()


class Kind(NamedTuple):
    """What the executors of a template have in common."""

    greenlets: bool  #: monkey-patched, to run items in greenlets
    flags: tuple[str, ...]  #: of the interpreter, see `interpreter.GROUPS`


class Forkers:
    """The forkers of one engine, each started when it is first needed and again when it has died."""

    def __init__(self, template: TemplateProcess | None = None):
        """`template`: one without greenlets that was started already, which this takes over and keeps."""
        self._forkers: dict[Kind, Forker] = {}  # the longest unused first
        self._starts: dict[Kind, deque[float]] = {}
        self._first = Kind(False, template.flags if template is not None else ())
        self._ending: set[gevent.Greenlet] = set()
        self._is_closed = False
        if template is not None:
            self._forkers[self._first] = Forker(template)

    def get(self, greenlets: bool = False, flags: Sequence[str] = ()) -> Forker:
        """The live forker of executors whose interpreter has these flags, of those that run items in greenlets or not.

        Who gets it has it fork at once; a forker without executors may be ended when another is started.
        EngineError when it has died too often to be started again, or after `close`; StartError if it cannot be started.
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
            forker = Forker(start_template(greenlets=greenlets, flags=kind.flags))
            starts.append(monotonic())
        self._forkers.pop(kind, None)
        self._forkers[kind] = forker  # behind all others: it was used last
        return forker

    def close(self) -> None:
        """End all templates with their executors. Idempotent."""
        self._is_closed = True
        for forker in self._forkers.values():
            forker.close()
        gevent.joinall(list(self._ending))

    def _end_idle(self) -> None:
        """End what has no executors, the longest unused first, so that one more is not too many."""
        idle = [kind for kind, forker in self._forkers.items() if forker.is_idle and kind != self._first]
        for kind in idle[: max(0, len(idle) - MAX_IDLE_TEMPLATES + 1)]:
            del self._starts[kind]  # it did not die
            greenlet = gevent.spawn(self._forkers.pop(kind).close)
            self._ending.add(greenlet)
            greenlet.link(self._ending.discard)


def wait_for_process(process: subprocess.Popen[bytes], timeout_s: float | None) -> bool:
    """Wait without blocking the hub until the process ended and is reaped; False if it did not in time."""
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
