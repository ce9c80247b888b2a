"""Count the words of text files.

    $ mmg-run examples/wordcount.py books/*.txt | sort -t "$(printf '\\t')" -k2,2nr | head

Shows: a datasource of files, which are read where they are mapped, and a collectfn that adds up on
the worker, so that few bytes travel. Without errors="replace" a file that is not UTF-8 ends the
job, with its name and the offset of the byte.
"""

import re
import sys

from mmgevent import Files

datasource = Files(sys.argv[1:], errors="replace")


def mapfn(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


def reducefn(word, counts):
    return sum(counts)


collectfn = reducefn
