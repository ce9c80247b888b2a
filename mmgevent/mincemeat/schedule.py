"""Fire events at their time.

A schedule is a deque of `(expiry, callable, repeat)`.  `expiry` is a value of `timer()`.  `repeat`
is a number of seconds, or None for an event that fires once.  Any thread may append to a schedule.
Nothing here runs by itself: an endpoint's `process` calls `trigger` each time round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableSequence

from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: The clock of schedules, seconds.  It never goes back.
timer = time.monotonic

Event = tuple[float, Callable[[], object], "float | None"]
Schedule = MutableSequence[Event]


def next_future_time(expiry: float, repeat: float, now: float | None = None) -> tuple[float, float, float]:
    """Return `(next, missed, passed)` of an event that was due at `expiry` and repeats.

    `next`: its first time after `now`, a whole number of repeats after `expiry`.
    `missed`: how many of its times after `expiry` have passed.
    `passed`: seconds since the last of them; below 0 if the event is not due yet.

    Raises ValueError unless `repeat` is above 0.
    """
    if not repeat > 0:
        raise ValueError(f"an event repeats every so many seconds, got repeat={repeat!r}; None fires it once")
    if now is None:
        now = timer()
    if now < expiry:
        return expiry, 0.0, now - expiry
    missed, passed = divmod(now - expiry, repeat)
    following = expiry + (missed + 1) * repeat
    while following <= now:  # a repeat near the precision of a float
        following = max(following + repeat, now + repeat)
    return following, missed, passed


def trigger(schedule: Schedule | None, now: float | None = None) -> float | None:
    """Fire the events that are due at `now`, in order, once each.

    Return when the next is due, or None.

    An event that repeats is put back for its next time.  An exception of its callable is logged.
    """
    if not schedule:
        return None
    if now is None:
        now = timer()
    for event in sorted(schedule, key=_expiry_of):
        if event[0] > now:
            break
        if _take(schedule, event):
            _fire(schedule, *event)
    return min(map(_expiry_of, list(schedule)), default=None)


def _take(schedule: Schedule, event: Event) -> bool:
    try:
        schedule.remove(event)
    except ValueError:  # another event removed it, or another thread fires it
        return False
    return True


def _fire(schedule: Schedule, expiry: float, callable: Callable[[], object], repeat: float | None) -> None:
    try:
        callable()
    except Exception:
        log.exception("scheduled event failed: %r", callable)
    if repeat:
        following, missed, passed = next_future_time(expiry, repeat)
        if missed:
            log.info("scheduled event %r missed %d times and %.3f s", callable, missed, passed)
        schedule.append((following, callable, repeat))


def _expiry_of(event: Event) -> float:
    return event[0]
