"""Count the words of a folder of texts with a generator over `mmgevent.text.words`."""

import sys

from mmgevent import Files
from mmgevent.reducers import sum_values
from mmgevent.text import words

datasource = Files(sys.argv[1], errors="replace")


def mapfn(path, text):
    for word in words(text):
        yield word, 1


reducefn = sum_values
