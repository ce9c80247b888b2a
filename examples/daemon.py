"""Keep a node in the background of a program that has something else to do.

    $ python examples/daemon.py
    1000000
    20000
    below 20000: 2262 primes
    below 1000000: 78498 primes
    $ seq 10000 10000 100000 | python examples/daemon.py

Shows: a program that reads lines and never waits for its jobs. Each line is a number, and each
number is a job. The thread of the job prints the answer (`add_done_callback`), and a short job
overtakes a long one. Start the program several times, and the programs work for one another.

At the end of the input the node waits for running jobs and their callbacks. At SIGTERM or Ctrl-C it
cancels them, because an exception leaves `with`.
"""

import argparse
import functools
import signal
import sys

import mmgevent as mmg
from mmgevent.reducers import sum_values

CHUNK = 5_000  # numbers in an item


def mapfn(first, end):
    """Count the primes from `first` to before `end`."""
    for n in range(max(first, 2), end):
        if all(n % divisor for divisor in range(2, int(n**0.5) + 1)):
            yield "primes", 1


def make_job(limit):
    chunks = [(first, min(first + CHUNK, limit)) for first in range(0, limit, CHUNK)]
    return mmg.Job(chunks, mapfn, sum_values, name=f"primes below {limit}")


def report(limit, handle):
    """Print the result of a job; called by its thread."""
    try:
        answer = f"{handle.result().get('primes', 0)} primes"
    except mmg.MmgeventError as error:
        answer = str(error)
    print(f"below {limit}: {answer}\n", end="", flush=True)  # in one piece: others print too


def main():
    parser = argparse.ArgumentParser(prog="daemon.py")
    parser.add_argument("address", nargs="?", default="localhost", metavar="HOST[:PORT]")
    address = parser.parse_args().address
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with mmg.Node(address) as node:
        for line in sys.stdin:
            try:
                limit = int(line)
                node.submit(make_job(limit)).add_done_callback(functools.partial(report, limit))
            except ValueError:
                print(f"expected a number, got {line.strip()!r}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except mmg.MmgeventError as error:
        raise SystemExit(f"daemon.py: {error}") from None
