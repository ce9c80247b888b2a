"""MapReduce on multiprocessing as tutorials have it: workers return lists of pairs, the parent groups them.

Nothing is combined before it travels, and every key is reduced by the pool: what one gets with
`Pool.imap` and no further thought. The parent groups as the lists come, so that memory is not
what is compared.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import WAIT_S, numbers_of, paths_of, ranges_of, read_text

TITLE = "multiprocessing (textbook)"
CANNOT = {"wait": "as many waits at once as processes", "blocks": "arrays as records"}

KEYS_A_CHUNK = 1000


def count_file(path):
    return list(maps.count_words(path, read_text(path)))


def index_file(path):
    return list(maps.index_words(path, read_text(path)))


def square_number(number):
    return list(maps.square(number, None))


def count_one_line(item):
    return list(maps.count_line(*item))


def spread_range(item):
    return list(maps.spread(*item))


def wait_once(number):
    return list(maps.wait(number, WAIT_S))


def sum_values(item):
    return item[0], sum(item[1])


def unique_values(item):
    return item[0], list(dict.fromkeys(item[1]))


def main():
    work, argument, output, procs = read_request()
    map_item, items = {
        "wordcount": (count_file, paths_of),
        "index": (index_file, paths_of),
        "tiny": (square_number, numbers_of),
        "start": (count_one_line, lambda _: enumerate(maps.LINES)),
        "sum": (spread_range, ranges_of),
    }[work]
    with multiprocessing.Pool(procs) as pool:
        groups = defaultdict(list)
        for pairs in pool.imap(map_item, items(argument)):
            for key, value in pairs:
                groups[key].append(value)
        reduce = unique_values if work == "index" else sum_values
        write_answer(output, pool.imap_unordered(reduce, groups.items(), KEYS_A_CHUNK))


if __name__ == "__main__":
    main()
