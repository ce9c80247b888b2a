"""Failure records: dicts that say what went wrong in a job (see `errors.JobError`).

They travel from executors through workers and the server to the driver.  Nobody trusts them:
whoever passes one on applies `bound`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmgevent.shown_text import shown

#: One string of a failure, bytes as JSON. Eight of them fit in one frame with all else.
MAX_STRING_BYTES = 16 * 1024

#: One character in ASCII JSON, bytes, at most.
_MAX_ESCAPE = 12

#: Fields of a failure. With the strings above they fit in one frame.
MAX_FIELDS = 15

#: Name of a field, characters.
MAX_NAME_CHARS = 32

#: Field with what a function was called with, see `tasks.given`.
INPUT = "input"

#: Length of that field, characters of ASCII.
MAX_INPUT_CHARS = 96 * 1024

#: All other strings of a failure that keeps this field, bytes as JSON. Both fit in one frame, with
#: what workers and the server add.
_MAX_BESIDE_INPUT_BYTES = 96 * 1024

#: Largest integer of a message.
_MAX_INT = 2**63 - 1

#: Text that is shown in one line, characters: five lines of a terminal.
MAX_LINE_CHARS = 400


#: Function, class of the exception (or what ended the executor), and "FILE:LINE" of the user's code.
Cause = tuple[str | None, str, str | None]


def bound(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the failure within the limits above, whoever made it.

    The middle of a long string is cut out.  Fields that are no string, integer or None are left
    out, and so are fields over the limits.
    """
    kept = {
        name: shorten(value) if isinstance(value, str) and name != INPUT else value
        for name, value in failure.items()
        if len(name) <= MAX_NAME_CHARS and name.isascii() and _is_plain(name, value)
    }
    kept = dict(list(kept.items())[:MAX_FIELDS])
    if INPUT in kept and not _has_room(kept):
        del kept[INPUT]
    return kept


def without_input(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the failure without what its function was called with."""
    return {name: value for name, value in failure.items() if name != INPUT}


def with_place(failure: dict[str, Any], batch: int, position: int | None) -> dict[str, Any]:
    """Return the failure with the place of the item at fault, if known: its driver can read it again."""
    return failure if position is None else {**failure, "batch": batch, "item": position}


def _has_room(failure: dict[str, Any]) -> bool:
    """Return whether the failure fits in one frame with the input that it has."""
    given = failure[INPUT]
    if not isinstance(given, str) or len(given) > MAX_INPUT_CHARS or not given.isascii():
        return False
    return len(json.dumps(without_input(failure))) <= _MAX_BESIDE_INPUT_BYTES


def cause_of(failure: Mapping[str, Any]) -> Cause:
    """Return what the failures of one group have in common."""
    kind = failure.get("error_type") or failure.get("kind") or "failed"
    return _text(failure.get("function")), str(kind), _text(failure.get("line"))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def is_of_output(failure: dict[str, Any]) -> bool:
    """Return whether results could not be written. No function is to blame: it is not tried again."""
    return failure.get("kind") == "output"


def advise_on_reduce(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the failure of a reduce task, with the advice that `max_skipped` is for map only."""
    if is_of_output(failure):
        return failure
    advice = "max_skipped sets items aside in map only: a key that cannot be reduced ends the job"
    return _advised(failure, advice)


def advise_on_skips(failure: dict[str, Any], items: int, limit: float) -> dict[str, Any]:
    """Return the failure that ends a job in which more items fail than `max_skipped` allows.

    `items`: the number of the job's items so far; `limit`: the option.
    """
    of_all = f"more of the {items} items fail" if isinstance(limit, float) else "more items fail"
    return _advised(failure, f"{of_all} than max_skipped={limit} allows")


def _advised(failure: dict[str, Any], advice: str) -> dict[str, Any]:
    known = failure.get("advice")
    return {**failure, "advice": f"{known}; {advice}" if known else advice}


def name_skipped(name: str | None, failure: dict[str, Any]) -> str:
    """Return the line that names an item that was set aside, for the user."""
    key = shown(name or failure.get("key") or "", max_line_chars=MAX_LINE_CHARS)
    return f"item set aside: {key}: {shown(failure.get('error') or '', max_line_chars=MAX_LINE_CHARS)}"


def _is_plain(name: str, value: Any) -> bool:
    if type(value) is int:
        return name not in _TEXTS and abs(value) <= _MAX_INT
    return value is None or isinstance(value, str)


#: Fields from which errors are made. They are strings, where they are given.
_TEXTS = frozenset({"kind", "function", "key", "error", "traceback", "worker", "advice", "last_words"})


def shorten(text: str, limit_bytes: int = MAX_STRING_BYTES) -> str:
    """Return a text that needs at most `limit_bytes` in a message.

    The middle of a longer text is cut out.
    """
    if len(text) * _MAX_ESCAPE <= limit_bytes or len(json.dumps(text)) <= limit_bytes:
        return text
    kept = min(len(text), limit_bytes)
    while True:
        kept = kept * 3 // 4
        cut = f"{text[: kept // 2]}\n... {len(text) - kept} characters left out ...\n{text[len(text) - kept // 2 :]}"
        if len(json.dumps(cut)) <= limit_bytes:
            return cut
