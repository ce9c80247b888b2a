"""List, for each word, the files that contain it.

    $ mmg-run -o index.jsonl examples/inverted_index.py books/*.txt

Shows: a job without collectfn, so that all records travel. The values of a key arrive in the order
of the datasource, so each list is in the order of the files.
"""

import re
import sys

from mmgevent import Files

datasource = Files(sys.argv[1:])


def mapfn(path, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, path


def reducefn(word, paths):
    return list(dict.fromkeys(paths))
