"""Kill the server of many nodes, again and again: how long until there is another, and until all are there again.

Each node is a `mmg-worker --elect` with one slot, a process of its own with its template, on the same cores as all the
others.  Its lines tell its state, and are read as they come.  What is measured begins with the SIGKILL of the server.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import signal
import statistics
import subprocess
import time
from typing import Any

from benchmarks.scale.commands import HOST, Family, find_free_port

HELP = "time to another server when one of many nodes dies"

#: for all nodes to be there, at first and after each kill
LATE_S = 300.0

_PLACE = re.compile(rb"(elected|joined)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", default=100, type=int, help="processes (%(default)s)")
    parser.add_argument("--kills", default=5, type=int)


class Nodes:
    """Processes, and which of them has said what place it has found since the last kill."""

    def __init__(self, family: Family, count: int):
        address = f"{HOST}:{find_free_port()}"
        self._selector = selectors.DefaultSelector()
        self._processes: list[subprocess.Popen[str]] = []
        self.server: subprocess.Popen[str] | None = None
        for _ in range(count):
            process = family.start("mmgevent", "worker", "--elect", "--procs", "1", address, warns=True)
            self._processes.append(process)
            assert process.stderr is not None
            self._selector.register(process.stderr, selectors.EVENT_READ, process)

    def wait(self) -> tuple[float, float]:
        """Wait until one is elected and all others have joined; return when each of the two was so (monotonic)."""
        placed: set[int] = set()
        elected_s = 0.0
        until = time.monotonic() + LATE_S
        while len(placed) < len(self._processes):
            for key, _ in self._selector.select(1.0):
                process = key.data
                line = os.read(key.fd, 65536)
                if not line:
                    raise SystemExit(f"node {process.pid} ended with {process.wait()}")
                for word in _PLACE.findall(line):
                    placed.add(process.pid)
                    if word == b"elected":
                        elected_s, self.server = time.monotonic(), process
            if time.monotonic() > until:
                raise SystemExit(
                    f"{len(placed)} of {len(self._processes)} nodes had a place after {LATE_S:g} s"
                )
        return elected_s, time.monotonic()

    def kill_server(self) -> float:
        """Kill the server; return when (monotonic)."""
        process = self.server
        assert process is not None
        assert process.stderr is not None
        self._selector.unregister(process.stderr)
        self._processes.remove(process)
        killed_s = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
        return killed_s


def run(given: argparse.Namespace) -> dict[str, Any]:
    elected, all_there = [], []
    with Family() as family:
        nodes = Nodes(family, given.nodes)
        nodes.wait()
        for number in range(given.kills):
            killed_s = nodes.kill_server()
            elected_s, complete_s = nodes.wait()
            elected.append(elected_s - killed_s)
            all_there.append(complete_s - killed_s)
            print(
                f"kill {number + 1}: elected after {elected[-1]:.2f} s, all there after {all_there[-1]:.2f} s",
                flush=True,
            )
    print(
        f"median: elected after {statistics.median(elected):.2f} s, "
        f"all there after {statistics.median(all_there):.2f} s"
    )
    return {"nodes": given.nodes, "elected_s": elected, "all_there_s": all_there}
