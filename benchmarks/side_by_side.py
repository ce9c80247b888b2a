"""Run programs that do the same in turn, as whole processes, and compare times and answers.

What counts is the ratio of times within a round, since machines have better and worse
minutes. The first program is the yardstick of the others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.make_corpus import make_corpus
from mmgevent.job import parse_size

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"

Command = list[str]


def mmg_run(procs: int, job: Path, *arguments: str) -> Command:
    """Return the command line of a job on `procs` executors."""
    return [sys.executable, "-m", "mmgevent", "run", "-q", "--procs", str(procs), str(job), *arguments]


def ideal(what: str, *arguments: str) -> Command:
    """Return the command line of the program written by hand."""
    return [sys.executable, str(HERE / "ideal.py"), what, *arguments]


def time_program(command: Command, output: Path) -> float:
    """Return the seconds from start to exit; stdout goes to `output`."""
    with output.open("wb") as file:
        started_s = time.perf_counter()
        subprocess.run(command, stdout=file, check=True, cwd=HERE.parent)
        return time.perf_counter() - started_s


def compare(programs: Mapping[str, Command], size_bytes: int, rounds: int) -> None:
    """Run each program once a round; print speeds, and at the end ratios; leave if answers differ."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    first = next(iter(programs))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, rounds + 1):
            answers = {}
            for name, command in programs.items():
                output = Path(folder) / "answer"
                times[name].append(time_program(command, output))
                answers[name] = _read_answer(output)
                if answers[name] != answers[first]:
                    sys.exit(f"round {number}: {name} gives another answer than {first}")
            speeds = ", ".join(f"{name} {size_bytes / 1e6 / t[-1]:.1f} MB/s" for name, t in times.items())
            print(f"round {number}: {speeds}", flush=True)
    for name, seconds in times.items():
        ratios = [t / yardstick for t, yardstick in zip(seconds, times[first], strict=True)]
        print(f"{name}: median {statistics.median(seconds):.2f} s; {describe(ratios)} x {first}")


def describe(numbers: list[float]) -> str:
    """Return median and spread."""
    return f"{statistics.median(numbers):.2f} (from {min(numbers):.2f} to {max(numbers):.2f})"


def read_arguments(description: str, size: str) -> argparse.Namespace:
    """Read what the benchmarks have in common, and make the corpus: `files` are its paths."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", default=size, type=parse_size, help=f"of the corpus (default {size})")
    parser.add_argument("--parts", default=16, type=int, help="files of the corpus (default 16)")
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--procs", default=2, type=int)
    given = parser.parse_args()
    os.environ["PROCS"] = str(given.procs)
    corpus = make_corpus(given.size, given.parts, given.seed)
    given.files = [str(path) for path in sorted(corpus.iterdir())]
    return given


def _read_answer(path: Path) -> list[str]:
    return sorted(path.read_text(encoding="utf-8").splitlines())
