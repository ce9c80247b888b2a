"""The places where the contract suite runs jobs: one row for each engine, skipped where it is not installed."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

import mmgevent as mmg
from tests import waiting
from tests.driver.runners.ray_clusters import ray_session, standing_ray
from tests.integration.commands import ROOT, wait_for
from tests.ports import free_port

#: Time for what happens in seconds on a quiet machine, seconds. It must not fail on a loaded one.
DEADLINE_S = 180.0


def wait_until(condition: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
    """Look until a condition is true. Fail if it never is."""
    waiting.wait_until(condition, timeout_s)


class Place(NamedTuple):
    """A cluster, and what a test may expect of it."""

    cluster: Any
    #: whether user code runs in processes that may die, with limits
    has_executors: bool = True
    #: whether items are mapped while the datasource is read
    maps_early: bool = True
    #: whether a job can leave out what an earlier run has made
    resumes: bool = True


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


@contextlib.contextmanager
def ray() -> Iterator[Place]:
    """A session of the program's own: two slots on this machine."""
    with ray_session() as session, mmg.connect(session) as cluster:
        yield Place(cluster)


@contextlib.contextmanager
def ray_client() -> Iterator[Place]:
    """A Ray cluster of other processes, and its client server."""
    with standing_ray() as (_, client_address), mmg.connect(f"ray://{client_address}") as cluster:
        yield Place(cluster)


@contextlib.contextmanager
def dask() -> Iterator[Place]:
    """A scheduler in this process, and two workers of one thread in processes of their own."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as standing,
        Client(standing) as client,
        mmg.connect(client) as cluster,
    ):
        yield Place(cluster)


@contextlib.contextmanager
def spark() -> Iterator[Place]:
    """Spark classic: a JVM with two tasks at a time, and a process for each of their workers."""
    with mmg.connect("spark-local:2") as cluster:
        yield Place(cluster, maps_early=False, resumes=False)


#: A Spark Connect server on a port, until its standard input ends.
CONNECT_SERVER = """
import sys
from mmgevent.driver.runners import spark_jvm, spark_sessions
from pyspark.sql import SparkSession
settings = {
    **spark_sessions.LOCAL_SETTINGS,
    "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.connect.grpc.binding.port": sys.argv[1],
}
with spark_sessions.local_environment():
    session = SparkSession.builder.master("local[2,4]").config(map=settings).getOrCreate()
print("ready", flush=True)
sys.stdin.read()
session.stop()
spark_jvm.end_jvm()
"""


@contextlib.contextmanager
def spark_connect() -> Iterator[Place]:
    """A Spark Connect server in a process of its own, and a session of ours on it."""
    port = free_port()
    pipe = subprocess.PIPE
    server = [sys.executable, "-c", CONNECT_SERVER, str(port)]
    with subprocess.Popen(server, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as standing:
        wait_for(standing.stdout, "ready")
        try:
            with mmg.connect(f"sc://127.0.0.1:{port}") as cluster:
                yield Place(cluster, maps_early=False, resumes=False)
        finally:
            standing.stdin.close()
            standing.wait(30)


#: name -> (opens it, the package that it needs or None)
PLACES = {
    "inline": (inline, None),
    "local": (local, None),
    "server": (server, None),
    "threads": (threads, None),
    "processes": (processes, None),
    "loky": (loky, "loky"),
    "dask": (dask, "distributed"),
    "ray": (ray, "ray"),
    "ray client": (ray_client, "ray"),
    "spark": (spark, "pyspark"),
    "spark connect": (spark_connect, "pyspark"),
}

#: Places whose tests are among the long ones: the rest of `make test` runs our own engine.
LONG_PLACES = ("local", "server", "processes", "loky", "dask", "ray", "ray client", "spark", "spark connect")


def parameters() -> list[Any]:
    """Return the places as parameters of a fixture."""
    found = []
    for name, (_, package) in PLACES.items():
        marks = [pytest.mark.long] if name in LONG_PLACES else []
        if package is not None and importlib.util.find_spec(package) is None:
            marks.append(pytest.mark.skip(reason=f"the package {package} is not installed"))
        elif package == "pyspark" and shutil.which("java") is None:
            marks.append(pytest.mark.skip(reason="Java is not installed"))
        found.append(pytest.param(name, marks=marks))
    return found
