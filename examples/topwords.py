"""Find the most frequent words of text files.

    $ mmg-run examples/topwords.py books/*.txt
    $ mmg-run examples/topwords.py ~/src            # folders: every file below, but hidden ones

Shows: a ready mapfn and a known reducer, so words are found and counted in C; and a finishfn of the
iterator form. It sees all results at once, in this process, and its order is the order of the
output.
"""

import heapq
import sys

from mmgevent import Files
from mmgevent.reducers import sum_values
from mmgevent.text import count_words

HOW_MANY = 20

datasource = Files(sys.argv[1:], errors="replace")
mapfn = count_words(r"[a-z_]+")
reducefn = sum_values


def finishfn(results):
    return heapq.nlargest(HOW_MANY, results, key=lambda result: (result[1], result[0]))
