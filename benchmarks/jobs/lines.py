import sys

from mmgevent import Lines

datasource = Lines(sys.argv[1:] or "-")


def mapfn(number, line):
    for word in line.split():
        yield word.lower(), 1


def reducefn(key, values):
    return sum(values)


collectfn = reducefn
