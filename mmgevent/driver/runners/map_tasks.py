"""What a map task on an engine of futures is of: a range of a batch, and its shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmgevent.box.box import BoxedJob
from mmgevent.box.reports import GuestBatch
from mmgevent.driver.input.batching import YOUNG_BATCH_S, BatchSize
from mmgevent.driver.input.encoding import EncodedBatch

#: Time after which a task of unknown cost gives the rest back, seconds.
BUDGET_S = YOUNG_BATCH_S

#: Most bytes of output that a report carries to the driver.  It saves the engine the round trips for
#: output that is smaller than what the engine itself says of it.
CARRIED_BYTES = 64 * 1024

#: Most bytes of carried output of map tasks that a driver keeps.  The output of later tasks stays in
#: the engine.
MAX_CARRIED_BYTES = 8 * 1024 * 1024

#: Output of all map tasks that is so little that each slot gets one reduce task, bytes.
SMALL_BYTES = 1024 * 1024

#: Pieces of a group that are enough, bytes. A worker holds them and their results some four times.
GROUP_BYTES = 32 * 1024 * 1024

Pieces = Sequence[Any]


class MapRange(NamedTuple):
    """Entries of a batch that one task maps."""

    number: int
    batch: EncodedBatch
    lo: int
    hi: int

    def for_guest(self, budget_s: float | None) -> GuestBatch:
        """Return it as the engine's worker needs it."""
        batch = self.batch
        return GuestBatch(self.number, batch.items, batch.data, batch.has_refs, self.lo, self.hi, budget_s)

    def cut(self, size: BatchSize) -> tuple[MapRange, MapRange | None]:
        """Return a task of at most this size, and the rest or None."""
        weight = max(1, self.batch.weight // max(1, self.batch.items))
        count = max(1, min(size.max_items, size.max_weight // weight))
        at = self.lo + (count if self.batch.has_refs else size.round_up(count))
        return self.split(at) if at < self.hi else (self, None)

    def split(self, at: int) -> tuple[MapRange, MapRange]:
        """Return the entries before `at`, and the others."""
        return self._replace(hi=at), self._replace(lo=at)

    @property
    def share(self) -> EncodedBatch:
        """What it is of its batch, for the books: items and weight."""
        items, batch = self.hi - self.lo, self.batch
        return EncodedBatch(items, batch.weight * items // max(1, batch.items), b"", batch.has_refs)


class Outputs:
    """The pieces of the map tasks that are done: what the engine knows them by, or carried bytes."""

    def __init__(self, groups: int) -> None:
        #: number of groups of the next map task
        self.next_groups = groups
        self._pieces: dict[tuple[int, int], Pieces] = {}
        #: bytes that are carried
        self.carried_bytes = 0
        self._are_all_carried = True

    def refine(self, partitions: int, expected_bytes: int) -> None:
        """Let the next map tasks make 2, 4, 8... groups of each, until a worker can hold one.

        `expected_bytes`: the likely output of all map tasks.
        """
        while self.next_groups * 2 <= partitions and expected_bytes > self.next_groups * GROUP_BYTES:
            self.next_groups *= 2

    def job_of_next(self, boxed: BoxedJob) -> BoxedJob:
        """Return the job as the next map task needs it: how many groups, what its report may carry."""
        carried = CARRIED_BYTES if self.carried_bytes < MAX_CARRIED_BYTES else 0
        return boxed._replace(groups=self.next_groups, carried_bytes=carried)

    def add(self, task: MapRange, pieces: Pieces, *, is_carried: bool) -> None:
        """Add the pieces of a task, one for each group."""
        self._pieces[task.number, task.lo] = pieces
        if is_carried:
            self.carried_bytes += sum(map(len, pieces))
        else:
            self._are_all_carried = False

    @property
    def groups(self) -> int:
        """The largest number of groups that a map task has made."""
        return max(map(len, self._pieces.values()), default=1)

    @property
    def are_alike(self) -> bool:
        """Whether all map tasks have made the same number of groups."""
        return len(set(map(len, self._pieces.values()))) < 2

    def group(self, groups: int, slots: int) -> Iterator[tuple[range, list[Any]]]:
        """Yield the groups of each reduce task, and their pieces in datasource order.

        A map task with fewer groups has larger ones: each of its pieces is of several reduce tasks.
        """
        outputs = [self._pieces[place] for place in sorted(self._pieces)]
        tasks = groups
        if self._are_all_carried and self.carried_bytes <= SMALL_BYTES:
            tasks = min(slots, groups)
        for task in range(tasks):
            pieces = [
                pieces[group]
                for pieces in outputs
                for group in dict.fromkeys(each % len(pieces) for each in range(task, groups, tasks))
            ]
            if wanted := [piece for piece in pieces if not isinstance(piece, bytes) or piece]:
                yield range(task, groups, tasks), wanted

    def tokens(self) -> list[Any]:
        """Return what the engine knows pieces by."""
        return [piece for pieces in self._pieces.values() for piece in pieces if not isinstance(piece, bytes)]
