"""The map functions of the benchmarks: every engine runs these same generators.

Job files of mmgevent hold copies, since a job file is what a user would write; a test holds
the two to one another.
"""

from __future__ import annotations

import re
import time

#: spreads consecutive numbers over a range of keys: a prime, so that no two of a short run meet
SPREAD = 2_654_435_761

LINES = (
    "Humpty Dumpty sat on a wall",
    "Humpty Dumpty had a great fall",
    "All the King's horses and all the King's men",
    "Couldn't put Humpty together again",
)


def count_words(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


def index_words(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, path


def square(number, _):
    yield number % 100, number * number


def count_line(number, line):
    for word in line.split():
        yield word.lower(), 1


def spread(low, end):
    high, width = end
    for number in range(low, high):
        yield number * SPREAD % width, number


def spread_arrays(low, end):
    """Return what `spread` yields, as an array of keys and one of values."""
    import numpy as np

    high, width = end
    numbers = np.arange(low, high)
    return numbers * SPREAD % width, numbers


def wait(number, seconds):
    time.sleep(seconds)
    yield number % 10, 1


def add_up(key, values):
    return sum(values)
