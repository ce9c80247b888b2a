"""Give the items of a task again as they were, whatever a function has done to them.

A mapfn may change what it is given, `row.pop("raw")`, and then fail. The next try, and the user who
looks at a skipped item, need the item as it was. An item that no function can change is returned as
it is. Any other is decoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmgevent.tasks.records import SegmentError, decode_items, encode_items
from mmgevent.tasks.unpicklable import RecordError
from mmgevent.wire.positions import entry_of

Item = tuple[Any, Any]

#: Types of values that no function can change.
_FIXED = frozenset({str, bytes, int, float, complex, bool, type(None)})


class Originals:
    """Gives the items of a task again."""

    def __init__(self, decode: Callable[[], Sequence[Item]] | None, first_entry: int):
        """decode: returns the task's entries again, from `first_entry` on; None if never needed."""
        self._decode = decode
        self._first_entry = first_entry
        #: never given to a function
        self._entries: Sequence[Item] | None = None

    def item(self, position: int, key: Any, value: Any) -> Item:
        """Return an item as it was. `key` and `value` are those that the function was given."""
        if self._decode is None or (_is_fixed(value) and _is_fixed(key)):  # all items of files are
            return key, value
        if self._entries is None:
            self._entries = self._decode()
        index = entry_of(position) - self._first_entry
        try:
            return decode_items(encode_items([self._entries[index]]))[0]
        except (RecordError, SegmentError):  # the driver could pickle it, this process cannot
            return self._decode()[index]


def _is_fixed(thing: Any) -> bool:
    kind = type(thing)
    return kind in _FIXED or (kind is tuple and all(map(_is_fixed, thing)))
