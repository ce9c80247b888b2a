"""Add up numbers by a key, in blocks of arrays."""

import sys

import numpy as np

from benchmarks.works import blocks_of
from mmgevent import Block
from mmgevent.reducers import sum_values

SPREAD = 2_654_435_761

datasource = blocks_of(sys.argv[1])


def mapfn(low, end):
    high, width = end
    numbers = np.arange(low, high)
    yield Block(numbers * SPREAD % width, numbers)


reducefn = sum_values
