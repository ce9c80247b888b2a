"""Count words in processes that are all alike, without a master.

    $ python examples/masterless.py books/a*.txt &
    $ python examples/masterless.py books/b*.txt &
    $ python examples/masterless.py 'books/[c-z]*.txt' &
    $ wait

Shows: several programs that share their work. Each process is a node: it submits a job, works for
the jobs of the others as well, and leaves when its own job is done. The first process becomes the
server. If it leaves before the others, another process takes its place, and running jobs are
resubmitted there. Nothing has to be started before or stopped after. A single process works as
well.
"""

import argparse
import heapq
import os
import re
import sys

import mmgevent as mmg
from mmgevent.reducers import sum_values


def mapfn(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


def main():
    parser = argparse.ArgumentParser(prog="masterless.py")
    parser.add_argument("-a", "--address", default="localhost", metavar="HOST[:PORT]", help="of all of them")
    parser.add_argument("-n", type=int, default=10, metavar="N", help="how many words (10)")
    parser.add_argument("paths", nargs="+", metavar="path", help="file, glob or folder")
    given = parser.parse_args()
    job = mmg.Job(mmg.Files(given.paths, errors="replace"), mapfn, sum_values, name="masterless")
    with mmg.Node(given.address, on_state=tell) as node:
        counts = node.run(job)
    for word, count in heapq.nlargest(given.n, counts.items(), key=lambda item: (item[1], item[0])):
        print(f"{word}\t{count}")


def tell(state, reason):
    print(f"{os.getpid()} {state}{reason and f': {reason}'}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except mmg.MmgeventError as error:
        raise SystemExit(f"masterless.py: {error}") from None
