"""Compare inputs as people have them with the loop that one would write for them, side by side.

    $ python -m benchmarks.inputs --size 64MB --rounds 5
    $ python -m benchmarks.inputs --work stdin --size 300MB
    $ python -m benchmarks.inputs --work gz,bz2 --size 2GB      # full size: some minutes, 1 GB of disk

The works are `gz` (16 files of gzip), `bz2` (one file) and `stdin` (one text, through a pipe and by
its path). The words of each line are counted. In each round both programs run in turn, as whole
processes; what counts is their ratio within a round. On a machine with other work, the ratio of CPU
time says more. The largest process shows that memory does not depend on the size. The loops by hand are below: a Pool that reads
a file for each task, and a Pool that gets lines from the process that decompresses.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import itertools
import multiprocessing
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.maps import count_line
from benchmarks.measure import ROOT, Measurement, become_subreaper, compile_code, measure
from mmgevent.job.options import parse_size

FILES = 16  #: of gzip
LINES_A_TASK = 20_000  #: of a Pool that gets lines: some megabytes
JOB = str(ROOT / "benchmarks" / "jobs" / "lines.py")

Command = list[str]


def main() -> None:
    if sys.argv[1:2] == ["--by-hand"]:
        by_hand(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
        return
    arguments = read_arguments()
    become_subreaper()
    compile_code()
    with tempfile.TemporaryDirectory(prefix="mmgevent-bench-") as folder:
        for work in arguments.work.split(","):
            compare(work, WORKS[work](Path(folder), arguments.size, arguments.procs), arguments.rounds)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inputs", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--work", default="gz,bz2,stdin", help="works, with commas between (default: all)")
    parser.add_argument(
        "--size", type=parse_size, default=parse_size("64MB"), help="text of a work (default: 64MB)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--procs", type=int, default=2, help="processes (default: 2)")
    return parser.parse_args()


def compare(work: str, programs: dict[str, Command], rounds: int) -> None:
    """Run both programs in turn; print their medians, and the medians of the ratios."""
    runs: dict[str, list[Measurement]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            measured = measure(command)
            if measured.error:
                raise SystemExit(f"{work}: {name} {measured.error}")
            runs[name].append(measured)
    (first, firsts), (second, seconds) = runs.items()
    pairs = list(zip(firsts, seconds, strict=True))
    wall = statistics.median(one.wall_s / other.wall_s for one, other in pairs)
    cpu = statistics.median(one.cpu_s / other.cpu_s for one, other in pairs)
    print(
        f"{work}: {_described(first, firsts)}, {_described(second, seconds)}, ratio {wall:.2f}, "
        f"of CPU time {cpu:.2f} ({rounds} rounds)",
        flush=True,
    )


def _described(name: str, runs: list[Measurement]) -> str:
    wall_s = statistics.median(run.wall_s for run in runs)
    largest = max(run.largest_pss_bytes for run in runs)
    return f"{name} {wall_s:.2f} s (largest process {largest / 1e6:.0f} MB)"


def plan_gz(folder: Path, size: int, procs: int) -> dict[str, Command]:
    paths = [str(folder / f"part-{number:02}.gz") for number in range(FILES)]
    for number, path in enumerate(paths):
        with gzip.open(path, "wb", compresslevel=6) as file:
            file.writelines(some_text(size // FILES, number))
    return {"mmgevent": job(procs, *paths), "by hand": hand("files", procs, *paths)}


def plan_bz2(folder: Path, size: int, procs: int) -> dict[str, Command]:
    path = str(folder / "all.bz2")
    with bz2.open(path, "wb") as file:
        file.writelines(some_text(size, 0))
    return {"mmgevent": job(procs, path), "by hand": hand("lines", procs, path)}


def plan_stdin(folder: Path, size: int, procs: int) -> dict[str, Command]:
    path = str(folder / "text")
    with open(path, "wb") as file:
        file.writelines(some_text(size, 0))
    piped = ["sh", "-c", 'path=$1; shift; cat "$path" | "$@"', "sh", path, *job(procs, "-")]
    return {"standard input": piped, "by its path": job(procs, path)}


WORKS: dict[str, Callable[[Path, int, int], dict[str, Command]]] = {
    "gz": plan_gz,
    "bz2": plan_bz2,
    "stdin": plan_stdin,
}


def some_text(n_bytes: int, seed: int) -> Iterator[bytes]:
    """Yield lines of text, some of which are common and some rare."""
    from random import Random

    random = Random(seed)
    words = [f"{random.randrange(36**6):x}" for _ in range(20_000)]
    lines = [" ".join(words[int(20_000 * random.random() ** 3)] for _ in range(12)) for _ in range(20_000)]
    block = "".join(f"{line}\n" for line in lines).encode()
    while n_bytes > 0:
        yield block[:n_bytes]
        n_bytes -= len(block)


def job(procs: int, *paths: str) -> Command:
    return [sys.executable, "-m", "mmgevent", "run", "-q", "--procs", str(procs), JOB, *paths]


def hand(how: str, procs: int, *paths: str) -> Command:
    return [sys.executable, "-m", "benchmarks.inputs", "--by-hand", how, str(procs), *paths]


def by_hand(how: str, procs: int, paths: list[str]) -> None:
    """Count the words of compressed files with a Pool, and print them."""
    counts: Counter[str] = Counter()
    with multiprocessing.Pool(procs) as pool:
        if how == "files":
            for part in pool.imap_unordered(count_file, paths):
                counts.update(part)
        else:
            with bz2.open(paths[0], "rt", encoding="utf-8") as file:
                for part in pool.imap_unordered(
                    count_lines, iter(lambda: list(itertools.islice(file, LINES_A_TASK)), [])
                ):
                    counts.update(part)
    sys.stdout.writelines(f"{word}\\t{count}\n" for word, count in counts.items())


def count_file(path: str) -> Counter[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return count_lines(file)


def count_lines(lines: Iterator[str] | list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines):
        for word, count in count_line(number, line):
            counts[word] += count
    return counts


if __name__ == "__main__":
    main()
