"""Run maps of a tenth of a second each on as many executors as there are cores: how much of the cores they get.

Each map counts the CPU time that it had itself. What is missing is what the engine, the driver and everybody else on the
machine took, and the ends, where one executor has nothing left to do; the cluster is warm.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import mmgevent as mmg
from benchmarks.engines.on_mmgevent import JOBS

HELP = "share of the cores that heavy maps get"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", default=400, type=int, help="of each round, 0.1 s each (%(default)s)")
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--procs", default=2, type=int, help="executors (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    shares = []
    with mmg.LocalCluster(given.procs) as cluster:
        cluster.run(mmg.Job.from_file(JOBS / "heavy.py", [str(given.procs)]))  # executors start
        for number in range(given.rounds):
            job = mmg.Job.from_file(JOBS / "heavy.py", [str(given.items)])
            started_s = time.perf_counter()
            used_s = cluster.run(job)["cpu seconds"]
            shares.append(used_s / (given.procs * (time.perf_counter() - started_s)))
            print(f"round {number + 1}: {shares[-1]:.1%} of {given.procs} cores in the maps", flush=True)
    print(f"median: {statistics.median(shares):.1%}")
    return {"items": given.items, "shares": shares}
