"""Flushes: the table in front of the segments of one attempt's output.

A *flush* is what a task puts out at once, for any number of partitions.  All integers are
little-endian:

    offset  size  field
         0     4  magic b"MMGF"
         4     4  n, the number of table rows
         8   16n  rows: u32 partition, u32 entries of its segment, u64 bytes of its segment
                  in ascending order of partitions, then the segments in the order of the rows

Executors encode flushes (`tasks.records`).  The server reads the tables only: segments are opaque
to it.
"""

from __future__ import annotations

import struct
from array import array

from mmgevent.errors import ProtocolError
from mmgevent.wire.limits import MAX_PARTITIONS

FLUSH_MAGIC = b"MMGF"
FLUSH_HEAD = struct.Struct("<4sI")  #: Magic, number of rows.
FLUSH_ROW = struct.Struct("<IIQ")  #: Partition, entries, bytes.

#: Rows of a table. A map task sets items aside in one more partition than its job has.
MAX_ROWS = MAX_PARTITIONS + 1

#: One segment, bytes. Larger numbers could overflow the sums of the server.
MAX_SEGMENT_BYTES = 2**48


class FlushReader:
    """Find the segments in an attempt's output as it arrives; read tables only."""

    __slots__ = ("_buffer", "_offset", "_skip", "bounds", "lengths", "offsets", "partitions", "records")

    def __init__(self) -> None:
        self._buffer = bytearray()  # the part of a table that has arrived
        self._skip = 0  # bytes of segments that are not yet passed over
        self._offset = 0  # position of the next byte in the attempt's output
        #: One entry a segment, in order of arrival. Partitions ascend within a flush.
        self.partitions = array("I")
        self.records = array("I")
        self.offsets = array("Q")
        self.lengths = array("Q")
        #: Entry numbers at which flushes begin, and the number of entries.
        self.bounds = [0]

    def feed(self, data: bytes) -> None:
        """Read the next bytes.  Raises ProtocolError for bytes that are no flush."""
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
        """Return whether the output so far is a number of whole flushes."""
        return not self._skip and not self._buffer

    def _feed_table(self, view: memoryview) -> int:
        """Take bytes of a table and return their number; a whole table is not copied."""
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
        """Note the segments of a table; the first one begins at `offset`."""
        last = -1
        for partition, records, n_bytes in FLUSH_ROW.iter_unpack(table[FLUSH_HEAD.size :]):
            if not last < partition < MAX_ROWS or n_bytes > MAX_SEGMENT_BYTES:
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
    """Return the bytes of the table that begins here, or 0 if its head has not arrived."""
    if len(data) < FLUSH_HEAD.size:
        return 0
    magic, count = FLUSH_HEAD.unpack_from(data)
    if magic != FLUSH_MAGIC or count > MAX_ROWS:
        raise ProtocolError("an attempt's output is no sequence of flushes")
    return FLUSH_HEAD.size + int(count) * FLUSH_ROW.size
