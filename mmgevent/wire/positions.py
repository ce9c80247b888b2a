"""Number the items of a batch: which entry of it, and which item of what the entry stands for.

A batch is a sequence of entries. An entry is an item, or a ref: a file or split that gives any
number of items. One number names an item wherever it is named (page of an executor, messages about
failures, lists of items to leave out), its *position*:

    position = entry << 32 | place      place: 0 for the first item of the entry

Positions ascend in datasource order. The place WHOLE names the entry itself, if its items cannot
be read.

A *part* `(k, depth)` of an entry is the k-th of `2 ** depth` ranges of its items, as equal as
whole items allow. So the server can cut an entry without knowing the number of its items.
"""

from __future__ import annotations

_PLACE_BITS = 32

#: The place that stands for all items of an entry.
WHOLE: int = (1 << _PLACE_BITS) - 1

#: Times that an entry may be cut in two, which gives 16 million parts. No file or split of sensible
#: size has more items.
MAX_DEPTH = 24

Part = tuple[int, int]

#: The part that is the whole entry.
ALL: Part = (0, 0)


def position_of(entry: int, place: int = 0) -> int:
    """Return the position of an item."""
    return entry << _PLACE_BITS | place


def entry_of(position: int) -> int:
    """Return the index of the entry in its batch."""
    return position >> _PLACE_BITS


def place_of(position: int) -> int:
    """Return the index of the item among those of its entry, or WHOLE."""
    return position & WHOLE


def range_of(part: Part, count: int) -> tuple[int, int]:
    """Return the places [low, high) of a part of `count` items; the range may be empty."""
    k, depth = part
    return count * k >> depth, count * (k + 1) >> depth


def halves_of(part: Part) -> tuple[Part, Part]:
    """Return the two halves of a part."""
    k, depth = part
    return (2 * k, depth + 1), (2 * k + 1, depth + 1)


def start_of(part: Part) -> float:
    """Return where a part begins, as a share of its entry: parts sort by it."""
    k, depth = part
    return k / (1 << depth)
