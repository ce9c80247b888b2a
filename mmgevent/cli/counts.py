"""Convert the values of options that count something."""

from __future__ import annotations

from mmgevent.errors import UsageError
from mmgevent.wire.limits import MAX_COUNT

#: Most digits of a number that is converted. Python refuses to convert thousands of them.
MAX_DIGITS = 18

#: Largest niceness: the lowest priority.
MAX_NICE = 19


def positive_number(text: str) -> int:
    """Convert the value of an option that counts something, at least one."""
    return _whole_number(text, 1, MAX_COUNT)


def niceness(text: str) -> int:
    """Convert the value of --nice."""
    return _whole_number(text, 0, MAX_NICE)


def _whole_number(text: str, least: int, most: int) -> int:
    """Convert a number in a range. Raises UsageError, with the range, for any other text."""
    digits = text.strip()
    if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS and least <= int(digits) <= most:
        return int(digits)
    raise UsageError(f"expected a whole number from {least} to {most}")
