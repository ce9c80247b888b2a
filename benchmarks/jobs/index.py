"""List, for each word of a folder of texts, the files it is in; every record travels."""

import re
import sys

from mmgevent import Files

datasource = Files(sys.argv[1], errors="replace")


def mapfn(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, path


def reducefn(word, paths):
    return list(dict.fromkeys(paths))
