"""Sums of amounts by region, from records of files: `job.py KIND FOLDER`."""

import sys

from benchmarks.records.maps import (
    RECORD_BYTES,
    amount_of_bytes,
    amount_of_dict,
    amount_of_table,
    amount_of_tuple,
)
from mmgevent import Bytes, Csv, JsonLines, Parquet
from mmgevent.reducers import sum_values

KIND, FOLDER = sys.argv[1:]

datasource, mapfn = {
    "csv": (Csv(FOLDER), amount_of_dict),
    "csv-tuples": (Csv(FOLDER, header=False), amount_of_tuple),
    "jsonl": (JsonLines(FOLDER), amount_of_dict),
    "bytes": (Bytes(FOLDER, record_bytes=RECORD_BYTES), amount_of_bytes),
    "parquet": (Parquet(FOLDER, columns=["region", "amount"]), amount_of_dict),
    "parquet-arrow": (Parquet(FOLDER, columns=["region", "amount"], as_="arrow"), amount_of_table),
}[KIND]

reducefn = sum_values
