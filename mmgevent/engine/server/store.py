"""Keep the segments of jobs on the server: staged, committed, spilled, read back.

The output of an attempt arrives in chunks and is staged under the attempt.  The
store reads the offset table in front of each flush and nothing behind it: segments
are opaque.  `commit` makes an attempt count, `discard` makes it as if it had never
been; nothing in between exists.

Staged and committed bytes of all jobs count against one bound, `Memory`.  A chunk
that finds no room becomes a *pending write*: the owner of the store calls
`write_pending` where blocking is allowed, and grants the sender no further bytes
before that, so what is pending is bounded by the windows of the senders.

The spill file is unlinked from the start and made of blocks of one frame each.  A
freed block is used again by the next chunk, so the bytes of lost attempts need no
rewriting, and a block that is only partly used costs no disk beyond its bytes.

The disk is touched only through `run(function, *args)`, which a gevent owner binds
to its thread pool.  Whatever happens while such a call is under way (a discard, the
end of the job) is looked at when it returns; and if whoever waits for it is killed,
the call goes on in its thread, so it is the file that knows when the last one is over.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmgevent.errors import ProtocolError, StoreError
from mmgevent.wire.positions import ALL, Part, start_of

FLUSH_MAGIC = b"MMGF"
FLUSH_HEAD = struct.Struct("<4sI")  #: magic, entries
FLUSH_ENTRY = struct.Struct("<IIQ")  #: partition, records, bytes

#: partitions of a job, and so entries of a flush table, at most
MAX_PARTITIONS = 4096

#: bytes of a spill file's block: what one frame carries at most
BLOCK_BYTES = 256 * 1024


class Memory:
    """The bound on segment bytes that all jobs of a server hold in memory together."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        #: 0 <= used_bytes <= limit_bytes
        self.used_bytes = 0

    def take(self, n_bytes: int) -> bool:
        """Reserve bytes if they are there."""
        if self.used_bytes + n_bytes > self.limit_bytes:
            return False
        self.used_bytes += n_bytes
        return True

    def give_back(self, n_bytes: int) -> None:
        self.used_bytes -= n_bytes


