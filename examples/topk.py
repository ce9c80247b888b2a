"""Find the K most frequent words of text files, however many different words there are.

    $ mmg-run examples/topk.py 20 books/*.txt

Shows: memory that does not grow with the input. topwords.py is shorter, but the count of every word
reaches the process that started the job. Here no process holds all counts:

- Lines reads big files in pieces, while Files has each of them whole in memory;
- collectfn adds up on the worker that mapped; what does not fit into memory is written to disk;
- reducefn is of the iterator form: it sees the words of its share of the keys one by one, and its
  heap keeps the best K. Each word is in one share only, so its count is complete;
- finishfn gets at most K words from each share, and its heap keeps the best K of these.
"""

import argparse
import heapq
import re

from mmgevent import Lines
from mmgevent.reducers import sum_values

parser = argparse.ArgumentParser(prog="topk.py")
parser.add_argument("k", type=int)
parser.add_argument("paths", nargs="+", metavar="path")
given = parser.parse_args()
K = given.k

datasource = Lines(given.paths, errors="replace")


def mapfn(place, line):
    for word in re.findall(r"[a-z']+", line.lower()):
        yield word, 1


collectfn = sum_values


def reducefn(groups):
    return _best((word, sum(counts)) for word, counts in groups)


def finishfn(candidates):
    return _best(candidates)


def _best(results):
    """Return the K results with the highest counts, highest first; of equal counts the later words."""
    return heapq.nlargest(K, results, key=lambda result: (result[1], result[0]))
