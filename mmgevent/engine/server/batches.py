"""The input of one job on the server: batches from the driver, until they are mapped.

A batch is announced, arrives in chunks, and stays until the scheduler releases it.  The server
reads nothing in it.  `Intake` limits the bytes of all jobs and of each link: over a limit this
module grants the driver no more credit, except for what a job needs to make progress.
"""

from __future__ import annotations

from typing import Any

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.intake import Intake, append_chunk
from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import join_payloads
from mmgevent.wire.lanes import BATCH_WINDOW, FIRST_BATCH_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.limits import MAX_BATCH_BYTES, check_limit

#: Weight of one batch. Larger numbers could overflow the sums of the server.
MAX_WEIGHT = 2**40

#: Time that one attempt claims to have taken, seconds. Larger numbers could overflow as well.
MAX_SECONDS = 1e7


class HostedBatch:
    """Some items of a job, as opaque chunks."""

    __slots__ = (
        "chunks",
        "counted",
        "has_refs",
        "is_content",
        "items",
        "received",
        "size",
        "weight",
        "window",
        "withheld_bytes",
    )

    def __init__(self, items: int, weight: int, size: int, is_content: bool, has_refs: bool):
        self.items = items  #: entries
        self.has_refs = has_refs  #: an entry may stand for any number of items
        self.weight = weight
        self.size = size  #: bytes
        self.is_content = is_content  #: replaces refs by the contents of their files
        self.chunks: list[bytes] = []
        self.received = 0  #: bytes
        #: Bytes that the driver may have sent.
        self.counted = 0
        #: Bytes of credit that wait until the intake has room.
        self.withheld_bytes = 0
        self.window = ReceiveWindow(FIRST_BATCH_WINDOW)

    @property
    def is_whole(self) -> bool:
        """Return whether every byte has arrived."""
        return self.received == self.size


