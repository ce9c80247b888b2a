"""Numbers and texts of a report, for people: escaped, short, with units."""

from __future__ import annotations

import html
from typing import Any

from mmgevent.shown_text import shown

#: Longest text in a cell, characters.
MAX_CELL_CHARS = 400

_SECONDS_PER_MINUTE = 60
_SECONDS_PER_HOUR = 3600


def plain(value: Any) -> str:
    """Return a text in which everything can be seen, control and bidi characters, too."""
    return shown(str(value), max_line_chars=MAX_CELL_CHARS)


def safe(value: Any) -> str:
    """Return such a text for HTML."""
    return html.escape(plain(value))


def duration(seconds: Any) -> str:
    """Return a number of seconds with a unit."""
    if type(seconds) not in (int, float):
        return "unknown"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 2 * _SECONDS_PER_MINUTE:
        return f"{seconds:.1f} s"
    if seconds < 2 * _SECONDS_PER_HOUR:
        return f"{seconds // _SECONDS_PER_MINUTE:.0f} min {seconds % _SECONDS_PER_MINUTE:.0f} s"
    hours, rest = divmod(seconds, _SECONDS_PER_HOUR)
    return f"{hours:.0f} h {rest // _SECONDS_PER_MINUTE:.0f} min"


def size(n_bytes: Any) -> str:
    """Return a number of bytes with a unit."""
    if type(n_bytes) not in (int, float):
        return "unknown"
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"


def number(value: Any) -> str:
    """Return a number with commas, or a text as it is."""
    if type(value) is int:
        return f"{value:,}"
    return f"{value:,.6g}" if type(value) is float else plain(value)


def plural(count: int, noun: str) -> str:
    """Return "1 task" or "2 tasks"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
