"""Compare results of two runs: equal, but for the last digits of floats and the order of keys."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Iterable
from typing import Any

#: Difference of floats that only differ in the order of their sum, as a share of them.
RELATIVE = 1e-9

#: Depth of containers that are compared part by part. Deeper parts are compared by `==`.
MAX_DEPTH = 50

_END: Any = object()


def are_same(one: Any, other: Any, depth: int = MAX_DEPTH) -> bool:
    """Return whether two values say the same.

    Floats may differ in their last digits. Objects whose class has no `==` of its own are compared
    by what they hold.
    """
    if one is other:
        return True
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE) or (math.isnan(one) and math.isnan(other))
    if type(one) is not type(other):
        return _are_equal(one, other)
    if not depth:
        return _are_equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(
            are_same(a, b, depth - 1) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_same(one[k], other[k], depth - 1) for k in one)
    if dataclasses.is_dataclass(one) or getattr(type(one), "__eq__", None) is object.__eq__:
        return _hold_same(one, other, depth - 1)
    return _are_equal(one, other)


def find_difference(
    one: Iterable[tuple[Any, Any]], other: Iterable[tuple[Any, Any]]
) -> tuple[Any, Any, Any] | None:
    """Return (key, value in one, value in the other) of a record that is not in both, or None.

    A value is MISSING where there is no such record. The order of records does not matter.
    """
    left, right = _by_key(one), _by_key(other)
    for name, (key, values) in left.items():
        _, others = right.pop(name, (key, []))
        for value in values:
            at = next((at for at, each in enumerate(others) if are_same(value, each)), None)
            if at is None:
                return key, value, others[0] if others else MISSING
            del others[at]
        if others:
            return key, MISSING, others[0]
    for key, values in right.values():
        return key, MISSING, values[0]
    return None


class Missing:
    """Stands for the value of a record that there is not."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


def _by_key(records: Iterable[tuple[Any, Any]]) -> dict[Any, tuple[Any, list[Any]]]:
    """Return {name of the key: (key, its values)}. An unhashable key is named by its pickle."""
    found: dict[Any, tuple[Any, list[Any]]] = {}
    for key, value in records:
        try:
            name: Any = (0, key)
            hash(name)
        except TypeError:
            name = (1, pickle.dumps(key))
        found.setdefault(name, (key, []))[1].append(value)
    return found


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays, whose == is an array
        return pickle.dumps(one) == pickle.dumps(other)


def _hold_same(one: Any, other: Any, depth: int) -> bool:
    if hasattr(one, "__dict__") and not hasattr(type(one), "__slots__"):
        return are_same(vars(one), vars(other), depth)
    return pickle.dumps(one) == pickle.dumps(other)
