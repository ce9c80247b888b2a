"""Items that keep a core busy for a ms or so each, with nothing to read and next to nothing to send."""

import sys

TURNS = 20_000

options = {"partitions": 32}  # however many workers there are: the job is to be the same

datasource = [(number, TURNS) for number in range(int(sys.argv[1]))]


def mapfn(number, turns):
    total = 0
    for i in range(turns):
        total += i ^ number
    yield number % 10, total


def reducefn(key, totals):
    return sum(totals)
