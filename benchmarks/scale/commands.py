"""The commands of mmgevent as child processes: a server, workers, and programs that play many of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, environment

HOST = "127.0.0.1"
START_S = 30.0
STOP_S = 15.0


class Family:
    """Child processes with one password; all are gone when the context is left."""

    def __init__(self) -> None:
        self.password = secrets.token_hex(16)
        self._processes: list[subprocess.Popen[str]] = []
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mmgevent-bench-")))

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            deadline_s = time.monotonic() + STOP_S
            for process in self._processes:
                try:
                    process.wait(max(0.0, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()

    def start(self, *arguments: str, speaks: bool = False, warns: bool = False) -> subprocess.Popen[str]:
        """Start `python -m ARGUMENT...`; with `speaks` its stdin and stdout are pipes of lines, with `warns` stderr."""
        number = len(self._processes)
        with (self._folder / f"stderr-{number}").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE if speaks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if speaks else subprocess.DEVNULL,
                stderr=subprocess.PIPE if warns else errors,
                cwd=ROOT,
                env={**os.environ, **environment(), "MMG_PASSWORD": self.password},
                text=True,
            )
        self._processes.append(process)
        return process

    def start_server(self, *options: str) -> tuple[subprocess.Popen[str], int]:
        """Start mmg-server; (process, port) once it listens."""
        port = find_free_port()
        process = self.start("mmgevent", "server", "--listen", f"{HOST}:{port}", *options)
        self._wait_for(process, "server listens on")
        return process, port

    def start_worker(self, port: int, procs: int) -> subprocess.Popen[str]:
        """Start mmg-worker; the process once it has joined."""
        process = self.start("mmgevent", "worker", "--procs", str(procs), f"{HOST}:{port}")
        self._wait_for(process, "joined the server")
        return process

    def errors_of(self, process: subprocess.Popen[str]) -> str:
        """Return what a process has said on stderr."""
        path = self._folder / f"stderr-{self._processes.index(process)}"
        return path.read_text(encoding="utf-8", errors="replace")

    def _wait_for(self, process: subprocess.Popen[str], text: str) -> None:
        deadline_s = time.monotonic() + START_S
        while text not in (said := self.errors_of(process)):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(
                    f"a process did not say {text!r} within {START_S:g} s: {said.strip()[-600:]}"
                )
            time.sleep(0.01)


def find_free_port() -> int:
    """Return a port below the ephemeral ones, which connections of the benchmark itself would take."""
    import random
    import socket

    for _ in range(100):
        port = random.randrange(12_000, 32_000)
        with socket.socket() as sock:
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
            return port
    raise SystemExit("no free port was found in 100 tries between 12000 and 32000")


def read_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    """Read the next line a process says; SystemExit when it ends, or is silent for so long."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], timeout_s)[0]:
        raise SystemExit(f"{_name(process)} said nothing for {timeout_s:g} s")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{_name(process)} ended with exit code {process.wait()}")
    return line.rstrip("\n")


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Say a line to a process."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def percentile(numbers: Sequence[float], share: float) -> float:
    """Return the smallest number that at least this share of the numbers does not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.contextmanager
def open_cluster(family: Family, port: int) -> Iterator[Any]:
    """Connect to the family's server as a driver."""
    import mmgevent as mmg

    cluster = mmg.connect((HOST, port), password=family.password, timeout=START_S)
    try:
        yield cluster
    finally:
        cluster.close()


def _name(process: subprocess.Popen[str]) -> str:
    return " ".join(map(str, process.args[2:5])) if isinstance(process.args, list) else str(process.args)
