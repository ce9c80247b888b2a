"""Find plain data: C can pickle it alone, and the packer need not look into it.

Plain data is what JSON might hold, with tuples and sets: no object in it has code of its own.
`pickle` alone is fifty times faster for a table of a million rows. But a list in the table may be
shared with something outside, and sharing would be lost. So a container inside counts as plain only
if nothing else refers to it, or if it cannot be changed.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from itertools import chain
from sys import getrefcount
from typing import Any

#: Least elements of a container that is tested. Smaller ones are cheap to pickle in any way.
_MIN_ITEMS = 100

#: Deepest nesting of plain data. What is deeper may be cyclic.
_MAX_DEPTH = 20

#: What `getrefcount` returns for an object that one container and one list refer to.
_UNSHARED = 3

_ATOMS = frozenset((int, float, complex, bool, str, bytes, type(None)))
_FROZEN = frozenset((tuple, frozenset))
_CONTAINERS = _FROZEN | {list, dict, set}
_PARTS = _ATOMS | _CONTAINERS


def is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether a value is plain data all through. The value itself may be shared."""
    if type(value) not in _CONTAINERS:
        return type(value) in _ATOMS
    kinds = set(map(type, _parts(value)))
    if kinds <= _ATOMS:
        return True
    if depth == _MAX_DEPTH or not kinds <= _PARTS:
        return False
    inner = [part for part in _parts(value) if type(part) in _CONTAINERS and not _is_frozen(part)]
    if inner and max(map(getrefcount, inner)) > _UNSHARED:
        return False
    return all(is_plain(part, depth + 1) for part in inner)


def _parts(container: Any) -> Iterable[Any]:
    return chain(container, container.values()) if type(container) is dict else container


def _is_frozen(container: Any) -> bool:
    """Return whether a container and its contents are immutable, so that a copy is equivalent."""
    return type(container) in _FROZEN and _ATOMS.issuperset(map(type, container))


def reduce_container(container: Any) -> Any:
    """Return the reduction of a large plain container; NotImplemented for any other."""
    if len(container) < _MIN_ITEMS or not is_plain(container):
        return NotImplemented
    return pickle.loads, (pickle.dumps(container, protocol=5),)
