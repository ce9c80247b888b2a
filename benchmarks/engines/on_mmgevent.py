"""mmg-run with the job files of benchmarks/jobs, and a collectfn that is any Python function."""

from __future__ import annotations

import sys

from benchmarks.engines import Request
from benchmarks.measure import ROOT

TITLE = "mmgevent"
JOBS = ROOT / "benchmarks" / "jobs"


def command(request: Request, job: str = "") -> list[str]:
    """Return the command line of `mmg-run`; maps that wait all do so in one executor."""
    procs = 1 if request.work == "wait" else request.procs
    options = ["-q", "--procs", str(procs), "-o", str(request.output), "--format", "tsv"]
    arguments = [request.argument] if request.argument else []
    path = JOBS / f"{job or request.work}.py"
    return [sys.executable, "-m", "mmgevent", "run", *options, str(path), *arguments]
