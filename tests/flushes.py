"""Flushes of opaque segments, which need no pickles."""

from mmgevent.wire.flushes import FLUSH_HEAD, FLUSH_MAGIC, FLUSH_ROW


def flush(parts):
    """Return one flush of {partition: bytes}, as `records.encode_flush` lays it out."""
    table = FLUSH_HEAD.pack(FLUSH_MAGIC, len(parts))
    for partition in sorted(parts):
        table += FLUSH_ROW.pack(partition, 1, len(parts[partition]))
    return table + b"".join(parts[p] for p in sorted(parts))
