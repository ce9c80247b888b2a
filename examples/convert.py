"""Compress files into an output folder.

    $ mmg-run examples/convert.py compressed books/*.txt
    $ ls compressed/home/ada/books

Shows: a map function that writes files, safely. A function may run more than once for one item,
because a worker was lost. It may even run twice at the same time, because a worker that counted as
lost is still alive. Its records count once in any case, but its files are its own responsibility:

- retransmit=0 switches duplicates of slow tasks off; here they would be useless work;
- each file is written under a temporary name that no other process uses. Then os.replace gives it
  its own name, so under that name the file is complete or not there. If two processes do the same
  work, the second replaces the first by the same bytes;
- a function that fails removes its temporary file. One that is killed cannot, so a file remains
  whose name begins with a dot.

The whole path is kept below the output folder, so no two files have the same target. Workers on
other machines must see that folder under the same path.
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
    converted = gzip.compress(content, mtime=0)  # no time stamp: the same bytes in every attempt
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
