"""Say in words how far a job is. What is not known, or means nothing, is left out."""

from __future__ import annotations

from mmgevent.driver.progress.progress import Progress
from mmgevent.shown_text import MAX_NAME_CHARS, shown

#: Time of mapping before a rate is shown, seconds. Earlier rates are mostly start-up.
RATE_S = 1.0

#: Phases in which items are counted. In others tasks are.
_OF_ITEMS = ("starting", "map", "plan")

#: Seconds of a minute and of an hour.
_MINUTE_S, _HOUR_S = 60, 3600
#: Time from which minutes are named, seconds. Below, seconds are easier to read.
_SECONDS_TO = 100
#: Units of bytes, each a thousand of the one before, and the first size that is named in the next.
_UNITS, _STEP = ("bytes", "kB", "MB", "GB", "TB", "PB"), 1000.0


def describe(progress: Progress, map_s: float | None) -> str:
    """Return one line about the progress of a job.

    `map_s` is the time since mapping began, or None if that is not known.
    """
    phase = name_phase(progress)
    if not progress.workers:
        return f"{phase}: waiting for workers"
    parts = [f"{phase} {count_done(progress)}"]
    if progress.bytes and progress.phase in _OF_ITEMS:
        parts.append(size_done(progress))
    parts.append(describe_workers(progress))
    rate = describe_rate(progress, map_s)
    if rate:
        parts.append(rate)
    parts += describe_troubles(progress)
    if progress.seconds_left is not None:
        parts.append(f"{describe_time(progress.seconds_left)} left")
    return ", ".join(parts)


def describe_state(progress: Progress, final: str | None) -> str:
    """Return in few words how far a job is, such as "map 38 %, 3/8 items". `final`: how it ended."""
    if final is not None:
        skipped = f", {progress.skipped:,} skipped" if progress.skipped else ""
        return final + skipped
    percent = "" if progress.fraction is None else f" {int(100 * progress.fraction)} %,"
    if progress.phase == "starting":
        return name_phase(progress) + (f", {progress.total:,} items" if progress.total else "")
    parts = [f"{name_phase(progress)}{percent} {count_done(progress)}", *describe_troubles(progress)]
    if not progress.workers:
        parts.append("waiting for workers")
    return ", ".join(parts)


def name_phase(progress: Progress) -> str:
    """Return the phase of a job, with its stage if there are several."""
    phase = shown(progress.phase, max_line_chars=MAX_NAME_CHARS)
    return f"stage {progress.stage} of {progress.stages}: {phase}" if progress.stages > 1 else phase


def count_done(progress: Progress) -> str:
    """Return how many items or tasks are done, such as "3/8 items"."""
    of_total = f"/{progress.total:,}" if progress.total else ""
    return f"{progress.done:,}{of_total} {'items' if progress.phase in _OF_ITEMS else 'tasks'}"


def size_done(progress: Progress) -> str:
    """Return the bytes that are mapped, such as "40.0 of 120.0 MB"."""
    done = f"{progress.bytes / 1e6:,.1f}"
    return f"{done} MB" if not progress.total_bytes else f"{done} of {progress.total_bytes / 1e6:,.1f} MB"


def describe_workers(progress: Progress) -> str:
    """Return the workers and their slots, and how many of these are busy if that is known."""
    workers, slots = count(progress.workers, "worker"), count(progress.slots, "slot")
    busy = "" if progress.busy is None else f", {min(progress.busy, progress.slots):,} busy"
    return f"{workers} with {slots}{busy}"


def describe_rate(progress: Progress, map_s: float | None) -> str:
    """Return how fast the job is, or "" if that is not known: in bytes if it reads files."""
    if progress.phase != "map" or not map_s or map_s < RATE_S:
        return ""
    if progress.bytes:
        return f"{progress.bytes / 1e6 / map_s:,.1f} MB/s"
    return f"{progress.done / map_s:,.1f} items/s" if progress.done else ""


def describe_troubles(progress: Progress) -> list[str]:
    """Return what happened beside the work: retries, skipped items, deaths, spilled bytes."""
    found = []
    if progress.retries:
        found.append(count(progress.retries, "retry", "retries"))
    if progress.skipped:
        found.append(f"{progress.skipped:,} skipped")
    if progress.deaths:
        found.append(count(progress.deaths, "death"))
    if progress.spilled_bytes:
        found.append(f"{describe_size(progress.spilled_bytes)} spilled")
    return found


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def describe_size(n_bytes: float) -> str:
    """Return a size such as "12.3 MB"."""
    size, unit = float(n_bytes), 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size /= _STEP
        unit += 1
    return f"{size:,.1f} {_UNITS[unit]}" if unit else f"{n_bytes:,.0f} bytes"


def describe_time(seconds: float) -> str:
    """Return a time such as "12 s", "3 min 5 s" or "2 h 10 min"."""
    whole = max(0, round(seconds))
    if whole < _SECONDS_TO:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S:,} h {whole % _HOUR_S // _MINUTE_S} min"
