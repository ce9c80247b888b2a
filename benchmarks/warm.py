"""Compare jobs on another engine with that engine's tuned programs, on one warm engine.

    $ python -m benchmarks.warm --engine dask --size 50MB --rounds 5

`benchmarks.corpus` times whole processes, and most of a short one is the start of the engine.  Here
the engine starts once.  In each round the engine's own program (`engines/on_ENGINE.py`) and the job
of `jobs/` run in turn; what counts is their ratio within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import mmgevent as mmg
from benchmarks import engines
from benchmarks.measure import ROOT
from benchmarks.works import Sizes, plan_work
from mmgevent.job.options import parse_size

WORKS = ("wordcount", "wordcount_reducer", "index", "tiny")


@contextlib.contextmanager
def open_dask(procs: int) -> Iterator[Any]:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=procs, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def open_spark(procs: int) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    from mmgevent.driver.runners import spark_sessions

    builder = SparkSession.builder.master(f"local[{procs}]").config("spark.driver.memory", "2g")
    with spark_sessions.local_environment():
        session = builder.config(map=spark_sessions.LOCAL_SETTINGS).getOrCreate()
    try:
        yield session
    finally:
        session.stop()
        spark_sessions.end_jvm()


@contextlib.contextmanager
def open_ray(procs: int) -> Iterator[Any]:
    import ray

    ray.init(
        "local",
        num_cpus=procs,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield ray
    finally:
        ray.shutdown()


#: engine -> opens its client.  The client is the current one, so the tuned program uses it.
CLIENTS = {"dask": open_dask, "ray": open_ray, "spark": open_spark}


def main() -> None:
    given = read_arguments()
    tuned = engines.load_engine(given.engine)
    sizes = Sizes(given.size, given.items, 0, None)
    with CLIENTS[given.engine](given.procs) as client, mmg.connect(client) as cluster:
        print("| work | tuned, s | mmgevent, s | ratio, median (all) |\n|---|---|---|---|")
        for name in given.work.split(","):
            work = plan_work(name.removesuffix("_reducer"), sizes)

            def run_tuned(work: Any = work) -> int:
                if given.engine == "spark":
                    return len(tuned.run(client.sparkContext, work.name, work.argument, given.procs))
                return sum(len(part) for part in tuned.run(work.name, work.argument, given.procs))

            def run_job(path: str = str(ROOT / f"benchmarks/jobs/{name}.py"), work: Any = work) -> int:
                return len(cluster.run(mmg.Job.from_file(path, [work.argument])))

            compare(name, run_tuned, run_job, given.rounds)


def compare(name: str, run_tuned: Callable[[], int], run_job: Callable[[], int], rounds: int) -> None:
    """Print the row of one work.  The first round warms both and does not count."""
    pairs = []
    for number in range(rounds + 1):
        taken = {}
        for run in (run_tuned, run_job) if number % 2 else (run_job, run_tuned):
            began_s = time.perf_counter()
            keys = run()
            taken[run] = time.perf_counter() - began_s, keys
        if taken[run_tuned][1] != taken[run_job][1]:
            raise SystemExit(f"{name}: {taken[run_tuned][1]} keys and {taken[run_job][1]} keys")
        pairs.append((taken[run_tuned][0], taken[run_job][0]))
    tuned_s, job_s = zip(*pairs[1:], strict=True)
    ratios = [job / tuned for tuned, job in pairs[1:]]
    print(
        f"| {name} | {statistics.median(tuned_s):.2f} | {statistics.median(job_s):.2f} | "
        f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}) |",
        flush=True,
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", default="dask", choices=sorted(CLIENTS))
    parser.add_argument("--work", default=",".join(WORKS), help="names (%(default)s)")
    parser.add_argument("--size", default="50MB", type=parse_size, help="of the texts; a fifth for the index")
    parser.add_argument("--items", default=20_000, type=int, help="tiny items (%(default)s)")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--procs", default=2, type=int, help="processes of the engine (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
