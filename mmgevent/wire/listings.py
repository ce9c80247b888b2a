"""Listings: what a server says of its workers and jobs, a page at a time, and how to read them.

Whoever has the main password may ask `list_workers`, `list_jobs` and `ask`, at any time, as a
driver or as a *looker*, a client that only looks. Each question gets one answer. An answer is one
frame, so a listing has pages: an answer with `next` is followed by the rest, which the client asks
for with `after`.

With `deltas` the server remembers what it sent over this link. It sends only the rows that have
changed since, and the numbers of those that are `gone`. With `next` there are more changes now.

Rows are free-form objects, in `found`: {"rows": [...]}. `engine.server.looking.snapshot` makes them. Texts in them come from other
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

#: Rows of one answer about what happened in a job, bytes as JSON. The last row may go beyond it: a
#: line of 2,000 characters, each of twelve bytes at most. Together they fit a frame.
PAGE_BYTES = 64 * 1024

#: Partitions, and keys, of one job that are listed: the largest ones.
MAX_LARGEST_ROWS = 20

#: Slots that run something in one answer about the tasks of a job: those that run for longest.
MAX_RUNNING = 200

#: Samples of busy slots that a server keeps, one a second: ten minutes.
MAX_SAMPLES = 600

#: Most rows of such an answer that a client reads: more than a server sends.
MAX_PAGE_EVENTS = 2000

#: Longest stack of an executor, bytes as JSON.
MAX_STACK_BYTES = 64 * 1024

#: Most rows of a listing that a client reads and keeps: more than a server serves.
MAX_ROWS = 200_000

#: Most pages of such a listing. All but the last have PAGE_ROWS rows, unless rows went meanwhile.
MAX_PAGES = 2 * MAX_ROWS // PAGE_ROWS

#: Workers that left lately, which a server remembers.
MAX_LEFT = 20

#: Largest number in a row: that of an integer of a message. A larger one, or infinity, can neither
#: be shown as a time nor be read by a browser.
MAX_NUMBER = 2**63 - 1


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
    "jobs": (int,), "ended": (int,), "segment_bytes": (int,), "batch_bytes": (int,),
}  # fmt: skip

#: {field of a worker that left: its types}. All are there.
LEFT_FIELDS: dict[str, tuple[type, ...]] = {"at": _NUMBER, "name": (str,), "why": (str,)}

#: {field of an executor that runs an item: its types}.
PLACE_FIELDS: dict[str, tuple[type, ...]] = {
    "running_s": _NUMBER, "where": (str,), "worker": (str,), "number": (int,), "pid": (int,), "slot": (int,),
    "python": (str,), "host": (str,),
}  # fmt: skip


#: {field of a job that is over: its types}. `number`, `id`, `name` and `outcome` are always there.
ENDED_FIELDS: dict[str, tuple[type, ...]] = {
    "number": (int,), "id": (str,), "name": (str,), "submitter": (str,), "since": _NUMBER, "ended": _NUMBER,
    "outcome": (str,), "error": (str,),
}  # fmt: skip

#: {field of a printed line: its types}. `text` is always there. `dropped`: lines before it that did not
#: go on.
LINE_FIELDS: dict[str, tuple[type, ...]] = {
    "at": _NUMBER, "worker": (str,), "item": (str,), "text": (str,), "dropped": (int,),
}  # fmt: skip

#: {field of a group of errors: its types}. `number`, `error_type` and `count` are always there.
ERROR_FIELDS: dict[str, tuple[type, ...]] = {
    "number": (int,), "function": (str,), "error_type": (str,), "line": (str,), "count": (int,),
    "set_aside": (int,), "key": (str,), "error": (str,), "worker": (str,), "first_at": _NUMBER,
    "last_at": _NUMBER,
}  # fmt: skip


#: {field of what a slot did for a while: its types}. All but `error` are there. `start` is when, `busy`
#: how long one of the tasks ran, `task` the first of them.
BAR_FIELDS: dict[str, tuple[type, ...]] = {
    "worker": (str,), "slot": (int,), "phase": (str,), "outcome": (str,), "start": _NUMBER, "seconds": _NUMBER,
    "busy": _NUMBER, "tasks": (int,), "task": (int,), "error": (str,),
}  # fmt: skip

#: {field of a slot that runs something: its types}. All are there.
RUNNING_FIELDS: dict[str, tuple[type, ...]] = {
    "worker": (str,), "slot": (int,), "phase": (str,), "task": (int,), "start": _NUMBER,
}  # fmt: skip

#: {field of what is known of the partitions of a job: its types}. There are lists beside them:
#: `largest`, of {"partition", "bytes"}, and `keys`, of {"values", "key", "worker"}.
SHAPE_FIELDS: dict[str, tuple[type, ...]] = {"count": (int,), "bytes": (int,), "median": (int,)}
PARTITION_FIELDS: dict[str, tuple[type, ...]] = {"partition": (int,), "bytes": (int,)}
KEY_FIELDS: dict[str, tuple[type, ...]] = {"values": (int,), "key": (str,), "worker": (str,)}

#: {what can be followed of a job: its fields, and those that are always there}
FOLLOWED: dict[str, tuple[dict[str, tuple[type, ...]], tuple[str, ...]]] = {
    "logs": (LINE_FIELDS, ("text",)),
    "errors": (ERROR_FIELDS, ("number", "error_type", "count")),
    "tasks": (BAR_FIELDS, tuple(name for name in BAR_FIELDS if name != "error")),
    "shape": (SHAPE_FIELDS, ()),
}


#: Fields with texts that are longer than a name: lines of MAX_LINE_CHARS.
LONG_TEXTS = frozenset({"text"})


def clean_row(row: dict[str, Any], fields: dict[str, tuple[type, ...]], *required: str) -> dict[str, Any]:
    """Return the known fields of a row that have the right type, with texts fit to be shown.

    Raises ProtocolError if one of those that are required is not among them.
    """
    clean = {name: row[name] for name, types in fields.items() if is_fit(row.get(name), types)}
    for name in required:
        if name not in clean:
            raise ProtocolError(f"the server lists something without {name!r}")
    return {name: _shown_field(name, value) if type(value) is str else value for name, value in clean.items()}


def _shown_field(name: str, text: str) -> str:
    return shown_name(text) if name not in LONG_TEXTS else shown(text.replace("\t", "    "))


def is_fit(value: Any, types: tuple[type, ...]) -> bool:
    """Return whether a value of a row has one of these types, and is no number beyond MAX_NUMBER."""
    return type(value) in types and (type(value) is str or -MAX_NUMBER <= value <= MAX_NUMBER)


def cut_text(text: str) -> str:
    """Return the beginning of a text that takes at most MAX_ROW_TEXT_BYTES as JSON."""
    import json  # commands read this module before they know that they need it

    text = text[:MAX_ROW_TEXT_BYTES]
    while len(json.dumps(text)) > MAX_ROW_TEXT_BYTES:
        text = text[: len(text) * 3 // 4]
    return text


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


class Paging:
    """Where a client is in a listing; sees to it that the listing ends."""

    def __init__(self) -> None:
        #: The fields of the question for the next page.
        self.fields: dict[str, Any] = {}
        self._rows = self._pages = 0

    def is_last(self, answer: dict[str, Any]) -> bool:
        """Return whether a page is the last one.

        Raises ProtocolError if the server never comes to an end.
        """
        self._pages += 1
        self._rows += len(rows_in(answer))
        if self._rows > MAX_ROWS or self._pages > MAX_PAGES:
            raise ProtocolError("the server lists without end")
        if "next" not in answer:
            return True
        if answer["next"] <= self.fields.get("after", 0):
            raise ProtocolError("the server lists without end")
        self.fields = {"after": answer["next"]}
        return False


def read_listing(
    ask: Callable[..., dict[str, Any]],
    question: str,
    clean: Callable[[dict[str, Any]], Any] = dict,
    **fields: Any,
) -> list[Any]:
    """Return all rows of a listing, page by page; `ask(question, **fields)` returns one answer.

    `clean(row)` makes a row what is returned of it; nothing else of an answer is kept.

    Raises ProtocolError if the server never comes to an end.
    """
    paging = Paging()
    rows: list[Any] = []
    while True:
        answer = ask(question, **paging.fields, **fields)
        is_last = paging.is_last(answer)
        rows += map(clean, rows_in(answer))
        if is_last:
            return rows
