"""Say in one line how a job has ended, and what it did and used."""

from __future__ import annotations

from typing import Any

from mmgevent.driver.progress.text import count, describe_size, describe_time
from mmgevent.shown_text import MAX_NAME_CHARS, shown

#: Time below which tenths of a second are said.
_TENTHS_TO_S = 100

#: Most counters of the job that are named; all are in the summary.
MAX_COUNTERS = 10


def describe_end(
    how: str, seconds: float, figures: dict[str, Any], *, results: int | None = None, place: str | None = None
) -> str:
    """Return how a job ended ("done in", "failed after" and the like), with the figures that are known.

    `results`: number of results that were written, `place`: where they are.
    """
    took = f"{seconds:.1f} s" if seconds < _TENTHS_TO_S else describe_time(seconds)
    facts = [*_say_work(figures), *_say_results(results, place), *_say_troubles(figures), *_say_use(figures)]
    facts += _say_counters(figures)
    return f"{how} {took}" + (f": {', '.join(facts)}" if facts else "")


def cpu_share(figures: dict[str, Any]) -> float | None:
    """Return the share of the slots' time that their processors worked on tasks, or None."""
    used, slots = figures.get("cpu_seconds"), figures.get("slot_seconds")
    return used / slots if used is not None and slots else None


def _say_work(figures: dict[str, Any]) -> list[str]:
    said = []
    if "items" in figures:
        said.append(count(figures["items"], "item"))
    if figures.get("input_bytes"):
        said.append(f"{describe_size(figures['input_bytes'])} in")
    if "mapped_records" in figures:
        said.append(count(figures["mapped_records"], "record"))
    if "keys" in figures:
        said.append(count(figures["keys"], "key"))
    if "shuffled_bytes" in figures:
        said.append(f"{describe_size(figures['shuffled_bytes'])} shuffled")
    return said


def _say_results(results: int | None, place: str | None) -> list[str]:
    if results is None:
        return []
    where = "" if place is None else f" in {shown(place)}"
    return [f"{count(results, 'result')}{where}"]


def _say_troubles(figures: dict[str, Any]) -> list[str]:
    said = []
    if figures.get("skipped"):
        said.append(f"{figures['skipped']:,} skipped (named above)")
    if figures.get("retries"):
        said.append(count(figures["retries"], "retry", "retries"))
    if figures.get("deaths"):
        said.append(count(figures["deaths"], "death"))
    if figures.get("spilled_bytes"):
        said.append(f"{describe_size(figures['spilled_bytes'])} spilled")
    return said


def _say_use(figures: dict[str, Any]) -> list[str]:
    said = []
    if "peak_bytes" in figures:
        said.append(f"at most {describe_size(figures['peak_bytes'])} an executor")
    share = cpu_share(figures)
    if share is not None:
        said.append(f"{share:.0%} of the cores in tasks".replace("%", " %"))
    return said


def _say_counters(figures: dict[str, Any]) -> list[str]:
    counters = figures.get("counters") or {}
    named = [
        f"{shown(str(name), max_line_chars=MAX_NAME_CHARS)} {number:,}"
        for name, number in list(counters.items())[:MAX_COUNTERS]
    ]
    more = len(counters) - len(named)
    return named + ([f"{more:,} more counters"] if more > 0 else [])
