"""Ask a cluster from a prompt.

    $ mmg-worker --elect localhost             # optional, on as many machines as you like
    $ python examples/repl.py
    words of> books/*.txt ~/mail
    28711  the
    ...
    words of>                                  # an empty line: which workers are there?
    ada/4711  Linux-6.1-x86_64  load 0.4  python 3.11.2

Shows: jobs at any time, from any of several programs. A job that fails prints its error, and the
prompt returns. All workers count the words of a line of globs. An empty line is a oneshot job, in
which every worker gets one item. Ctrl-C cancels a running job; at the prompt it ends the program,
as Ctrl-D does. Lines may also be read from a pipe.
"""

import argparse
import heapq
import itertools
import os
import platform
import re
import shlex
import sys

import psutil

import mmgevent as mmg
from mmgevent.reducers import sum_values

HOW_MANY = 10
PROMPT = "words of> "


def count(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


def best(counts):
    """Finish: the most frequent words, highest count first."""
    return heapq.nlargest(HOW_MANY, counts, key=lambda item: (item[1], item[0]))


def ask(number, _):
    """Map: who the worker is. This runs in an executor; the worker is two processes up."""
    pid = psutil.Process().parents()[1].pid
    load = os.getloadavg()[0]  # processes that want to run, mean of the last minute
    facts = f"{platform.platform()}  load {load:.1f}  python {platform.python_version()}"
    yield f"{platform.node()}/{pid}", facts


def make_job(line):
    patterns = [os.path.expanduser(pattern) for pattern in shlex.split(line)]
    if patterns:
        return mmg.Job(mmg.Files(patterns, errors="replace"), count, sum_values, finishfn=best, name="words")
    everybody = ((number, None) for number in itertools.count())  # read only as far as there are workers
    return mmg.Job(everybody, ask, allocation="oneshot", name="workers")


def answer(node, line):
    """Run the job of one line and print its results."""
    try:
        handle = node.submit(make_job(line), on_notice=say)
        try:
            results = handle.result()
        except KeyboardInterrupt:
            handle.cancel()
            say("cancelled")
            return
    except (mmg.MmgeventError, ValueError) as error:  # ValueError: a quote is not closed
        say(error)
        return
    for key, value in results.items():
        print(f"{value}  {key}" if line.strip() else f"{key}  {value[0]}", flush=True)


def say(text):
    print(text, file=sys.stderr, flush=True)


def keep_history(path):
    """Give `input` line editing, and the lines of the last run."""
    import atexit

    try:
        import readline
    except ImportError:  # a Python built without it
        return
    if os.path.exists(path):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    atexit.register(readline.write_history_file, path)


def main():
    parser = argparse.ArgumentParser(prog="repl.py")
    parser.add_argument("address", nargs="?", default="localhost", metavar="HOST[:PORT]")
    parser.add_argument("--procs", type=int, default=1, metavar="N", help="of this machine, 0: only ask (1)")
    parser.add_argument("--history", default=os.path.expanduser("~/.mmgevent_history"), metavar="PATH")
    given = parser.parse_args()
    if is_terminal := sys.stdin.isatty():
        keep_history(given.history)
    with mmg.Node(given.address, procs=given.procs) as node:
        while True:
            try:
                line = input(PROMPT if is_terminal else "")
            except (EOFError, KeyboardInterrupt):
                break
            answer(node, line)
    if is_terminal:
        print()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except mmg.MmgeventError as error:
        raise SystemExit(f"repl.py: {error}") from None
