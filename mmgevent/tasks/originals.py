"""The items of a task as they came, whatever a function has done to them.

A mapfn may change what it is given: `row.pop("raw")`, and then fail. Who tries the item again, and who
keeps it for later, must have it as it was. What cannot be changed is as it was; the rest is decoded once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmgevent.tasks.records import RecordError, SegmentError, decode_items, encode_items
from mmgevent.wire.positions import entry_of

Item = tuple[Any, Any]

#: What no function can change.
_FIXED = frozenset({str, bytes, int, float, complex, bool, type(None)})


class Originals:
    """Gives the items of a task again."""

    def __init__(self, decode: Callable[[], Sequence[Item]] | None, first_entry: int):
        """`decode()` gives the entries of the task anew, of which the first is `first_entry`; None: nobody changes them."""
        self._decode = decode
        self._first_entry = first_entry
        #: never given to a function
        self._entries: Sequence[Item] | None = None

    def item(self, position: int, key: Any, value: Any) -> Item:
        """Return a (key, value) as it came, by its position and by what has become of it."""
        if self._decode is None or (_is_fixed(value) and _is_fixed(key)):  # all items of files are
            return key, value
        if self._entries is None:
            self._entries = self._decode()
        index = entry_of(position) - self._first_entry
        try:
            return decode_items(encode_items([self._entries[index]]))[0]
        except (RecordError, SegmentError):  # it could be pickled once, at the driver
            return self._decode()[index]


def _is_fixed(thing: Any) -> bool:
    kind = type(thing)
    return kind in _FIXED or (kind is tuple and all(map(_is_fixed, thing)))
