"""A set of partitions as one text of a job's options: a bit for each, in hexadecimal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmgevent.wire.limits import MAX_PARTITIONS

#: Longest text, characters: four partitions each.
MAX_CHARS = MAX_PARTITIONS // 4


def encode_partitions(partitions: Iterable[int]) -> str:
    """Return the text for a set of partitions."""
    bits = 0
    for partition in partitions:
        bits |= 1 << partition
    return f"{bits:x}"


def decode_partitions(text: str) -> frozenset[int]:
    """Return the partitions of a text of which `is_partition_set` is true."""
    bits = int(text, 16)
    return frozenset(partition for partition in range(bits.bit_length()) if bits >> partition & 1)


def is_partition_set(value: Any) -> bool:
    """Return whether a peer's value is such a text."""
    return (
        type(value) is str
        and 0 < len(value) <= MAX_CHARS
        and all(character in "0123456789abcdef" for character in value)
    )
