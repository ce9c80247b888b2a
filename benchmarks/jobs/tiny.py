"""Tens of thousands of items that are hardly any work: what an item costs."""

import sys

datasource = [(number, None) for number in range(int(sys.argv[1]))]


def mapfn(number, _):
    yield number % 100, number * number


def reducefn(key, squares):
    return sum(squares)


collectfn = reducefn
