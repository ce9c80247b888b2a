"""Make an inverted index of 1, 4 and 16 times the data within fixed memory: what a MB costs must stay the same.

Every record travels, so intermediate data is larger than the text; the server may hold --memory of it, each executor
--executor-memory, and the rest goes to disk. Memory is the highest PSS: of the largest process, and of all together (which
includes the driver with one partition's results).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import engines
from benchmarks.engines import on_mmgevent
from benchmarks.make_corpus import make_corpus
from benchmarks.measure import measure
from benchmarks.tables import format_table
from benchmarks.works import FILES
from mmgevent.job.options import parse_size

FILE_BYTES = 4_000_000  #: of each text, unless that makes fewer than FILES

HELP = "cost per MB as the data grows, with memory bounded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="64MB", type=parse_size, help="of the smallest run (default 64MB)")
    parser.add_argument("--times", default="1,4,16", help="how many times that (%(default)s)")
    parser.add_argument("--memory", default="128MiB", help="of the server (%(default)s)")
    parser.add_argument("--executor-memory", default="256MiB", help="of each executor (%(default)s)")
    parser.add_argument("--procs", default=2, type=int, help="executors (%(default)s)")
    parser.add_argument("--timeout", default=1800.0, type=float, help="seconds of one run (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    runs = []
    for times in map(int, given.times.split(",")):
        runs.append(_run_once(given, given.size * times))
        print(f"{runs[-1]['mb']:.0f} MB: {runs[-1]['wall_s']:.1f} s", flush=True)
    head = ["MB", "wall s", "CPU s", "wall ms/MB", "CPU ms/MB", "ratio", "largest PSS MiB", "all PSS MiB"]
    first = runs[0]["wall_s"] / runs[0]["mb"]
    body = [
        [
            f"{run['mb']:.0f}",
            f"{run['wall_s']:.1f}",
            f"{run['cpu_s']:.1f}",
            f"{1000 * run['wall_s'] / run['mb']:.1f}",
            f"{1000 * run['cpu_s'] / run['mb']:.1f}",
            f"{run['wall_s'] / run['mb'] / first:.2f}",
            f"{run['largest_pss_bytes'] / 2**20:.0f}",
            f"{run['peak_pss_bytes'] / 2**20:.0f}",
        ]
        for run in runs
    ]
    print("\n" + "\n".join(format_table(head, body)))
    return {"runs": runs}


def _run_once(given: argparse.Namespace, size_bytes: int) -> dict[str, Any]:
    # More files, not larger ones: a map function that finds all words of a text at once needs ten times its size.
    folder_of_texts = make_corpus(size_bytes, max(FILES, size_bytes // FILE_BYTES), 1)
    mb = sum(path.stat().st_size for path in folder_of_texts.iterdir()) / 1e6
    with tempfile.TemporaryDirectory(prefix="mmgevent-bench-") as folder:
        output = Path(folder) / "answer"
        request = engines.Request("index", str(folder_of_texts), output, given.procs)
        command = on_mmgevent.command(request)
        place = command.index("-q")
        limits = ["--memory", given.memory, "--set", f"memory_limit={given.executor_memory}"]
        taken = measure([*command[:place], *limits, *command[place:]], timeout_s=given.timeout)
        if taken.error or not output.stat().st_size:
            raise SystemExit(f"the index of {mb:.0f} MB failed: {taken.error or 'no output'}")
    return {"mb": mb, **{k: v for k, v in taken._asdict().items() if k != "stderr"}}
