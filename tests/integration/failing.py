"""Functions of jobs that fail, in a module that executors import at once."""

import os


def by_three(key, value):
    yield value % 3, value


def add(key, values):
    return sum(values)


def fail(key, value):
    if key == 1:
        raise ZeroDivisionError(f"at {key}")
    return by_three(key, value) if isinstance(value, int) else sum(value)


def fail_in_setup():
    raise ZeroDivisionError("at the beginning")


def read_number(key, line):
    yield "n", int(line)


def die_at_seven(key, value):
    if value == 7:
        os._exit(77)
    yield key, value


def hang_at_three(key, value):
    while value == 3:
        pass
    yield key, value


def fill_memory(key, size):
    yield key, len(bytearray(size))


def need_file(key, path):
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    yield key, path


def give_large(key, size):
    yield "big", os.urandom(size)


def fail_always(key, values):
    raise ZeroDivisionError


def fail_in_two_ways(key, value):
    if key % 3 == 1:
        raise ValueError(key)
    if key % 3 == 2:
        raise KeyError(key)
    yield key, value


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")
