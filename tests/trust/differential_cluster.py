"""The real cluster of `differential`: one server and two workers, each of which is started again when it is killed."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mmgevent as mmg
from tests.ports import free_port
from tests.trust.comparing import as_found, check_same
from tests.trust.machines import PASSWORD, Machines, Process, wait_until

COMMAND = "python -m tests.trust.differential"


class Place:
    """A server and two workers, with the C core and without, for as many jobs as there are."""

    def __init__(self, folder: Path):
        self._machines = Machines(folder)
        self._is_over = False
        self._keepers: list[threading.Thread] = []
        self.running: dict[str, Process] = {}
        self.starts: collections.Counter[str] = collections.Counter()
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._keep("server", "server", "--listen", self.address, "-v")
        self.running["server"].wait_for("server listens on")
        self._keep("worker", "worker", "--procs", 2, self.address)
        self._keep("pure worker", "worker", "--procs", 1, self.address, environ={"MMGEVENT_PURE": "1"})
        for name in ("worker", "pure worker"):
            self.running[name].wait_for("joined the server")

    def _keep(self, name: str, *argv: Any, **options: Any) -> None:
        """Start a process, and start it again whenever it has ended."""
        self._start(name, *argv, **options)

        def keep() -> None:
            while True:
                self.running[name].popen.wait()
                if self._is_over:
                    return
                self._start(name, *argv, **options)

        thread = threading.Thread(target=keep, name=f"keeper of the {name}")
        thread.start()
        self._keepers.append(thread)

    def _start(self, name: str, *argv: Any, **options: Any) -> None:
        self.running[name] = self._machines.start(*argv, **options)
        self.starts[name] += 1

    def wait_until_whole(self) -> None:
        """Wait until whoever was killed is there again."""
        for name, text in (("server", "listens on"), ("worker", "joined"), ("pure worker", "joined")):
            wait_until(
                lambda name=name, text=text: text in self.running[name].said, f"{text!r} of the {name}"
            )

    def said(self) -> str:
        return "\n".join(f"--- {name}:\n{process.said[-2000:]}" for name, process in self.running.items())

    def close(self) -> None:
        self._is_over = True
        for process in self.running.values():
            process.popen.kill()
        for thread in self._keepers:
            thread.join()
        self._machines.close()


@contextlib.contextmanager
def open_place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="mmg-") as folder:
        place = Place(Path(folder))
        try:
            yield place
        finally:
            place.close()


def datasource_of(drawn: Any, folder: Path) -> Any:
    """Return the datasource of a job, of which every value says the item's number."""
    count = drawn.count
    if drawn.source == "list":
        return [(n, n) for n in range(count)]
    if drawn.source == "mapping":
        return {("k", n): str(n) for n in range(count)}
    if drawn.source == "generator":
        return lambda: ((n, n) for n in range(count))
    if drawn.source == "iterator":
        return iter([(n, n) for n in range(count)])
    if drawn.source == "lines":
        path = folder / "lines.txt"
        path.write_text("".join(f"{n}\n" for n in range(count)))
        return mmg.Lines(str(path))
    paths = [folder / f"{n:03}.txt" for n in range(count)]
    for n, path in enumerate(paths):
        path.write_text(str(n))
    return mmg.Files([*map(str, paths)]) if paths else []


def finish_pair(key: Any, value: Any) -> Any:
    return value, "end"


def run_job(jobs: ModuleType, drawn: Any, cluster: mmg.Cluster, server: int = 0) -> None:
    """Run a job of `jobs`, the module of `draw`; raise AssertionError if it does not come to what plain Python says."""
    with tempfile.TemporaryDirectory(prefix="mmg-drawn-") as folder:
        recipe = dataclasses.replace(drawn.recipe, folder=folder, server=server)
        mapfn, collectfn, reducefn = drawn.functions(recipe)
        finishfn = finish_pair if drawn.finish == "pair" else None
        source = datasource_of(drawn, Path(folder))
        job = mmg.Job(
            source,
            mapfn,
            reducefn,
            collectfn=collectfn,
            finishfn=finishfn,
            name=f"seed {drawn.seed}",
            **drawn.options,
        )
        notices: list[str] = []
        handle = cluster.submit(job, on_notice=notices.append)
        error = handle.exception(jobs.PATIENCE_S)
        if drawn.fault:
            assert type(error).__name__ == drawn.fault, f"expected {drawn.fault}, got {error!r}"
            return
        if error is not None:
            raise error
        found = as_found(handle.result().items())
        if drawn.options.get("allocation") == "oneshot":
            expected = [
                drawn.expected(n) for n in range(min(1, drawn.count), min(drawn.count, jobs.SLOTS) + 1)
            ]
            assert found in expected, f"oneshot gave {found}, expected one of {expected}"
        else:
            check_same(found, drawn.expected())
        skipped = sorted(int(value) for _, value in handle.skipped_items())
        assert skipped == sorted(drawn.recipe.troubles), f"set aside: {skipped}"


def main(jobs: ModuleType, arguments: list[str]) -> int:
    """Run the seeds of a command line, such as 3 or 0-29; return the exit code."""
    if arguments[:1] == ["--at"]:
        return run_at(jobs, arguments[1], all_seeds(arguments[2:]))
    seeds = all_seeds(arguments)
    failed = []
    began_s = time.monotonic()
    with open_place() as place:
        with mmg.connect(place.address, password=PASSWORD) as cluster:
            for seed in seeds:
                drawn = jobs.draw(seed)
                try:
                    place.wait_until_whole()
                    run_job(jobs, drawn, cluster, place.running["server"].pid)
                except Exception:
                    failed.append(seed)
                    traceback.print_exc()
                    sys.stderr.write(f"{drawn}\n{place.said()}\n")
        starts = dict(place.starts)
    for seed in failed:
        sys.stderr.write(f"seed {seed}: {COMMAND} {seed}\n")
    sys.stdout.write(
        f"{len(seeds) - len(failed)} of {len(seeds)} jobs are right, {time.monotonic() - began_s:.1f} s, {starts}\n"
    )
    return 1 if failed else 0


def run_at(jobs: ModuleType, address: str, seeds: list[int]) -> int:
    """Run jobs on a server that others use, too: they kill nobody, and none is "oneshot", which counts slots."""
    with mmg.connect(address, password=PASSWORD) as cluster:
        for seed in seeds:
            drawn = jobs.draw(seed)
            drawn.recipe = dataclasses.replace(drawn.recipe, kill_phase="")
            drawn.options.pop("allocation", None)
            try:
                run_job(jobs, drawn, cluster)
            except Exception as error:
                raise AssertionError(f"seed {seed}, {drawn}") from error
    return 0


def all_seeds(arguments: list[str]) -> list[int]:
    return [seed for argument in arguments for seed in seeds_of(argument)]


def seeds_of(argument: str) -> range:
    """Return the seeds of "3" or "0-29"."""
    first, _, last = argument.partition("-")
    return range(int(first), int(last or first) + 1)
