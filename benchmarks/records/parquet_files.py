"""Make Parquet files of sales, and read them by hand."""

import itertools
from pathlib import Path

import pyarrow
import pyarrow.parquet

#: Rows of a row group: what DuckDB and Polars write is of this order.
GROUP_ROWS = 128 * 1024

#: Rows whose values are drawn; files repeat them.
DRAWN_ROWS = 100_000


def write_files(many: Path, one: Path, count: int, size_bytes: int, source):
    """Write `count` files of `size_bytes` in all, and one with all their rows."""
    drawn = list(itertools.islice(source, DRAWN_ROWS))
    table = pyarrow.table({name: [row[name] for row in drawn] for name in drawn[0]})
    with pyarrow.parquet.ParquetWriter(one, table.schema) as whole:
        for number in range(count):
            path = many / f"{number:02}"
            pyarrow.parquet.write_table(table, path, row_group_size=GROUP_ROWS)
            parts = max(1, round(size_bytes / count / path.stat().st_size))
            rows = pyarrow.concat_tables([table] * parts)
            pyarrow.parquet.write_table(rows, path, row_group_size=GROUP_ROWS)
            whole.write_table(rows, row_group_size=GROUP_ROWS)


def read_rows(path):
    """Yield rows as dicts."""
    number = 0
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(
        columns=["region", "amount"], use_threads=False
    ):
        for row in batch.to_pylist():
            yield (path, number), row
            number += 1


def read_tables(path):
    """Yield tables, one for each row group."""
    file = pyarrow.parquet.ParquetFile(path)
    for number in range(file.num_row_groups):
        yield (path, number), file.read_row_group(number, columns=["region", "amount"], use_threads=False)
