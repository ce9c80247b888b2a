"""Results that stay on the server, as the input of the next stage of a chain.

The first job says that its results are kept (`KeptResults`). The second one names the first as its
source. Its batches (`StageBatch`) are runs of segments in the store of the first job, in the order
of reduce tasks. The server reads their counts from the tables of flushes, and nothing in them.

They are read when a task is assigned, so they need no memory of their own. An output is freed when
the last batch of it is mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.batches import MAX_WEIGHT, HostedBatch, JobInput
from mmgevent.engine.server.intake import Intake
from mmgevent.engine.server.store import JobStore, Output
from mmgevent.errors import MmgeventError, ProtocolError, StoreError
from mmgevent.wire.limits import MAX_BATCH_BYTES

#: Batches for each slot, about, if results are few: then slots that are faster get more of them.
BATCHES_PER_SLOT = 8

#: Size of a batch to aim at, bytes: that of a segment of results. Each costs a message, 1 ms.
BATCH_BYTES = 1024 * 1024


class StageBatch(HostedBatch):
    """Some results, as places in the outputs of reduce tasks."""

    __slots__ = ("is_released", "places", "store")

    def __init__(self, store: JobStore) -> None:
        super().__init__(0, 0, 0, False, False)
        self.store = store
        #: (output, offset, bytes) of its segments
        self.places: list[tuple[Output, int, int]] = []
        #: It is mapped, and its segments may be freed. Attempts that were too slow may still read it.
        self.is_released = False

    def add(self, output: Output, offset: int, n_bytes: int, records: int) -> None:
        """Add a segment."""
        self.places.append((output, offset, n_bytes))
        self.items += records
        self.size += n_bytes
        self.weight = min(self.size, MAX_WEIGHT)

    def read(self) -> Iterator[bytes | memoryview]:
        """Yield the segments, in pieces (blocks on the disk). It ends early when the batch is released."""
        try:
            for output, offset, n_bytes in self.places:
                yield from self.store.read_range(output, offset, n_bytes)
        except StoreError:
            if not self.is_released:
                raise


class KeptResults:
    """The results of one job, until another takes them."""

    def __init__(self, store: JobStore):
        self.store = store
        self._outputs: dict[int, Output] = {}  # by reduce task
        #: number of records
        self.records = 0
        #: whether the job is done
        self.is_whole = False
        self._is_taken = False

    @property
    def is_free(self) -> bool:
        """Return whether they are whole, and no job has them as its input."""
        return self.is_whole and not self._is_taken

    def add(self, task: int, output: Output) -> None:
        """Keep the output of a reduce task."""
        self._outputs[task] = output
        self.records += sum(output.flushes.records)

    def take(
        self, link: Link, driver_job: int, intake: Intake, slots: int, release: Callable[[], None]
    ) -> StageInput:
        """Return the results as the input of a job. `release` is called once, when it ends."""
        self._is_taken = True
        outputs = [output for _, output in sorted(self._outputs.items())]
        self._outputs.clear()
        batch_items = max(1, self.records // (BATCHES_PER_SLOT * max(1, slots)))
        made = StageInput(link, driver_job, intake, self.store, outputs, batch_items, release)
        made.known_items = self.records
        return made


class StageInput(JobInput):
    """The input of a job that is the results of another."""

    def __init__(
        self,
        link: Link,
        driver_job: int,
        intake: Intake,
        store: JobStore,
        outputs: list[Output],
        batch_items: int,
        release: Callable[[], None],
    ):
        """`batch_items`: the number of items of a batch to aim at."""
        super().__init__(link, driver_job, intake, is_oneshot=False)
        self._store = store
        self._batch_items = batch_items
        self._release = release
        self._cut = self._cut_outputs(outputs)
        self._next = next(self._cut, None)
        self._open: dict[Output, int] = {}  # batches of each output that are not mapped
        self._reading: Output | None = None  # the output that is being cut
        self._has_ended = False

    def next_batches(self) -> Iterator[tuple[int, StageBatch]]:
        """Yield (number, batch) of those that are allowed now and were not given.

        Raises MmgeventError for a result that is too large to be an item.
        """
        while self._next is not None and self.batch_count < self.allowed:
            batch = self._next
            if batch.size > MAX_BATCH_BYTES:
                raise MmgeventError(
                    f"a result has {batch.size} bytes when it is encoded; as an item of the next stage it may have "
                    f"{MAX_BATCH_BYTES}: let it be several"
                )
            self.batch_count += 1
            self.batches[self.batch_count] = batch
            for output in {place[0] for place in batch.places}:
                self._open[output] = self._open.get(output, 0) + 1
            self._next = next(self._cut, None)
            yield self.batch_count, batch

    def ends_now(self) -> bool:
        """Return whether all batches were given. It is true once."""
        is_now = self._next is None and not self._has_ended
        self._has_ended = self._has_ended or is_now
        return is_now

    @property
    def is_complete(self) -> bool:
        """Return False: the driver does not end this input, whatever it says."""
        return False

    def announce(self, number: int, message: dict[str, Any]) -> NoReturn:
        """Refuse a batch of the driver."""
        raise ProtocolError("a batch came for a job whose input is the results of another")

    def release(self, number: int) -> None:
        """Forget a batch that is mapped, and free the outputs of which no other is left."""
        batch = self.batches.pop(number)
        assert isinstance(batch, StageBatch)
        batch.is_released = True
        for output in {place[0] for place in batch.places}:
            self._open[output] -= 1
        waiting = {self._reading}
        if self._next is not None:
            waiting |= {place[0] for place in self._next.places}
        for output in [output for output, count in self._open.items() if not count]:
            if output not in waiting:
                del self._open[output]
                self._store.free(output)

    def end(self) -> None:
        """Free the results, and so the job that made them.

        Otherwise the stages of a chain would stay until the last one ends, each with its results.
        """
        self.close()

    def close(self) -> None:
        """Free the results. Idempotent."""
        self.batches.clear()
        self._open.clear()
        self._cut.close()
        self._next = None
        release, self._release = self._release, _do_nothing
        release()

    def _cut_outputs(self, outputs: list[Output]) -> Any:
        batch = StageBatch(self._store)
        for output in outputs:
            self._reading = output
            flushes = output.flushes
            for offset, n_bytes, records in zip(
                flushes.offsets, flushes.lengths, flushes.records, strict=True
            ):
                if not records:
                    continue
                if batch.items and batch.size + n_bytes > BATCH_BYTES:
                    yield batch
                    batch = StageBatch(self._store)
                batch.add(output, offset, n_bytes, records)
                if batch.items >= self._batch_items:
                    yield batch
                    batch = StageBatch(self._store)
        self._reading = None
        if batch.items:
            yield batch


def _do_nothing() -> None:
    pass
