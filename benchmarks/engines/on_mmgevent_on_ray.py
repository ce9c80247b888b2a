"""The job files of benchmarks/jobs, on a Ray session of this process: mmg-run --on ray://auto finds it.

The session listens on any port, so the command gets its address in RAY_ADDRESS.
"""

from __future__ import annotations

import logging
import os
import subprocess

from benchmarks.engines import on_mmgevent, read_request
from benchmarks.measure import ROOT

TITLE = "mmgevent on Ray"
NEEDS = "ray"


def main() -> None:
    import ray

    request = read_request()
    ray.init(
        "local",
        num_cpus=1 if request.work == "wait" else request.procs,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        command = on_mmgevent.command(request)
        at = command.index("--procs")
        command[at : at + 2] = ["--on", "ray://auto"]
        environ = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        subprocess.run(command, cwd=ROOT, check=True, env=environ)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
