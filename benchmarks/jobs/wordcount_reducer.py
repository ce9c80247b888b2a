"""Count the words of a folder of texts, with a reducer that the engine recognises."""

import re
import sys

from mmgevent import Files
from mmgevent.reducers import sum_values

datasource = Files(sys.argv[1], errors="replace")


def mapfn(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1


reducefn = sum_values
