"""Give the items of a task again as they were, whatever a function has done to them.

A mapfn may change what it is given, `row.pop("raw")`, and then fail. The next try, and the user who
looks at a skipped item, need the item as it was. An item that no function can change is returned as
it is. Any other is decoded again, or read again if it is of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any

from mmgevent.job.inputs.refs import ContentNeeded, Ref, Unreadable
from mmgevent.tasks.records import SegmentError, decode_items, encode_items
from mmgevent.tasks.unpicklable import RecordError
from mmgevent.wire.positions import entry_of, place_of

Item = tuple[Any, Any]

#: Types of values that no function can change.
_FIXED = frozenset({str, bytes, int, float, complex, bool, type(None)})


class Originals:
    """Gives the items of a task again."""

    def __init__(self, decode: Callable[[], Sequence[Item]] | None, first_entry: int, remembered: int = 1):
        """decode: returns the task's entries again, from `first_entry` on; None if never needed.

        remembered: how many items that were read again are kept, in case they fail again.
        """
        self._decode = decode
        self._first_entry = first_entry
        #: never given to a function
        self._entries: Sequence[Item] | None = None
        #: what is read again of a file: entry, place of the next item, items from there on
        self._reading: tuple[int, int, Iterator[Item]] = (-1, 0, iter(()))
        self._remembered = remembered
        #: position -> item that was read again, and that no function was given; oldest first
        self._recent: dict[int, Item] = {}

    def item(self, position: int, key: Any, value: Any) -> Item:
        """Return an item as it was. `key` and `value` are those that the function was given.

        Raise ContentNeeded if its file is no longer that of the driver.
        """
        if self._decode is None or (_is_fixed(value) and _is_fixed(key)):  # all items of files are
            return key, value
        if self._entries is None:
            self._entries = self._decode()
        index = entry_of(position) - self._first_entry
        entry = self._entries[index]
        if isinstance(entry[1], Ref):
            return self._item_of_ref(position, entry[1])
        try:
            return _copied(entry)
        except (RecordError, SegmentError):  # the driver could pickle it, this process cannot
            return self._decode()[index]

    def close(self) -> None:
        """Stop reading again: a database has its connection back now, not when this is collected."""
        units = self._reading[2]
        self._reading = (-1, 0, iter(()))
        if isinstance(units, Generator):
            units.close()

    def _item_of_ref(self, position: int, ref: Ref) -> Item:
        item = self._recent.get(position)
        if item is None:
            item = self._recent[position] = self._read(position, ref)
            if len(self._recent) > self._remembered:
                del self._recent[next(iter(self._recent))]
        try:
            return _copied(item)
        except (RecordError, SegmentError):  # the function gets it, and it is read again the next time
            return self._recent.pop(position)

    def _read(self, position: int, ref: Ref) -> Item:
        """Read an item again. Items that are asked for in order are found in one pass."""
        entry, place = entry_of(position), place_of(position)
        reading, next_place, units = self._reading
        if reading != entry or place < next_place:
            self.close()
            next_place, units = 0, iter(ref.units())
        self._reading = (-1, 0, iter(()))  # if reading fails, the next one begins again
        item = next(islice(units, place - next_place, None), None)
        if item is None or type(item[1]) is Unreadable:
            raise ContentNeeded(f"{ref.location} has other items than when it was read before")
        self._reading = (entry, place + 1, units)
        return item


def _copied(item: Item) -> Item:
    return decode_items(encode_items([item]))[0]


def _is_fixed(thing: Any) -> bool:
    kind = type(thing)
    return kind in _FIXED or (kind is tuple and all(map(_is_fixed, thing)))
