"""Maps that wait, as for a network: a hundred at once in one executor."""

import sys
import time

WAIT_S = 0.05

datasource = [(number, WAIT_S) for number in range(int(sys.argv[1]))]
options = {"greenlets": 100}


def mapfn(number, seconds):
    time.sleep(seconds)
    yield number % 10, 1


def reducefn(key, ones):
    return sum(ones)
