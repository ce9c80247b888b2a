"""Convert the values of options that count something."""

from __future__ import annotations

from mmgevent.errors import UsageError

#: Most digits of a count: every such number fits 64 bits. Python refuses to convert thousands.
MAX_DIGITS = 18

#: Largest count: of so many digits.
MAX_COUNT = 10**MAX_DIGITS - 1

#: Largest niceness: the lowest priority.
MAX_NICE = 19


def positive_number(text: str) -> int:
    """Convert the value of an option that counts something, at least one."""
    number = _whole_number(text)
    if not number:
        raise UsageError(f"expected a whole number from 1 to {MAX_COUNT}")
    return number


def niceness(text: str) -> int:
    """Convert the value of --nice."""
    number = _whole_number(text)
    if number is None or number > MAX_NICE:
        raise UsageError(f"expected a whole number from 0 to {MAX_NICE}")
    return number


def _whole_number(text: str) -> int | None:
    """Return a number of few digits, blanks around it or not, or None if the text is none."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        return None
    return int(text)
