"""Add up numbers by a key, where keys are nearly as many as records: what the way from map to reduce costs."""

import sys

from benchmarks.works import ranges_of

SPREAD = 2_654_435_761

datasource = ranges_of(sys.argv[1])


def mapfn(low, end):
    high, width = end
    for number in range(low, high):
        yield number * SPREAD % width, number


def reducefn(key, numbers):
    return sum(numbers)


collectfn = reducefn
