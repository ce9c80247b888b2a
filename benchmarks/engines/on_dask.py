"""Dask, tuned: distributed on local processes of one thread each.

Texts and ranges are futures, one an item, each of which folds its records into a dict and cuts that into
4 parts a worker by a hash of the key; parts are merged where they are, on the workers, and only
merged ones come back. That is what dask.bag's foldby does, without its single last merge. Tiny items are a bag
of 4 partitions a worker. Maps that wait get one worker with 100 threads.
"""

from __future__ import annotations

import logging
import operator
import zlib
from collections import defaultdict

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import AT_ONCE, WAIT_S, numbers_of, paths_of, ranges_of, read_text

TITLE = "Dask"
CANNOT = {"blocks": "arrays as records"}
NEEDS = "distributed"
PARTS_A_WORKER = 4


def cut(totals, count):
    """Split a dict by its keys, the same way in every process."""
    parts = [{} for _ in range(count)]
    for key, value in totals.items():
        parts[(key if type(key) is int else zlib.crc32(key.encode())) % count][key] = value
    return parts


def sum_and_cut(pairs, count):
    totals = {}
    for key, value in pairs:
        totals[key] = totals.get(key, 0) + value
    return cut(totals, count)


def count_file(path, count):
    return sum_and_cut(maps.count_words(path, read_text(path)), count)


def sum_range(item, count):
    return sum_and_cut(maps.spread(*item), count)


def index_file(path, count):
    postings = defaultdict(list)
    for word, name in maps.index_words(path, read_text(path)):
        postings[word].append(name)
    return cut(postings, count)


def merge_sums(parts):
    totals = {}
    for part in parts:
        for key, value in part.items():
            totals[key] = totals.get(key, 0) + value
    return totals


def merge_postings(parts):
    postings = defaultdict(list)
    for part in parts:
        for word, names in part.items():
            postings[word].extend(names)
    return {word: list(dict.fromkeys(names)) for word, names in postings.items()}


def shuffle(map_item, items, merge, count):
    """Map items, merge their parts, and give the merged dicts."""
    import dask

    mapped = [dask.delayed(map_item, nout=count)(item, count) for item in items]
    merged = [dask.delayed(merge)([parts[i] for parts in mapped]) for i in range(count)]
    return dask.compute(*merged)


def fold_bag(numbers, map_item, partitions):
    import dask.bag

    bag = dask.bag.from_sequence(numbers, npartitions=partitions).map(map_item).flatten()
    return [dict(bag.foldby(operator.itemgetter(0), _add_value, 0, operator.add, 0).compute())]


def _add_value(total, pair):
    return total + pair[1]


def _square(number):
    return list(maps.square(number, None))


def _count_line(item):
    return list(maps.count_line(*item))


def _wait(number):
    return list(maps.wait(number, WAIT_S))


def run(work, argument, procs):
    count = PARTS_A_WORKER * procs
    if work == "wordcount":
        return shuffle(count_file, paths_of(argument), merge_sums, count)
    if work == "index":
        return shuffle(index_file, paths_of(argument), merge_postings, count)
    if work == "sum":
        return shuffle(sum_range, ranges_of(argument), merge_sums, count)
    if work == "tiny":
        return fold_bag(numbers_of(argument), _square, count)
    if work == "start":
        return fold_bag(list(enumerate(maps.LINES)), _count_line, len(maps.LINES))
    return fold_bag(numbers_of(argument), _wait, AT_ONCE)


def main():
    from dask.distributed import Client, LocalCluster

    work, argument, output, procs = read_request()
    workers, threads = (1, AT_ONCE) if work == "wait" else (procs, 1)
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster),
    ):
        answers = run(work, argument, procs)
    write_answer(output, (record for answer in answers for record in answer.items()))


if __name__ == "__main__":
    main()
