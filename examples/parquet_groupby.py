"""Add up sales by region, from Parquet files.

    $ mmg-run examples/parquet_groupby.py sales/*.parquet

Shows: two columns of Parquet files, as tables of pyarrow. Without paths it makes a small input.

Executors read row groups, so one file keeps all cores busy. pyarrow adds up the rows of a table, and
mmgevent what came of the tables. Files need the columns `region` and `amount`.
"""

import sys
import tempfile

from mmgevent import Parquet
from mmgevent.reducers import sum_values


def small_input():
    import pyarrow
    import pyarrow.parquet

    folder = tempfile.TemporaryDirectory()
    regions = ["north", "south", "east"]
    table = pyarrow.table({"region": regions * 1000, "amount": list(range(3000))})
    pyarrow.parquet.write_table(table, f"{folder.name}/sales.parquet", row_group_size=500)
    return folder


folder = None if sys.argv[1:] else small_input()  # it lasts as long as the name
datasource = Parquet(sys.argv[1:] or folder.name, columns=["region", "amount"], as_="arrow")
reducefn = sum_values


def mapfn(place, table):
    sums = table.group_by("region").aggregate([("amount", "sum")])
    yield from zip(sums["region"].to_pylist(), sums["amount_sum"].to_pylist(), strict=True)
