"""The yardstick: what a competent user would write by hand with multiprocessing.Pool and dicts.

A dict for each file in the workers, the dicts merged in the parent; for maps that wait, a pool of
threads. No network, no fault tolerance, and results that fit in memory.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
from collections import defaultdict

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import AT_ONCE, WAIT_S, blocks_of, numbers_of, paths_of, ranges_of, read_text

TITLE = "ideal (Pool, by hand)"


def add_up(pairs):
    totals = {}
    for key, value in pairs:
        totals[key] = totals.get(key, 0) + value
    return totals


def count_file(path):
    return add_up(maps.count_words(path, read_text(path)))


def index_file(path):
    postings = defaultdict(list)
    for word, name in maps.index_words(path, read_text(path)):
        postings[word].append(name)
    return dict(postings)


def square_number(number):
    return list(maps.square(number, None))


def count_one_line(item):
    return add_up(maps.count_line(*item))


def sum_range(item):
    return add_up(maps.spread(*item))


def sum_block(item):
    """Return the keys of a block, each once, and their sums."""
    import numpy as np

    keys, values = maps.spread_arrays(*item)
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[starts], np.add.reduceat(values, starts)


def merge_blocks(parts):
    totals = {}
    for keys, sums in parts:
        for key, value in zip(keys.tolist(), sums.tolist(), strict=True):
            totals[key] = totals.get(key, 0) + value
    return totals


def wait_once(number):
    return list(maps.wait(number, WAIT_S))


def merge_sums(parts):
    totals = {}
    for part in parts:
        for key, value in part.items() if isinstance(part, dict) else part:
            totals[key] = totals.get(key, 0) + value
    return totals


def merge_postings(parts):
    postings = defaultdict(list)
    for part in parts:
        for word, names in part.items():
            postings[word].extend(names)
    return {word: list(dict.fromkeys(names)) for word, names in postings.items()}


def main():
    work, argument, output, procs = read_request()
    if work == "wait":
        with multiprocessing.pool.ThreadPool(AT_ONCE) as threads:
            answer = merge_sums(threads.imap_unordered(wait_once, numbers_of(argument)))
    else:
        with multiprocessing.Pool(procs) as pool:
            if work == "wordcount":
                answer = merge_sums(pool.imap_unordered(count_file, paths_of(argument)))
            elif work == "index":
                answer = merge_postings(pool.imap(index_file, paths_of(argument)))
            elif work == "tiny":
                answer = merge_sums(pool.imap_unordered(square_number, numbers_of(argument)))
            elif work == "start":
                answer = merge_sums(pool.imap_unordered(count_one_line, enumerate(maps.LINES)))
            elif work == "blocks":
                answer = merge_blocks(pool.imap_unordered(sum_block, blocks_of(argument)))
            else:
                answer = merge_sums(pool.imap_unordered(sum_range, ranges_of(argument)))
    write_answer(output, answer.items())


if __name__ == "__main__":
    main()
