"""Functions that a cluster calls. Executors import this module, so it imports little."""

import os
import time


class Unfit(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def power(base, *, exponent=2):
    return base**exponent


def adder(offset):
    return lambda n: n + offset


def apply(function, argument):
    return function(argument)


def is_reversed(one, other):
    return one[::-1] == other


def fail(how):
    if how == "plain":
        raise ValueError("no such thing")
    if how == "unfit":
        raise Unfit(1, 2)
    if how == "death":
        os._exit(7)
    return how


def wait(path):
    while os.path.exists(path):
        time.sleep(0.01)
    return "done"
