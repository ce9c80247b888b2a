"""Functions that a cluster calls. Executors import this module, so it imports little."""

import os
import time

#: Longest wait of a call for its test, seconds.
WAIT_S = 60.0


class Unfit(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Returned:
    """Can be pickled there, and not unpickled here."""

    def __reduce__(self):
        return unpickle_there_only, (os.getpid(),)


def unpickle_there_only(pid):
    if os.getpid() != pid:
        raise LookupError("it stays where it is")
    return Returned()


def power(base, *, exponent=2):
    return base**exponent


def where(n):
    return n, os.getpid()


def adder(offset):
    return lambda n: n + offset


def apply(function, argument):
    return function(argument)


def is_reversed(one, other):
    return one[::-1] == other


def fail(how):
    if how == "plain":
        raise ValueError("no such thing")
    if how == "exit":
        raise SystemExit(3)
    if how == "unfit":
        raise Unfit(1, 2)
    if how == "death":
        os._exit(7)
    if how == "lock":
        import threading

        return threading.Lock()
    if how == "there":
        return Returned()
    return how


def wait(path):
    """Return once this file is gone."""
    until_s = time.monotonic() + WAIT_S
    while os.path.exists(path):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    return "done"
