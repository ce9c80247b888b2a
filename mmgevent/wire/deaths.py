"""Executors and workers that died under a job, as its user is told of them.

A death is a dict, as `handle.deaths()` gives it. What is not known is missing:

    kind         "died", "timeout", "memory", "lost" (with its worker)
    function     "mapfn", "reducefn" or "setupfn"
    key, item    of the item it was on: the key as it would be written, the index in its batch
    task         what it was running, such as "items 0 to 9 of batch 3"
    error        what happened, in one line
    exit         "exit code 3" or "signal 9 (SIGKILL)"
    peak_bytes   the most memory it had
    last_words   the end of what it printed, 4 KiB at most
    worker       where it was
    outcome      what was done about it, a word of OUTCOMES
    retried_on   the worker that has the task now
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: deaths, and items set aside, that a job remembers: the last ones
MAX_REMEMBERED = 10_000
#: lines of its last words that a notice shows
NOTICE_LINES = 5

#: what was done about a death; None: a message of its own says so
OUTCOMES: dict[str, str | None] = {
    "retried": "tried again",
    "cut": "tried again in parts, to find the item",
    "waits": "it is tried again by the next free slot",
    "set aside": None,
    "failed": None,
}


def describe_death(death: Mapping[str, Any]) -> str | None:
    """Say in a line, and the last lines that were printed, what happened; None if another message does."""
    outcome = OUTCOMES.get(str(death.get("outcome")), "")
    if outcome is None:
        return None
    where = str(death.get("function") or "")
    if death.get("key") is not None:
        where += f" at {death['key']}"
    if death.get("function") and death.get("worker"):
        where += f" on {death['worker']}"
    text = f"{where}: {death.get('error')}" if where else str(death.get("error"))
    facts = [str(death["task"])] if death.get("task") else []
    if isinstance(death.get("peak_bytes"), int):
        facts.append(f"{death['peak_bytes'] / 2**20:.0f} MiB at most")
    if facts:
        text += f" ({', '.join(facts)})"
    if outcome:
        text += f"; {outcome}"
        if death.get("retried_on"):
            text += f" on {death['retried_on']}"
    lines = str(death.get("last_words") or "").rstrip().splitlines()[-NOTICE_LINES:]
    return "\n".join([text, *(f"  | {line}" for line in lines)])
