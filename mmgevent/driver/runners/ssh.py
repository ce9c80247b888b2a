"""One worker on another machine, started over the system's `ssh`.

`ssh` carries a port there back to the server here (-R), so no firewall needs an opening, and the
server listens on this machine only. The password goes to the worker's standard input. When that
ends, the worker ends: so closing it, or the death of this process, leaves nothing behind there.

Whatever arrives from there is text of a peer: it is shortened, and made safe for terminals.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from mmgevent.access.ssh_hosts import SshHost
from mmgevent.errors import StartError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import open_process, start_thread
from mmgevent.shown_text import shown
from mmgevent.wire.failures import shorten
from mmgevent.wire.hello import PYTHON_VERSION, VERSION

log = get_log(__name__)

#: Time for `ssh` to connect, seconds.
CONNECT_S = 15

#: Time for a process that was killed to end, seconds. One that waits for a disk may not.
KILL_S = 5.0

#: Time between two looks at whether `ssh` has ended, seconds, on systems that do not report it.
END_LOOK_S = 0.5

#: Size of one read of a host's stderr, bytes, and most reads once `ssh` has ended: a pipe holds one.
READ_BYTES, MAX_LAST_READS = 64 * 1024, 2

#: Time between two signs of life of a host, and how many may be missed. A host that has been
#: silent for 45 s is lost.
ALIVE_S, ALIVE_COUNT = 15, 3

#: Time for a worker to end once its standard input has ended, seconds. It stops what runs first.
END_S = 5.0

#: Lines of a host's stderr that are kept for the report of a failure.
KEPT_LINES = 20

#: Longest such line, bytes.
MAX_LINE_BYTES = 4096

#: Text of a host in one message, bytes.
MAX_TEXT_BYTES = 500

#: Module that is run on the host.
MODULE = "mmgevent.cli.remote_worker"

#: Name that stands for `uv run` with our version of Python.
UV = "uv"

#: Exit codes: `ssh` itself failed, and a shell that found no such program, or could not run it.
SSH_FAILED, NOT_FOUND, NOT_EXECUTABLE = 255, 127, 126

#: Exit code of our commands when versions do not match.
VERSIONS_DIFFER = 5

#: What nothing in the configuration of `ssh` may change.
_OPTIONS = (
    "BatchMode=yes",  # there is nobody to answer its questions
    "ExitOnForwardFailure=yes",
    "LogLevel=INFO",  # else it does not say which port it got
    f"ConnectTimeout={CONNECT_S}",
    f"ServerAliveInterval={ALIVE_S}",
    f"ServerAliveCountMax={ALIVE_COUNT}",
    "ControlMaster=no",  # a shared connection would outlive this one, with the port
    "ControlPath=none",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
)

_ALLOCATED = re.compile(rb"Allocated port (\d{1,5}) for remote forward to ")


class SshWorker:
    """The worker on one host."""

    def __init__(
        self,
        host: SshHost,
        python: str | None,
        *,
        port: int,
        order: dict[str, Any],
        on_line: Callable[[SshWorker, str], None],
        on_end: Callable[[SshWorker, str], None],
    ):
        """Start `ssh`. `port` is that of the server here.

        `order` is the worker's first line, but for its port. A thread of this worker calls
        `on_line(self, text)` with what it logs, and `on_end(self, reason)` once it has ended
        although nobody closed it.

        Raises StartError if `ssh` or a thread cannot be started.
        """
        self.host = host
        self._python = python or f"python{PYTHON_VERSION}"
        self._order = order
        self._on_line = on_line
        self._on_end = on_end
        self._is_closing = False
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._guard = threading.Lock()  # held while the process is killed, or reaped
        self._process = _start(_command_line(host, self._python, port))
        self._reader = threading.Thread(target=self._read, name=f"mmgevent-ssh-{host}", daemon=True)
        try:
            start_thread(self._reader)
        except StartError:
            self._kill()
            self._process.wait()
            raise

    def close(self) -> None:
        """Let the worker end. Does not wait for it. Idempotent."""
        self._is_closing = True
        with contextlib.suppress(OSError):  # it has ended already
            if self._process.stdin is not None:
                self._process.stdin.close()

    def join(self, deadline_s: float) -> None:
        """Wait for the end until this time, by `monotonic`. Then kill `ssh` and what it started."""
        if self._reader is threading.current_thread():
            return
        self._reader.join(max(0.0, deadline_s - monotonic()))
        if self._reader.is_alive():
            self._kill()
            self._reader.join(KILL_S)
        if self._reader.is_alive():
            log.warning(
                "ssh left behind: %s: process %s does not end though it was killed",
                self.host,
                self._process.pid,
            )

    def _kill(self) -> None:
        """Kill `ssh` and its group, such as a ProxyCommand."""
        with self._guard:
            if self._process.returncode is None:  # else the number may be another's
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in _read_lines(self._process, stderr.fileno()):
                if found := _ALLOCATED.match(line):
                    self._send_order(int(found[1]))
                    continue
                text = _clean(line)
                self._lines.append(text)
                self._on_line(self, text)
        self._kill()  # what it has left, before its number is free
        with self._guard:
            code = self._process.wait()
        if not self._is_closing:
            self._on_end(self, self._explain(code))

    def _send_order(self, port: int) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):  # ended or closed: its end is reported
            stdin.write(json.dumps({**self._order, "port": port}).encode() + b"\n")
            stdin.flush()

    def _explain(self, code: int) -> str:
        """Return in one sentence why the worker has ended."""
        last = next((line for line in reversed(self._lines) if line.strip()), "")
        said = f": {last}" if last else ""
        if code == SSH_FAILED:
            return f"ssh failed{said}"
        if code in (NOT_FOUND, NOT_EXECUTABLE):
            return f"there is no {self._python} that can be run; name one with --remote-python{said}"
        if "No module named" in last and "mmgevent" in last:
            return f"mmgevent is not installed there for {self._python}; install it, or use --remote-python"
        if code == VERSIONS_DIFFER:
            return f"versions differ{said}; name another interpreter with --remote-python"
        if code == 0:
            return "its worker ended"
        return f"its worker ended with exit code {code}{said}"


def _command_line(host: SshHost, python: str, port: int) -> list[str]:
    ssh = shutil.which("ssh")
    if ssh is None:
        raise StartError("there is no ssh on this machine; install OpenSSH's client")
    command = [ssh, "-T", "-a", "-x"]
    for option in _OPTIONS:
        command += ["-o", option]
    command += ["-R", f"127.0.0.1:0:127.0.0.1:{port}"]
    if host.port is not None:
        command += ["-p", str(host.port)]
    if host.user is not None:
        command += ["-l", host.user]
    if python == UV or python.endswith(f"/{UV}"):
        run = [python, "run", "--no-project", "--python", PYTHON_VERSION, "--with", f"mmgevent=={VERSION}"]
        return [*command, "--", host.host, "exec", *run, "python", "-m", MODULE]
    return [*command, "--", host.host, "exec", python, "-m", MODULE]


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MMG_")}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environ,  # a configuration with SendEnv could send a password of ours
            start_new_session=True,  # Ctrl-C is for this process, which ends the workers in order
        )
    except OSError as error:
        raise StartError(f"ssh cannot be started: {error}") from error


def _read_lines(process: subprocess.Popen[bytes], fd: int) -> Iterator[bytes]:
    """Yield the lines of a process's stderr until it has ended. It is not reaped.

    Others may have the pipe open, and hold it after that end, or go on writing.
    """
    os.set_blocking(fd, False)
    look_ms = None if (end_fd := open_process(process.pid)) is not None else END_LOOK_S * 1000
    try:
        waiting = select.poll()
        for each in (fd,) if end_fd is None else (fd, end_fd):
            waiting.register(each, select.POLLIN)
        buffer, last_reads, is_open = b"", MAX_LAST_READS, True
        while last_reads:
            waiting.poll(look_ms)
            if has_ended := _has_ended(process):  # first: what it said last is read then
                last_reads -= 1
            data = _read_some(fd) if is_open else None
            if data == b"":
                waiting.unregister(fd)
                is_open = False
            buffer += data or b""
            while (line := buffer[: buffer.find(b"\n", 0, MAX_LINE_BYTES) + 1]) or len(
                buffer
            ) > MAX_LINE_BYTES:
                line = line or buffer[:MAX_LINE_BYTES]
                buffer = buffer[len(line) :]
                yield line
            if has_ended and not data:
                break
        if buffer:
            yield buffer
    finally:
        if end_fd is not None:
            os.close(end_fd)


def _read_some(fd: int) -> bytes | None:
    """Return what is there; None if that is nothing now, b"" if there will be nothing more."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has ended, and leave it to be reaped where the system can do that."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # this program reaps all children
        return True


def _clean(line: bytes) -> str:
    """Return a line of a host, safe for terminals and logs."""
    return shown(shorten(line.decode("utf-8", "replace").rstrip("\r\n"), MAX_TEXT_BYTES))