class JobInput:
    """The batches of one job, and how much of them is mapped."""

    def __init__(self, link: Link, driver_job: int, intake: Intake, *, is_oneshot: bool):
        """`link` leads to the driver, which knows the job as `driver_job`."""
        self._link = link
        self._driver_job = driver_job
        self._intake = intake
        self._share = intake.share_of(link)
        self._is_oneshot = is_oneshot
        self.batches: dict[int, HostedBatch] = {}  #: whole batches by number
        self._arriving: dict[int, HostedBatch] = {}
        #: Batches that the driver may have sent so far.
        self.allowed = 0
        #: Whole batches so far.
        self.batch_count = 0
        #: Batches in all, or None until the driver has said it.
        self.total: int | None = None
        #: Items in all, if the server knows that before the last batch.
        self.known_items: int | None = None
        #: Entries and weight in all, as far as the driver knows them before that.
        self.expected_items: int | None = None
        self.expected_weight: int | None = None
        #: Work done so far, from which the driver estimates batch sizes.
        self.items_done = self.weight_done = 0
        self.seconds_done = 0.0

    @property
    def is_complete(self) -> bool:
        """Return whether the last batch is here."""
        return self.total is not None and self.batch_count >= self.total

    def announce(self, number: int, message: dict[str, Any]) -> HostedBatch:
        """Begin a batch, or begin it again with the contents of its files.

        A small batch comes with the announcement and is whole at once.  Raises ProtocolError if
        the batch breaks the protocol, MmgeventError if it is too large.
        """
        items, size = message["items"], message["size"]
        is_again = self._check(number, items, size, is_content=message.get("content", False))
        has_refs = message.get("refs", False)
        batch = HostedBatch(items, min(message["weight"], MAX_WEIGHT), size, is_again, has_refs)
        self.expected_items = message.get("of_items", self.expected_items)
        self.expected_weight = message.get("of_weight", self.expected_weight)
        inline = message.get("inline")
        if inline is None:
            self._arriving[number] = batch
            self._count(batch, FIRST_BATCH_WINDOW)
            if size > FIRST_BATCH_WINDOW:
                batch.withheld_bytes = batch.window.widen(BATCH_WINDOW)
                self._grant_or_wait(number, batch)
            return batch
        if len(inline) != size:
            raise ProtocolError(f"{len(inline)} bytes came with the announcement of a batch of {size}")
        batch.chunks.append(inline)
        batch.received = batch.counted = size
        self._share.arrive(size, promised=False)
        self._keep(number, batch)
        return batch

    def _check(self, number: int, items: int, size: int, *, is_content: bool) -> bool:
        """Check an announcement; return whether it is of a batch that is here already."""
        known = self.batches.get(number)
        is_again = known is not None and is_content and known.items == items
        if (known is not None and not is_again) or number in self._arriving:
            raise ProtocolError(f"batch {number} came twice")
        if known is None and number > self.allowed:
            raise ProtocolError(f"batch {number} came, but only {self.allowed} were allowed")
        if not 1 <= items <= size or (self._is_oneshot and items != 1):
            raise ProtocolError(f"a batch of {items} items and {size} bytes came")
        check_limit(f"batch {number}", size, MAX_BATCH_BYTES)
        return is_again

    def receive(self, number: int, data: bytes) -> HostedBatch:
        """Take bytes of a batch.  Once whole, it replaces an earlier one of that number."""
        batch = self._arriving.get(number)
        if batch is None or batch.received + len(data) > batch.size:
            raise ProtocolError(f"{len(data)} bytes came that belong to no announced batch")
        batch.window.received(len(data))
        append_chunk(batch.chunks, data)
        batch.received += len(data)
        self._share.arrive(len(data))
        batch.withheld_bytes += batch.window.consumed(len(data))
        if batch.is_whole:
            self._keep(number, self._arriving.pop(number))
            self._share.end_exceeding(batch)
        else:
            self._grant_or_wait(number, batch)
        return batch

    def release(self, number: int) -> None:
        """Forget a batch that is mapped or no longer needed."""
        batch = self.batches.pop(number)
        self._share.give_back(batch.size)

    def count_mapped(self, number: int, items: int, seconds: float) -> None:
        """Account for `items` entries of a batch that an attempt has mapped in so many seconds."""
        batch = self.batches.get(number)
        if batch is not None:
            self.items_done += items
            self.weight_done += batch.weight * items // batch.items
            self.seconds_done += min(seconds, MAX_SECONDS)

    def end(self) -> None:
        """Note that the job is done: no task of it needs a batch any more.

        Batches stay until `close`, since a driver that was told "enough" may still send some.
        """
        return

    def close(self) -> None:
        """Forget all batches."""
        arriving = list(self._arriving.values())
        held = sum(batch.received for batch in (*self.batches.values(), *arriving))
        promised = sum(batch.counted - batch.received for batch in arriving)
        self.batches.clear()
        self._arriving.clear()
        self._intake.forget(self._grant_waiting)
        self._share.give_back(held, promised=promised)
        for batch in arriving:
            self._share.end_exceeding(batch)

    def _keep(self, number: int, batch: HostedBatch) -> None:
        known = self.batches.get(number)
        # Every attempt sends these as frames, so tiny ones would cost it far more than their bytes.
        batch.chunks = [bytes(chunk) for chunk in join_payloads(batch.chunks)]
        self.batches[number] = batch
        if known is not None:
            self._share.give_back(known.size)

    def _count(self, batch: HostedBatch, n_bytes: int) -> None:
        """Count bytes that the driver may send, up to the size of the batch."""
        n_bytes = min(n_bytes, batch.size - batch.counted)
        batch.counted += n_bytes
        self._share.promise(n_bytes)

    def _grant_or_wait(self, number: int, batch: HostedBatch) -> None:
        if batch.withheld_bytes and self._share.is_full:
            self._grant_waiting()
        elif batch.withheld_bytes:
            self._grant(number, batch)

    def _grant_waiting(self) -> None:
        """Grant withheld credit.

        While the share of the link is full, only two kinds of batches get credit, one at a time:
        the oldest one of a job that has no whole batch, and contents, which tasks may wait for.
        """
        needs_one = not self.batches
        for number, batch in self._arriving.items():
            may_exceed = (needs_one or batch.is_content) and batch.withheld_bytes
            if not batch.withheld_bytes:
                pass
            elif self._share.is_full and not (may_exceed and self._share.may_exceed(batch)):
                self._intake.wait(self._grant_waiting)
            else:
                self._grant(number, batch)
            needs_one = False

    def _grant(self, number: int, batch: HostedBatch) -> None:
        self._link.send(grant_frame((self._driver_job, number, 0), batch.withheld_bytes))
        self._count(batch, batch.withheld_bytes)
        batch.withheld_bytes = 0
