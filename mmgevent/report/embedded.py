"""The data of a report, inside its HTML: written so that no text can end or change the page."""

from __future__ import annotations

import json
from typing import Any

from mmgevent.errors import UsageError
from mmgevent.report.digest import FORMAT
from mmgevent.shown_text import shown

BEGIN = '<script type="application/json" id="mmgevent-report">'
END = "</script>"

#: Largest report that is read, bytes. Ours have one MB.
MAX_BYTES = 64 * 1024 * 1024

#: What HTML gives a meaning, as JSON can write it. All else that is not ASCII is escaped anyhow.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\x7f": "\\u007f"})


def embed(data: dict[str, Any]) -> str:
    """Return the element that holds the data."""
    text = json.dumps(data, separators=(",", ":"), default=repr).translate(_ESCAPES)
    return f"{BEGIN}{text}{END}"


def read_data(path: str) -> dict[str, Any]:
    """Return the data of a report. Raises UsageError for what is none."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the report {shown(path)} cannot be read: {why}") from error
    found = raw.decode("utf-8", "replace").partition(BEGIN)[2].partition(END)
    try:
        data = json.loads(found[0]) if found[1] and len(raw) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        data = None
    if type(data) is not dict or data.get("format") != FORMAT:
        raise UsageError(
            f"{shown(path)} is no report of this version of mmgevent: give two files of mmg-run --report"
        )
    return data
