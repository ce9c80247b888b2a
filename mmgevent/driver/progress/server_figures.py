"""What a server says of a job in numbers, as the driver shows it."""

from __future__ import annotations

import math
from typing import Any

from mmgevent.driver.input.total import InputTotal
from mmgevent.driver.progress.progress import Progress


def read_progress(message: dict[str, Any], skipped: int, total: InputTotal | None) -> Progress:
    """Return the progress that a message `progress` says.

    A server counts the entries of batches. An entry of a source is a file or a part of one, so the
    items of that are what executors have counted.
    """
    phase, done, of, items = message["phase"], message["done"], message.get("total"), message.get("items")
    fraction = None
    if phase in ("map", "plan") and total is not None and total.is_source and items is not None:
        fraction = min(1.0, done / of) if of else None
        done, of = items + skipped, None
    return Progress(
        phase=phase,
        done=done,
        total=of,
        waiting=message["waiting"],
        running=message["running"],
        workers=message["workers"],
        slots=message["slots"],
        bytes=0 if total is None else message["bytes"],
        skipped=skipped,
        items=items,
        busy=message.get("busy"),
        retries=message.get("retries"),
        spilled_bytes=message.get("spilled"),
        peak_bytes=message.get("peak"),
        fraction=fraction,
    )


def read_stats(stats: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers among the figures of a server, and its counters. Nothing else is shown."""
    figures: dict[str, Any] = {name: value for name, value in stats.items() if _is_number(value)}
    counters = stats.get("counters")
    if type(counters) is dict:
        figures["counters"] = {name: value for name, value in counters.items() if _is_number(value)}
    return figures


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
