"""Jobs, workers, drivers and strangers that come and go at random on one server, for as long as you like.

    $ python -m tests.trust.soak --seconds 3600 [--seed N]

One worker stays. Meanwhile:

- Drivers run drawn jobs (`differential`) and compare the results with plain Python. Some are killed, interrupted, or
  stopped for a while.
- Workers join, with the C core and without, and are ended likewise.
- Strangers bring wrong passwords, garbage and half a handshake; peers that know the password submit jobs or take
  attempts and vanish.

The server may keep little in memory, so nearly all segments go through its spill file. After a warm-up, half-way and
at the end everybody leaves but the worker that stays, and the server and that worker are measured: they must have as
much as before. Allocators keep pieces of memory, but that must come to an end.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from mmgevent.access.handshake import ClientHandshake, derive_key
from tests.ports import free_port
from tests.trust import probed_server
from tests.trust.differential import draw
from tests.trust.machines import Machines, Process, family_of, wait_until, wait_until_gone
from tests.trust.raw_peer import RawDriver, RawWorker, client_context

#: Share of the time before the first measurement, and most seconds of it: caches fill, pools of threads start.
WARM_UP, MAX_WARM_UP_S = 0.2, 60.0
#: What the server may hold in memory.
MEMORY = "64KiB"
#: Seconds for a driver or worker to end after its last signal, on a busy machine.
END_S = 60.0
#: Seconds for a driver to finish its jobs.
JOBS_S = 120.0
#: Most growth from one measurement to another of what is not counted one by one. The second half may have half of it.
MAX_GROWTH_MIB, MAX_GROWTH_OBJECTS = 30.0, 3000
#: Where wrong passwords come from, so that the limit on guesses falls on nobody else.
GUESSERS_ADDRESS = "127.0.0.9"
#: Seconds without a change before figures count: longer than a tick of the server and a silent handshake of ours.
SETTLED_S = 2.0
#: What is counted one by one.
COUNTED = ("descriptors", "threads", "greenlets", "files", "processes")
#: Seeds of jobs.
MAX_SEED = 10**6
#: Name of a worker's idle process that forks executors. A worker keeps one for jobs with greenlets, too.
TEMPLATE = "mmg-template"
#: One job with greenlets, one without: so a worker has the same templates whenever it is measured.
BOTH_TEMPLATES = [
    next(
        seed
        for seed in range(MAX_SEED)
        if bool(draw(seed).options.get("greenlets")) is wanted and draw(seed).count > 1
    )
    for wanted in (True, False)
]


@dataclasses.dataclass
class Figures:
    """What a server and a worker have when nothing is going on."""

    server: dict[str, Any]
    worker: dict[str, Any]


class Soak:
    """A server, a worker that stays, and those who come and go."""

    def __init__(self, folder: Path, seed: int):
        self.seed = seed
        self.machines = Machines(folder)
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self._is_quiet = threading.Event()
        self.address = f"127.0.0.1:{free_port()}"
        self._where = ("127.0.0.1", int(self.address.rpartition(":")[2]))
        self.probe = folder / "probe"
        self.server = self.machines.start(
            "server", "--listen", self.address, "--memory", MEMORY, "-v",
            program=("-m", "tests.trust.probed_server", str(self.probe)),
        )  # fmt: skip
        self.server.wait_for("server listens on")
        self.worker = self.machines.start_worker(self.address, procs=2)
        self.quiet = probed_server.ask(self.probe)

    # time

    def go_on(self, seconds: float, part: str) -> None:
        """Let all come and go for so long, and then leave."""
        self._is_quiet.clear()
        actors: list[Callable[[random.Random], None]] = [self.drive, self.drive, self.work, self.be_strange]
        threads = [
            threading.Thread(target=self._act, args=(actor, random.Random(f"{self.seed} {part} {number}")))
            for number, actor in enumerate(actors)
        ]
        for thread in threads:
            thread.start()
        self._is_quiet.wait(seconds)  # until a fault ends it early
        self._is_quiet.set()
        for thread in threads:
            thread.join()

    def _act(self, actor: Callable[[random.Random], None], r: random.Random) -> None:
        while not self._is_quiet.is_set():
            try:
                actor(r)
            except Exception as error:
                self.fault(f"{actor.__name__}: {error!r}")

    def fault(self, text: str) -> None:
        self.faults.append(text)
        self._is_quiet.set()

    def pause(self, seconds: float) -> None:
        self._is_quiet.wait(seconds)

    # those who come and go

    def drive(self, r: random.Random) -> None:
        """Run some jobs in a program, which something may happen to."""
        first = r.randrange(MAX_SEED)
        seeds = f"{first}-{first + r.choice([0, 2, 8])}"
        program = ("-m", "tests.trust.differential", "--at", self.address)
        driver = self.machines.start(seeds, program=program)
        end = r.choice(["", "", "", "stop", "kill", "interrupt", "terminate"])
        self.counts[f"drivers: {end or 'done'}"] += 1
        if end:
            self.pause(r.uniform(0.2, 3.0))
            if end == "stop":
                self.stop_for(driver, r.choice([0.5, 2.0]))
            else:
                family = family_of(driver.pid)
                numbers = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
                driver.signal(numbers[end])
                driver.popen.wait(END_S)
                wait_until_gone(family)
                return
        if driver.popen.wait(JOBS_S):
            self.fault(
                f"a driver of the jobs {seeds} ended with {driver.popen.returncode}:\n{driver.said[-5000:]}"
            )
        self.counts["jobs of drivers that were left alone"] += len(range(*self._bounds(seeds)))

    @staticmethod
    def _bounds(seeds: str) -> tuple[int, int]:
        first, last = map(int, seeds.split("-"))
        return first, last + 1

    def stop_for(self, process: Process, seconds: float) -> None:
        if process.popen.poll() is None:
            process.signal(signal.SIGSTOP)
            self.pause(seconds)
            process.signal(signal.SIGCONT)

    def work(self, r: random.Random) -> None:
        """Be a worker for a while."""
        environ = r.choice([{}, {"MMGEVENT_PURE": "1"}])
        worker = self.machines.start("worker", "--procs", r.choice([1, 2]), self.address, environ=environ)
        self.pause(r.uniform(0.1, 6.0))
        end = r.choice(["kill", "kill", "terminate", "interrupt", "stop and kill", "stop", "hang up"])
        self.counts[f"workers: {end}"] += 1
        if end.startswith("stop"):
            self.stop_for(worker, r.choice([0.5, 3.0, 16.0] if r.random() < 0.2 else [0.5, 1.0]))
        family = family_of(worker.pid)
        numbers = {
            "terminate": signal.SIGTERM,
            "interrupt": signal.SIGINT,
            "stop": signal.SIGTERM,
            "hang up": signal.SIGHUP,
        }
        worker.signal(numbers.get(end, signal.SIGKILL))
        worker.popen.wait(END_S)
        wait_until_gone(family)

    def be_strange(self, r: random.Random) -> None:
        """Bother the server once."""
        what = r.choice(
            [self.guess, self.send_garbage, self.begin_tls, self.vanish_with_attempts, self.vanish_with_jobs]
        )
        self.counts[f"strangers: {what.__name__.replace('_', ' ')}"] += 1
        what(r)
        self.pause(r.uniform(0.05, 1.0))

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._where, END_S, (GUESSERS_ADDRESS, 0))
        return sock

    def guess(self, r: random.Random) -> None:
        """Prove another password."""
        with (
            contextlib.suppress(OSError, ssl.SSLError),
            client_context().wrap_socket(self._connect()) as sock,
        ):
            certificate = sock.getpeercert(True)
            assert certificate is not None
            guess = derive_key(f"guess number {r.randrange(8)}")
            machine = ClientHandshake(
                guess, hashlib.sha256(certificate).digest(), r.choice(["worker", "driver"])
            )
            sock.sendall(machine.start())
            while machine.needed and (data := sock.recv(machine.needed)):
                if answer := machine.feed(data):
                    sock.sendall(answer)

    def send_garbage(self, r: random.Random) -> None:
        with contextlib.suppress(OSError), self._connect() as sock:
            sock.sendall(r.randbytes(r.choice([1, 50, 5000])))
            if r.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def begin_tls(self, r: random.Random) -> None:
        """Say nothing behind the beginning of TLS, for a while."""
        with contextlib.suppress(OSError, ssl.SSLError), client_context().wrap_socket(self._connect()):
            self.pause(r.uniform(0, 2))

    def vanish_with_attempts(self, r: random.Random) -> None:
        """Be a worker that takes whatever it is given, and is reset."""
        with RawWorker(self._where, slots=r.choice([1, 8])) as peer:
            self.pause(r.uniform(0, 1.5))
            peer.reset()

    def vanish_with_jobs(self, r: random.Random) -> None:
        """Be a driver that submits jobs which nobody can load, and leaves."""
        with RawDriver(self._where) as peer:
            for job in range(1, r.choice([1, 3]) + 1):
                peer.submit(job)
                peer.send_batch(1, r.randbytes(r.choice([1, 10_000])), job)
            self.pause(r.uniform(0, 0.5))

    def drive_all(self, seeds: list[int]) -> None:
        """Run these jobs, with nobody else there."""
        program = ("-m", "tests.trust.differential", "--at", self.address)
        driver = self.machines.start(*seeds, program=program)
        assert driver.popen.wait(JOBS_S) == 0, driver.said

    # measuring

    def measure(self) -> Figures:
        """Wait until the server has what it had at its start, and return what it and the worker have."""
        self.drive_all(BOTH_TEMPLATES)
        wait_until(
            lambda: probed_server.ask(self.probe) == self.quiet,
            lambda: f"{self.quiet}; the server has {probed_server.ask(self.probe)}",
        )
        wait_until(self._is_idle, lambda: f"the end of executors: {self._children()}")
        return self._settled()

    def _settled(self) -> Figures:
        """Return the figures once they have been the same for SETTLED_S: a tick or a handshake may still end."""
        figures = self._figures()
        same_since_s = time.monotonic()

        def is_settled() -> bool:
            nonlocal figures, same_since_s
            before, figures = figures, self._figures()
            if counted(before) != counted(figures):
                same_since_s = time.monotonic()
            return time.monotonic() - same_since_s > SETTLED_S

        wait_until(is_settled, lambda: f"the same figures for {SETTLED_S:g} s, not {figures}")
        return figures

    def _figures(self) -> Figures:
        worker = psutil.Process(self.worker.pid)
        return Figures(
            probed_server.ask(self.probe, thoroughly=True),
            {
                "descriptors": worker.num_fds(),
                "threads": worker.num_threads(),
                "processes": self._children().total(),
                "resident MiB": round(worker.memory_info().rss / 2**20, 1),
            },
        )

    def _children(self) -> collections.Counter[str]:
        """Return the names of the worker's processes: templates, and executors and what came of them."""
        names: collections.Counter[str] = collections.Counter()
        for process in psutil.Process(self.worker.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                names[process.name()] += 1
        return names

    def _is_idle(self) -> bool:
        return set(self._children()) == {TEMPLATE}

    def check(self, before: Figures, half_way: Figures, after: Figures) -> None:
        """Raise AssertionError if anything went wrong, or if something is left."""
        assert not self.faults, "\n".join(self.faults)
        assert self.server.popen.poll() is None
        assert self.worker.popen.poll() is None
        said = self.server.said + self.worker.said
        assert not re.search("fault of our own|Traceback", said), said[-20_000:]
        assert self.worker.said.count("joined the server") == 1, self.worker.said
        left = find_left(before, after) + find_left(half_way, after, MAX_GROWTH_MIB / 2)
        assert not left, "\n".join(left)

    def close(self) -> None:
        """End all; nothing of them may be left, neither processes nor files."""
        self.server.popen.kill()
        self.worker.popen.kill()
        for left in self.machines.tmp.glob("mmg-drawn-*"):  # of the tests' own, whose drivers were killed
            shutil.rmtree(left)
        self.machines.close()


def counted(figures: Figures) -> list[Any]:
    """Return the figures that are exact."""
    return [each.get(what) for each in (figures.server, figures.worker) for what in COUNTED]


def find_left(before: Figures, after: Figures, max_growth_mib: float = MAX_GROWTH_MIB) -> list[str]:
    """Return what there is more of than before."""
    left = []
    for earlier, later in ((before.server, after.server), (before.worker, after.worker)):
        for what in COUNTED:
            if later.get(what, 0) > earlier.get(what, 0):
                left.append(f"{what}: {earlier}, then {later}")
        if later["resident MiB"] - earlier["resident MiB"] > max_growth_mib:
            left.append(f"memory: {earlier}, then {later}")
    grown = after.server["objects"] - before.server["objects"]
    if grown > MAX_GROWTH_OBJECTS:
        left.append(f"{grown} objects: {before.server}, then {after.server}")
    return left


def soak(seconds: float, seed: int) -> tuple[Soak, list[Figures]]:
    """Soak for so long; return what was done, and the figures after the warm-up, half-way and at the end."""
    with tempfile.TemporaryDirectory(prefix="mmg-soak-") as folder:
        soak = Soak(Path(folder), seed)
        try:
            warm_up_s = min(WARM_UP * seconds, MAX_WARM_UP_S)
            half_s = (seconds - warm_up_s) / 2
            figures = []
            for part, part_s in (("warm-up", warm_up_s), ("first half", half_s), ("second half", half_s)):
                if not soak.faults:
                    soak.go_on(part_s, part)
                figures.append(soak.measure())
            soak.check(*figures)
        finally:
            soak.close()
    return soak, figures


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.trust.soak")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    began_s = time.monotonic()
    done, figures = soak(arguments.seconds, arguments.seed)
    write = sys.stdout.write
    write(f"seed {arguments.seed}, {time.monotonic() - began_s:.0f} s, process {os.getpid()}\n")
    for what, count in sorted(done.counts.items()):
        write(f"  {count:6} {what}\n")
    for who in ("server", "worker"):
        for what in getattr(figures[0], who):
            values = ", then ".join(str(getattr(each, who)[what]) for each in figures)
            write(f"  {who}: {what}: {values}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
