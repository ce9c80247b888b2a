"""What `_SUCCESS` says of a folder of parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmgevent.job.outputs.formats import OutputFormat
from mmgevent.job.outputs.record import About


def describe_success(
    parts: list[dict[str, Any]], chosen: OutputFormat, about: Mapping[str, Any], fingerprint: About | None
) -> bytes:
    """Return the text of `_SUCCESS`. `about`: more that it says. `fingerprint`: None if it is not known."""
    from mmgevent.wire.hello import VERSION, describe_python  # not needed before

    told = {
        "records": count_records(parts),
        "parts": sorted(parts, key=lambda part: part["name"]),
        "format": chosen.suffix[1:],
        "mmgevent": VERSION,
        "python": describe_python(),
        **about,
    }
    if fingerprint is not None:
        told["fingerprint"] = fingerprint
    return (json.dumps(told, indent=1, default=repr) + "\n").encode()


def count_records(parts: list[dict[str, Any]]) -> int:
    """Return how many records the parts have."""
    return sum(part["records"] for part in parts)
