"""Failure records: what travels on the wire when something of a job went wrong (see `errors.JobError`)."""

from __future__ import annotations

import json
from typing import Any

#: bytes of each string of a failure, as it stands in the message: eight of them fit in one frame
MAX_STRING_BYTES = 16 * 1024
_MAX_ESCAPE = 12  # bytes of one character in ASCII JSON, at most

#: fields of a failure, and characters of their names: with what stands beside them they fit in one frame
MAX_FIELDS = 15
MAX_NAME_CHARS = 32
_MAX_INT = 2**63 - 1

#: characters of a text that are shown where there is one line for it: five lines of a terminal
MAX_LINE_CHARS = 400


def bound(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the failure as it can travel on, whoever made it: of every string too long the middle goes.

    What is neither a string nor an integer nor None is left out, and so is what is beyond the bounds above.
    """
    kept = {
        name: shorten(value) if isinstance(value, str) else value
        for name, value in failure.items()
        if len(name) <= MAX_NAME_CHARS and name.isascii() and _is_plain(name, value)
    }
    return dict(list(kept.items())[:MAX_FIELDS])


def advise_on_reduce(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the failure of a reduce task of a job with `max_skipped`, with the advice that this does not help."""
    advice = "max_skipped sets items aside in map only: a key that cannot be reduced ends the job"
    return _advised(failure, advice)


def advise_on_skips(failure: dict[str, Any], items: int, limit: float) -> dict[str, Any]:
    """Return the failure that ends a job since more of its `items`, as far as they are known, fail than `max_skipped` allows."""
    of_all = f"more of the {items} items fail" if isinstance(limit, float) else "more items fail"
    return _advised(failure, f"{of_all} than max_skipped={limit} allows")


def _advised(failure: dict[str, Any], advice: str) -> dict[str, Any]:
    known = failure.get("advice")
    return {**failure, "advice": f"{known}; {advice}" if known else advice}


def name_skipped(name: str | None, failure: dict[str, Any]) -> str:
    """Return the line that names an item that was set aside to the user."""
    return f"item set aside: {_one_line(name or failure.get('key') or '')}: {_one_line(failure.get('error') or '')}"


def _one_line(text: str) -> str:
    """Return a text in one line that any terminal shows, without what is beyond MAX_LINE_CHARS."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:MAX_LINE_CHARS])
    return shown if len(text) <= MAX_LINE_CHARS else f"{shown}..."


def _is_plain(name: str, value: Any) -> bool:
    if type(value) is int:
        return name not in _TEXTS and abs(value) <= _MAX_INT
    return value is None or isinstance(value, str)


#: fields that errors are made of: strings, if they are there
_TEXTS = frozenset({"kind", "function", "key", "error", "traceback", "worker", "advice", "last_words"})


def shorten(text: str, limit_bytes: int = MAX_STRING_BYTES) -> str:
    """Cut the middle out of a text that needs more than `limit_bytes` in a message."""
    if len(text) * _MAX_ESCAPE <= limit_bytes or len(json.dumps(text)) <= limit_bytes:
        return text
    kept = min(len(text), limit_bytes)
    while True:
        kept = kept * 3 // 4
        cut = f"{text[: kept // 2]}\n... {len(text) - kept} characters left out ...\n{text[len(text) - kept // 2 :]}"
        if len(json.dumps(cut)) <= limit_bytes:
            return cut
