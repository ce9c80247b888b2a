"""CPU time of one process for one record of a file: a map task of mmgevent beside the loop by hand.

    $ python -m benchmarks.records.in_process --size 4MB --kinds csv,jsonl

Reading, the map function, sums by key and, in mmgevent, the page that says which item runs are in it;
the start of processes is not. The best of the rounds counts.
"""

import argparse
import os
import sys
from time import process_time

from benchmarks.records.__main__ import FILES, KINDS, make_files
from benchmarks.records.by_hand import KINDS as BY_HAND
from benchmarks.records.by_hand import sums_of
from benchmarks.records.maps import RECORD_BYTES
from mmgevent import Bytes, Csv, JsonLines
from mmgevent.executor.status_page import StatusPage
from mmgevent.job.functions import Functions
from mmgevent.job.options import parse_size
from mmgevent.reducers import sum_values
from mmgevent.tasks.run import run_map

MEMORY_BYTES = 256 * 1024 * 1024  #: of a task's records: enough for all
PARTITIONS = 4


def source_of(kind, path):
    return {
        "csv": lambda: Csv(path),
        "csv-tuples": lambda: Csv(path, header=False),
        "jsonl": lambda: JsonLines(path),
        "bytes": lambda: Bytes(path, record_bytes=RECORD_BYTES),
    }[kind]()


def map_once(functions, entries, page):
    page.begin(1)
    stats = run_map(
        functions,
        entries,
        partitions=PARTITIONS,
        memory_bytes=MEMORY_BYTES,
        emit=lambda flush: None,
        mark=page.mark,
        mark_flush=page.set_item,
    )
    page.end()
    return stats.items


def seconds_of(function, *arguments):
    began_s = process_time()
    function(*arguments)
    return process_time() - began_s


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.records.in_process", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--size", default="4MB", type=parse_size, help="of the file (default 4MB)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which (default %(default)s)")
    parser.add_argument("--rounds", default=5, type=int, help="(default %(default)s)")
    given = parser.parse_args()
    page, fd = StatusPage.create()
    os.close(fd)
    for kind in given.kinds.split(","):
        path = str(make_files(kind, given.size * FILES)[0] / "00")
        entries = [(ref.key, ref) for ref in source_of(kind, path).refs()]
        functions = Functions(mapfn=BY_HAND[kind][1], reducefn=sum_values)
        records = map_once(functions, entries, page)
        hand_s = min(seconds_of(sums_of, kind, path) for _ in range(given.rounds))
        ours_s = min(seconds_of(map_once, functions, entries, page) for _ in range(given.rounds))
        print(
            f"{kind}: by hand {hand_s / records * 1e9:.0f} ns, mmgevent {ours_s / records * 1e9:.0f} ns, "
            f"ratio {ours_s / hand_s:.2f} ({records} records)",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
