"""Send one item a task through a server and two executors: what a task costs, whatever is in it.

Batches are made of one item each by replacing, in this process, the function that decides their size; nothing else is
changed. In practice batches grow, so this is the worst case, and says what the way of a task is worth.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import mmgevent as mmg
from benchmarks.engines.on_mmgevent import JOBS
from mmgevent.driver.input import feeding
from mmgevent.driver.input.batching import BatchSize

HELP = "items per second with one item a task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", default=20_000, type=int, help="of each round (%(default)s)")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--procs", default=2, type=int, help="executors (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    rates = []
    usual = feeding.next_size
    feeding.next_size = lambda speed, at_least=1, multiple=1: BatchSize(1, 1)
    try:
        with mmg.LocalCluster(given.procs) as cluster:
            _time_items(cluster, 100)  # executors start
            for number in range(given.rounds):
                rates.append(given.items / _time_items(cluster, given.items))
                print(f"round {number + 1}: {rates[-1]:,.0f} items/s", flush=True)
    finally:
        feeding.next_size = usual
    print(f"median: {statistics.median(rates):,.0f} items/s, {1e6 / statistics.median(rates):.0f} us each")
    return {"items": given.items, "items_per_s": rates}


def _time_items(cluster: Any, items: int) -> float:
    job = mmg.Job.from_file(JOBS / "tiny.py", [str(items)])
    started_s = time.perf_counter()
    results = cluster.run(job)
    taken_s = time.perf_counter() - started_s
    expected = sum(number * number for number in range(items))
    if sum(results.values()) != expected:
        raise SystemExit(f"the job added up {sum(results.values())}, not {expected}")
    return taken_s
