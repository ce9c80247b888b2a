"""The job of an honest driver beside peers that misbehave. Light to import: each executor does."""

from __future__ import annotations

from collections.abc import Iterator

#: Items, each a task of its own.
ITEMS = [(n, n * n) for n in range(6)]


def spread(key: int, value: int) -> Iterator[tuple[str, int]]:
    for digit in str(value):
        yield digit, value


def add(key: str, values: list[int]) -> int:
    return sum(values)
