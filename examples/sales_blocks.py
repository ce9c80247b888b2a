"""Add up sales by customer, from Parquet files, without an object for each row.

    $ mmg-run examples/sales_blocks.py sales/*.parquet

Shows: blocks. Two columns of a table are many records at once, and are added up as numbers. Without
paths it makes a small input.

Files need the columns `customer` (int) and `amount` (a number).
"""

import sys
import tempfile

from mmgevent import Block, Parquet
from mmgevent.reducers import sum_values


def small_input():
    import pyarrow
    import pyarrow.parquet

    folder = tempfile.TemporaryDirectory()
    table = pyarrow.table({"customer": [1, 2, 3] * 1000, "amount": [n / 4 for n in range(3000)]})
    pyarrow.parquet.write_table(table, f"{folder.name}/sales.parquet", row_group_size=500)
    return folder


folder = None if sys.argv[1:] else small_input()  # it lasts as long as the name
datasource = Parquet(sys.argv[1:] or folder.name, columns=["customer", "amount"], as_="arrow")
reducefn = sum_values


def mapfn(place, table):
    yield Block(table["customer"], table["amount"])
