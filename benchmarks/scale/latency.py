"""Submit a small job again and again to a warm local cluster, and take the time from submit to result.

"Warm" is after the first few: the engine runs, and what it keeps of executors is there. Functions of a job file (or of
`__main__`) travel alone; those of a module that is imported travel with that module, which is a case of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import mmgevent as mmg
from benchmarks import maps
from benchmarks.engines.on_mmgevent import JOBS
from benchmarks.scale.commands import percentile

HELP = "latency of a small job on a warm cluster"
WARM_JOBS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", default=200, type=int, help="of each kind (%(default)s)")
    parser.add_argument("--procs", default=2, type=int, help="executors (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    kinds = {
        "functions of a job file": mmg.Job.from_file(JOBS / "start.py"),
        "functions of an imported module": mmg.Job(list(enumerate(maps.LINES)), maps.count_line, maps.add_up),
    }
    figures: dict[str, Any] = {}
    with mmg.LocalCluster(given.procs) as cluster:
        for name, job in kinds.items():
            times = [_time_job(cluster, job) for _ in range(WARM_JOBS + given.jobs)][WARM_JOBS:]
            figures[name] = times
            print(
                f"{name}: median {statistics.median(times) * 1000:.1f} ms, "
                f"95 % within {percentile(times, 0.95) * 1000:.1f} ms, slowest {max(times) * 1000:.1f} ms",
                flush=True,
            )
    return figures


def _time_job(cluster: Any, job: mmg.Job) -> float:
    started_s = time.perf_counter()
    results = cluster.run(job)
    taken_s = time.perf_counter() - started_s
    if results["humpty"] != 3:
        raise SystemExit(f"the job counted {results['humpty']} times humpty, not 3")
    return taken_s
