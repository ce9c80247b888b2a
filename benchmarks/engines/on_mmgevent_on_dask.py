"""mmg-run --on dask://...: the job files of benchmarks/jobs, on a LocalCluster of one thread a process."""

from __future__ import annotations

import logging
import subprocess

from benchmarks.engines import on_mmgevent, read_request
from benchmarks.measure import ROOT

TITLE = "mmgevent on Dask"
NEEDS = "distributed"


def main() -> None:
    from dask.distributed import LocalCluster

    request = read_request()
    workers = 1 if request.work == "wait" else request.procs
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR
    ) as cluster:
        command = on_mmgevent.command(request)
        at = command.index("--procs")
        where = cluster.scheduler_address.replace("tcp://", "dask://")
        command[at : at + 2] = ["--on", where]
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
