"""Add up numbers by a key, with a reducer that the engine recognises."""

import sys

from benchmarks.works import ranges_of
from mmgevent.reducers import sum_values

SPREAD = 2_654_435_761

datasource = ranges_of(sys.argv[1])


def mapfn(low, end):
    high, width = end
    for number in range(low, high):
        yield number * SPREAD % width, number


reducefn = sum_values
