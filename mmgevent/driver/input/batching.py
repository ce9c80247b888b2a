"""Decide how many items go into the next batch: pure arithmetic, no clock.

While a job is young, a batch should be a quarter of a second of work. So every slot gets work soon,
and the speed of the work can be estimated. Later a batch may be up to two seconds of work, so that
its overhead vanishes. It is at most 5 % of the work done so far: at the end of the input a slot
idles for half a batch on average, and the end is not known in advance.

The cost of an item is not known beforehand and may differ a hundredfold between items. So the
number of items in a batch grows slowly: see GROWTH.

Cost is estimated from weight (bytes), for items whose weight says something, and from the number of
items. The estimate that fills the batch first counts.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Work in a batch of a young job, seconds.
YOUNG_BATCH_S = 0.25
#: Work in a batch of an old job, seconds.
BATCH_S = 2.0
#: Largest share of the work done per slot that a batch above YOUNG_BATCH_S may be.  With it heavy
#: maps use 99 % of the cores; with batches of two seconds from the first second on, a job of ten
#: seconds used 91 %.
SHARE = 0.05
#: Weight at which a batch is full, bytes.  A single item may weigh more.
FULL_BATCH_BYTES = 16 * 1024 * 1024
#: Output of a map task that is enough, bytes. A worker of another engine holds it some three times.
FULL_OUTPUT_BYTES = 16 * 1024 * 1024
#: Largest number of items in a batch.
MAX_BATCH_ITEMS = 1_000_000
#: Largest ratio of the items (and bytes) of a batch to those mapped so far, per slot.
GROWTH = 4
#: Weight of a first batch, bytes.  A slow function maps so much in well under a second.
FIRST_BATCH_BYTES = 256 * 1024
#: Largest number of items in a first batch whose task gives back what it does not map in time, and
#: largest weight of all first batches, bytes.  A batch travels again with each part of it.
LARGE_FIRST_ITEMS, LARGE_FIRST_BYTES = 16_384, 4 * 1024 * 1024
#: The same number if the job may have fewer items than slots times this.
SHARED_FIRST_ITEMS = 4096


@dataclass
class Speed:
    """What is known about the map phase so far, from the server's last `allow`."""

    items: int = 0
    weight: int = 0  #: bytes
    seconds: float = 0.0  #: time of executors
    slots: int = 1
    output_bytes: int = 0  #: of map tasks on other engines, whose workers keep all of it until a task ends

    @property
    def is_known(self) -> bool:
        """Whether any item was mapped."""
        return self.items > 0 and self.seconds > 0


class BatchSize:
    """The limits of the next batch."""

    __slots__ = ("max_items", "max_weight", "multiple")

    def __init__(self, max_items: int, max_weight: int, multiple: int = 1):
        """multiple: items of one call of mapfn. A batch should hold whole calls."""
        self.max_items = max_items
        self.max_weight = max_weight
        self.multiple = multiple

    def is_reached(self, items: int, weight: int) -> bool:
        """Return whether a batch of so many items and bytes is full."""
        if items < self.max_items and weight < self.max_weight:
            return False
        return not items % self.multiple or weight >= FULL_BATCH_BYTES or not self.max_items

    def round_up(self, items: int) -> int:
        """Return a number of items, at least as large, that makes whole calls."""
        return -(-items // self.multiple) * self.multiple


def large_first_size(slots: int, total: int | None, at_least: int = 1, multiple: int = 1) -> BatchSize:
    """Return the limits of a first batch, of which its task gives back what it does not map in time.

    `total`: the number of items of the job, or None if it is not known.
    """
    slots = max(1, slots)
    share = SHARED_FIRST_ITEMS if total is None else min(LARGE_FIRST_ITEMS, -(-total // slots))
    max_weight = min(4 * FIRST_BATCH_BYTES, LARGE_FIRST_BYTES // slots)
    return BatchSize(max(1, share, at_least), max_weight, multiple)


def next_size(speed: Speed, at_least: int = 1, multiple: int = 1) -> BatchSize:
    """Return the limits of the next batch.

    `at_least` items fit, whatever their cost (for greenlets). `multiple`: see BatchSize.
    """
    if not speed.is_known:
        return BatchSize(max(1, at_least), FIRST_BATCH_BYTES, multiple)
    slots = max(1, speed.slots)
    target_s = min(BATCH_S, max(YOUNG_BATCH_S, SHARE * speed.seconds / slots))
    items = target_s * speed.items / speed.seconds
    weight = target_s * speed.weight / speed.seconds if speed.weight else FULL_BATCH_BYTES
    grown_items = 1 + GROWTH * speed.items / slots
    grown_weight = FIRST_BATCH_BYTES + GROWTH * speed.weight / slots
    max_items = int(min(items, grown_items, MAX_BATCH_ITEMS))
    max_weight = int(min(weight, grown_weight, FULL_BATCH_BYTES))
    if speed.output_bytes:
        max_items = min(max_items, FULL_OUTPUT_BYTES * speed.items // speed.output_bytes)
        max_weight = min(max_weight, FULL_OUTPUT_BYTES * max(1, speed.weight) // speed.output_bytes)
    return BatchSize(max(1, at_least, max_items), max(1, max_weight), multiple)
