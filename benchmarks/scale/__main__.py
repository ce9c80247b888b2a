"""Measure what grows, one thing at a time.

    $ python -m benchmarks.scale connections --workers 10000     # idle workers on one server, and a job meanwhile
    $ python -m benchmarks.scale joins --workers 2000            # how fast workers can come
    $ python -m benchmarks.scale election --nodes 100            # the server dies: how long until there is another
    $ python -m benchmarks.scale items --items 20000             # one item a task
    $ python -m benchmarks.scale latency --jobs 200              # a small job on a warm cluster
    $ python -m benchmarks.scale overhead --items 400            # share of the cores that heavy maps get
    $ python -m benchmarks.scale growth --size 64MB              # cost per MB at 1, 4 and 16 times the data

On loopback, with a password of its own; every process that is started is ended. Results are printed as
Markdown, and saved as JSON with --save.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import facts, measure
from benchmarks.scale import connections, election, growth, items, joins, latency, overhead

SUBJECTS = {
    "connections": connections,
    "joins": joins,
    "election": election,
    "items": items,
    "latency": latency,
    "overhead": overhead,
    "growth": growth,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description="Measure what happens as numbers grow."
    )
    parser.add_argument("--save", type=Path, help="folder for scale-SUBJECT.json")
    subjects = parser.add_subparsers(dest="subject", required=True)
    for name, module in SUBJECTS.items():
        module.add_arguments(subjects.add_parser(name, help=module.HELP, description=module.__doc__))
    given = parser.parse_args()
    measure.become_subreaper()
    measure.end_on_sigterm()
    measure.compile_code()
    known = facts.gather_facts()
    print("\n".join(f"- {name}: {text}" for name, text in known.items() if text) + "\n", flush=True)
    figures = SUBJECTS[given.subject].run(given)
    if given.save is not None:
        given.save.mkdir(parents=True, exist_ok=True)
        path = given.save / f"scale-{given.subject}.json"
        path.write_text(json.dumps({"facts": known, "figures": figures}, indent=1) + "\n", encoding="utf-8")
    return 0 if figures.get("passed", True) else 1


if __name__ == "__main__":
    sys.exit(main())
