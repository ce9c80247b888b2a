"""Items of a tenth of a second each, which say how much of a core they had: what an engine leaves to the user's code."""

import sys
import time

ITEM_S = 0.1

options = {"partitions": 32}

datasource = [(number, ITEM_S) for number in range(int(sys.argv[1]))]


def mapfn(number, seconds):
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - began_s < seconds:
        pass
    yield "cpu seconds", time.process_time() - began_cpu_s


def reducefn(key, seconds):
    return sum(seconds)
