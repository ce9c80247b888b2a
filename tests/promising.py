"""Functions of jobs that keep their promises, and of jobs that do not."""

import os
import random
import time

from mmgevent import reducers

TEXT = [(number, f"the cat and the dog {number % 4}") for number in range(40)]
last_key = None
count = 0


def words(key, text):
    for word in text.split():
        yield word, 1


def words_of_all(keys, texts):
    for text in texts:
        yield from words(None, text)


def lengths(key, text):
    yield len(text) % 2, key


def shares(key, text):
    yield key % 2, key / 7


def add(key, values):
    return sum(values)


def add_all(groups):
    for key, values in groups:
        yield key, sum(values)


def swap(key, value):
    yield value, key


def ordered(key, values):
    return sorted(values)


def concatenate(key, values):
    return "".join(map(str, values))


def count_calls(key, text):
    global count
    count += 1
    yield count % 3, 1


def draw(key, text):
    yield random.random(), 1


def look_at_clock(key, text):
    yield key, time.monotonic()


def look_back(key, text):
    global last_key
    before, last_key = last_key, key
    yield key, (before is not None and before > key and key % 2)


def mean(key, values):
    return sum(values) / len(values)


def rank(groups):
    for place, (key, _) in enumerate(groups):
        yield key, place


def share_of_all(groups):
    groups = list(groups)
    for key, values in groups:
        yield key, sum(values) / sum(sum(each) for _, each in groups)


def first(key, values):
    return values[0]


def count_up(key, values):
    global count
    count += 1
    return count


def one_key(key, value):
    yield "all", key


def process(key, text):
    yield "process", os.getpid()


def in_process(key, values):
    return len(values), os.getpid()


class Forgetful:
    def __init__(self, text):
        self.text = text
        self.length = len(text)

    def __getstate__(self):
        return {"text": self.text}

    def __setstate__(self, state):
        self.text, self.length = state["text"], None


class Local:
    def __reduce__(self):
        raise RuntimeError("stays here")


def forget(key, text):
    yield key, Forgetful(text)


def keep_here(key, text):
    yield key, Local()


def forget_result(key, values):
    return Forgetful(str(values))


def refuse_some(key, number):
    if number % 10 == 3:
        raise ValueError(number)
    yield number % 3, number


def refuse_some_of_all(keys, numbers):
    for key, number in zip(keys, numbers, strict=True):
        yield from refuse_some(key, number)


def known(**changes):
    return {"mapfn": words, "reducefn": reducers.sum_values, **changes}
