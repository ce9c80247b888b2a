"""Keep the segments of jobs on the server: stage, commit, spill and read back.

The output of an attempt arrives in chunks and is staged under the attempt.  The store reads the
table in front of each flush and nothing behind it: segments are opaque.  `commit_map` and
`commit_reduce` make an attempt count, `discard` removes every trace of it.  Nothing in between
exists.

Staged and committed bytes of all jobs count against one limit, `Memory`.  A chunk over the limit
becomes a *pending write*: the owner of the store calls `write_pending` where blocking is allowed.
Until then the owner grants the sender no more bytes, so the windows of the senders limit what is
pending.

The store touches the disk only through `run(function, *args)`, which a gevent owner binds to its
thread pool.  While such a call runs the attempt may be discarded or the job may end: the store
checks that when the call returns.  If the waiting greenlet is killed, the call continues in its
thread, so the spill file closes itself after the last call.
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from mmgevent.engine.server.spill import BLOCK_BYTES, JOINED_BYTES, Memory, SpillFile
from mmgevent.errors import ProtocolError, StoreError
from mmgevent.wire.flushes import FlushReader
from mmgevent.wire.positions import ALL, Part, start_of

#: Rows of flush tables that are indexed at once. More take over 10 ms, so `run` does it.
MAX_BLOCKING_ROWS = 20_000


class _Chunk:
    """One chunk: its bytes while in memory or pending, or the number of its block."""

    __slots__ = ("block", "counted", "data", "is_open", "size")

    def __init__(self, data: bytes, counted: bool):
        self.data: bytes | None = data
        self.block = -1
        self.size = len(data)
        self.counted = counted  # counts against Memory
        self.is_open = True  # in memory, and not yet on its way to the disk


class Output:
    """The output of one attempt: its chunks, and where its segments are in them."""

    __slots__ = ("_chunks", "_starts", "flushes", "size")

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
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
        """Return the number of records of a partition."""
        flushes = self.flushes
        return sum(
            records
            for each, records in zip(flushes.partitions, flushes.records, strict=True)
            if each == partition
        )

    def _join(self, data: bytes, *, counted: bool) -> bool:
        """Append a short chunk to the last one, if both are alike; return whether that was done.

        A chunk costs some 140 bytes beside its data, which Memory does not count.
        """
        last = self._chunks[-1] if self._chunks else None
        if last is None or last.data is None or not last.is_open or last.counted is not counted:
            return False
        if last.size + len(data) > JOINED_BYTES:
            return False
        last.data += data
        last.size += len(data)
        self.size += len(data)
        return True

    def _add(self, chunk: _Chunk) -> None:
        self._starts.append(self.size)
        self._chunks.append(chunk)
        self.size += chunk.size

    def _slices(self, offset: int, n_bytes: int) -> Iterator[tuple[_Chunk, int, int]]:
        at = bisect_right(self._starts, offset) - 1
        while n_bytes:
            chunk = self._chunks[at]
            start = offset - self._starts[at]
            count = min(n_bytes, chunk.size - start)
            yield chunk, start, count
            offset, n_bytes, at = offset + count, n_bytes - count, at + 1


class _Index:
    """Where the segments of each partition are in any number of outputs; 8 bytes a segment.

    A search for each partition in each output would cost (partitions x outputs).
    """

    __slots__ = ("_entries", "_outputs", "_owners")

    def __init__(self, outputs: list[Output]):
        self._outputs = outputs
        self._owners: dict[int, array[int]] = {}  # {partition: numbers of outputs}
        self._entries: dict[int, array[int]] = {}  # {partition: number of the entry in each output}
        for number, output in enumerate(outputs):
            for entry, partition in enumerate(output.flushes.partitions):
                owners = self._owners.get(partition)
                if owners is None:
                    owners = self._owners[partition] = array("I")
                    self._entries[partition] = array("I")
                owners.append(number)
                self._entries[partition].append(entry)

    def entries(self, partition: int) -> Iterator[tuple[Output, int]]:
        """Yield (output, number of its entry) of a partition, in (output, flush) order."""
        outputs = self._outputs
        for number, entry in zip(
            self._owners.get(partition, ()), self._entries.get(partition, ()), strict=True
        ):
            yield outputs[number], entry


class JobStore:
    """The segments of one job.  Not thread-safe.  Only methods that say so touch the disk."""

    def __init__(self, memory: Memory, folder: str | None = None, run: Callable[..., Any] | None = None):
        """Keep segments in `memory`, and those over its limit in a file in `folder`.

        `run(function, *args)` calls a function that blocks on the disk; None calls it directly.
        """
        self._memory = memory
        self._folder = folder
        self._run = run or (lambda function, *args: function(*args))
        self._spill: SpillFile | None = None
        self._staged: dict[int, Output] = {}
        #: {(batch, start in the batch): output of the map task}
        self._committed: dict[tuple[int, float], Output] = {}
        #: Committed outputs that are still read after the map phase.
        self._lent: set[Output] = set()
        #: Outputs of reduce tasks, from their commit until they are freed.
        self._results: set[Output] = set()
        #: {partition: committed bytes}, summed up at each commit rather than all at once.
        self._sizes: dict[int, int] = {}
        self._writes: deque[tuple[int, _Chunk]] = deque()
        #: Index of the committed outputs, or None if it must be made again.
        self._index: _Index | None = None
        #: Bytes written to disk so far, for reports.
        self.spilled_bytes = 0

    def stage(self, attempt: int, data: bytes) -> bool:
        """Add a chunk to an attempt's output; return False if the chunk waits for `write_pending`.

        Raises ProtocolError for bytes that are no flush, and for a chunk above BLOCK_BYTES.
        """
        if len(data) > BLOCK_BYTES:
            raise ProtocolError(f"a chunk of {len(data)} bytes came, at most {BLOCK_BYTES} may")
        if not data:
            return True
        output = self._staged.get(attempt)
        if output is None:
            output = self._staged[attempt] = Output()
        output.flushes.feed(data)
        counted = self._memory.take(len(data))
        if output._join(data, counted=counted):
            return counted
        chunk = _Chunk(data, counted)
        output._add(chunk)
        if not counted:
            self._writes.append((attempt, chunk))
        return counted

    def has_pending(self) -> bool:
        """Return whether chunks wait for `write_pending`."""
        return bool(self._writes)

    def write_pending(self) -> tuple[int, int] | None:
        """Find room for the oldest pending chunk (blocks on the disk).

        Returns (attempt, bytes), or None if nothing is pending.  Raises StoreError if the disk is
        full or fails: the job cannot continue.
        """
        while self._writes:
            attempt, chunk = self._writes.popleft()
            data = chunk.data
            if data is None:  # its attempt was discarded meanwhile
                continue
            chunk.is_open = False
            if self._memory.take(chunk.size):  # others freed memory: spare the disk, which may be full
                chunk.counted = True
                return attempt, chunk.size
            if self._spill is None:
                self._spill = SpillFile(self._folder)
            block = self._spill.allocate()
            self._run(self._spill.write, block, data)
            if chunk.data is None:  # discarded while it was being written
                if self._spill is not None:
                    self._spill.free(block)
            else:
                chunk.block, chunk.data = block, None
                self.spilled_bytes += chunk.size
            return attempt, chunk.size
        return None

    def commit_map(self, attempt: int, batch: int, lo: int, part: Part = ALL) -> Output:
        """Make an attempt's output count as the output of its map task.

        The task begins at entry `lo` of `batch`, or at `part` of that entry.  Returns the output,
        which the store keeps.
        """
        output = self._committed[batch, lo + start_of(part)] = self._take_whole(attempt)
        self._index = None
        for partition, n_bytes in zip(output.flushes.partitions, output.flushes.lengths, strict=True):
            self._sizes[partition] = self._sizes.get(partition, 0) + n_bytes
        return output

    def lend(self, output: Output) -> None:
        """Keep committed map output until `give_back`, even after `free_committed`."""
        self._lent.add(output)

    def commit_reduce(self, attempt: int) -> Output:
        """Make an attempt's output count as results.  The caller delivers it and then frees it."""
        output = self._take_whole(attempt)
        self._results.add(output)
        return output

    def discard(self, attempt: int) -> None:
        """Remove what an attempt has staged, if anything."""
        output = self._staged.pop(attempt, None)
        if output is not None:
            self.free(output)

    def staged_bytes(self, attempt: int) -> int:
        """Return the number of bytes that an attempt has staged."""
        output = self._staged.get(attempt)
        return 0 if output is None else output.size

    def is_whole(self, attempt: int) -> bool:
        """Return whether the staged output of an attempt ends with a whole flush."""
        output = self._staged.get(attempt)
        return output is None or output.flushes.is_whole

    def staged_records(self, attempt: int, partition: int) -> int:
        """Return the number of records of a partition that an attempt has staged."""
        output = self._staged.get(attempt)
        return 0 if output is None else output.count(partition)

    def staged_partitions(self, attempt: int) -> set[int]:
        """Return the partitions of the segments that an attempt has staged."""
        output = self._staged.get(attempt)
        return set() if output is None else set(output.flushes.partitions)

    def has_possible_counts(self, attempt: int) -> bool:
        """Return whether each staged segment of an attempt has at most a record for each byte."""
        output = self._staged.get(attempt)
        if output is None:
            return True
        flushes = output.flushes
        return all(map(operator.le, flushes.records, flushes.lengths))

    def partition_sizes(self) -> dict[int, int]:
        """Return {partition: committed bytes} without the empty partitions."""
        return dict(self._sizes)

    def read_partition(self, partition: int) -> Iterator[bytes | memoryview]:
        """Yield a partition's segments in (task, flush) order, in pieces (blocks on the disk)."""
        index = self._index
        if index is None:
            outputs = [self._committed[key] for key in sorted(self._committed)]
            # Nothing is committed meanwhile: every map task is done. A second reader may make a second
            # index; they are the same.
            is_large = sum(len(output.flushes.partitions) for output in outputs) > MAX_BLOCKING_ROWS
            index = self._index = self._run(_Index, outputs) if is_large else _Index(outputs)
        for output, entry in index.entries(partition):
            yield from self.read_range(output, output.flushes.offsets[entry], output.flushes.lengths[entry])

    def read_output(self, output: Output, partition: int) -> Iterator[bytes | memoryview]:
        """Yield the segments of one partition in one attempt's output (blocks on the disk)."""
        for offset, n_bytes in output.segments(partition):
            yield from self.read_range(output, offset, n_bytes)

    def free_committed(self) -> None:
        """Free the committed map output, once every reduce task is done."""
        for output in self._committed.values():
            if output not in self._lent:
                self.free(output)
        self._committed.clear()
        self._index = None
        self._sizes.clear()

    def give_back(self, output: Output) -> None:
        """End a loan, and free the output if nothing else needs it."""
        self._lent.discard(output)
        if not self._committed:
            self.free(output)

    def free(self, output: Output) -> None:
        """Free the memory and the blocks of an output."""
        self._results.discard(output)
        for chunk in output._chunks:
            if chunk.counted:
                self._memory.give_back(chunk.size)
                chunk.counted = False
            if chunk.block >= 0 and self._spill is not None:
                self._spill.free(chunk.block)
                chunk.block = -1
            chunk.data = None
        output._chunks.clear()
        output._starts.clear()

    def close(self) -> None:
        """Free all memory and disk of the job."""
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

    def read_range(self, output: Output, offset: int, n_bytes: int) -> Iterator[bytes | memoryview]:
        """Yield bytes of an output, in pieces (blocks on the disk)."""
        if not output._chunks:
            raise StoreError("the segments were freed while they were being read")
        for chunk, start, count in output._slices(offset, n_bytes):
            yield self._read(chunk, start, count)

    def _read(self, chunk: _Chunk, start: int, count: int) -> bytes | memoryview:
        if chunk.data is not None:
            return memoryview(chunk.data)[start : start + count]
        if self._spill is None or chunk.block < 0:
            raise StoreError("the segments were freed while they were being read")
        data: bytes = self._run(self._spill.read, chunk.block, start, count)
        return data
