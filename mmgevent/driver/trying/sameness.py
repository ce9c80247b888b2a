"""Compare results of two runs: equal, but for the last digits of floats and the order of keys.

Two values are the same if their `==` says so, or if they have the same parts. So a class needs
no `==` of its own, and one whose `==` compares floats may have sums made in another order.
"""

from __future__ import annotations

import cmath
import dataclasses
import math
import pickle
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

#: Difference of floats that only differ in the order of their sum, as a share of them.
RELATIVE = 1e-9

#: Difference of floats near zero, which may be what is left of a sum of larger ones.
ABSOLUTE = 1e-9

#: Both for numpy's smaller floats, {bytes of one: difference}: about a thousand last digits.
SMALL_FLOATS = {2: 1e-2, 4: 1e-4}

#: Difference of decimals of 28 digits that were rounded in another order, as a share of them.
DECIMALS = Decimal("1e-20")

#: Depth of containers that are compared part by part. Deeper parts are compared by `==`.
MAX_DEPTH = 50

#: Version of pickle's protocol whose parts are compared.
_PROTOCOL = 4

#: Pairs of objects that are being compared, by their addresses; it keeps them alive.
Seen = dict[tuple[int, int], tuple[Any, Any]]


def are_same(one: Any, other: Any) -> bool:
    """Return whether two values say the same.

    Floats may differ in their last digits, and NaN is the same as NaN.
    """
    return _are_same(one, other, MAX_DEPTH, {})


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
            name: Any = (0, _name_of(key))
            hash(name)
        except TypeError:
            name = (1, pickle.dumps(key))
        found.setdefault(name, (key, []))[1].append(value)
    return found


def _name_of(key: Any) -> Any:
    """Return what stands for a key in a dict: the key, with NaN replaced by what equals itself."""
    if isinstance(key, float) and math.isnan(key):
        return _NAN
    return tuple(map(_name_of, key)) if type(key) is tuple else key


_NAN = object()


def _are_same(one: Any, other: Any, depth: int, seen: Seen) -> bool:
    if one is other:
        return True
    if isinstance(one, (int, float, complex, Decimal)) and isinstance(other, (int, float, complex, Decimal)):
        return _are_close(one, other)
    if _is_of_numpy(one) and _is_of_numpy(other):
        return _are_same_arrays(one, other, depth, seen)
    if _are_equal(one, other):
        return True
    if type(one) is not type(other) or (id(one), id(other)) in seen:
        return type(one) is type(other)  # a pair in a cycle is compared where it began
    if not depth:
        return _pickle_same(one, other)
    seen[id(one), id(other)] = one, other
    return _hold_same(one, other, depth - 1, seen)


def _hold_same(one: Any, other: Any, depth: int, seen: Seen) -> bool:
    """Return whether two values of one class have the same parts."""
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(
            _are_same(a, b, depth, seen) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, dict):
        left, right = ({_name_of(key): part for key, part in each.items()} for each in (one, other))
        return left.keys() == right.keys() and all(
            _are_same(part, right[name], depth, seen) for name, part in left.items()
        )
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and _match(one - other, other - one, depth, seen)
    if dataclasses.is_dataclass(one) and getattr(one, "__dataclass_params__").eq:  # noqa: B009 - typing does not know it
        names = [field.name for field in dataclasses.fields(one) if field.compare]
        return all(_are_same(getattr(one, name), getattr(other, name), depth, seen) for name in names)
    try:
        parts = [list(_parts_of(each)) for each in (one, other)]
    except Exception:  # whatever methods of the user's raise
        return _pickle_same(one, other)
    seen[id(parts[0]), id(parts[1])] = parts[0], parts[1]
    return len(parts[0]) == len(parts[1]) and all(
        _are_same(a, b, depth, seen) for a, b in zip(*parts, strict=True)
    )


def _match(left: Iterable[Any], right: Iterable[Any], depth: int, seen: Seen) -> bool:
    """Return whether each member of a set has one of its own in the other set."""
    others = list(right)
    for member in left:
        at = next((at for at, each in enumerate(others) if _are_same(member, each, depth, dict(seen))), None)
        if at is None:
            return False
        del others[at]
    return not others


def _parts_of(thing: Any) -> Iterator[Any]:
    """Yield what makes up an object: its attributes, and what else pickle writes of it.

    Attributes are read from the object, since its methods for pickling may leave some out.
    """
    reduced = thing.__reduce_ex__(_PROTOCOL)
    if isinstance(reduced, str):  # the name of a global, which is one object
        yield reduced
        return
    function, arguments, state, members, pairs = (*reduced, None, None, None)[:5]
    names = [name for each in type(thing).__mro__ for name in _slots_of(each)]
    attributes = {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    attributes.update(getattr(thing, "__dict__", {}))
    yield from (function, arguments, attributes or state, list(members or ()), dict(pairs or ()))


def _slots_of(kind: type) -> Iterator[str]:
    """Yield the names of attributes that a class keeps in slots."""
    slots = vars(kind).get("__slots__", ())
    for name in (slots,) if isinstance(slots, str) else slots:
        if name not in ("__dict__", "__weakref__"):
            is_private = name.startswith("__") and not name.endswith("__")
            yield f"_{kind.__name__.lstrip('_')}{name}" if is_private else name


def _are_close(one: Any, other: Any) -> bool:
    """Return whether two numbers differ in their last digits only."""
    if one == other or (one != one and other != other):
        return True
    try:
        if isinstance(one, Decimal) and isinstance(other, Decimal):
            return abs(one - other) <= DECIMALS * max(abs(one), abs(other), Decimal(1))
        if isinstance(one, (float, complex)) or isinstance(other, (float, complex)):
            return _are_close_floats(one, other, RELATIVE, ABSOLUTE)
    except (ArithmeticError, TypeError):  # an int beyond any float, a decimal beside a float
        return False
    return False


def _are_close_floats(one: Any, other: Any, relative: float, absolute: float) -> bool:
    if isinstance(one, complex) or isinstance(other, complex):
        pairs = ((one.real, other.real), (one.imag, other.imag))
        return cmath.isclose(one, other, rel_tol=relative, abs_tol=absolute) or all(
            _are_close_floats(a, b, relative, absolute) for a, b in pairs
        )
    return math.isclose(one, other, rel_tol=relative, abs_tol=absolute) or (one != one and other != other)


def _is_of_numpy(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "numpy" and hasattr(thing, "dtype")


def _are_same_arrays(one: Any, other: Any, depth: int, seen: Seen) -> bool:
    """Compare arrays or scalars of numpy."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    left, right = one.ravel().tolist(), other.ravel().tolist()
    n_bytes = one.dtype.itemsize // (2 if one.dtype.kind == "c" else 1)
    if one.dtype.kind in "fc" and n_bytes in SMALL_FLOATS:
        limit = SMALL_FLOATS[n_bytes]
        return all(_are_close_floats(a, b, limit, limit) for a, b in zip(left, right, strict=True))
    return _are_same(left, right, depth, dict(seen))


def _are_equal(one: Any, other: Any) -> bool:
    """Return what `==` says, or False if it says nothing, as that of arrays."""
    try:
        return bool(one == other)
    except Exception:  # whatever methods of the user's raise
        return False


def _pickle_same(one: Any, other: Any) -> bool:
    try:
        return pickle.dumps(one, _PROTOCOL) == pickle.dumps(other, _PROTOCOL)
    except Exception:  # whatever methods of the user's raise
        return False
