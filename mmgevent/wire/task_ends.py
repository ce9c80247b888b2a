"""What a server says of attempts that ended, to a driver that keeps a job log.

The message `task_ends` has a list of rows. A row is an object. Plain tasks that are done come in
`tasks_done` instead (`wire.done_tasks`). Fields that are not known are
missing:

    phase      "map" or "reduce"
    task       number of the task
    attempt    number of the attempt
    worker     name of the worker
    slot       slot of the worker, from 0
    outcome    a word of OUTCOMES
    ago_us     microseconds between its start and the message
    us         microseconds that it ran: those of the executor if it is done, else of the server
    duplicate  1 if another attempt of the task was there when it was assigned
    batch      number of the batch that it mapped; missing for reduce
    entries    entries of the batch that it had; missing for reduce
    partitions number of partitions that it had; missing for map
    items      items that it mapped, without those set aside
    skipped    items that it set aside
    records    records that came out
    keys       keys that it grouped
    bytes_in   bytes of its input
    bytes_out  bytes of its output
    item       position of the item that it failed on
    function, key, kind, error   of its failure
    slow       [[milliseconds, key, position]], the slowest items, or keys of reduce
    largest    [[values, key]], the keys with the most values that reducefn got
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.errors import ProtocolError

#: How an attempt may end. "returned" attempts, which never ran, have no row.
OUTCOMES = ("done", "duplicate", "failed", "died", "unprepared", "lost", "revoked")

#: Time from which on an item is slow, milliseconds: it has a line of its own in a job log.
SLOW_MS = 1000

#: Slow items of a task that are reported. More of them say the same.
MAX_SLOW = 20

#: Keys of a reduce task that are reported, those with the most values.
MAX_LARGEST = 5

#: Length of the repr of a key, and of an error, characters: a line of a log.
MAX_TEXT_CHARS = 200

#: Length of the name of a worker, characters: more than hosts and programs have.
MAX_WORKER_CHARS = 300

_MAX_INT = 2**63 - 1


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INT


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_WORKER_CHARS


def _are_slow(value: Any) -> bool:
    return type(value) is list and len(value) <= MAX_SLOW and all(map(is_slow, value))


def _are_largest(value: Any) -> bool:
    return type(value) is list and len(value) <= MAX_LARGEST and all(map(is_large, value))


def is_slow(row: Any) -> bool:
    """Return whether this is [milliseconds, text of a key, position]."""
    return (
        type(row) is list
        and len(row) == 3
        and _is_count(row[0])
        and type(row[1]) is str
        and len(row[1]) <= MAX_TEXT_CHARS
        and _is_count(row[2])
    )


def is_large(row: Any) -> bool:
    """Return whether this is [number of values, text of a key]."""
    return (
        type(row) is list
        and len(row) == 2
        and _is_count(row[0])
        and type(row[1]) is str
        and len(row[1]) <= MAX_TEXT_CHARS
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "phase": lambda value: value in ("map", "reduce"),
    "outcome": lambda value: type(value) is str and value in OUTCOMES,
    **dict.fromkeys(("worker", "function", "key", "kind", "error"), _is_text),
    **dict.fromkeys(
        [
            "task",
            "attempt",
            "slot",
            "ago_us",
            "us",
            "duplicate",
            "batch",
            "entries",
            "items",
            "skipped",
            "records",
            "keys",
            "bytes_in",
            "bytes_out",
            "item",
            "partitions",
        ],
        _is_count,
    ),
    "slow": _are_slow,
    "largest": _are_largest,
}
_REQUIRED = frozenset(("phase", "task", "attempt", "worker", "slot", "outcome", "ago_us", "us"))


def clean_lists(done: dict[str, Any]) -> dict[str, Any]:
    """Return the fields `slow` and `largest` of a worker's `done`, of what is right in them."""
    slow = [row for row in done.get("slow", ())[:MAX_SLOW] if is_slow(row)]
    largest = [row for row in done.get("largest", ())[:MAX_LARGEST] if is_large(row)]
    return {name: rows for name, rows in (("slow", slow), ("largest", largest)) if rows}


def check_rows(rows: list[Any]) -> list[dict[str, Any]]:
    """Return the rows of a `task_ends` message. Raises ProtocolError if one is not as it must be."""
    for row in rows:
        if type(row) is not dict or not row.keys() >= _REQUIRED:
            raise ProtocolError("a row of task_ends lacks what every row has")
        for name, value in row.items():
            fits = _FIELDS.get(name)
            if fits is None or not fits(value):
                raise ProtocolError(f"a row of task_ends has a field {ascii(name)[:60]} that none may have")
    return rows
