"""Count the words of a folder of texts; added up on each executor by a function of the user's."""

import re
import sys

from mmgevent import Files

datasource = Files(sys.argv[1], errors="replace")


def mapfn(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


def reducefn(word, counts):
    return sum(counts)


collectfn = reducefn
