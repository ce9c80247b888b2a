"""mmg-run with a generator over `mmgevent.text.words`, and `reducers.sum_values`."""

from __future__ import annotations

from benchmarks.engines import Request, on_mmgevent
from benchmarks.works import WORKS

TITLE = "mmgevent, words"
CANNOT = dict.fromkeys((work for work in WORKS if work != "wordcount"), "counts words only")


def command(request: Request) -> list[str]:
    return on_mmgevent.command(request, f"{request.work}_words")
