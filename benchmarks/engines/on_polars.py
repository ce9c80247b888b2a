"""Polars: a frame of the same arrays, one group_by."""

from __future__ import annotations

import os

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import WORKS, blocks_of

TITLE = "Polars"
NEEDS = "polars"
CANNOT = dict.fromkeys((work for work in WORKS if work != "blocks"), "here for arrays only")


def main():
    _, argument, output, procs = read_request()
    os.environ["POLARS_MAX_THREADS"] = str(procs)  # read when it is imported
    import polars

    frames = (
        polars.DataFrame(dict(zip(("key", "value"), maps.spread_arrays(*item), strict=True)))
        for item in blocks_of(argument)
    )
    sums = polars.concat(frames).group_by("key").agg(polars.col("value").sum())
    write_answer(output, sums.iter_rows())


if __name__ == "__main__":
    main()
