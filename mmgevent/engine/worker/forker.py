"""The engine's side of one template process: ask for executors, and learn how they ended.

User code can kill or stop the template, its parent. The end of its socket tells of a death. A
template that is stopped, or hangs, does not answer the engine's pings and is killed (see
`silence`). Its executors die with it, whoever ends it.

`fork` never blocks. Greenlets of the forker send the request and read the answer. Meanwhile frames
for the executor wait in its socket.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket as plain_socket
import subprocess
from collections import deque
from select import POLLIN, poll
from typing import Any

import gevent
from gevent import socket
from gevent.event import AsyncResult, Event
from gevent.hub import get_hub

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.engine.start import TemplateProcess
from mmgevent.engine.worker.exits import Exit, describe_template_end
from mmgevent.engine.worker.silence import Finding, Silence
from mmgevent.executor.template import FORK_DESCRIPTORS
from mmgevent.machine.logs import get_log
from mmgevent.machine.processes import look_at
from mmgevent.machine.resources import open_process

log = get_log(__name__)

#: Time between two pings of a template that has executors, seconds. It answers in 1 ms.
PING_S = 5.0

#: Time for a template to end by itself once its socket is closed, seconds.
END_S = 2.0

#: Time between two looks at whether a template has ended, seconds, on systems that do not report
#: it. A template ends within some 5 ms.
END_LOOK_S = 0.01

#: Size of one read from a template, bytes.
READ_BYTES = 64 * 1024

#: Request that the template answers at once.
_PING = b'{"ping": 1}\n'


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
        #: whether it ever forked an executor
        self.has_forked = False
        #: whether it answered anything, and whether it did since the last ping
        self._has_answered = self._is_heard = False
        #: why the engine killed it; None if it did not
        self._kill_finding: Finding | None = None
        #: set when the template and all its executors have ended
        self.dead = Event()
        self._writer = spawn(self._on_fault, self._write)
        self._reader = spawn(end_process, self._read)
        self._pinger = spawn(self._on_fault, self._ping)

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
            child.exited.set(Exit(None, 0, error="the template process ends"))
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
        gevent.joinall([self._reader, self._writer, self._pinger])

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        """Kill the template: without this greenlet it is of no use. The reader sees the end."""
        self._kill(_own_fault(greenlet.exception))

    def _kill(self, finding: Finding) -> None:
        log.error("template killed: %s: %s", self.pid, finding.cause)
        self._kill_finding = self._kill_finding or finding
        self._process.kill()

    def _ping(self) -> None:
        """Kill the template when it has executors and will never answer: it is stopped, or hangs."""
        silence = Silence()
        was_asked = False
        while not self.dead.wait(PING_S) and not self._is_closing:
            look = look_at(self.pid)  # first: it may answer after it
            if not was_asked or self._is_heard or self._has_unread():
                silence.end()
            elif finding := silence.note(look, has_answered=self._has_answered):
                self._kill(finding)
                return
            self._is_heard = False
            was_asked = not self.is_idle
            if was_asked and not self._requests:  # else it has enough to answer
                self._requests.append((_PING, []))
                self._wakeup.set()

    def _has_unread(self) -> bool:
        """Return whether the template has sent something that was not read yet."""
        waiting = poll()
        waiting.register(self._sock.fileno(), POLLIN)
        return bool(waiting.poll(0))

    def _write(self) -> None:
        try:
            while not self._is_closing:
                while self._requests:
                    request, descriptors = self._requests[0]
                    rights = (plain_socket.SOL_SOCKET, plain_socket.SCM_RIGHTS, array.array("i", descriptors))
                    sent = self._sock.sendmsg([request], [rights] if descriptors else [])
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
        except ConnectionError as error:
            log.debug("template lost while reading: %s", error)
        except Exception as error:
            log.exception("template abandoned: %s", self.pid)
            self._kill(_own_fault(error))
        finally:
            self._end()

    def _take_report(self, report: dict[str, Any]) -> None:
        self._has_answered = self._is_heard = True
        if "pong" in report:
            return
        if "forked" in report:
            self.has_forked = True
            self._tokens[report["pid"]] = report["forked"]
            self._children[report["forked"]]._forked(report["pid"])
        elif "refused" in report:
            self._children.pop(report["refused"]).exited.set(Exit(None, 0, report["error"]))
        else:
            token = self._tokens.pop(report["exited"])
            self._children.pop(token).exited.set(Exit(report["status"], report["maxrss_kb"]))

    def _end(self) -> None:
        """Remove what is left of the template, which has ended or is about to end."""
        was_closing, self._is_closing = self._is_closing, True
        self._wakeup.set()
        self._sock.close()
        for _, descriptors in self._requests:
            _close(descriptors)
        self._requests.clear()
        if not wait_for_process(self._process, END_S):
            self._process.kill()
            wait_for_process(self._process, None)
        how = describe_template_end(self._process.poll())
        if self._kill_finding is not None:
            how = self._kill_finding.cause
        if not was_closing:
            log.warning("template died: %s: %s", self.pid, how)
        # One that never forked fails by itself: no job can have ended it.
        end = Exit(None, 0, template=how, is_fact=self._kill_finding is None or self._kill_finding.is_fact)
        if not self.has_forked:
            end = Exit(None, 0, error=f"the template process ended at its start: {how}")
        for child in self._children.values():
            child.kill()  # the kernel killed it with the template, but not its process group
            child.exited.set(end)
        self._children.clear()
        self.dead.set()


def _own_fault(error: BaseException | None) -> Finding:
    return Finding(f"internal error: {type(error).__name__}: {error}", is_fact=False)


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
