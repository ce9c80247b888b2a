"""The input of one job: its batches, and how many items are open, counted, set aside or lost.

It knows batches and numbers only, neither tasks nor workers.

Invariants:

- Every item that arrived is either open, counted, set aside or lost.
- A batch is in `batches` while it has open entries. It is released when none is left.
"""

from __future__ import annotations

import math
from typing import Any

from mmgevent.engine.scheduler.rules import JobRules
from mmgevent.wire.failures import advise_on_skips
from mmgevent.wire.positions import WHOLE, place_of

#: Least number of items of which the share that failed is taken, while more input may arrive.
#: Otherwise a failure of the first item would end a job of a million items.
EARLY_ITEMS = 1_000


class Batch:
    """What is left to do of a batch."""

    __slots__ = ("deaths", "failures", "has_content", "has_refs", "is_requested", "number", "open_entries")

    def __init__(self, number: int, entries: int, has_refs: bool):
        self.number = number
        self.open_entries = entries  #: at least one; a part of an entry counts as one
        self.has_refs = has_refs  #: an entry may stand for any number of items
        self.has_content = False  #: it arrived with the contents of its files
        self.is_requested = False  #: the driver was asked for the contents
        self.failures: dict[int, int] = {}  #: user exceptions by position
        self.deaths: dict[int, int] = {}  #: executors that died, by position

    def count_closed(self, skip: tuple[int, ...]) -> int:
        """Return how many entries have nothing left to map if these positions are left out."""
        if self.has_refs:
            return sum(place_of(position) == WHOLE for position in skip)
        return len(skip)

    def count_failure(self, item: int) -> int:
        """Count a user exception of an item; return how many it has had."""
        self.failures[item] = count = self.failures.get(item, 0) + 1
        return count

    def count_death(self, item: int) -> int:
        """Count an executor that died of an item; return how many have."""
        self.deaths[item] = count = self.deaths.get(item, 0) + 1
        return count


class InputProgress:
    """How far the input of one job is: its open batches, and the numbers of its items."""

    __slots__ = (
        "allowed",
        "batches",
        "has_ended",
        "has_refs",
        "items_mapped",
        "known_entries",
        "largest_counted",
        "last_batch",
        "last_failure",
        "lost",
        "max_skipped",
        "open_entries",
        "received",
        "released",
        "set_aside",
    )

    def __init__(self, rules: JobRules):
        self.max_skipped = rules.max_skipped
        self.has_ended = False  #: no more batches are expected
        self.batches: dict[int, Batch] = {}  #: those with open entries, by number
        self.received = 0  #: batches
        self.released = 0  #: batches
        self.allowed = -1  #: batches that the driver may send in all; -1 before the first grant
        self.has_refs = False  #: the number of items is only known at the end
        self.known_entries = 0  #: entries that arrived
        self.open_entries = 0  #: entries to be mapped, or being mapped
        self.items_mapped = 0  #: items that committed attempts have mapped, including those of refs
        self.set_aside = 0  #: items
        self.lost = 0  #: items of a "oneshot" job lost with their workers
        self.last_failure: dict[str, Any] = {}  #: why the last item was set aside
        self.last_batch = 0  #: entries of the batch that arrived last
        self.largest_counted = 0  #: entries of the largest task that was committed

    @property
    def is_mapped(self) -> bool:
        """Whether the input has ended and every item was counted, set aside or lost."""
        return self.has_ended and not self.open_entries

    def add_batch(self, number: int, entries: int, has_refs: bool) -> Batch:
        """Add a batch of at least one entry."""
        batch = self.batches[number] = Batch(number, entries, has_refs)
        self.received += 1
        self.has_refs = self.has_refs or has_refs
        self.last_batch = entries
        self.known_entries += entries
        self.open_entries += entries
        return batch

    def add_empty_batch(self) -> None:
        """Count a batch without entries, which is released at once."""
        self.received += 1
        self.released += 1

    def end(self) -> None:
        """Expect no more batches."""
        self.has_ended = True

    def add_part(self, batch: Batch) -> None:
        """Count one entry more: an entry was cut in two parts."""
        batch.open_entries += 1
        self.open_entries += 1
        self.known_entries += 1

    def count_mapped(self, batch: Batch, entries: int, items: int) -> bool:
        """Count the entries and items of a committed task; return whether they ended the batch."""
        self.items_mapped += items
        if entries > self.largest_counted:
            self.largest_counted = entries
        return self._close(batch, entries)

    def count_skipped(self, items: int, failure: dict[str, Any] | None) -> None:
        """Count items that an executor set aside, the last one because of `failure`."""
        self.set_aside += items
        self.last_failure = failure or self.last_failure

    def set_entry_aside(self, batch: Batch, entries: int, failure: dict[str, Any]) -> bool:
        """Count an item set aside and the entry that it closes; return whether the batch ended."""
        self.set_aside += 1
        self.last_failure = failure
        return self._close(batch, entries)

    def count_lost(self, batch: Batch) -> bool:
        """Count an item lost with its worker; return whether it ended the batch."""
        self.lost += 1
        return self._close(batch, 1)

    def exceeds_limit(self, more: int = 0) -> bool:
        """Return whether too many items are set aside, or would be with so many more."""
        return self.set_aside + more > self._skip_limit()

    def explain_limit(self, failure: dict[str, Any]) -> dict[str, Any]:
        """Return the failure of a job in which one item too many failed, the last by `failure`."""
        known = self.items_mapped + self.set_aside if self.has_refs else self.known_entries
        return advise_on_skips(failure, known, self.max_skipped)

    def _skip_limit(self) -> float:
        """Return how many items may be set aside, or infinity if that depends on input to come."""
        limit = self.max_skipped
        if not (isinstance(limit, float) and limit < 1):
            return limit
        if self.has_refs:
            return limit * (self.items_mapped + self.set_aside) if self.is_mapped else math.inf
        if self.has_ended:
            return limit * self.known_entries
        # Rounded up: what fails evenly may be an item ahead of its share until the last has come.
        return math.ceil(limit * max(self.known_entries, EARLY_ITEMS))

    def _close(self, batch: Batch, entries: int) -> bool:
        """Close entries of a batch; return whether they were its last, so that it is released."""
        self.open_entries -= entries
        batch.open_entries -= entries
        if batch.open_entries:
            return False
        del self.batches[batch.number]
        self.released += 1
        return True
