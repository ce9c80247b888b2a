"""Ask every worker who it is.

    $ mmg-run examples/stats.py                     # one line: the worker of this machine
    $ mmg-run --join HOST examples/stats.py         # a line for each mmg-worker of that mmg-server

Shows: allocation="oneshot". Usually a free slot gets the next item. Here every worker gets exactly
one item. A worker is a connected mmg-worker, however many processes it has.

- Workers that are present when the job starts get an item. So do those that join while others are
  still answering, for 10 s after the first answer at most.
- The datasource never ends, since nobody knows how many workers there are. Only as many items are
  read as are sent.
- A worker that is lost before it has answered is missing from the results, and mmg-run says so.

A oneshot job can also prepare something on every worker, or clean it up. (With --inline there is no
worker, and the answer is about some parent of mmg-run.)
"""

import itertools
import os
import platform

import psutil

options = {"allocation": "oneshot"}


def datasource():
    return ((number, None) for number in itertools.count())


def mapfn(number, _):
    # This runs in an executor, which the worker's template has forked: the worker is two up.
    worker = psutil.Process().parents()[1]
    host = platform.node()
    yield (
        f"{host}/{worker.pid}",
        {
            "host": host,
            "platform": platform.platform(),
            "load": os.getloadavg()[0],  # processes that want to run, mean of the last minute
            "python": platform.python_version(),
            "pid": worker.pid,
        },
    )


def finishfn(answers):
    for worker, [facts] in sorted(answers):  # the list of the values of a key has one element
        yield worker, facts
