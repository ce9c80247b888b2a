"""Count the words of a folder of texts with `mmgevent.text`: from the bytes of a file to its sums in C."""

import sys

from mmgevent import Files
from mmgevent.reducers import sum_values
from mmgevent.text import count_words

datasource = Files(sys.argv[1], errors="replace")
mapfn = count_words()
reducefn = sum_values
