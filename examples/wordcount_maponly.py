"""Count the words of text files, without a reduce function.

    $ mmg-run examples/wordcount_maponly.py books/*.txt

Shows: a mapfn that returns a mapping, here the counts of a whole file, and a job without reducefn.
Each word gets the list of its values, one a file, and finishfn adds them up in the process that
started the job. This is fine if the map functions return little, since one process does all the
adding. Otherwise wordcount.py is the better way.
"""

import collections
import re
import sys

from mmgevent import Files

datasource = Files(sys.argv[1:], errors="replace")


def mapfn(path, text):
    return collections.Counter(re.findall(r"[a-z']+", text.lower()))


def finishfn(word, counts):
    return sum(counts)
