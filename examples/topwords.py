"""Find the most frequent words of text files.

    $ mmg-run examples/topwords.py books/*.txt
    $ mmg-run examples/topwords.py ~/src            # folders: every file below, but hidden ones

Shows: a known reducer, which mmgevent applies in C before the records travel; and a finishfn of the
iterator form. It sees all results at once, in this process, and its order is the order of the
output.
"""

import heapq
import re
import sys

from mmgevent import Files
from mmgevent.reducers import sum_values

HOW_MANY = 20

datasource = Files(sys.argv[1:], errors="replace")


def mapfn(path, text):
    for word in re.findall(r"[a-z_]+", text.lower()):
        yield word, 1


reducefn = sum_values


def finishfn(results):
    return heapq.nlargest(HOW_MANY, results, key=lambda result: (result[1], result[0]))
