"""Servers and workers as processes of their own, each with a log, and what is left of them when they have ended."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
PASSWORD = "a password for these tests only"
#: for what must happen: reached only when something is broken
LATE_S = 90.0


def wait_until(is_so, what):
    """Look until it holds: what another process does has no event here."""
    until = time.monotonic() + LATE_S
    while not is_so():
        assert time.monotonic() < until, f"did not happen: {what() if callable(what) else what}"
        time.sleep(0.01)


def has_ended(process):
    """Whether nothing runs there any more; whoever inherits the dead may take its time to bury them."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(processes):
    wait_until(
        lambda: all(map(has_ended, processes)),
        lambda: f"the end of {[p for p in processes if not has_ended(p)]}",
    )


def family_of(pid):
    """A process and all that came of it; empty when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def ancestors_of(pid):
    """The pids of a process's parent, its parent's parent and so on; none when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {process.pid for process in psutil.Process(pid).parents()}
    return set()


def temporary_files_of(pid):
    """What a process has open that has no name in any folder, such as a spill file; nothing when it is gone."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process ended just now
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # it was closed just now
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return [path for path in found if path.endswith(" (deleted)") and not path.startswith("/memfd:")]


class Process:
    """One command, what it has said on stderr so far, and what it wrote."""

    def __init__(self, argv, path, **kwargs):
        self._said, self._written = path.with_suffix(".err"), path.with_suffix(".out")
        with open(self._said, "wb") as err, open(self._written, "wb") as out:
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **kwargs)

    @property
    def pid(self):
        return self.popen.pid

    @property
    def said(self):
        return self._said.read_text()

    def wait_for(self, pattern, count=1):
        """Wait until it has said this so many times; the last match."""

        def has_said():
            found[:] = re.finditer(pattern, self.said)
            return len(found) >= count

        found = []
        wait_until(has_said, lambda: f"{pattern!r} {count} times in {self.said}")
        return found[-1]

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """Kill this process alone, and wait until all that came of it is gone, too."""
        family = family_of(self.pid)
        self.popen.kill()
        self.popen.wait()
        wait_until_gone(family)

    def finish(self):
        """Wait until it has ended by itself; (exit code, what it wrote to stdout)."""
        return self.popen.wait(LATE_S), self._written.read_text()


class Machines:
    """Start commands; afterwards nothing of them may be left, neither processes nor temporary files."""

    def __init__(self, folder):
        self.folder = folder
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MMG_")}
        self._mark = uuid.uuid4().hex
        self.environ = {
            **clean,
            "HOME": str(folder),
            "XDG_CONFIG_HOME": "",
            "PYTHONPATH": str(ROOT),
            "MMG_PASSWORD": PASSWORD,
            "TMPDIR": str(self.tmp),
            "MMGEVENT_TESTED_BY": self._mark,
        }
        self._started = []

    def start(self, *argv, prefix=(), environ=None, program=("-m", "mmgevent")):
        """Start `python -m mmgevent ARGV`, or another program; `prefix` is a command that becomes it."""
        process = Process(
            [*prefix, sys.executable, *program, *map(str, argv)],
            self.folder / str(len(self._started)),
            cwd=self.folder,
            env={**self.environ, **(environ or {})},
        )
        self._started.append(process)
        return process

    def start_server(self, *options, listen="127.0.0.1:0", **kwargs):
        """Start mmg-server and wait until it listens; its `address` is "host:port"."""
        server = self.start("server", "--listen", listen, "-v", *options, **kwargs)
        server.address = server.wait_for(r"server listens on (\S+)")[1]
        return server

    def start_worker(self, address, procs=1, **kwargs):
        """Start mmg-worker and wait until it has joined."""
        worker = self.start("worker", "--procs", procs, address, **kwargs)
        worker.wait_for("joined the server")
        return worker

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def close(self):
        for process in self._started:
            process.popen.kill()
            process.popen.wait()
        wait_until_gone(list(self._marked()))
        assert list(self.tmp.iterdir()) == []

    def _marked(self):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it ended just now
                if process.environ().get("MMGEVENT_TESTED_BY") == self._mark:
                    yield process


class Reports:
    """Where functions of jobs report: each waits until `on_report(what, pid)` has returned.

    If that returned True, the function goes on waiting until `let_go`.
    """

    def __init__(self, on_report=lambda what, pid: False):
        self._on_report = on_report
        #: (pid, what) in the order they came
        self.seen = []
        self.errors = []
        self._held = []
        self._folder = tempfile.TemporaryDirectory(prefix="mmg-")  # the path of a socket has to be short
        self.path = f"{self._folder.name}/reports"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(256)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            sock.settimeout(LATE_S)
            try:
                said = sock.recv(1000)
            except OSError as error:
                self.errors.append(error)
                said = b""
            if not said:  # it was killed before it could say anything
                sock.close()
                continue
            pid, what = said.decode().split(" ", 1)
            self.seen.append((int(pid), what))
            try:
                is_held = self._on_report(what, int(pid))
            except BaseException as error:
                self.errors.append(error)
                is_held = False
            if is_held:
                self._held.append(sock)
            else:
                _answer(sock)

    @property
    def held(self):
        """How many are held now."""
        return len(self._held)

    def let_go(self):
        """Let all go on that are held."""
        held, self._held = self._held, []
        for sock in held:
            _answer(sock)

    def count(self, prefix):
        return sum(what.startswith(prefix) for _, what in self.seen)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LATE_S)
        self._listener.close()
        self.let_go()
        self._folder.cleanup()
        assert not self.errors, self.errors


def _answer(sock):
    with contextlib.suppress(OSError):  # who reported may have been killed meanwhile
        sock.sendall(b".")
    sock.close()
