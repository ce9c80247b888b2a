"""Cut the visits of each user into sessions, in the order of time.

    $ mmg-run -o sessions.jsonl examples/sessions.py visits.csv [visits2.csv ...]

The files have columns user, time (ISO 8601) and page. A pause of half an hour begins a new session.

Shows: sort_values. reducefn gets the visits of a user as (time, page), the earliest first, whatever
the order of the files. It needs no sorted(), and the visits need not fit into memory.
"""

import sys
from datetime import datetime, timedelta

from mmgevent import Csv

PAUSE = timedelta(minutes=30)

datasource = Csv(sys.argv[1:])
sort_values = True


def mapfn(place, row):
    yield row["user"], (datetime.fromisoformat(row["time"]), row["page"])


def reducefn(user, visits):
    sessions = []
    last = None
    for time, page in visits:
        if last is None or time - last > PAUSE:
            sessions.append([])
        sessions[-1].append(page)
        last = time
    return sessions
