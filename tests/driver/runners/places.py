"""The places where the contract suite runs jobs: one row for each engine, skipped where it is not installed."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

import mmgevent as mmg
from tests.integration.commands import ROOT, wait_for


class Place(NamedTuple):
    """A cluster, and what a test may expect of it."""

    cluster: Any
    #: whether user code runs in processes that may die, with limits
    has_executors: bool = True


@contextlib.contextmanager
def inline() -> Iterator[Place]:
    with mmg.connect("inline") as cluster:
        yield Place(cluster, has_executors=False)


@contextlib.contextmanager
def local() -> Iterator[Place]:
    with mmg.connect("local:2") as cluster:
        yield Place(cluster)


@contextlib.contextmanager
def server() -> Iterator[Place]:
    """An mmg-server with two workers of one slot."""
    command = [sys.executable, "-m", "mmgevent"]
    password = ["-p", "contract-of-runners", "-q"]
    with contextlib.ExitStack() as stack:

        def start(*argv: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*command, *argv],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
            return process

        standing = start("server", "--listen", "127.0.0.1:0", "-p", "contract-of-runners")
        address = wait_for(standing.stderr, r"listens on (127\.0\.0\.1:\d+)")[1]
        for _ in range(2):
            start("worker", "--procs", "1", *password, address)
        with mmg.connect(address, password="contract-of-runners") as cluster:
            yield Place(cluster)


@contextlib.contextmanager
def threads() -> Iterator[Place]:
    with ThreadPoolExecutor(2) as executor, mmg.connect(executor) as cluster:
        yield Place(cluster)


@contextlib.contextmanager
def processes() -> Iterator[Place]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as executor, mmg.connect(executor) as cluster:
        yield Place(cluster)


@contextlib.contextmanager
def loky() -> Iterator[Place]:
    from loky import ProcessPoolExecutor as LokyExecutor

    with LokyExecutor(2) as executor, mmg.connect(executor) as cluster:
        yield Place(cluster)


#: name -> (opens it, the package that it needs or None)
PLACES = {
    "inline": (inline, None),
    "local": (local, None),
    "server": (server, None),
    "threads": (threads, None),
    "processes": (processes, None),
    "loky": (loky, "loky"),
}

#: Places whose tests are among the long ones: the rest of `make test` runs our own engine.
LONG_PLACES = ("local", "server", "processes", "loky")


def parameters() -> list[Any]:
    """Return the places as parameters of a fixture."""
    found = []
    for name, (_, package) in PLACES.items():
        marks = [pytest.mark.long] if name in LONG_PLACES else []
        if package is not None and importlib.util.find_spec(package) is None:
            marks.append(pytest.mark.skip(reason=f"the package {package} is not installed"))
        found.append(pytest.param(name, marks=marks))
    return found
