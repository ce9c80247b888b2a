"""How evenly the work of one reduce phase is spread: the largest partitions, and the largest keys."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from mmgevent.wire.listings import MAX_LARGEST_ROWS, cut_text
from mmgevent.wire.task_ends import is_large


class ReduceShape:
    """What is known of the partitions and keys of one job."""

    __slots__ = ("_keys", "_partitions")

    def __init__(self) -> None:
        self._partitions: dict[str, Any] = {}
        self._keys: list[tuple[int, str, str]] = []  # values, key, worker

    def note_partitions(self, sizes: Mapping[int, int]) -> None:
        """Note the bytes of all partitions."""
        self._partitions = describe_partitions(sizes)

    def note_keys(self, largest: list[Any], worker: str) -> None:
        """Note the keys with the most values of one reduce task, as its worker says."""
        keys = [(row[0], cut_text(row[1]), cut_text(worker)) for row in largest if is_large(row)]
        self._keys = heapq.nlargest(MAX_LARGEST_ROWS, self._keys + keys)

    def row(self, sizes: Mapping[int, int] | None = None) -> dict[str, Any]:
        """Return all of it as a row. `sizes`: bytes of the partitions so far, while it maps."""
        partitions = self._partitions or (describe_partitions(sizes) if sizes else {})
        return {
            **partitions,
            "keys": [{"values": count, "key": key, "worker": worker} for count, key, worker in self._keys],
        }


def describe_partitions(sizes: Mapping[int, int]) -> dict[str, Any]:
    """Return how many partitions there are, their bytes, and the largest."""
    ordered = sorted(sizes.values())
    largest = heapq.nlargest(MAX_LARGEST_ROWS, sizes.items(), key=lambda entry: (entry[1], -entry[0]))
    return {
        "count": len(ordered),
        "bytes": sum(ordered),
        "median": ordered[len(ordered) // 2] if ordered else 0,
        "largest": [{"partition": partition, "bytes": n_bytes} for partition, n_bytes in largest],
    }
