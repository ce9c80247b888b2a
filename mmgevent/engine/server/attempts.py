"""The attempts that workers run: what the server sends them, and the output it receives.

The output of an attempt is staged in the store of its job.  The worker may send more once the
store has found room, in memory or on the disk.  An attempt that says it is done counts when all
of its output is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.history.tracks import Track
from mmgevent.engine.server.hosted import HostedJob
from mmgevent.engine.server.kept_results import StageBatch
from mmgevent.engine.server.workers import Workers
from mmgevent.errors import ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import INPUT, Frame, Lane, Payload, join_payloads
from mmgevent.wire.lanes import INPUT_WINDOW, OUTPUT_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.messages import control
from mmgevent.wire.positions import ALL, Part
from mmgevent.wire.shapes import MAX_INLINE_BYTES
from mmgevent.wire.task_ends import MAX_TEXT_CHARS

log = get_log(__name__)

#: Largest batch whose frames are all queued when it is assigned, bytes: more than batches of
#: several items have. A frame takes 150 bytes beside its payload, which attempts share.
QUEUED_BATCH_BYTES = 32 * 1024 * 1024


class HostedAttempt:
    """What the server knows of an attempt between its Assign and its Commit or Discard."""

    __slots__ = (
        "batch",
        "done",
        "error",
        "feeder",
        "has_noticed",
        "has_noticed_once",
        "hi",
        "is_over",
        "job",
        "lo",
        "logged",
        "number",
        "outcome",
        "part",
        "partitions",
        "pending_bytes",
        "task",
        "track",
        "window",
        "worker",
    )

    def __init__(self, number: int, job: HostedJob, worker: int, task: int):
        self.number = number
        self.job = job
        self.worker = worker  #: number of its worker
        self.task = task
        #: What to map: entries `lo` to `hi` - 1 of a batch, or a part of one entry. 0 in reduce.
        self.batch = self.lo = self.hi = 0
        self.part: Part = ALL
        #: Partitions to reduce, () in map.
        self.partitions: tuple[int, ...] = ()
        self.window = ReceiveWindow(OUTPUT_WINDOW)
        #: Greenlet that sends the input of a reduce attempt.
        self.feeder: gevent.Greenlet | None = None
        #: Committed or discarded: the segments that its feeder reads may be freed already.
        self.is_over = False
        #: Bytes of its output that wait for the spill file.
        self.pending_bytes = 0
        #: Its worker has sent a notice about it.
        self.has_noticed = False
        #: Its worker has sent a notice that is shown once a job.
        self.has_noticed_once = False
        #: The `Track` of its slot, None if the slot has none. Set when it is assigned.
        self.track: Track | None = None
        #: A word of `wire.task_ends.OUTCOMES`, or "returned", if something went wrong, and what; else "".
        self.outcome = self.error = ""
        #: What the `TaskLog` of its job keeps of it, set when it is assigned.
        self.logged: Any = None
        #: Its `done` message, kept until none of its output is pending.
        self.done: dict[str, Any] | None = None

    @property
    def lane(self) -> Lane:
        return (self.job.number, self.task, self.number)

    @property
    def is_map(self) -> bool:
        return self.batch != 0

    def may_put_out(self, partitions: set[int]) -> bool:
        """Return whether the attempt may have segments of these partitions.

        Segments of others would reduce a key twice, or never.  A map attempt sets items aside in
        the partition above those of the job.
        """
        if self.is_map:
            return max(partitions, default=0) <= self.job.partitions
        return partitions.issubset(self.partitions)

    def send_batch(self, worker: Link, fields: dict[str, Any]) -> None:
        """Send a map attempt with its batch, which is in the message if it is small.

        The chunks of the batch are not copied.
        """
        lane, batch = self.lane, self.job.input.batches[self.batch]
        if isinstance(batch, StageBatch):
            worker.open_lane(lane, INPUT_WINDOW)
            worker.send_in_lane(control("assign", *lane, size=batch.size, results=True, **fields))
            self.feeder = self.job.spawn(self._feed, worker, lambda: join_payloads(batch.read()))
            return
        if batch.size <= MAX_INLINE_BYTES:
            inline = batch.chunks[0] if len(batch.chunks) == 1 else b"".join(batch.chunks)
            worker.send_in_lane(control("assign", *lane, size=batch.size, inline=inline, **fields))
            return
        if batch.size <= INPUT_WINDOW:
            worker.send_in_lane(control("assign", *lane, size=batch.size, **fields))
            for chunk in batch.chunks:
                worker.send_in_lane(Frame(INPUT, chunk, *lane))
            return
        worker.open_lane(lane, INPUT_WINDOW)
        worker.send_in_lane(control("assign", *lane, size=batch.size, **fields))
        chunks = batch.chunks
        if batch.size > QUEUED_BATCH_BYTES:  # frames of all that a worker holds could fill the memory
            self.feeder = self.job.spawn(self._feed, worker, lambda: iter(chunks))
            return
        for chunk in chunks:
            worker.send_in_lane(Frame(INPUT, chunk, *lane))
        worker.close_lane(lane)

    def send_partitions(self, worker: Link, fields: dict[str, Any]) -> None:
        """Send a reduce attempt; a greenlet sends the segments of its partitions."""
        sizes = self.job.sizes
        parts = [[partition, sizes[partition]] for partition in self.partitions]
        size = sum(n_bytes for _, n_bytes in parts)
        worker.open_lane(self.lane, INPUT_WINDOW)
        worker.send_in_lane(control("assign", *self.lane, size=size, parts=parts, **fields))
        self.feeder = self.job.spawn(self._feed, worker, self._segments)

    def _segments(self) -> Iterator[Payload]:
        store = self.job.store
        for partition in self.partitions:
            yield from join_payloads(store.read_partition(partition))

    def _feed(self, worker: Link, read: Callable[[], Iterator[Payload]]) -> None:
        try:
            self._send_input(worker, read())
        except Exception as error:
            if not self.is_over:
                raise
            log.debug("attempt %d ended while it was fed: %s", self.number, error)

    def _send_input(self, worker: Link, pieces: Iterator[Payload]) -> None:
        """Send the input, and read more as it goes out (blocks).

        Raises LinkClosed and StoreError.
        """
        lane = self.lane
        for data in pieces:
            if self.is_over:
                return
            worker.send_in_lane(Frame(INPUT, data, *lane))
            worker.wait_for_room(lane, INPUT_WINDOW)
            if self.is_over:
                return
        worker.close_lane(lane)


def note_end(attempt: HostedAttempt, outcome: str, failure: dict[str, Any], item: int | None = None) -> None:
    """Note how an attempt is about to end, for those who look, and for a driver that keeps a log."""
    attempt.outcome, attempt.error = outcome, str(failure.get("error", ""))[:MAX_TEXT_CHARS]
    if attempt.job.task_log is not None:
        attempt.job.task_log.note(attempt.number, outcome, failure, item)


class Attempts:
    """The live attempts of a server, by number."""

    def __init__(self, workers: Workers, on_stored: Callable[[HostedAttempt, dict[str, Any]], None]):
        """`on_stored(attempt, done)` is called once an attempt is done and its output stored."""
        self._workers = workers
        self._on_stored = on_stored
        self._attempts: dict[int, HostedAttempt] = {}

    def add(self, attempt: HostedAttempt) -> None:
        """Note an attempt that is assigned to a worker."""
        self._attempts[attempt.number] = attempt
        self._workers[attempt.worker].attempts.add(attempt.number)

    def end(self, number: int) -> HostedAttempt:
        """Forget an attempt that is committed or discarded, and return it."""
        attempt = self._attempts.pop(number)
        attempt.is_over = True
        worker = self._workers.get(attempt.worker)
        if worker is not None:
            worker.attempts.discard(number)
        if attempt.feeder is not None:
            attempt.feeder.kill(block=False)
        return attempt

    def find(self, number: int, worker: int) -> HostedAttempt | None:
        """Return a live attempt of this worker, or None if it is over.

        Raises ProtocolError if it is an attempt of another worker.
        """
        attempt = self._attempts.get(number)
        if attempt is not None and attempt.worker != worker:
            raise ProtocolError(f"attempt {number} belongs to another worker")
        return attempt

    def take_output(self, attempt: HostedAttempt, data: bytes) -> None:
        """Stage bytes of an attempt's output.

        Once they are stored the worker gets credit for more.
        """
        if attempt.done is not None:
            raise ProtocolError(f"output of attempt {attempt.number} came after it was done")
        attempt.window.received(len(data))
        job = attempt.job
        if job.store.stage(attempt.number, data):
            self._grant(attempt, len(data))
            return
        attempt.pending_bytes += len(data)
        if job.spilling is None:
            job.spilling = job.spawn(self._spill, job)

    def finish(self, attempt: HostedAttempt, message: dict[str, Any]) -> None:
        """Take the `done` of an attempt.

        Its output must be whole: staged before, or in this message.  While output waits for the
        disk the attempt keeps its slot, which limits what can be pending.
        """
        if attempt.done is not None:
            return  # a worker may repeat it while the disk is slow
        store = attempt.job.store
        inline = message.get("inline", b"")
        if inline:
            attempt.window.widen(attempt.window.window_bytes + len(inline))  # it needed no credit
            self.take_output(attempt, inline)
        if message["size"] != store.staged_bytes(attempt.number) or not store.is_whole(attempt.number):
            raise ProtocolError(f"attempt {attempt.number} is done, but its output did not arrive whole")
        if not attempt.may_put_out(store.staged_partitions(attempt.number)):
            raise ProtocolError(f"attempt {attempt.number} put out partitions that are not its own")
        if attempt.job.kept is not None and not store.has_possible_counts(attempt.number):
            raise ProtocolError(f"attempt {attempt.number} put out more records than its bytes can hold")
        attempt.done = message
        if not attempt.pending_bytes:
            self._on_stored(attempt, message)

    def _spill(self, job: HostedJob) -> None:
        """Write pending output of a job to the disk, until nothing is pending (blocks)."""
        while (written := job.store.write_pending()) is not None:
            number, n_bytes = written
            attempt = self._attempts.get(number)
            if attempt is not None:
                attempt.pending_bytes -= n_bytes
                self._grant(attempt, n_bytes)
                if attempt.done is not None and not attempt.pending_bytes:
                    self._on_stored(attempt, attempt.done)
        job.spilling = None

    def _grant(self, attempt: HostedAttempt, n_bytes: int) -> None:
        granted = attempt.window.consumed(n_bytes)
        worker = self._workers.get(attempt.worker)
        if granted and worker is not None:
            worker.link.send(grant_frame(attempt.lane, granted))

    def __getitem__(self, number: int) -> HostedAttempt:
        return self._attempts[number]

    def __len__(self) -> int:
        return len(self._attempts)
