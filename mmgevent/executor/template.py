"""The template: a small process that forks executors.

It is plain Python with one thread. It has loaded what every executor needs, and nothing of the
user. So a fork takes 2 ms, against 65 ms for a fresh Python with dill, and is just as clean. With
`--greenlets` gevent monkey-patches it before anything else, for jobs whose executors run several
items at once. It has no hub: each child makes its own.

It speaks JSON lines with the process that started it, over one end of a socketpair:

    in   {"ping": 1}
    out  {"pong": 1}
         at once: a template that does not answer is killed
    in   {"fork": token, "scratch_dir": path or null, "executors": n}
         with four descriptors (SCM_RIGHTS): the executor's socket, stdout, stderr, status page
    out  {"forked": token, "pid": pid} or {"refused": token, "error": text}
    out  {"exited": pid, "status": wait status, "maxrss_kb": n}
         when a child has ended, after "forked"

Nothing outlives its job:

- Each child leads a session of its own. When a child ends, the template kills the rest of its
  process group before it reaps the child. Until then the number cannot belong to another process.
- Processes that have left the group, such as daemons, become children of the template when the
  executor dies, if the system has subreapers (Linux). Then the template kills them.
- When its socket closes or its parent dies, the template kills all children and ends.
- If the template itself is killed, the kernel kills its children (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import sys
from select import POLLIN, poll

# gevent patches these modules in some templates. This module needs the originals.
from signal import set_wakeup_fd as _set_wakeup_fd
from signal import signal as _set_handler
from socket import socket as _PlainSocket
from typing import Any, NoReturn

from mmgevent.executor.exit_codes import LIMITS_CODE
from mmgevent.machine.resources import descriptor_limit, find_control_groups, shortage_error

#: Modules that every executor needs, and would import late.
PRELOADED = (
    "xxhash",
    "mmgevent._speedups",
    "mmgevent.job.inputs.files",
    "mmgevent.job.inputs.lines",
    "faulthandler",
    "random",
)

#: Descriptors that come with a request.
FORK_DESCRIPTORS = 4

#: Number of an executor's socket, out of the way of user code, if the limit on descriptors allows
#: it.
HIGH_DESCRIPTOR = 900

#: Descriptors that a child closes: more than a template ever has. Containers often allow a billion,
#: and kernels without close_range need a call for each.
MAX_DESCRIPTORS = 4096

#: Largest request, bytes. It contains a path.
MAX_REQUEST_BYTES = 64 * 1024

#: Rounds in which a template that ends kills what dead executors left. Each round may find new
#: ones.
MAX_STRAY_ROUNDS = 100

_fork = os.fork
#: Options of prctl.
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
#: Limits of a process.
_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})


def main() -> None:
    """Run `python -m mmgevent.executor.template --fd N [--greenlets]`."""
    arguments = sys.argv[1:]
    greenlets = "--greenlets" in arguments
    sock = _PlainSocket(fileno=int(arguments[arguments.index("--fd") + 1]))
    # Not SIGKILL: a signal that can be caught lets it kill its children's process groups first.
    _die_with_parent(signal.SIGTERM)
    _set_name("mmg-template")
    if greenlets:
        from gevent import monkey

        monkey.patch_all()
    template = Template(sock, greenlets)
    template.serve()
    if template.exit_code:
        sys.exit(template.exit_code)


class Template:
    """Serves requests until its socket closes."""

    def __init__(self, sock: socket.socket, greenlets: bool):
        self._sock = sock
        sock.set_inheritable(False)
        self._greenlets = greenlets
        self._pid = os.getpid()
        self._children: set[int] = set()
        self._buffer = b""
        self._descriptors: list[int] = []
        self._ended = False
        #: exit code of the process; not 0 if it ended by itself
        self.exit_code = 0
        self._preload()
        self._limits = _read_limits()

    def _preload(self) -> None:
        from importlib import import_module

        import_module("mmgevent.job.shipping.dill_library").import_dill()
        for name in PRELOADED:
            import_module(name)
        self._run_executor = import_module("mmgevent.executor.main").main
        find_control_groups()  # so that children need not
        gc.freeze()  # else the first collection of each child would copy every page

    def serve(self) -> None:
        """Fork and reap until the socket closes or SIGTERM arrives. Then end all children."""
        wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        _set_wakeup_fd(write_end, warn_on_full_buffer=False)
        _set_handler(signal.SIGINT, signal.SIG_IGN)
        _set_handler(signal.SIGCHLD, lambda *_: None)
        _set_handler(signal.SIGTERM, self._on_term)
        _adopt_orphans()
        waiting = poll()
        waiting.register(self._sock.fileno(), POLLIN)
        waiting.register(wakeup, POLLIN)
        try:
            while not self._ended:
                ready = [fd for fd, _ in waiting.poll()]
                if wakeup in ready:
                    os.read(wakeup, 4096)
                    self._reap()
                if self._sock.fileno() in ready:
                    self._receive()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the parent has ended
        finally:
            self._kill_children()

    def _on_term(self, *_: object) -> None:
        self._ended = True

    def _receive(self) -> None:
        data, ancillary, _, _ = self._sock.recvmsg(
            MAX_REQUEST_BYTES, socket.CMSG_SPACE(4 * FORK_DESCRIPTORS), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        )
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors += memoryview(raw[: len(raw) // 4 * 4]).cast("i")
        if not data:
            self._ended = True
            return
        if _read_limits() != self._limits:
            self._ended = True
            self.exit_code = LIMITS_CODE
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b'{"ping"'):
                self._answer(pong=1)
                continue
            descriptors = self._descriptors[:FORK_DESCRIPTORS]
            del self._descriptors[:FORK_DESCRIPTORS]
            self._serve_request(line, descriptors)

    def _serve_request(self, line: bytes, descriptors: list[int]) -> None:
        request = json.loads(line)
        try:
            pid = _fork()
        except OSError as error:
            self._answer(refused=request["fork"], error=str(shortage_error("an executor", error)))
        else:
            if pid == 0:
                self._become_executor(request, descriptors)
            self._children.add(pid)
            self._answer(forked=request["fork"], pid=pid)
        finally:
            for fd in descriptors:
                os.close(fd)

    def _answer(self, **fields: Any) -> None:
        self._sock.sendall(json.dumps(fields).encode() + b"\n")

    def _reap(self) -> None:
        """Report every executor that has ended, and kill what is left of it."""
        has_reaped = False
        with contextlib.suppress(ChildProcessError):  # there are no more children
            while True:
                if hasattr(os, "waitid"):
                    info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    if info is None:
                        break
                    _kill_group(info.si_pid)
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    break
                has_reaped = True
                if pid in self._children:  # else a dead executor left it
                    self._children.discard(pid)
                    self._answer(exited=pid, status=status, maxrss_kb=usage.ru_maxrss)
        if has_reaped:
            self._kill_strays()

    def _kill_children(self) -> None:
        for pid in self._children:
            _kill_group(pid)
        for pid in self._children:
            os.waitpid(pid, 0)
        self._children.clear()
        for _ in range(MAX_STRAY_ROUNDS):
            strays = self._kill_strays()
            if not strays:
                return
            for pid in strays:
                os.waitpid(pid, 0)

    def _kill_strays(self) -> set[int]:
        """Kill what dead executors left, and return it.

        Once those are reaped, their children become ours, and are next.
        """
        killed = set()
        for pid in _list_children() - self._children:
            with contextlib.suppress(PermissionError):  # it runs as another user now
                os.kill(pid, signal.SIGKILL)  # it was not reaped, so the number is still its own
                killed.add(pid)
        return killed

    def _become_executor(self, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """In the child: leave everything of the template behind, and run the executor."""
        status = 70
        try:
            os.setsid()
            _die_with_parent(signal.SIGKILL)
            if os.getppid() != self._pid:  # the template ended before the line above
                os._exit(status)
            _adopt_orphans()  # all that it leaves goes to the template when it ends, and not before
            _set_name("mmg-executor")
            _restore_signals()
            gc.enable()
            link, page = _arrange_descriptors(*descriptors)
            self._children.clear()
            self._run_executor(
                link,
                page,
                request["scratch_dir"],
                greenlets=self._greenlets,
                executors=request.get("executors", 1),
            )
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)


def _arrange_descriptors(link: int, stdout: int, stderr: int, page: int) -> tuple[int, int]:
    """Make 0, 1, 2 the executor's, move the others to high numbers, close everything else."""
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, target in ((null, 0), (stdout, 1), (stderr, 2)):
        os.dup2(fd, target)
    limit = descriptor_limit()
    high = min(HIGH_DESCRIPTOR, limit - 2)
    link = fcntl.fcntl(link, fcntl.F_DUPFD_CLOEXEC, high)
    page = fcntl.fcntl(page, fcntl.F_DUPFD_CLOEXEC, high)
    start = 3
    for kept in sorted((link, page)):
        os.closerange(start, kept)
        start = kept + 1
    os.closerange(start, max(start, min(limit, MAX_DESCRIPTORS)))
    return link, page


