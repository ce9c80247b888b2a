"""Which workers a page shows: the busiest, with their load in the last minutes, and sums over all.

A page shows some hundred workers, and ten thousand cost it no more. The others can be found by name.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]

#: Workers that a page is sent.
MAX_LISTED = 200

#: Loads that are remembered of each of them: five minutes, at one each 5 s.
MAX_LOADS = 60

#: Longest text that is searched for, characters.
MAX_WORDS_CHARS = 200


class Busiest:
    """The workers that are listed."""

    def __init__(self) -> None:
        #: {number: version in which it was listed}
        self.listed: dict[int, int] = {}
        self._loads: dict[int, deque[tuple[float, int]]] = {}

    def choose(self, rows: Mapping[int, tuple[Row, int]], version: int) -> list[int]:
        """Choose again. Return the numbers that are listed no longer."""
        chosen = heapq.nsmallest(MAX_LISTED, (row for row, _ in rows.values()), key=_rank)
        numbers = {row["number"] for row in chosen}
        left = [number for number in self.listed if number not in numbers]
        for number in left:
            del self.listed[number]
        for number in numbers:
            self.listed.setdefault(number, version)
        return left

    def note_loads(self, rows: Mapping[int, tuple[Row, int]]) -> list[int]:
        """Remember the loads of the workers that are listed. Return their numbers."""
        self._loads = {number: loads for number, loads in self._loads.items() if number in rows}
        noted = []
        for number in self.listed:
            row = rows[number][0]
            if "cores" in row and "memory_bytes" in row:
                loads = self._loads.setdefault(number, deque(maxlen=MAX_LOADS))
                loads.append((row["cores"], row["memory_bytes"]))
                noted.append(number)
        return noted

    def describe(self, row: Row) -> Row:
        """Return the row of a worker with its load in the last minutes, if that is known."""
        loads = self._loads.get(row["number"])
        if not loads:
            return row
        return {
            **row,
            "cores_lately": [cores for cores, _ in loads],
            "memory_lately": [n_bytes for _, n_bytes in loads],
        }


def _rank(row: Row) -> tuple[int, int]:
    return -row.get("busy", 0), row["number"]


def sum_up(rows: Iterable[Row]) -> Row:
    """Return sums over all workers."""
    sums: Row = {"workers": 0, "slots": 0, "busy": 0, "deaths": 0, "cores": 0.0, "memory_bytes": 0}
    states: dict[str, int] = {}
    for row in rows:
        sums["workers"] += 1
        for name in ("slots", "busy", "deaths", "cores", "memory_bytes"):
            sums[name] += row.get(name, 0)
        if row.get("state", "ready") != "ready":
            states[row["state"]] = states.get(row["state"], 0) + 1
    sums["cores"] = round(sums["cores"], 1)
    return {**sums, "states": states}


def find_workers(rows: Iterable[Row], text: str) -> tuple[list[Row], int]:
    """Return the busiest workers with all these words in name, address or state, and how many have them."""
    words = text[:MAX_WORDS_CHARS].lower().split()
    found = [row for row in rows if all(word in _searched(row) for word in words)]
    return heapq.nsmallest(MAX_LISTED, found, key=_rank), len(found)


def _searched(row: Row) -> str:
    return " ".join(str(row.get(name, "")) for name in ("name", "address", "state", "why")).lower()
