"""Numbers of 32 bits that begin anew after the last one, and pass over those in use."""

from __future__ import annotations

from collections.abc import Container

#: Largest number in the header of a frame. 0 means none.
MAX_NUMBER = 0xFFFF_FFFF


def next_number(last: int, used: Container[int]) -> int:
    """Return the number after `last`, from 1 to MAX_NUMBER, that is not in use."""
    number = last % MAX_NUMBER + 1
    while number in used:  # in use since before the numbers began anew
        number = number % MAX_NUMBER + 1
    return number


def follows(number: int, last: int) -> bool:
    """Return whether a number may come after `last`: it is larger, or the numbers began anew."""
    return not last or (number - last - 1) % MAX_NUMBER < MAX_NUMBER // 2