def _restore_signals() -> None:
    """Give the child the signals of a fresh Python: Ctrl-C raises, all else is the default."""
    _set_wakeup_fd(-1)
    _set_handler(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        _set_handler(number, signal.SIG_DFL)


def _read_limits() -> list[tuple[int, int]]:
    """Return the limits of this process that matter, or none if a sandbox forbids to read them."""
    try:
        return [resource.getrlimit(number) for number in _LIMITS]
    except OSError:
        return []


def _kill_group(pid: int) -> None:
    """Kill a child that was not reaped yet, and its process group if it has one."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _die_with_parent(signum: int) -> None:
    """Have the kernel send this process a signal when its parent ends (Linux).

    Elsewhere, and if a sandbox forbids it, the end of the socket has the same effect.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signum)


def _adopt_orphans() -> None:
    """Become the parent of the children of children that die (Linux; elsewhere init does)."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _list_children() -> set[int]:
    """Return the children of this process, including dead ones that were not reaped.

    Returns none if the system does not say.
    """
    pid = os.getpid()
    try:
        with open(f"/proc/self/task/{pid}/children") as listed:
            return set(map(int, listed.read().split()))
    except OSError:
        return _search_children(pid)


def _search_children(pid: int) -> set[int]:
    """Return the same from a look at every process, for kernels without a list of children."""
    from mmgevent.machine.processes import find_parent

    try:
        names = os.listdir("/proc") if sys.platform == "linux" else []
    except OSError:
        return set()
    return {int(name) for name in names if name.isdigit() and find_parent(int(name)) == pid}


def _set_name(name: str) -> None:
    if sys.platform == "linux":
        _prctl(_PR_SET_NAME, name.encode())


def _prctl(option: int, argument: int | bytes) -> None:
    """Ask the kernel for something that it may refuse, as sandboxes do.

    Everything works without it, if less tidily.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):  # no ctypes, no prctl
        import ctypes  # dill loads it anyway

        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    return read_end, write_end


if __name__ == "__main__":
    # By its real name: in an executor, __main__ is the module of the user's functions.
    from mmgevent.executor.template import main as _main

    _main()
