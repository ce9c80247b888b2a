"""Mean and standard deviation of numbers, exact up to the last rounding.

A summary is a count and exact sums. So it may be merged in any order, and the result never depends
on how the values were cut:

    (MEAN, count, numerator, denominator, special)
    (STD, count, numerator, denominator, numerator and denominator of the squares, special)

Sums are fractions of whole numbers. `special` is the sum of the values that are infinite or NaN, or
0.0. A summary is plain data, and no number, so it cannot be taken for a value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

MEAN = "mmgevent mean"
STD = "mmgevent std"

#: Fewest values that are worth a summary, which takes about as many bytes as four of them.
FEWEST = 5

_WHOLE = frozenset((int, bool))


def summarize_mean(values: list[Any]) -> list[Any]:
    """Return a list of one summary, or the values where they are few."""
    if len(values) < FEWEST:
        return values
    count, total, special = _add_up(values)
    return [(MEAN, count, total.numerator, total.denominator, special)]


def mean(values: Iterable[Any]) -> float:
    """Return the mean of values and summaries, rounded once."""
    count, total, special = _add_up(values)
    return special / count if special else float(total / count)


def summarize_std(values: list[Any]) -> list[Any]:
    """Return a list of one summary, or the values where they are few."""
    if len(values) < FEWEST:
        return values
    count, total, squares, special = _add_up_squares(values)
    return [(STD, count, total.numerator, total.denominator, squares.numerator, squares.denominator, special)]


def std(values: Iterable[Any]) -> float:
    """Return the standard deviation of a sample, whose divisor is one less than the count.

    That of one value, and of values that are infinite or NaN, is NaN. Rounded twice: the variance,
    and its root.
    """
    count, total, squares, special = _add_up_squares(values)
    if special or count < 2:
        return math.nan
    return _root((squares - total * total / count) / (count - 1))


def _root(fraction: Fraction) -> float:
    """Return the square root, also of a fraction that no float can hold."""
    if not fraction:
        return 0.0
    shift = (fraction.numerator.bit_length() - fraction.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(fraction / Fraction(4) ** shift), shift)


def _add_up(values: Iterable[Any]) -> tuple[int, Fraction, float]:
    """Return how many values there are, their exact sum, and the sum of those that are not finite."""
    count, total, special = 0, Fraction(0), 0.0
    plain = []
    for value in values:
        if type(value) is tuple and value and value[0] == MEAN:
            count += value[1]
            total += Fraction(value[2], value[3])
            special += value[4]
        else:
            plain.append(value)
    added, more = _exact_sum(plain)
    return count + len(plain), total + added, special + more


def _exact_sum(values: list[Any]) -> tuple[Fraction, float]:
    kinds = set(map(type, values))
    if kinds <= _WHOLE:
        return Fraction(sum(values)), 0.0
    if kinds == {float}:
        parts = _float_parts(values)
        if parts is not None:
            return sum(map(Fraction, parts), Fraction(0)), 0.0
    total, special = Fraction(0), 0.0
    for denominator, (added, _) in _by_denominator(values).items():
        if denominator:
            total += Fraction(added, denominator)
        else:
            special += added
    return total, special


def _float_parts(values: list[float]) -> list[float] | None:
    """Return a few floats with the same exact sum; None where `fsum` cannot add them up."""
    rest, parts = list(values), []
    try:
        while part := math.fsum(rest):
            if not math.isfinite(part):
                return None
            parts.append(part)
            rest.append(-part)
    except (OverflowError, ValueError):  # beyond the largest float on the way, or inf - inf
        return None
    return parts


def _add_up_squares(values: Iterable[Any]) -> tuple[int, Fraction, Fraction, float]:
    """Return what `_add_up` does, with the exact sum of the squares before the last."""
    count, total, squares, special = 0, Fraction(0), Fraction(0), 0.0
    plain = []
    for value in values:
        if type(value) is tuple and value and value[0] == STD:
            count += value[1]
            total += Fraction(value[2], value[3])
            squares += Fraction(value[4], value[5])
            special += value[6]
        else:
            plain.append(value)
    for denominator, (added, squared) in _by_denominator(plain).items():
        if denominator:
            total += Fraction(added, denominator)
            squares += Fraction(squared, denominator * denominator)
        else:
            special += added
    return count + len(plain), total, squares, special


def _by_denominator(values: list[Any]) -> dict[int, list[Any]]:
    """Return denominator -> [sum of the numerators, sum of their squares].

    0 stands for the values that are not finite. There are few denominators: those of floats are
    powers of two. Adding up under each takes a tenth of the time of adding fractions.
    """
    sums: dict[int, list[Any]] = {}
    for value in values:
        try:
            numerator, denominator = value.as_integer_ratio()
        except (AttributeError, OverflowError, ValueError):
            numerator, denominator = _ratio_of(value)
        held = sums.get(denominator)
        if held is None:
            held = sums[denominator] = [0, 0]
        held[0] += numerator
        held[1] += numerator * numerator
    return sums


def _ratio_of(value: Any) -> tuple[Any, int]:
    """Return (value, 0) for one that is not finite, and (value, 1) for a whole number of any class."""
    try:
        return operator.index(value), 1
    except TypeError:
        pass
    try:
        number = float(value) if not isinstance(value, str | bytes | bytearray) else None
    except (TypeError, ValueError):
        number = None
    if number is None or math.isfinite(number):
        raise TypeError(
            f"mean and standard deviation are of numbers; got {type(value).__name__}: {value!r:.80}"
        )
    return number, 0
