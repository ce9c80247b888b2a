"""mincemeat.py: a server that hands out items, and as many clients as there are to be processes.

`import mincemeat` has to give a version for Python 3 (the one on PyPI is for Python 2): any that keeps
`Server.run_server(password=, port=)` and `Client.conn(host, port, password)`. Its functions travel as bare code, so each
imports what it needs.
"""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import numbers_of, paths_of, ranges_of

TITLE = "mincemeat"
CANNOT = {"wait": "as many waits at once as processes", "blocks": "arrays as records"}
MODULE = "mincemeat"
PASSWORD = "benchmark-on-loopback"
#: what a client runs; it tries until the server listens
CLIENT = """
import sys, time
import {module} as mincemeat
for _ in range(500):
    client = mincemeat.Client()
    try:
        client.conn("127.0.0.1", int(sys.argv[1]), sys.argv[2])
        break
    except OSError:
        time.sleep(0.01)
"""


def missing():
    try:
        importlib.import_module(MODULE)
    except ImportError as error:
        return f"import {MODULE}: {error}"
    return None


def count_text(path, _):
    from benchmarks import maps, works

    yield from maps.count_words(path, works.read_text(path))


def index_text(path, _):
    from benchmarks import maps, works

    yield from maps.index_words(path, works.read_text(path))


def square(number, _):
    yield number % 100, number * number


def count_line(number, line):
    for word in line.split():
        yield word.lower(), 1


def spread(low, end):
    from benchmarks import maps

    yield from maps.spread(low, end)


def add_up(key, values):
    return sum(values)


def add_up_list(key, values):
    return [sum(values)]


def unique(key, names):
    return sorted(set(names))


def items_of(work, argument):
    """Return the map function and the datasource, a mapping, of a work."""
    if work in ("wordcount", "index"):
        return count_text if work == "wordcount" else index_text, dict.fromkeys(paths_of(argument))
    if work == "tiny":
        return square, dict.fromkeys(numbers_of(argument))
    if work == "start":
        return count_line, dict(enumerate(maps.LINES))
    return spread, dict(ranges_of(argument))


def run(module):
    work, argument, output, procs = read_request()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = CLIENT.format(module=module)
    clients = [subprocess.Popen([sys.executable, "-c", code, str(port), PASSWORD]) for _ in range(procs)]
    try:
        server = importlib.import_module(module).Server()
        server.mapfn, server.datasource = items_of(work, argument)
        server.reducefn = unique if work == "index" else add_up
        if work != "index":
            server.collectfn = add_up_list
        write_answer(output, server.run_server(password=PASSWORD, port=port).items())
    finally:
        for client in clients:
            client.kill()
            client.wait()


if __name__ == "__main__":
    run(MODULE)
