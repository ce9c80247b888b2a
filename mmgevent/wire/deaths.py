"""Death records: executors and workers that died under a job, as its user sees them.

A death record is a dict, as `handle.deaths()` gives it.  Fields that are not known are missing:

    kind         "died", "timeout", "memory", or "lost" (its worker was lost)
    function     "mapfn", "reducefn" or "setupfn"
    key          key of the item that it was on, as it would be written
    item         index of that item in its batch
    task         what it was running, such as "items 0 to 9 of batch 3"
    error        what happened, in one line
    exit         "exit code 3" or "signal 9 (SIGKILL)"
    peak_bytes   the most memory that it used
    last_words   the end of what it printed, at most 4 KiB
    worker       name of its worker
    outcome      what is done about it, a word of OUTCOMES
    retried_on   name of the worker that has the task now
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmgevent.shown_text import shown
from mmgevent.wire.failures import MAX_LINE_CHARS

#: Deaths that a job remembers, and items set aside: the last ones. A full record takes 20 KiB.
MAX_REMEMBERED = 10_000

#: Lines of last words that a notice shows. More would hide other notices.
NOTICE_LINES = 5

#: {outcome of a death: words for it}; None if another message says it.
OUTCOMES: dict[str, str | None] = {
    "retried": "tried again",
    "cut": "tried again in parts, to find the item",
    "waits": "it is tried again by the next free slot",
    "set aside": None,
    "failed": None,
}


def describe_death(death: Mapping[str, Any]) -> str | None:
    """Return what happened in one line, and the last printed lines.

    Returns None if another message says it.
    """
    outcome = OUTCOMES.get(str(death.get("outcome")), "")
    if outcome is None:
        return None
    where = str(death.get("function") or "")
    if death.get("key") is not None:
        where += f" at {shown(death['key'], max_line_chars=MAX_LINE_CHARS)}"
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
    return "\n".join([shown(text), *(f"  | {shown(line)}" for line in lines)])
