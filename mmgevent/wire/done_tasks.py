"""Many short map tasks that are done, packed: what a message `tasks_done` says.

A server ends up to some ten thousand tasks a second. An object of `wire.task_ends` for each would
cost more than the tasks' own messages. So a plain task is a row of numbers of 32 bits,
little-endian. `places` names the slots: rows of [number, worker, slot].

    place      number of the slot, see above
    task       number of the task
    attempt    number of the attempt
    batch      number of the batch that it mapped
    entries    entries of the batch that it had
    items      items that it mapped
    records    records that came out
    keys       keys that it grouped
    bytes_in   bytes of its input
    bytes_out  bytes of its output
    began_ms   when it began, on the clock of the message's `at_ms`
    us         microseconds that it ran, less than a second

All else about an attempt needs a row of its own: another outcome, duplicates, items that were slow
or set aside, numbers that do not fit.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

from mmgevent.errors import ProtocolError
from mmgevent.wire.shapes import MAX_INLINE_BYTES, is_count
from mmgevent.wire.task_ends import MAX_WORKER_CHARS

#: Microseconds in a second: a task that ran for as long or longer has a row of its own.
US = 1_000_000

_ROW = Struct("<12I")

ROW_BYTES = _ROW.size

#: Rows of one message.
MAX_ROWS = MAX_INLINE_BYTES // ROW_BYTES

#: `pack_row(place, task, ...)` returns one row. It raises `struct.error` for a number that does not fit.
pack_row = _ROW.pack


class DoneTasks(NamedTuple):
    """The rows of one message, as columns of equal length, in the order of the row."""

    place: tuple[int, ...]
    task: tuple[int, ...]
    attempt: tuple[int, ...]
    batch: tuple[int, ...]
    entries: tuple[int, ...]
    items: tuple[int, ...]
    records: tuple[int, ...]
    keys: tuple[int, ...]
    bytes_in: tuple[int, ...]
    bytes_out: tuple[int, ...]
    began_ms: tuple[int, ...]
    us: tuple[int, ...]


def places_in(rows: bytes) -> set[int]:
    """Return the places of these rows."""
    return {row[0] for row in _ROW.iter_unpack(rows)}


def unpack_rows(rows: bytes, places: list[Any], at_ms: int) -> tuple[DoneTasks, dict[int, tuple[str, int]]]:
    """Return the rows of a message, and the worker and slot of each place.

    Raises ProtocolError if they are not as they must be.
    """
    if not rows or len(rows) % ROW_BYTES:
        raise ProtocolError(f"tasks_done has {len(rows)} bytes of rows, which are not whole")
    tasks = DoneTasks(*zip(*_ROW.iter_unpack(rows), strict=True))
    if not all(map(_is_place, places)):
        raise ProtocolError("a place of tasks_done is no [number, worker, slot]")
    slots = {number: (worker, slot) for number, worker, slot in places}
    if not slots.keys() >= set(tasks.place):
        raise ProtocolError("a row of tasks_done is of a place that it does not name")
    if max(tasks.us) >= US or max(tasks.began_ms) > at_ms:
        raise ProtocolError("a row of tasks_done has a time that none may have")
    return tasks, slots


def _is_place(row: Any) -> bool:
    return (
        type(row) is list
        and len(row) == 3
        and is_count(row[0])
        and type(row[1]) is str
        and len(row[1]) <= MAX_WORKER_CHARS
        and is_count(row[2])
    )
