"""mmg-server logs: print what the functions of a job print and log, while it runs or after its end.

The server keeps the last lines of each job. Whoever looks asks for what came after a number, at most
twice a second, and keeps nothing: a slow terminal costs nobody any memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmgevent.cli.exits import print_out, say
from mmgevent.cli.options import Arguments, Option
from mmgevent.errors import UsageError
from mmgevent.shown_text import shown
from mmgevent.wire.prints import find_record

if TYPE_CHECKING:
    from mmgevent.engine.looking import Looker

Row = dict[str, Any]

SINCE = Option(
    ("--since",),
    "WHEN",
    "start (the default): begin with the first line that the server has kept; now: with the next one",
)
NO_FOLLOW = Option(("--no-follow",), "", "print what there is, and do not wait for more")


def check_since(when: str | None) -> None:
    """Raise UsageError unless `when` is a time from which on lines can be printed."""
    if when not in (None, "start", "now"):
        raise UsageError(f"--since {shown(repr(when))}: expected start or now")


def print_logs(command: str, looker: Looker, job: str, arguments: Arguments) -> int:
    """Print the lines of a job until it is over, and return the exit code.

    Raises UsageError if the server does not know the job.
    """
    write = _json_of if arguments.json else _text_of
    is_wanted = arguments.since != "now"
    after, goes_on = 0, True
    while goes_on:
        events = looker.follow("logs", job, after)
        if is_wanted and events.lost and not arguments.quiet:
            say(command, f"{events.lost:,} lines before these are forgotten: the server keeps the last ones")
        if is_wanted and events.rows:
            print_out("\n".join(map(write, events.rows)))
        is_wanted = is_wanted or not events.has_more  # what was kept ends here
        after, goes_on = events.next, events.has_more or not (events.is_over or arguments.no_follow)
    return 0


def _text_of(row: Row) -> str:
    """Return a line as `mmg-run` shows it."""
    worker, item, text = (row.get(name, "") for name in ("worker", "item", "text"))
    at = f"{worker} at {item}: " if worker and item else f"{worker}: " if worker else ""
    dropped = f"{row['dropped']:,} printed lines were dropped" if row.get("dropped") else ""
    line = f"{at}{text}" if worker or not dropped else ""
    return "\n".join(filter(None, (dropped, line))) if dropped else line


def _json_of(row: Row) -> str:
    """Return a line as an object, with level and logger of a record of `logging`."""
    level, logger = find_record(row["text"])
    fields = {
        "at": row.get("at"),
        "worker": row.get("worker", ""),
        "item": row.get("item", ""),
        "text": row["text"],
        "level": level,
        "logger": logger,
        "dropped": row.get("dropped", 0),
    }
    return json.dumps(fields)
