"""flushes: the segments in an attempt's output are found, wherever its chunks end."""

import struct

import pytest

from mmgevent.errors import ProtocolError
from mmgevent.wire.flushes import FLUSH_HEAD, FLUSH_MAGIC, FLUSH_ROW, FlushReader
from tests.flushes import flush


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<4sI", FLUSH_MAGIC, 2**31),
        FLUSH_HEAD.pack(FLUSH_MAGIC, 2) + FLUSH_ROW.pack(4, 1, 1) * 2,
        FLUSH_HEAD.pack(FLUSH_MAGIC, 1) + FLUSH_ROW.pack(4, 1, 2**60),
    ],
)
def test_what_is_no_flush_is_refused(data):
    with pytest.raises(ProtocolError):
        FlushReader().feed(data)


def test_flush_reader_does_not_care_where_chunks_end():
    data = flush({0: b"abc", 5: b""}) + flush({}) + flush({2: b"x" * 50})
    whole = FlushReader()
    whole.feed(data)
    for step in range(1, len(data)):
        reader = FlushReader()
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
        assert reader.is_whole
        assert (reader.partitions, reader.offsets, reader.lengths) == (
            whole.partitions,
            whole.offsets,
            whole.lengths,
        )
