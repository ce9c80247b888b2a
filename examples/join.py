"""Join two files of tab-separated lines by their first column.

    $ printf '1\\tAda\\n2\\tGrace\\n' > people.tsv
    $ printf '1\\tloom\\n2\\tcompiler\\n2\\tmoth\\n3\\tlost\\n' > things.tsv
    $ mmg-run examples/join.py people.tsv things.tsv
    1	["Ada", "loom"]
    2	["Grace", "compiler"]
    2	["Grace", "moth"]

Shows: an inner join, by

- sources that add up with +;
- records with a tag that says which file they are from, so that reducefn can tell the sides apart;
- a reducefn of the iterator form, which may yield any number of records for a key.

This reducefn yields every pair of a line on the left and one on the right. It needs the lines of
one key in memory, never those of all keys. The order of the keys is unspecified: sort the output if
it matters.
"""

import argparse
import os

from mmgevent import Lines

parser = argparse.ArgumentParser(prog="join.py")
parser.add_argument("left")
parser.add_argument("right")
given = parser.parse_args()
for path in (given.left, given.right):
    if not os.path.isfile(path):  # for a folder or a glob, mapfn could not tell the side
        parser.error(f"{path} is not a file: name two files of lines")
if given.left == given.right:
    parser.error(f"both sides are {given.left}: name two files")
LEFT = given.left

datasource = Lines(LEFT) + Lines(given.right)


def mapfn(place, line):
    path, _offset = place
    key, tab, rest = line.partition("\t")
    if not tab:
        raise ValueError(f"expected KEY TAB REST, got the line {line!r}")
    yield key, ("left" if path == LEFT else "right", rest)


def reducefn(groups):
    for key, tagged in groups:
        lefts = [rest for side, rest in tagged if side == "left"]
        for side, right in tagged:
            if side == "right":
                for left in lefts:
                    yield key, (left, right)
