"""Count words, or make an inverted index, as one would by hand: the yardstick.

    $ python benchmarks/ideal.py wordcount FILE... > counts.tsv

multiprocessing.Pool over files, the same generator map function that the job file has,
a dict for each file, the dicts merged here. No network, no fault tolerance, and
results that fit in memory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
from collections import defaultdict


def count_map(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


def index_map(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, path


def count_file(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    counts = {}
    for word, n in count_map(path, text):
        counts[word] = counts.get(word, 0) + n
    return counts


def index_file(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    paths = defaultdict(list)
    for word, name in index_map(path, text):
        paths[word].append(name)
    return dict(paths)


def count_words(pool, paths):
    totals = {}
    for counts in pool.imap_unordered(count_file, paths):
        for word, n in counts.items():
            totals[word] = totals.get(word, 0) + n
    return totals


def make_index(pool, paths):
    gathered = defaultdict(list)
    for index in pool.imap(index_file, paths):
        for word, names in index.items():
            gathered[word].extend(names)
    return {word: list(dict.fromkeys(names)) for word, names in gathered.items()}


def main():
    what, paths = sys.argv[1], sys.argv[2:]
    with multiprocessing.Pool(int(os.environ.get("PROCS", "2"))) as pool:
        results = {"wordcount": count_words, "index": make_index}[what](pool, paths)
    write = sys.stdout.write
    for key, value in results.items():
        write(f"{key}\t{json.dumps(value, ensure_ascii=False)}\n")


if __name__ == "__main__":
    main()
