"""Compress files into an output folder.

    $ mmg-run examples/convert.py compressed books/*.txt
    $ ls compressed/home/ada/books

Shows: a map with effects outside, done safely. A function may run more than once for one
item, since a worker may be lost, even at once, since one that was thought lost may be alive.
The records count once whatever happens; what a function does to the world is its own care:

- retransmit=0 asks for no duplicates of slow tasks, which would be work for nothing here;
- the file is written under a temporary name that no other process uses, then os.replace
  puts it in place: under its own name there is all of it or nothing, and of two that
  do the same work the second replaces the first by the same bytes;
- whoever fails removes the temporary file. Whoever is killed cannot: it stays behind, and its
  name begins with a dot.

The whole path is kept below the output folder, so that no two files have the same target.
Workers on other machines must see that folder under the same path.
"""

import argparse
import gzip
import os
import platform
from pathlib import Path

from mmgevent import Files
from mmgevent.reducers import sum_values

parser = argparse.ArgumentParser(prog="convert.py")
parser.add_argument("folder", type=os.path.abspath)
parser.add_argument("paths", nargs="+", type=os.path.abspath, metavar="path")
given = parser.parse_args()
FOLDER = given.folder

datasource = Files(given.paths, binary=True)
options = {"retransmit": 0}


def mapfn(path, content):
    target = Path(FOLDER, path.lstrip("/") + ".gz")
    target.parent.mkdir(parents=True, exist_ok=True)
    converted = gzip.compress(content, mtime=0)  # no time in it: the same bytes in every attempt
    _write_safely(target, converted)
    yield "files", 1
    yield "bytes before", len(content)
    yield "bytes after", len(converted)


def _write_safely(target, content):
    temporary = target.with_name(f".{target.name}.{platform.node()}-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


reducefn = sum_values
