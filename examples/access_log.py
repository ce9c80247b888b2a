"""Count the answers of a web server by status and hour, and the lines that are none by their kind.

    $ mmg-run examples/access_log.py /var/log/nginx/access.log*     # plain and .gz together
    $ ssh web cat /var/log/nginx/access.log.1 | mmg-run examples/access_log.py

Shows: files that are compressed or not, standard input where no path is given, and bad lines that
are counted under a key of their own. A file that was cut off ends the job; with
`--set max_skipped=3` up to three such files are set aside and named.
"""

import re
import sys

from mmgevent import Lines
from mmgevent.reducers import sum_values

#: 203.0.113.7 - - [27/Nov/2026:07:04:35 +0000] "GET / HTTP/1.1" 200 512 ...
ANSWER = re.compile(r'\S+ \S+ \S+ \[(\d+/\w+/\d+:\d+)[^]]*\] "(?:[^"\\]|\\.)*" (\d{3}) ')

datasource = Lines(sys.argv[1:] or "-", errors="replace")


def mapfn(place, line):
    answer = ANSWER.match(line)
    if answer:
        hour, status = answer.groups()
        yield (status, hour), 1
    elif not line.strip():
        yield "blank lines", 1
    else:
        yield "bad lines", 1


reducefn = sum_values
