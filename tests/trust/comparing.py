"""What drawn jobs give, in a form that shows every difference that counts and no other."""

from __future__ import annotations

import decimal
from typing import Any


def canonical(key: Any) -> Any:
    """Return a key that is equal to another one exactly if the two are one key of a job."""
    if isinstance(key, (float, complex, decimal.Decimal)) and key != key:
        return "every NaN"
    if isinstance(key, tuple):
        return tuple(map(canonical, key))
    if isinstance(key, frozenset):
        return frozenset(map(canonical, key))
    return key


def plain(thing: Any) -> str:
    """Return a text that differs where type or value do, and has sets in order."""
    if isinstance(thing, (list, tuple)):
        text = ", ".join(map(plain, thing))
    elif isinstance(thing, (set, frozenset)):
        text = ", ".join(sorted(map(plain, thing)))
    elif isinstance(thing, dict):
        text = ", ".join(f"{plain(key)}: {plain(value)}" for key, value in thing.items())
    else:
        text = repr(thing)
    return f"{type(thing).__name__}({text})"


def as_found(results: Any) -> dict[Any, str]:
    """Return records of a job as `Drawn.expected` has them; a key that comes twice is a fault."""
    found: dict[Any, str] = {}
    for key, value in results:
        key = canonical(key)
        assert key not in found, f"the key {key!r} came twice"
        found[key] = plain(value)
    return found


def check_same(found: dict[Any, str], expected: dict[Any, str]) -> None:
    """Raise AssertionError, with what differs, unless both are the same."""
    if found != expected:
        different = [
            f"{key!r}: {found.get(key, 'nothing')[:200]}, not {expected.get(key, 'nothing')[:200]}"
            for key in [*expected, *(key for key in found if key not in expected)]
            if found.get(key) != expected.get(key)
        ]
        raise AssertionError(f"{len(different)} keys differ: " + "; ".join(different[:5]))
