"""Compare engines, side by side: the same work by each in turn, as whole processes, in several rounds.

    $ python -m benchmarks.corpus                                            # those that need nothing more
    $ python -m benchmarks.corpus --engines all --size 200MB --rounds 5      # all that are installed
    $ python -m benchmarks.corpus --engines ideal,mmgevent,dask --corpus ~/books --work wordcount --save figures

Before the first round the program written by hand (`engines/on_ideal.py`) does each work once: that brings the texts
into memory, and its answer is what every answer is compared with. In each round every engine does the work
once, each round beginning with another engine. What counts is the ratio to `ideal` within a
round, since machines have better and worse minutes. An engine that fails, is late, or answers wrongly is
left out of the rounds that follow, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from benchmarks import engines, facts, measure, plots, tables
from benchmarks.works import WORKS, Sizes, Work, plan_work
from mmgevent.job.options import parse_size

RESULTS = Path(__file__).parent / ".results"


class Entry(NamedTuple):
    """An engine that takes part."""

    name: str
    module: ModuleType


def main() -> int:
    given = read_arguments()
    measure.end_on_sigterm()
    measure.compile_code()
    known = facts.gather_facts()
    entries = choose_engines(given.engines)
    sizes = Sizes(given.size, given.items, given.waits, given.corpus)
    rows: list[tables.Row] = []
    for name in given.work:
        if name == "blocks" and importlib.util.find_spec("numpy") is None:
            print(f"left out: {name}: numpy is not installed", flush=True)
            continue
        work = plan_work(name, sizes)
        print(f"\n{work.title} ({work.amount:,.1f} {work.unit})", flush=True)
        rows += compare(work, entries, given.rounds, given.procs, given.timeout)
    text = tables.to_markdown(rows, known, given.procs)
    print(f"\n{text}")
    save(given.save, text, tables.to_json(rows, known, given.procs), rows)
    return 1 if any(row.error for row in rows) else 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpus",
        description="Compare engines, side by side.",
        epilog=f"engines: {', '.join(engines.engine_names())}; works: {', '.join(WORKS)}",
    )
    parser.add_argument("--engines", default=",".join(engines.DEFAULT), help='names, or "all" (%(default)s)')
    parser.add_argument("--work", default=",".join(WORKS), help="names (%(default)s)")
    parser.add_argument(
        "--size", default="200MB", type=parse_size, help="of the texts; a fifth for the index"
    )
    parser.add_argument("--corpus", type=Path, help="a folder of texts, repeated to the size (else made)")
    parser.add_argument("--items", default=20_000, type=int, help="tiny items (%(default)s)")
    parser.add_argument("--waits", default=2_000, type=int, help="maps that wait (%(default)s)")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--procs", default=2, type=int, help="processes that map (%(default)s)")
    parser.add_argument("--timeout", default=900.0, type=float, help="seconds a run may take (%(default)s)")
    parser.add_argument("--save", default=RESULTS, type=Path, help="folder for table and plot (%(default)s)")
    given = parser.parse_args()
    given.work = given.work.split(",")
    for name in given.work:
        if name not in WORKS:
            parser.error(f"--work {name}: expected some of {','.join(WORKS)}")
    given.engines = engines.engine_names() if given.engines == "all" else given.engines.split(",")
    for name in given.engines:
        if name not in engines.engine_names():
            parser.error(f"--engines {name}: expected some of {','.join(engines.engine_names())}")
    if given.corpus is not None and not given.corpus.is_dir():
        parser.error(f"--corpus {given.corpus}: expected a folder")
    return given


def choose_engines(names: list[str]) -> list[Entry]:
    """Return the engines that can run here, and say which cannot."""
    entries = []
    for name in names:
        module = engines.load_engine(name)
        reason = engines.why_missing(module)
        if reason is None:
            entries.append(Entry(name, module))
        else:
            print(f"left out: {name}: {reason}", flush=True)
    return entries


def compare(work: Work, entries: list[Entry], rounds: int, procs: int, timeout_s: float) -> list[tables.Row]:
    """Have every engine do the work once a round; the rows of the table, in the order of `entries`."""
    with tempfile.TemporaryDirectory(prefix="mmgevent-bench-") as folder:
        output = Path(folder) / "answer"
        taken, expected = do_work(
            Entry("ideal", engines.load_engine("ideal")), work, output, procs, timeout_s
        )
        if taken.error:
            raise SystemExit(f"{work.name}: the program written by hand fails: {taken.error}")
        rows = {}
        for entry in entries:
            reason = getattr(entry.module, "CANNOT", {}).get(work.name)
            if reason is None:
                rows[entry.name] = tables.Row(work, entry.name, entry.module.TITLE)
            else:
                print(f"  left out: {entry.name}: {reason}", flush=True)
        for number in range(rounds):
            running = [entry for entry in entries if entry.name in rows and not rows[entry.name].error]
            first = number % max(1, len(running))
            for entry in running[first:] + running[:first]:
                taken, answer = do_work(entry, work, output, procs, timeout_s)
                row = rows[entry.name]
                row.add(number, taken, answer == expected)
                print(f"  round {number + 1}: {entry.name}: {row.last()}", flush=True)
    return list(rows.values())


def do_work(
    entry: Entry, work: Work, output: Path, procs: int, timeout_s: float
) -> tuple[measure.Measurement, str]:
    """Run an engine's program once; what it took, and the digest of its answer."""
    output.unlink(missing_ok=True)
    command = engines.command_of(entry.module, engines.Request(work.name, work.argument, output, procs))
    taken = measure.measure(command, timeout_s=timeout_s)
    return taken, digest(output) if output.exists() else ""


def digest(answer: Path) -> str:
    """Return a digest that does not depend on the order of lines."""
    lines = answer.read_bytes().splitlines(keepends=True)
    lines.sort()
    return hashlib.sha256(b"".join(lines)).hexdigest()


def save(folder: Path, text: str, data: Any, rows: list[tables.Row]) -> None:
    """Write table and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.md").write_text(text, encoding="utf-8")
    (folder / "corpus.json").write_text(data, encoding="utf-8")
    names = ["corpus.md", "corpus.json", *plots.plot_rows(rows, folder / "corpus")]
    print(f"saved in {folder}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
