"""Rank the pages of a web by the links between them: a chain of stages in a loop.

    $ mmg-run --sort -value --top 5 examples/pagerank.py              # a small web that it makes
    $ mmg-run examples/pagerank.py LINKS.txt                          # lines of "page linked page"

Shows: `then` in a loop. Each round is a stage, whose items are the results of the round before: they
stay where they are, and only the last ones come back. A page that links nowhere keeps its share.
"""

import random
import sys

import mmgevent as mmg

ROUNDS = 10
PAGES = 200  # of the web that it makes
DAMPING = 0.85


def read_link(place, line):
    page, *linked = line.split()
    yield from [(page, to) for to in linked] + [(to, None) for to in linked]


def begin(page, linked):
    """Reduce: a page has its rank, and the pages that it links to."""
    return 1.0, sorted({to for to in linked if to is not None}) or [page]


def share(page, ranked):
    rank, linked = ranked
    yield page, linked
    yield from ((to, rank / len(linked)) for to in linked)


def gather(page, values):
    """Reduce: the rank is made of what others give; the list is the page's own links."""
    linked = next(value for value in values if isinstance(value, list))
    return 1 - DAMPING + DAMPING * sum(sorted(value for value in values if value is not linked)), linked


rng = random.Random(1)
made = [(n, f"p{n} p{rng.randrange(n + 1)} p{int(PAGES * rng.random() ** 3)}") for n in range(PAGES)]
job = mmg.Job(mmg.Lines(sys.argv[1:]) if sys.argv[1:] else made, read_link, begin)
for _ in range(ROUNDS):
    job = job.then(share, gather)
job = job.then(lambda page, ranked: [(page, round(ranked[0], 6))], mmg.reducers.first_value)
