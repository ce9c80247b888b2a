"""Measure records of files beside the program by hand: CSV, JSON lines, Parquet, records of bytes.

    $ python -m benchmarks.records --size 64MB --kinds csv,jsonl --rounds 5
    $ python -m benchmarks.records --size 256MB --kinds parquet,parquet-arrow

Both programs read the same 16 files. mmgevent also reads all of it as one file, which the program
by hand cannot share out. Runs take turns; the ratio is that of two runs of one round.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import facts, measure
from benchmarks.make_corpus import FOLDER
from benchmarks.records.maps import RECORD_BYTES
from benchmarks.tables import describe, format_table
from mmgevent.job.options import parse_size

HERE = Path(__file__).parent
FILES = 16
KINDS = ("csv", "csv-tuples", "jsonl", "bytes")
#: Those that need pyarrow, as rows and as tables.
MORE_KINDS = ("parquet", "parquet-arrow")
REGIONS = [f"region {i:02}" for i in range(50)]
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "nobody",
    "looks",
    "at",
    "it",
]


def rows() -> Iterator[dict[str, Any]]:
    """Yield rows of sales; one note in ten has quotes, delimiters and line ends."""
    drawn = random.Random(1)
    number = 0
    while True:
        note = " ".join(drawn.choices(WORDS, k=6))
        if number % 10 == 0:
            note = note.replace(" ", ',\n"', 1) + '"'
        amount = drawn.randrange(100_000)
        yield {
            "number": number,
            "region": drawn.choice(REGIONS),
            "amount": amount,
            "day": "2026-01-01",
            "note": note,
        }
        number += 1


def make_files(kind: str, size_bytes: int) -> tuple[Path, Path]:
    """Make a folder of FILES files, and one with all their records in one file."""
    many, one = (FOLDER / f"records-{kind}-{size_bytes}-{name}" for name in ("many", "one"))
    if one.is_dir():
        return many, one
    making = one.with_suffix(".making")
    for folder in (many, making):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    source = rows()
    if kind in MORE_KINDS:
        from benchmarks.records.parquet_files import write_files  # pyarrow may not be installed

        write_files(many, making / "all", FILES, size_bytes, source)
        making.rename(one)
        return many, one
    with open(making / "all", "wb") as whole:
        for number in range(FILES):
            path = many / f"{number:02}"
            _write(kind, path, size_bytes // FILES, source)
            data = path.read_bytes()
            whole.write(data[data.index(b"\n") + 1 :] if kind == "csv" and number else data)
    making.rename(one)
    return many, one


def _write(kind: str, path: Path, n_bytes: int, source: Iterator[dict[str, Any]]) -> None:
    if kind == "bytes":
        with open(path, "wb") as raw:
            for row in source:
                raw.write(
                    row["region"].encode().ljust(RECORD_BYTES - 8) + row["amount"].to_bytes(8, "little")
                )
                if raw.tell() >= n_bytes:
                    return
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if kind.startswith("csv"):
            writer.writerow(["number", "region", "amount", "day", "note"])
        for number, row in enumerate(source):
            if kind == "jsonl":
                file.write(json.dumps(row) + "\n")
            else:
                writer.writerow(row.values())
            if number % 100 == 0 and file.tell() >= n_bytes:
                return


def run_kind(kind: str, given: argparse.Namespace) -> list[list[str]]:
    """Measure both programs in turn, and return lines of the table."""
    many, one = make_files(kind, given.size)
    output = FOLDER / "records-answer"
    ours = [
        sys.executable,
        "-m",
        "mmgevent",
        "run",
        "-q",
        "--procs",
        str(given.procs),
        "-o",
        str(output),
        "--format",
        "tsv",
    ]
    commands = {
        "by hand, 16 files": [
            sys.executable,
            "-m",
            "benchmarks.records.by_hand",
            kind,
            str(many),
            str(output),
            str(given.procs),
        ],
        "mmgevent, 16 files": [*ours, str(HERE / "job.py"), kind, str(many)],
        "mmgevent, one file": [*ours, str(HERE / "job.py"), kind, str(one)],
    }
    taken: dict[str, list[measure.Measurement]] = {name: [] for name in commands}
    answers = set()
    for _ in range(given.rounds):
        for name, command in commands.items():
            run = measure.measure(command)
            if run.error:
                raise SystemExit(f"{kind}, {name}: {run.error}")
            answers.add(tuple(sorted(output.read_text(encoding="utf-8").splitlines())))
            taken[name].append(run)
    output.unlink()
    if len(answers) > 1:
        raise SystemExit(f"{kind}: the programs give different answers")
    hand = taken["by hand, 16 files"]
    mb = sum(path.stat().st_size for path in many.iterdir()) / 1e6
    return [
        [
            kind,
            name,
            describe([run.wall_s for run in runs]),
            describe([run.cpu_s for run in runs]),
            f"{mb / statistics.median(run.wall_s for run in runs):.0f}",
            describe([run.wall_s / base.wall_s for run, base in zip(runs, hand, strict=True)]),
        ]
        for name, runs in taken.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.records", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="64MB", type=parse_size, help="of each kind (default 64MB)")
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help=f"which; {', '.join(MORE_KINDS)} need pyarrow (default %(default)s)",
    )
    parser.add_argument("--rounds", default=5, type=int, help="runs of each program (%(default)s)")
    parser.add_argument("--procs", default=2, type=int, help="processes that map (%(default)s)")
    given = parser.parse_args()
    measure.become_subreaper()
    measure.end_on_sigterm()
    measure.compile_code()
    known = facts.gather_facts()
    print("\n".join(f"- {name}: {text}" for name, text in known.items() if text) + "\n", flush=True)
    body = [line for kind in given.kinds.split(",") for line in run_kind(kind, given)]
    print("\n".join(format_table(["records", "program", "wall s", "CPU s", "MB/s", "ratio"], body)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
