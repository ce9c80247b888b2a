"""Listings: what a server says of its workers and jobs, a page at a time, and how to read them.

Whoever has the main password may ask `list_workers`, `list_jobs` and `ask`, at any time, as a
driver or as a *looker*, a client that only looks. Each question gets one answer. An answer is one
frame, so a listing has pages: an answer with `next` is followed by the rest, which the client asks
for with `after`.

With `deltas` the server remembers what it sent over this link. It sends only the rows that have
changed since, and the numbers of those that are `gone`. With `next` there are more changes now.

Rows are free-form objects, in `found`: {"rows": [...]}. `engine.server.snapshot` makes them. Texts in them come from other
people: show them with `shown`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.errors import ProtocolError
from mmgevent.shown_text import MAX_NAME_CHARS, shown

#: Questions about no job.
QUESTIONS = ("list_workers", "list_jobs", "ask")

#: Messages that answer them.
ANSWERS = frozenset({"workers", "jobs", "answer"})

#: Rows of one answer. With the longest texts they fit a frame, and the server makes them in 5 ms.
PAGE_ROWS = 100

#: Longest text in a row, bytes as JSON. A row has six texts at most.
MAX_ROW_TEXT_BYTES = 300

#: Longest stack of an executor, bytes as JSON.
MAX_STACK_BYTES = 64 * 1024

#: Most rows of a listing that a client reads: more than a server serves.
MAX_ROWS = 200_000


_NUMBER = (int, float)

#: {field of a worker: its types}. `number`, `name` and `slots` are always there.
WORKER_FIELDS: dict[str, tuple[type, ...]] = {
    "number": (int,), "name": (str,), "address": (str,), "slots": (int,), "busy": (int,),
    "state": (str,), "why": (str,), "cores": _NUMBER, "memory_bytes": (int,), "version": (str,),
    "since": _NUMBER, "deaths": (int,), "last_death": (str,), "last_death_at": _NUMBER,
}  # fmt: skip

#: {field of a job: its types}. `number`, `id` and `name` are always there.
JOB_FIELDS: dict[str, tuple[type, ...]] = {
    "number": (int,), "id": (str,), "name": (str,), "user": (str,), "host": (str,), "pid": (int,),
    "since": _NUMBER, "phase": (str,), "done": (int,), "total": (int,), "percent": _NUMBER,
    "left_s": _NUMBER, "waiting": (int,), "running": (int,), "skipped": (int,), "spilled_bytes": (int,),
}  # fmt: skip

#: {field of a server: its types}.
SERVER_FIELDS: dict[str, tuple[type, ...]] = {
    "host": (str,), "pid": (int,), "version": (str,), "since": _NUMBER, "workers": (int,), "slots": (int,),
    "jobs": (int,), "segment_bytes": (int,), "batch_bytes": (int,),
}  # fmt: skip

#: {field of a worker that left: its types}. All are there.
LEFT_FIELDS: dict[str, tuple[type, ...]] = {"at": _NUMBER, "name": (str,), "why": (str,)}

#: {field of an executor that runs an item: its types}.
PLACE_FIELDS: dict[str, tuple[type, ...]] = {
    "running_s": _NUMBER, "where": (str,), "worker": (str,), "number": (int,), "pid": (int,), "slot": (int,),
    "python": (str,), "host": (str,),
}  # fmt: skip


def clean_row(row: dict[str, Any], fields: dict[str, tuple[type, ...]], *required: str) -> dict[str, Any]:
    """Return the known fields of a row that have the right type, with texts fit to be shown.

    Raises ProtocolError if one of those that are required is not among them.
    """
    clean = {name: row[name] for name, types in fields.items() if type(row.get(name)) in types}
    for name in required:
        if name not in clean:
            raise ProtocolError(f"the server lists something without {name!r}")
    return {name: shown_name(value) if type(value) is str else value for name, value in clean.items()}


def shown_name(text: str) -> str:
    """Return a text of a row fit to be shown in a table."""
    return shown(text, max_line_chars=MAX_NAME_CHARS)


def rows_in(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of an answer; none if it has none. Raises ProtocolError for what are no rows."""
    rows = answer.get("found", {}).get("rows", [])
    if type(rows) is not list or not all(type(row) is dict for row in rows):
        raise ProtocolError("an answer lists something else than rows")
    return rows


def check_answer(message: dict[str, Any]) -> None:
    """Raise ProtocolError for an answer that contradicts itself."""
    if message["type"] == "workers" and len(message["names"]) != len(message["slots"]):
        raise ProtocolError("a list of workers needs the slots of each")


def read_listing(ask: Callable[..., dict[str, Any]], question: str, **fields: Any) -> list[dict[str, Any]]:
    """Return all rows of a listing, page by page; `ask(question, **fields)` returns one answer.

    Raises ProtocolError if the server never comes to an end.
    """
    answer = ask(question, **fields)
    rows = rows_in(answer)
    after = 0
    while "next" in answer:
        if answer["next"] <= after or len(rows) > MAX_ROWS:
            raise ProtocolError("the server lists without end")
        after = answer["next"]
        answer = ask(question, after=after, **fields)
        rows += rows_in(answer)
    return rows
