"""Have workers join one mmg-server as fast as they can: TLS, proof of the password, hello, each from scratch.

Four client processes try 16 at once each, on the same cores as the server; so besides the rate of all of them together
what counts is the server's CPU time for one, which does not depend on what the clients cost.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.measure import cpu_s
from benchmarks.scale.commands import Family
from benchmarks.scale.connections import count_alive, start_clients

HELP = "joins per second"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", default=2_000, type=int, help="of each round (%(default)s)")
    parser.add_argument("--rounds", default=3, type=int)


def run(given: argparse.Namespace) -> dict[str, Any]:
    rates, costs = [], []
    for number in range(given.rounds):
        with Family() as family:
            server, port = family.start_server()
            before_s = cpu_s(server.pid)
            clients, join_s = start_clients(family, port, given.workers)
            costs.append((cpu_s(server.pid) - before_s) / given.workers)
            rates.append(given.workers / join_s)
            alive = count_alive(clients)
        if alive != given.workers:
            raise SystemExit(f"only {alive} of {given.workers} workers stayed")
        print(
            f"round {number + 1}: {rates[-1]:.0f} joins/s, {costs[-1] * 1000:.2f} ms of server CPU each",
            flush=True,
        )
    print(
        f"median: {statistics.median(rates):.0f} joins/s, {statistics.median(costs) * 1000:.2f} ms of server CPU each"
    )
    return {"workers": given.workers, "joins_per_s": rates, "server_cpu_s_each": costs}
