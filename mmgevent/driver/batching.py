"""How many items go into the next batch: pure arithmetic, no clock.

A batch should be a quarter of a second of work while a job is young, so that all slots
get some soon and the estimate of the work's speed has something to stand on; then more, up
to two seconds, so that its overhead vanishes: a twentieth of the work done so far, since at
the end of the input slots idle for half a batch or so, and when that comes nobody knows.
What one item costs is not known beforehand and
may differ a hundredfold between items, so a batch never holds more than GROWTH times the
items of the largest that is known to be mapped, plus one.

Cost is estimated from weight (bytes) where items have one that tells anything, and from
their number: whichever says that the batch is full first.
"""

from __future__ import annotations

from dataclasses import dataclass

YOUNG_BATCH_S = 0.25
BATCH_S = 2.0
#: a batch is at most this share of the work done per slot, above YOUNG_BATCH_S: heavy maps get 99 % of the cores
#: then, and got 91 % of them, in a job of ten seconds, with batches of two seconds from the first second on
SHARE = 0.05
MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_BATCH_ITEMS = 1_000_000
#: a batch holds at most this many times the items (and bytes) of what was mapped so far, per slot
GROWTH = 4
#: bytes of a first batch: what a slow function does in well under a second
FIRST_BATCH_BYTES = 256 * 1024


@dataclass
class Speed:
    """What is known about the map phase so far; all of it from the server's last `allow`."""

    items: int = 0
    weight: int = 0  #: bytes
    seconds: float = 0.0  #: of executors' time
    slots: int = 1


class BatchSize:
    """The limits of the next batch."""

    __slots__ = ("max_items", "max_weight")

    def __init__(self, max_items: int, max_weight: int):
        self.max_items = max_items
        self.max_weight = max_weight

    def is_reached(self, items: int, weight: int) -> bool:
        """Is a batch of so many items and bytes full?"""
        return items >= self.max_items or weight >= self.max_weight


def next_size(speed: Speed, at_least: int = 1) -> BatchSize:
    """Return the limits of the next batch; `at_least` items fit whatever their cost (greenlets)."""
    if not speed.items or speed.seconds <= 0:
        return BatchSize(max(1, at_least), FIRST_BATCH_BYTES)
    slots = max(1, speed.slots)
    target_s = min(BATCH_S, max(YOUNG_BATCH_S, SHARE * speed.seconds / slots))
    items = target_s * speed.items / speed.seconds
    weight = target_s * speed.weight / speed.seconds if speed.weight else MAX_BATCH_BYTES
    grown_items = 1 + GROWTH * speed.items / slots
    grown_weight = FIRST_BATCH_BYTES + GROWTH * speed.weight / slots
    max_items = int(min(items, grown_items, MAX_BATCH_ITEMS))
    max_weight = int(min(weight, grown_weight, MAX_BATCH_BYTES))
    return BatchSize(max(1, at_least, max_items), max(1, max_weight))
