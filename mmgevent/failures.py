"""Failure records: what travels on the wire when something of a job went wrong (see `errors.JobError`)."""

from __future__ import annotations

import json
from typing import Any

#: bytes of each string of a failure, as it stands in the message: eight of them fit in one frame
MAX_STRING_BYTES = 16 * 1024
_MAX_ESCAPE = 12  # bytes of one character in ASCII JSON, at most


def bound(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the failure with every string cut to MAX_STRING_BYTES: the middle goes."""
    return {name: shorten(value) if isinstance(value, str) else value for name, value in failure.items()}


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
