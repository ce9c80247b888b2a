"""Sums of amounts by region, from records of files: `job.py KIND FOLDER`."""

import sys

from benchmarks.records.maps import RECORD_BYTES, amount_of_bytes, amount_of_dict, amount_of_tuple
from mmgevent import Bytes, Csv, JsonLines
from mmgevent.reducers import sum_values

KIND, FOLDER = sys.argv[1:]

datasource, mapfn = {
    "csv": (Csv(FOLDER), amount_of_dict),
    "csv-tuples": (Csv(FOLDER, header=False), amount_of_tuple),
    "jsonl": (JsonLines(FOLDER), amount_of_dict),
    "bytes": (Bytes(FOLDER, record_bytes=RECORD_BYTES), amount_of_bytes),
}[KIND]

reducefn = sum_values
