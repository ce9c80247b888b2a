"""Number the items of a batch: which entry of it, and which item of what the entry stands for.

A batch is a sequence of entries. An entry is an item, or a ref, which stands for as many items as
its file or split gives. Whoever names an item (the page of an executor, messages about failures,
lists of items to leave out) uses one number, its *position*:

    position = entry << 32 | place      place: 0 for the first item of the entry

Positions ascend in datasource order. The place WHOLE names the entry itself: its items could not
be read, so there are none to name.

A *part* `(k, depth)` of an entry is the k-th of `2 ** depth` ranges of its items, as equal as
whole items allow. The server cuts entries in parts without knowing how many items they have.
"""

from __future__ import annotations

_PLACE_BITS = 32

#: The place that stands for all items of an entry.
WHOLE = (1 << _PLACE_BITS) - 1

#: Times an entry may be cut in two: 16 million parts. An entry with as many items is far above
#: what a split or a file of sensible size gives.
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
    """Return the places [low, high) that a part has of `count` items; it may have none."""
    k, depth = part
    return count * k >> depth, count * (k + 1) >> depth


def halves_of(part: Part) -> tuple[Part, Part]:
    """Return the two parts that a part consists of."""
    k, depth = part
    return (2 * k, depth + 1), (2 * k + 1, depth + 1)


def start_of(part: Part) -> float:
    """Return where a part begins, as a share of its entry: parts sort by it."""
    k, depth = part
    return k / (1 << depth)
