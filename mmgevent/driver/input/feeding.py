"""The input of a job in its driver: items of the datasource become encoded batches.

A feeder reads only as far as it is asked to. It can give items again when the job is resubmitted,
or when executors do not have the files. For files it keeps refs. If a datasource may not give the
same items again, it keeps a copy of the batches on disk.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, chain, groupby, islice
from typing import Any

from mmgevent.driver.input.batching import (
    FULL_BATCH_BYTES,
    BatchSize,
    Speed,
    large_first_size,
    next_size,
)
from mmgevent.driver.input.encoding import (
    EncodedBatch,
    digest,
    encode_batch,
    encode_cut,
    encoded_bytes,
    with_content,
)
from mmgevent.driver.input.kept_batches import (
    KeptBatches,
    find_unit,
    items_at,
    not_kept_error,
    too_large_notice,
)
from mmgevent.driver.input.open_walk import Item, OpenWalk
from mmgevent.driver.input.total import InputTotal
from mmgevent.errors import DatasourceError, JobCancelled, MmgeventError, ProtocolError
from mmgevent.job.inputs.refs import Ref
from mmgevent.job.inputs.source import Source
from mmgevent.job.inputs.sources import is_in_memory, is_one_shot, is_safe_to_repeat
from mmgevent.job.inputs.walks import Repetition, Walk, note_call
from mmgevent.job.job import Job
from mmgevent.machine.logs import get_log
from mmgevent.tasks.blame import blame_driver_code
from mmgevent.wire.numbers import MAX_NUMBER
from mmgevent.wire.positions import entry_of, place_of

log = get_log(__name__)

#: Time after which a batch of a slow datasource is sent, even if it is not full, seconds.
PATIENCE_S = 0.25
#: The same for a first batch that would be large, seconds: nothing runs before it is there.
FIRST_PATIENCE_S = 0.01
#: Assumed weight of an item that has no length, before it is encoded, bytes.
SMALL_ITEM_BYTES = 64
#: Items of a large first batch of which at least one is weighed. Weighing one takes 10 µs.
SAMPLE_ITEMS = 256


class Feeder:
    """Cuts a job's datasource into batches, which are numbered from 1 in datasource order."""

    def __init__(
        self,
        job: Job[Any, Any],
        clock: Callable[[], float] = time.monotonic,
        *,
        may_restart: bool = True,
        on_notice: Callable[[str], None] = log.warning,
    ):
        """Claim the datasource, and call it if it is a function.

        Without `may_restart` no batches are kept. `on_notice` is called with texts for the user.
        Raises DatasourceError if the datasource was used up, and JobError as `next_batch` does.
        """
        self._job = job
        self._clock = clock
        self._on_notice = on_notice
        with _blaming_datasource():
            opened = job.open_datasource()
        self._items = OpenWalk(job, opened)
        #: how large the input is
        self.total = InputTotal(opened, is_oneshot=job.options.allocation == "oneshot")
        self._weight = 0  # bytes of the batches given out since the last restart
        #: whether `next_batch` never waits
        self.never_waits = is_in_memory(job.datasource)
        self._is_made = opened is not job.datasource
        is_new = self._is_made and is_one_shot(opened) and not isinstance(opened, Source)
        self._may_read_again = is_safe_to_repeat(opened) or is_new
        #: earlier walks through the same datasource; None if they do not matter
        self._walk = None if self._may_read_again or is_one_shot(opened) else Walk(opened)
        self._kept: KeptBatches | None = None
        if may_restart and not self._may_read_again:
            self._kept = KeptBatches()
        #: kept batches that are given out again, before new ones
        self._replay: Iterator[EncodedBatch] = iter(())
        self._cut: deque[EncodedBatch] = deque()
        self._held: Item | None = None  # item that was read and needs a batch of its own
        self._refs: dict[int, list[tuple[Any, Ref]]] = {}
        self._has_content = False
        self._count = 0  # batches given out since the last restart
        self._sizes = array("Q")  # entries of each of these batches
        self._repetition = Repetition()
        #: bytes of an encoded item beyond its weight, on average of the last batch
        self._hidden_bytes = 0
        #: whether every item was given out
        self.has_ended = False
        self._size = BatchSize(1, 0)  # limits of the batch that is being filled
        self._is_stopped = False

    def restart(self) -> None:
        """Begin again from the first item, for a server that has seen nothing yet.

        Raises JobError (kind "disk") if the batches that are needed were not kept.
        """
        self._count = 0
        self._sizes = array("Q")
        self._weight = 0
        self._cut.clear()
        self.has_ended = False
        if self._kept is not None:
            self._replay = self._kept.read()
            return
        if not self._may_read_again:
            raise not_kept_error()
        self._repetition.restart()
        self._held = None
        self._refs.clear()
        self._items.close()
        with _blaming_datasource():
            self._items = OpenWalk(self._job, self._job.reopen_datasource())

    def next_batch(self, speed: Speed, *, is_given_back: bool = False) -> tuple[int, EncodedBatch] | None:
        """Return (number, batch), or None at the end of the datasource.

        `is_given_back`: whether tasks give back what they do not map in time.  So the first batches
        may be large.

        Raises JobError (kind "datasource") for an exception of the user's own iterator. Raises
        DatasourceError for an item that is no pair, cannot be pickled or is too large, and for a
        datasource that was used up.
        """
        batch = next(self._replay, None)
        if batch is None:
            batch = self._cut.popleft() if self._cut else self._read_batch(speed, is_given_back)
            if batch is None:
                self.has_ended = True
                self.total.end(sum(self._sizes), self._weight)
                return None
        if self._count >= MAX_NUMBER:  # numbers of batches keep the order of the datasource
            raise DatasourceError(
                f"the datasource gave more than {MAX_NUMBER:,} batches; make several jobs of it"
            )
        self._count += 1
        self._sizes.append(batch.items)
        self._weight += batch.weight
        return self._count, batch

    def content_of(self, number: int) -> EncodedBatch:
        """Return a batch again, with the contents of its files. Later batches include them."""
        self._has_content = True
        refs = self._refs.get(number)
        if refs is None:
            raise ProtocolError(f"the contents of batch {number} were asked for, which has no files")
        return encode_batch(
            [(key, with_content(ref)) for key, ref in refs], sum(ref.weight for _, ref in refs)
        )

    def read_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        """Yield (place, (key, value)) of the items at these ascending (batch, position).

        Items that can no longer be read are left out: those of files that have changed, and of
        one-shot datasources of jobs that are over. So are places that no batch has: they are from
        workers.
        """
        sizes = self._sizes
        places = [
            place for place in places if place[0] <= len(sizes) and entry_of(place[1]) < sizes[place[0] - 1]
        ]
        if self._kept is not None:
            return self._kept.read_again(places)
        if self._refs:
            return _read_refs_again(self._refs, places)
        return self._walk_again(places) if self._may_read_again else iter(())

    def find_item(self, batch: int, position: int) -> tuple[Any, Any] | None:
        """Return an item, as it was, if it can be read again at once; else None."""
        if batch < 1 or position < 0:
            return None
        refs = self._refs.get(batch)
        if refs is not None:
            entry = entry_of(position)
            return find_unit(refs[entry][1], place_of(position)) if entry < len(refs) else None
        if not self.reads_again_quickly:
            return None
        return next((item for _, item in self.read_again([(batch, position)])), None)

    @property
    def reads_again_quickly(self) -> bool:
        """Return whether items can be read again at once: they are in memory, or were kept."""
        return self._kept is not None or self.never_waits

    def _walk_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        starts = [0, *accumulate(self._sizes)]
        wanted = {starts[batch - 1] + entry_of(position): (batch, position) for batch, position in places}
        if not wanted:
            return
        with _blaming_datasource():
            items = self._job.walk(self._job.reopen_datasource())
            for index, (key, value, _) in enumerate(islice(items, max(wanted) + 1)):
                if index in wanted:
                    yield wanted[index], (key, value)

    def stop(self) -> None:
        """Make `next_batch` raise JobCancelled at the next item. Any thread may call this."""
        self._is_stopped = True
        self.end_batch()

    def end_batch(self) -> None:
        """End the batch that is being filled at the next item. Any thread may call this."""
        self._size.max_items = 0

    def close(self) -> None:
        """Delete the copy of the datasource, if there is one, and end the walk through it. Idempotent.

        See `OpenWalk.close` for what happens if another thread calls this.
        """
        self.total.close()
        self._items.close()
        if self._kept is not None:
            self._kept.close()

    def _cancelled(self) -> JobCancelled:
        return JobCancelled(f"job {self._job.name} was cancelled")

    def _read_batch(self, speed: Speed, is_given_back: bool) -> EncodedBatch | None:
        """Read items and encode them; what does not fit into one batch waits in `_cut`."""
        items, weight = self._pull(speed, is_large_first=is_given_back and not speed.is_known)
        if self._is_stopped:
            raise self._cancelled()
        if not items:
            return None
        refs = items if isinstance(items[0][1], Ref) else None
        if refs is not None and self._has_content:
            items = [(key, with_content(ref)) for key, ref in items]
        batches = list(encode_cut(items, weight))
        if refs is not None:
            starts = accumulate((batch.items for batch in batches), initial=0)
            for number, (start, batch) in enumerate(zip(starts, batches, strict=False), self._count + 1):
                these = refs[start : start + batch.items]
                if not all(ref.is_of_stream for _, ref in these):  # whose content nobody lacks
                    self._refs[number] = these
        self._hidden_bytes = (sum(len(batch.data) for batch in batches) - weight) // len(items)
        for batch in batches:
            self._keep(batch)
        self._cut.extend(batches[1:])
        return batches[0]

    def _pull(self, speed: Speed, is_large_first: bool) -> tuple[list[tuple[Any, Any]], int]:
        """Read items for one batch; return them with their total weight.

        In a large first batch some of the items without a length are weighed: they may be arrays.
        """
        size = self._size = self._next_size(speed, is_large_first)
        left = self._items.items()
        if self._is_stopped or left is None:
            raise self._cancelled()
        items: list[tuple[Any, Any]] = []
        count = total = 0
        is_hasty = is_large_first and not self.never_waits
        until = self._clock() + (FIRST_PATIENCE_S if is_hasty else PATIENCE_S)
        small_bytes = SMALL_ITEM_BYTES
        max_items, max_weight = size.max_items, size.max_weight
        is_at_end = True
        with _blaming_datasource():
            for item in left if self._held is None else chain([self._take_held()], left):
                key, value, weight = item
                if size.multiple > 1 and isinstance(value, Ref):  # it stands for any number of items
                    size.multiple = 1
                if not weight:
                    if type(value) in (str, bytes):
                        weight = len(value)
                    elif is_large_first and _is_sampled(count):
                        small_bytes = max(SMALL_ITEM_BYTES, encoded_bytes((key, value)))
                    weight = weight or small_bytes
                if weight > FULL_BATCH_BYTES and items:  # it goes alone, in the next batch
                    self._held, is_at_end = item, False
                    break
                items.append((key, value))
                count += 1
                total += weight
                is_late = (is_hasty or count % 64 == 1) and self._clock() > until
                is_full = count >= max_items or total >= max_weight
                if is_late or (is_full and size.is_reached(count, total)):
                    is_at_end = False
                    break
            self._note_items(items, is_at_end)
        return items, total

    def _next_size(self, speed: Speed, is_large_first: bool) -> BatchSize:
        options = self._job.options
        if options.allocation == "oneshot":
            return BatchSize(1, 0)
        if is_large_first:
            total = len(self._job.datasource) if self.never_waits else None
            size = large_first_size(speed.slots, total, options.greenlets, options.items_per_call or 1)
        else:
            size = next_size(speed, at_least=options.greenlets, multiple=options.items_per_call or 1)
        if self._hidden_bytes > SMALL_ITEM_BYTES:  # lists or arrays, whose weight is unknown
            most = max(1, FULL_BATCH_BYTES // self._hidden_bytes)
            size.max_items, size.multiple = min(size.max_items, most), min(size.multiple, most)
        return size

    def _take_held(self) -> Item:
        assert self._held is not None
        held, self._held = self._held, None
        return held

    def _note_items(self, items: list[tuple[Any, Any]], is_at_end: bool) -> None:
        """Count what was read. Raises DatasourceError if an earlier walk had more items."""
        walk = self._walk
        if walk is not None:
            if items and not walk.has_begun:
                walk.begin(digest(items[0]))
            walk.count(len(items))
            if is_at_end:
                walk.end()
            return
        again = self._repetition
        again.count(len(items))
        for item in items if self._is_made else ():
            if not again.wants_digest or isinstance(item[1], Ref):  # files may change
                break
            again.compare(digest(item))
        if is_at_end:
            n_items = again.end()
            if self._is_made:
                before = note_call(self._job.datasource, n_items)
                if before and not n_items:
                    self._on_notice(_EMPTY_NOW.format(before))

    def _keep(self, batch: EncodedBatch) -> None:
        if self._kept is None:
            return
        if self._kept.has_room_for(batch):
            self._kept.append(batch)
            return
        self._kept.close()
        self._kept = None
        self._on_notice(too_large_notice())


def _is_sampled(index: int) -> bool:
    """Return whether to weigh an item: at 0, 1, 2, 4, 8..., and each SAMPLE_ITEMS."""
    return not index & (index - 1) or index % SAMPLE_ITEMS == 0


@contextmanager
def _blaming_datasource() -> Iterator[None]:
    """Turn an exception of the user's own function or iterator into a JobError."""
    try:
        yield
    except MmgeventError:
        raise
    except (Exception, SystemExit) as error:
        raise blame_driver_code(error, "datasource", "the datasource") from error


def _read_refs_again(
    refs: dict[int, list[tuple[Any, Ref]]], places: list[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
    for entry, group in groupby(places, lambda place: (place[0], entry_of(place[1]))):
        if entry[0] not in refs:  # a batch of a stream
            continue
        key, ref = refs[entry[0]][entry[1]]
        yield from items_at(key, ref, group)


_EMPTY_NOW = (
    "the datasource function gave no items, and {:,} when it was called for an earlier job; if it reads from a file or "
    "iterator that is used up now, let it open a new one in each call"
)
