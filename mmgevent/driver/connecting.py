"""`connect`: one door to every place where a job can run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mmgevent.driver.where import Where, parse_where, unknown_engine
from mmgevent.errors import UsageError

if TYPE_CHECKING:
    from mmgevent.access.certificates import Certificates
    from mmgevent.driver.base_cluster import BaseCluster


def connect(
    where: Any,
    *,
    password: str | None = None,
    certificates: Certificates | None = None,
    timeout: float = 10.0,
    procs: int = 0,
    verbose: int = 0,
    folder: str | None = None,
    slots: int | None = None,
) -> BaseCluster:
    """Return a cluster that runs jobs at WHERE.

    `where`:

    - "HOST[:PORT]" or (host, port): a running mmg-server;
    - "inline", "local", "local:N", "elect:HOST,...", "dask://HOST:8786" and the like, as
      `mmg-run --on` takes them;
    - a client of another engine: a `distributed.Client`, the package `ray`, a `SparkSession`, any
      `concurrent.futures.Executor`.  It stays the caller's, and is not closed with the cluster.

    Of a server and nodes: `password`, `certificates`, and `procs` executors of this machine that
    join it as a worker while this is open; of a server: `timeout`, seconds until somebody answers.
    Of an Executor: `folder`, which its workers share with this process, and `slots`, the number of
    tasks it runs at the same time.

    Raises UsageError for a WHERE that is none, for an engine that is not installed and for options
    of another kind of WHERE, ConnectError if nobody answers, AuthenticationError and
    VersionMismatchError.
    """
    options: dict[str, Any] = {"password": password, "certificates": certificates, "procs": procs}
    of_executor: dict[str, Any] = {"folder": folder, "slots": slots}
    if not isinstance(where, (str, tuple)):
        return _connect_client(where, options, of_executor)
    _refuse(of_executor, "an Executor", where if isinstance(where, str) else "an address")
    found = parse_where(where) if isinstance(where, str) else Where("join")
    if found.kind == "join":
        from mmgevent.access.addresses import parse_address
        from mmgevent.driver.arguments import parse_pair
        from mmgevent.driver.cluster import connect_to_server

        address = parse_address(where) if isinstance(where, str) else parse_pair(where)
        return connect_to_server(address, **options, timeout=timeout, verbose=verbose)
    if found.kind == "elect":
        from mmgevent.driver.node import Node

        return Node(found.rest.split(","), **options, verbose=verbose)
    _refuse(options, "a server", str(where))
    return _open_other(found, str(where), verbose)


def _open_other(found: Where, where: str, verbose: int) -> BaseCluster:
    if found.kind == "inline":
        from mmgevent.driver.runners.inline_cluster import InlineCluster

        return InlineCluster()
    if found.kind == "local":
        from mmgevent.driver.local_cluster import LocalCluster

        return LocalCluster(int(found.rest) if found.rest else None, verbose=verbose)
    if found.rest == "ssh":
        from mmgevent.driver.runners.ssh_cluster import open_ssh

        return open_ssh(where, verbose)
    return open_engine(found.rest, where)


def open_engine(scheme: str, where: str) -> BaseCluster:
    """Return a cluster on the engine of this scheme."""
    from mmgevent.driver.runners.engines import find_engine, schemes

    opener = find_engine(scheme)
    if opener is None:
        raise unknown_engine(scheme, schemes())
    return opener(where.strip())


def _connect_client(client: Any, options: dict[str, Any], of_executor: dict[str, Any]) -> BaseCluster:
    if "concurrent.futures" in sys.modules:  # else it is no Executor
        from concurrent.futures import Executor

        if isinstance(client, Executor):
            from mmgevent.driver.runners.executors import open_executor

            _refuse(options, "a server", f"a {type(client).__name__}")
            return open_executor(client, **of_executor)
    from mmgevent.driver.runners.engines import open_client

    _refuse({**options, **of_executor}, "a server or an Executor", f"a {type(client).__name__}")
    cluster = open_client(client)
    if cluster is None:
        advice = "; it is no concurrent.futures.Executor, though it has submit()" * hasattr(client, "submit")
        raise UsageError(
            f"connect() takes an address, another WHERE or a client of an engine, got {type(client).__name__}: {client!r:.80}{advice}"
        )
    return cluster


def _refuse(options: dict[str, Any], whose: str, where: str) -> None:
    """Raise UsageError for options that this WHERE does not have."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{', '.join(given)}: only {whose} has that, and WHERE is {where}")
