"""DuckDB: a table of the same arrays, one GROUP BY."""

from __future__ import annotations

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import WORKS, blocks_of

TITLE = "DuckDB"
NEEDS = "duckdb"
CANNOT = dict.fromkeys((work for work in WORKS if work != "blocks"), "here for arrays only")


def main():
    _, argument, output, procs = read_request()
    import duckdb
    import numpy

    columns = [
        numpy.concatenate(parts)
        for parts in zip(*(maps.spread_arrays(*i) for i in blocks_of(argument)), strict=True)
    ]
    connection = duckdb.connect(config={"threads": procs})
    connection.register("records", {"key": columns[0], "value": columns[1]})
    sums = connection.execute("SELECT key, CAST(sum(value) AS BIGINT) FROM records GROUP BY key")
    write_answer(output, sums.fetchall())


if __name__ == "__main__":
    main()
