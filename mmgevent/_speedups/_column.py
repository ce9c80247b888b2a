"""Columns of plain values as bytes: kinds and limits, for `_column_write` and `_column_read`.

A column is a list. If its elements are all of one plain kind, it is written as itself: a byte that
says the kind, then what the kind needs. docs/protocol.md has the layout. Classes are compared
exactly, so every element comes back with its class and value, or the column is none of these.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Any

#: Kinds of columns: the first byte. A pickle begins with 0x80, which is none of them.
NOTHING, INTS, STEPS, FLOATS, BOOLS, TEXTS, BYTES, TUPLES, LISTS, SHARED = range(10)

#: Most items of a tuple. Longer ones would be columns of few elements each.
MAX_ARITY = 8
#: Most columns within one another. Three are a list of tuples of shared texts.
MAX_DEPTH = 5

#: Shortest column of which repeated elements are written once.
MIN_SHARING = 4
#: Longest texts and bytes that count as one if they are equal, characters or bytes. Longer ones must
#: be one object: else a few bytes could stand for many large values that a task makes and drops.
MAX_SHARED_SIZE = 256
#: Distinct elements from which sharing is given up if more than half of those so far are distinct.
#: A column of distinct texts pays for twice as many lookups, 40 us.
GIVE_UP_FROM = 1024

#: Bits of numbers that take less than a byte.
FEW_BITS = (1, 2, 4)
#: Most bits of a number of an element that is written once.
MOST_BITS = 32

#: A number that is not packed.
U64 = struct.Struct("<Q")
MASK = (1 << 64) - 1
SIGN = 1 << 63

#: The one error of bytes that are no column.
DAMAGED = "the bytes of a column are damaged"


def little_endian(numbers: array[Any]) -> array[Any]:
    """Turn the bytes of numbers round, on a machine that needs it."""
    if sys.byteorder != "little":
        numbers.byteswap()
    return numbers
