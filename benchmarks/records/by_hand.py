"""The same as `job.py` by hand, one file a task of a Pool: `by_hand.py KIND FOLDER OUTPUT PROCS`."""

import csv
import functools
import itertools
import json
import multiprocessing
import sys

from benchmarks.records.maps import (
    RECORD_BYTES,
    amount_of_bytes,
    amount_of_dict,
    amount_of_table,
    amount_of_tuple,
)
from benchmarks.works import paths_of


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        names = next(rows)
        for number, row in enumerate(rows):
            yield (path, number), dict(zip(names, row, strict=True))


def read_tuples(path):
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file)):
            yield (path, number), row


def read_json(path):
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            yield (path, number), json.loads(line)


def read_bytes(path):
    with open(path, "rb") as file:
        for number in itertools.count():
            record = file.read(RECORD_BYTES)
            if not record:
                return
            yield (path, number), record


KINDS = {
    "csv": (read_csv, amount_of_dict),
    "csv-tuples": (read_tuples, amount_of_tuple),
    "jsonl": (read_json, amount_of_dict),
    "bytes": (read_bytes, amount_of_bytes),
    "parquet": (lambda path: of_parquet("read_rows")(path), amount_of_dict),
    "parquet-arrow": (lambda path: of_parquet("read_tables")(path), amount_of_table),
}


def of_parquet(name):
    from benchmarks.records import parquet_files  # pyarrow may not be installed

    return getattr(parquet_files, name)


def sums_of(kind, path):
    read, mapfn = KINDS[kind]
    sums = {}
    for place, record in read(path):
        for key, amount in mapfn(place, record):
            sums[key] = sums.get(key, 0) + amount
    return sums


def main():
    kind, folder, output, procs = sys.argv[1:]
    if kind.startswith("parquet"):
        of_parquet("read_rows")  # imported once, before the fork
    total = {}
    with multiprocessing.Pool(int(procs)) as pool:
        for sums in pool.imap_unordered(functools.partial(sums_of, kind), paths_of(folder)):
            for key, amount in sums.items():
                total[key] = total.get(key, 0) + amount
    with open(output, "w", encoding="utf-8") as file:
        file.writelines(f"{key}\t{amount}\n" for key, amount in total.items())


if __name__ == "__main__":
    main()
