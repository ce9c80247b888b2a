"""A job whose functions say where they are and wait until they are told to go on.

What it gives shows every item that was lost, counted twice or out of order.
"""

import os
import socket

import mmgevent as mmg

ITEMS = 24
KEYS = 12
#: bytes that every result carries along, so that results fill the windows on their way
RESULT_BYTES = 256 * 1024
#: the item whose records are more than an executor holds at once, so that most are sent before the item is over
LARGE_ITEM = ITEMS // 2
#: a quarter of it may be records
MEMORY_LIMIT = "128MiB"
_LARGE_RECORDS = 34
_LARGE_RECORD_BYTES = 1024 * 1024

#: {key: numbers of its items in the order of the datasource}
EXPECTED = {key: list(range(key, ITEMS, KEYS)) for key in range(KEYS)}


def report(path, what):
    """Say what is about to happen, to a `machines.Reports` there; return when it may."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(f"{os.getpid()} {what}".encode())
        sock.recv(1)


def reporting_job(path, *, large_item=LARGE_ITEM, finishfn=None, **options):
    """Return a job that reports "map", "flushed" and "mapped" with the item, and "reduce" with the key."""

    def mapfn(number, value):
        report(path, f"map {number}")
        if number == large_item:
            for _ in range(_LARGE_RECORDS):
                yield number % KEYS, (None, os.urandom(_LARGE_RECORD_BYTES))
            report(path, f"flushed {number}")
        yield number % KEYS, (number, b"")
        report(path, f"mapped {number}")

    def reducefn(key, values):
        report(path, f"reduce {key}")
        return [number for number, _ in values if number is not None], bytes(RESULT_BYTES)

    def items():
        return ((number, number) for number in range(ITEMS))

    options = {"memory_limit": MEMORY_LIMIT, **options}
    return mmg.Job(items, mapfn, reducefn, finishfn=finishfn, name="reporting", **options)


def assert_right(results):
    """Such a job gave every key once, with every item once, in order."""
    assert sorted((key, numbers) for key, (numbers, _) in results) == sorted(EXPECTED.items())