class SpillFile:
    """An unlinked file of numbered blocks; each holds at most BLOCK_BYTES.

    `write`, `read` and `close` may be called from any thread.  A call that is under way keeps the descriptor:
    closed under it, its number could be another file's by the time the system sees it.
    """

    def __init__(self, folder: str | None = None):
        """Open the file in `folder` (the system's temporary folder if None).  StoreError if it cannot be."""
        try:
            self._file = tempfile.TemporaryFile(prefix="mmgevent-spill-", dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise StoreError(f"cannot make a spill file: {error}") from error
        self._free: list[int] = []
        self._block_count = 0
        self._lock = threading.Lock()  # of the two below; held for no call of the system but close
        self._calls = 0  # reads and writes under way
        self._is_closed = False

    @property
    def allocated_bytes(self) -> int:
        """Upper bound of the bytes in use."""
        return (self._block_count - len(self._free)) * BLOCK_BYTES

    def allocate(self) -> int:
        """Return the number of a block that nobody uses."""
        if self._free:
            return self._free.pop()
        self._block_count += 1
        return self._block_count - 1

    def free(self, block: int) -> None:
        self._free.append(block)

    def write(self, block: int, data: bytes) -> None:
        """Fill a block; StoreError when the disk is full or gone."""
        view, at = memoryview(data), block * BLOCK_BYTES
        try:
            with self._open() as fd:
                while view:
                    written = os.pwrite(fd, view, at)
                    view, at = view[written:], at + written
        except OSError as error:
            raise StoreError(f"cannot write {len(data)} bytes to the spill file: {error}") from error

    def read(self, block: int, start: int, n_bytes: int) -> bytes:
        """Return bytes of a block; StoreError when they are not there any more."""
        try:
            with self._open() as fd:
                data = os.pread(fd, n_bytes, block * BLOCK_BYTES + start)
        except OSError as error:
            raise StoreError(f"cannot read the spill file: {error}") from error
        if len(data) != n_bytes:
            raise StoreError(f"the spill file gave {len(data)} of {n_bytes} bytes")
        return data

    def close(self) -> None:
        """Give the disk back, once the calls that are under way are over."""
        with self._lock:
            self._is_closed = True
            if not self._calls:
                self._file.close()

    @contextmanager
    def _open(self) -> Iterator[int]:
        """The descriptor, which stays open meanwhile; StoreError once the file is closed."""
        with self._lock:
            if self._is_closed:
                raise StoreError("the spill file is closed")
            self._calls += 1
        try:
            yield self._file.fileno()
        finally:
            with self._lock:
                self._calls -= 1
                if self._is_closed and not self._calls:
                    self._file.close()


class FlushReader:
    """Find the segments in an attempt's output as it arrives; looks at offset tables only."""

    __slots__ = ("_buffer", "_offset", "_skip", "bounds", "lengths", "offsets", "partitions", "records")

    def __init__(self) -> None:
        self._buffer = bytearray()  # of a table that is not whole yet
        self._skip = 0  # bytes of segments still to pass over
        self._offset = 0  # in the attempt's output, of what is fed next
        #: one entry a segment, in order of arrival; partitions ascend within a flush
        self.partitions = array("I")
        self.records = array("I")
        self.offsets = array("Q")
        self.lengths = array("Q")
        #: entry numbers at which flushes begin, and the end
        self.bounds = [0]

    def feed(self, data: bytes) -> None:
        """Read on; ProtocolError for bytes that are no flush."""
        view = memoryview(data)
        while view:
            if self._skip:
                n_bytes = min(self._skip, len(view))
                self._skip -= n_bytes
            else:
                n_bytes = self._feed_table(view)
            self._offset += n_bytes
            view = view[n_bytes:]

    @property
    def is_whole(self) -> bool:
        """Does the output end here with a whole flush (or none)?"""
        return not self._skip and not self._buffer

    def _feed_table(self, view: memoryview) -> int:
        """Take bytes of a table; a whole one is read where it is."""
        size = 0 if self._buffer else _table_size(view)
        if 0 < size <= len(view):
            self._read_table(view[:size], self._offset + size)
            return size
        wanted = _table_size(self._buffer) or FLUSH_HEAD.size
        n_bytes = min(wanted - len(self._buffer), len(view))
        self._buffer += view[:n_bytes]
        if len(self._buffer) == _table_size(self._buffer):
            self._read_table(bytes(self._buffer), self._offset + n_bytes)
            self._buffer.clear()
        return n_bytes

    def _read_table(self, table: bytes | memoryview, offset: int) -> None:
        """Note the segments of a table; the first is at `offset`."""
        last = -1
        for partition, records, n_bytes in FLUSH_ENTRY.iter_unpack(table[FLUSH_HEAD.size :]):
            # one above those of a job: what was set aside
            if not last < partition <= MAX_PARTITIONS or n_bytes > 2**48:
                raise ProtocolError("a flush names its partitions out of order or out of range")
            last = partition
            self.partitions.append(partition)
            self.records.append(records)
            self.offsets.append(offset)
            self.lengths.append(n_bytes)
            offset += n_bytes
            self._skip += n_bytes
        self.bounds.append(len(self.partitions))


def _table_size(data: bytes | bytearray | memoryview) -> int:
    """The bytes of the table that begins here; 0 if that is not to be seen yet."""
    if len(data) < FLUSH_HEAD.size:
        return 0
    magic, count = FLUSH_HEAD.unpack_from(data)
    if magic != FLUSH_MAGIC or count > MAX_PARTITIONS + 1:
        raise ProtocolError("an attempt's output is no sequence of flushes")
    return FLUSH_HEAD.size + int(count) * FLUSH_ENTRY.size


class _Piece:
    """One chunk: its bytes while in memory or pending, else the number of its block."""

    __slots__ = ("block", "counted", "data", "size")

    def __init__(self, data: bytes, counted: bool):
        self.data: bytes | None = data
        self.block = -1
        self.size = len(data)
        self.counted = counted  # against Memory


class Output:
    """What one attempt has put out: its chunks, and where its segments are in them."""

    __slots__ = ("_pieces", "_starts", "flushes", "size")

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []
        self.flushes = FlushReader()
        self.size = 0

    def segments(self, partition: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the partition's segments, in the order of flushes."""
        flushes = self.flushes
        for first, end in zip(flushes.bounds, flushes.bounds[1:], strict=False):
            at = bisect_left(flushes.partitions, partition, first, end)
            if at < end and flushes.partitions[at] == partition:
                yield flushes.offsets[at], flushes.lengths[at]

    def count(self, partition: int) -> int:
        """Return how many records there are of a partition."""
        flushes = self.flushes
        return sum(
            records
            for each, records in zip(flushes.partitions, flushes.records, strict=True)
            if each == partition
        )

    def _add(self, piece: _Piece) -> None:
        self._starts.append(self.size)
        self._pieces.append(piece)
        self.size += piece.size

    def _slices(self, offset: int, n_bytes: int) -> Iterator[tuple[_Piece, int, int]]:
        at = bisect_right(self._starts, offset) - 1
        while n_bytes:
            piece = self._pieces[at]
            start = offset - self._starts[at]
            count = min(n_bytes, piece.size - start)
            yield piece, start, count
            offset, n_bytes, at = offset + count, n_bytes - count, at + 1


class _Index:
    """Where the segments of each partition are, in any number of outputs: 8 bytes a segment.

    Looking for a partition in each output would cost (partitions x outputs), whether or not it is there.
    """

    __slots__ = ("_entries", "_outputs", "_owners")

    def __init__(self, outputs: list[Output]):
        self._outputs = outputs
        self._owners: dict[int, array[int]] = {}  # by partition: numbers of outputs, ...
        self._entries: dict[int, array[int]] = {}  # ... and of the entry there
        for number, output in enumerate(outputs):
            for entry, partition in enumerate(output.flushes.partitions):
                owners = self._owners.get(partition)
                if owners is None:
                    owners = self._owners[partition] = array("I")
                    self._entries[partition] = array("I")
                owners.append(number)
                self._entries[partition].append(entry)

    def entries(self, partition: int) -> Iterator[tuple[Output, int]]:
        """Yield (output, number of the entry there) of a partition's segments, in (output, flush) order."""
        outputs = self._outputs
        for number, entry in zip(
            self._owners.get(partition, ()), self._entries.get(partition, ()), strict=True
        ):
            yield outputs[number], entry


class JobStore:
    """The segments of one job.  Not thread-safe; only the methods that say so touch the disk."""

    def __init__(self, memory: Memory, folder: str | None = None, run: Callable[..., Any] | None = None):
        """Keep segments in `memory` and, beyond it, in a file in `folder`.

        `run(function, *args)` calls something that blocks on the disk; None calls it directly.
        """
        self._memory = memory
        self._folder = folder
        self._run = run or (lambda function, *args: function(*args))
        self._spill: SpillFile | None = None
        self._staged: dict[int, Output] = {}
        self._committed: dict[tuple[int, float], Output] = {}  # (batch, place in it) -> output of a map task
        self._lent: set[Output] = set()  # of the committed, those that somebody reads on after the map phase
        self._results: set[Output] = set()  # of reduce tasks, from their commit until they are freed
        self._sizes: dict[
            int, int
        ] = {}  # of the committed, by partition: summed up as they come, not all at once
        self._writes: deque[tuple[int, _Piece]] = deque()
        self._index: _Index | None = None  # of the committed, made on demand
        #: bytes that were written to disk so far, for reports
        self.spilled_bytes = 0

    def stage(self, attempt: int, chunk: bytes) -> bool:
        """Take a chunk of an attempt's output; False if it waits for `write_pending`.

        ProtocolError for bytes that are no flush or a chunk above BLOCK_BYTES.
        """
        if len(chunk) > BLOCK_BYTES:
            raise ProtocolError(f"a chunk of {len(chunk)} bytes came, at most {BLOCK_BYTES} may")
        if not chunk:
            return True
        output = self._staged.get(attempt)
        if output is None:
            output = self._staged[attempt] = Output()
        output.flushes.feed(chunk)
        piece = _Piece(chunk, self._memory.take(len(chunk)))
        output._add(piece)
        if not piece.counted:
            self._writes.append((attempt, piece))
        return piece.counted

    def has_pending(self) -> bool:
        return bool(self._writes)

    def write_pending(self) -> tuple[int, int] | None:
        """Find room for the oldest pending chunk (blocks on the disk); return (attempt, bytes), None if there is none.

        StoreError: the disk is full or gone; the job cannot go on.
        """
        while self._writes:
            attempt, piece = self._writes.popleft()
            data = piece.data
            if data is None:  # its attempt was discarded meanwhile
                continue
            if self._memory.take(
                piece.size
            ):  # others gave theirs back: no need of the disk, which may be full
                piece.counted = True
                return attempt, piece.size
            if self._spill is None:
                self._spill = SpillFile(self._folder)
            block = self._spill.allocate()
            self._run(self._spill.write, block, data)
            if piece.data is None:  # discarded while it was being written
                if self._spill is not None:
                    self._spill.free(block)
            else:
                piece.block, piece.data = block, None
                self.spilled_bytes += piece.size
            return attempt, piece.size
        return None

    def commit_map(self, attempt: int, batch: int, lo: int, part: Part = ALL) -> Output:
        """Make an attempt's output count as that of the map task that begins at entry `lo` of `batch`.

        `part`: where in that entry it begins, if the task is a part of one. Returns the output, which stays here.
        """
        output = self._committed[batch, lo + start_of(part)] = self._take_whole(attempt)
        self._index = None
        for partition, n_bytes in zip(output.flushes.partitions, output.flushes.lengths, strict=True):
            self._sizes[partition] = self._sizes.get(partition, 0) + n_bytes
        return output

    def lend(self, output: Output) -> None:
        """Keep committed map output until it is freed, even beyond `free_committed`."""
        self._lent.add(output)

    def commit_reduce(self, attempt: int) -> Output:
        """Make an attempt's output count as results; the caller delivers and then frees it."""
        output = self._take_whole(attempt)
        self._results.add(output)
        return output

    def discard(self, attempt: int) -> None:
        """Forget what an attempt has staged, if anything."""
        output = self._staged.pop(attempt, None)
        if output is not None:
            self.free(output)

    def staged_bytes(self, attempt: int) -> int:
        output = self._staged.get(attempt)
        return 0 if output is None else output.size

    def is_whole(self, attempt: int) -> bool:
        """Does what an attempt has staged end with a whole flush?"""
        output = self._staged.get(attempt)
        return output is None or output.flushes.is_whole

    def staged_records(self, attempt: int, partition: int) -> int:
        """Return how many records of a partition an attempt has staged."""
        output = self._staged.get(attempt)
        return 0 if output is None else output.count(partition)

    def staged_partitions(self, attempt: int) -> set[int]:
        """Return the partitions that an attempt has staged segments of."""
        output = self._staged.get(attempt)
        return set() if output is None else set(output.flushes.partitions)

    def partition_sizes(self) -> dict[int, int]:
        """Return {partition: bytes} of what is committed; empty partitions are left out."""
        return dict(self._sizes)

    def read_partition(self, partition: int) -> Iterator[bytes | memoryview]:
        """Yield a partition's segments in (task, flush) order, in pieces (blocks on the disk)."""
        if self._index is None:
            self._index = _Index([self._committed[key] for key in sorted(self._committed)])
        for output, entry in self._index.entries(partition):
            yield from self._read_range(output, output.flushes.offsets[entry], output.flushes.lengths[entry])

    def read_output(self, output: Output, partition: int) -> Iterator[bytes | memoryview]:
        """Yield the segments of one partition in one attempt's output (blocks on the disk)."""
        for offset, n_bytes in output.segments(partition):
            yield from self._read_range(output, offset, n_bytes)

    def free_committed(self) -> None:
        """Free the committed map output: every reduce task is done."""
        for output in self._committed.values():
            if output not in self._lent:
                self.free(output)
        self._committed.clear()
        self._index = None
        self._sizes.clear()

    def give_back(self, output: Output) -> None:
        """End a loan; the output is freed if it is needed for nothing else."""
        self._lent.discard(output)
        if not self._committed:
            self.free(output)

    def free(self, output: Output) -> None:
        """Give back what an output holds."""
        self._results.discard(output)
        for piece in output._pieces:
            if piece.counted:
                self._memory.give_back(piece.size)
                piece.counted = False
            if piece.block >= 0 and self._spill is not None:
                self._spill.free(piece.block)
                piece.block = -1
            piece.data = None
        output._pieces.clear()
        output._starts.clear()

    def close(self) -> None:
        """Give everything back: memory and disk."""
        for output in (*self._staged.values(), *self._committed.values(), *self._results, *self._lent):
            self.free(output)
        self._staged.clear()
        self._committed.clear()
        self._lent.clear()
        self._index = None
        self._writes.clear()
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    def _take_whole(self, attempt: int) -> Output:
        output = self._staged.pop(attempt, None) or Output()
        if not output.flushes.is_whole:
            self.free(output)
            raise ProtocolError("an attempt's output ends in the middle of a flush")
        return output

    def _read_range(self, output: Output, offset: int, n_bytes: int) -> Iterator[bytes | memoryview]:
        if not output._pieces:
            raise StoreError("the segments were given back while they were being read")
        for piece, start, count in output._slices(offset, n_bytes):
            yield self._read(piece, start, count)

    def _read(self, piece: _Piece, start: int, count: int) -> bytes | memoryview:
        if piece.data is not None:
            return memoryview(piece.data)[start : start + count]
        if self._spill is None or piece.block < 0:
            raise StoreError("the segments were given back while they were being read")
        data: bytes = self._run(self._spill.read, piece.block, start, count)
        return data
