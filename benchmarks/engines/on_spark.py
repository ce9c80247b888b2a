"""Spark, tuned: RDDs in local mode, which is one JVM with a Python worker a core.

Sums are `reduceByKey`, which combines before the shuffle; the index is `groupByKey`, which does not; 4
partitions a core for what is shuffled. No user interface, and answers are collected as one dict.
"""

from __future__ import annotations

import operator
import os
import shutil
import sys

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import AT_ONCE, WAIT_S, numbers_of, paths_of, ranges_of, read_text

TITLE = "Spark"
CANNOT = {"blocks": "arrays as records"}
NEEDS = "pyspark"
PARTITIONS_A_CORE = 4


def missing():
    return None if shutil.which("java") else "java is not installed"


def run(context, work, argument, procs):
    count = PARTITIONS_A_CORE * procs

    def sums(items, slices, map_item):
        pairs = context.parallelize(items, slices).flatMap(map_item)
        return pairs.reduceByKey(operator.add, count).collect()

    if work == "wordcount":
        paths = paths_of(argument)
        return sums(paths, len(paths), lambda path: maps.count_words(path, read_text(path)))
    if work == "index":
        paths = paths_of(argument)
        pairs = context.parallelize(paths, len(paths)).flatMap(
            lambda path: maps.index_words(path, read_text(path))
        )
        return pairs.groupByKey(count).mapValues(lambda names: sorted(set(names))).collect()
    if work == "sum":
        return sums(ranges_of(argument), count, lambda item: maps.spread(*item))
    if work == "tiny":
        return sums(numbers_of(argument), count, lambda number: maps.square(number, None))
    if work == "start":
        return sums(list(enumerate(maps.LINES)), procs, lambda item: maps.count_line(*item))
    return sums(numbers_of(argument), AT_ONCE, lambda number: maps.wait(number, WAIT_S))


def main():
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    from pyspark import SparkConf, SparkContext

    work, argument, output, procs = read_request()
    cores = AT_ONCE if work == "wait" else procs
    settings = SparkConf().setMaster(f"local[{cores}]").setAppName("benchmark")
    settings.set("spark.ui.enabled", "false").set("spark.driver.memory", "2g")
    with SparkContext(conf=settings) as context:
        context.setLogLevel("ERROR")
        write_answer(output, run(context, work, argument, procs))


if __name__ == "__main__":
    main()
