"""Ray, tuned: remote functions that return one object for each part of the keys.

Each text or range is a task that folds its records into a dict and returns it in 4 parts a worker, which stay in
the object store until the task that merges that part reads them. Ray advises against tasks of microseconds,
so tiny items go in 16 batches a worker, made by hand here. Maps that wait are calls of one
actor with 100 threads.
"""

from __future__ import annotations

import logging
import os

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.engines.on_dask import (
    PARTS_A_WORKER,
    count_file,
    index_file,
    merge_postings,
    merge_sums,
    sum_and_cut,
    sum_range,
)
from benchmarks.works import AT_ONCE, WAIT_S, numbers_of, paths_of, ranges_of

TITLE = "Ray"
CANNOT = {"blocks": "arrays as records"}
NEEDS = "ray"
BATCHES_A_WORKER = 16


def square_batch(numbers, count):
    return sum_and_cut((pair for number in numbers for pair in maps.square(number, None)), count)


def count_lines(items, count):
    return sum_and_cut((pair for item in items for pair in maps.count_line(*item)), count)


def cut_batches(items, count):
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]


def shuffle(map_item, items, merge, count):
    """Map items, merge their parts, and give the merged dicts."""
    import ray

    mapper = ray.remote(num_cpus=1, num_returns=count)(map_item)
    merger = ray.remote(num_cpus=1)(lambda *parts: merge(parts))
    mapped = [mapper.remote(item, count) for item in items]
    return ray.get([merger.remote(*[parts[i] for parts in mapped]) for i in range(count)])


class Waiter:
    def wait(self, number):
        return dict(maps.wait(number, WAIT_S))


def wait_all(numbers):
    import ray

    actor = ray.remote(Waiter).options(max_concurrency=AT_ONCE).remote()
    return [merge_sums(ray.get([actor.wait.remote(number) for number in numbers]))]


def run(work, argument, procs):
    count = PARTS_A_WORKER * procs
    if work == "wordcount":
        return shuffle(count_file, paths_of(argument), merge_sums, count)
    if work == "index":
        return shuffle(index_file, paths_of(argument), merge_postings, count)
    if work == "sum":
        return shuffle(sum_range, ranges_of(argument), merge_sums, count)
    if work == "tiny":
        batches = cut_batches(numbers_of(argument), BATCHES_A_WORKER * procs)
        return shuffle(square_batch, batches, merge_sums, count)
    if work == "start":
        return shuffle(count_lines, cut_batches(list(enumerate(maps.LINES)), procs), merge_sums, procs)
    return wait_all(numbers_of(argument))


def main():
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
    import ray

    work, argument, output, procs = read_request()
    ray.init(
        num_cpus=procs,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        answers = run(work, argument, procs)
        write_answer(output, (record for answer in answers for record in answer.items()))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
