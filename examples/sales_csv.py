"""Add up sales by region and month, from CSV files.

    $ mmg-run examples/sales_csv.py sales/*.csv

Shows: records of files by name, and what becomes of those that are broken.

Each file has a header with at least the columns `date` (2026-03-31), `region` and `amount`, in any
order. Large files are cut, so all cores read them, even if notes in quotes go over several lines.

A row with a field too few is a failed item, and so is one whose amount is no number. Up to one item
in a hundred may fail: each is named with file and byte offset, and all others count.
"""

import sys
from decimal import Decimal

from mmgevent import Csv

datasource = Csv(sys.argv[1:])
options = {"max_skipped": 0.01}


def mapfn(place, row):
    yield (row["region"], row["date"][:7]), Decimal(row["amount"])


def reducefn(region_and_month, amounts):
    return sum(amounts)


collectfn = reducefn


def finishfn(region_and_month, total):
    return str(total)  # the table shows 12.50, not Decimal('12.50')
