"""Iterate over the items of entries: the specification of `_items.h`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from types import GeneratorType
from typing import Any

#: Bits of a position for the place of an item in its entry, see `wire/positions.py`.
PLACE_BITS = 32

_END: Any = object()


class Items:
    """Iterates once over the items of entries, as (position, key, value). To be derived from.

    An entry is an item, or a ref, which stands for any number of items. Its class gives three
    methods:

    - `_open(entry, key, ref)` returns None, or (position of the first unit, iterator of units). A
      unit is (key, value).
    - `_units_failed(error, entry, key)` is called with what that iterator raised. It raises.
    - `_unreadable(position, key, value)` is called instead of giving an item whose value is of the
      class `unreadable_type`.
    """

    def __init__(
        self,
        entries: Iterable[tuple[Any, Any]],
        first_entry: int,
        skip: frozenset[int],
        drops_items: bool,
        ref_type: type,
        unreadable_type: type,
        /,
    ):
        """skip: positions to leave out.

        drops_items: whether entries that are no refs are left out.
        """
        self._entries = iter(entries)
        self._entry = first_entry
        self._skip = skip
        self._drops_items = drops_items
        self._ref_type = ref_type
        self._unreadable_type = unreadable_type
        #: number of items given so far
        self.count = 0
        #: position and key of the item that was given last; the key may be one of a ref
        self.position: int | None = None
        self.key: Any = None
        #: the ref whose items are given now; None between refs
        self.ref: Any = None

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        skip = self._skip
        for entry, (key, value) in enumerate(self._entries, self._entry):
            if issubclass(type(value), self._ref_type):
                yield from self._items_of_ref(entry, key, value)
                continue
            position = entry << PLACE_BITS
            if self._drops_items or position in skip:
                continue
            self.count += 1
            self.position, self.key = position, key
            yield position, key, value

    def _items_of_ref(self, entry: int, key: Any, ref: Any) -> Iterator[tuple[int, Any, Any]]:
        self.ref = ref
        opened = self._open(entry, key, ref)
        if opened is not None:
            skip = self._skip
            first, units = opened
            self.key = key
            for position, (item_key, value) in enumerate(self._units(units, entry, key), first):
                if position in skip:
                    continue
                self.count += 1
                self.position, self.key = position, item_key
                if type(value) is self._unreadable_type:
                    self._unreadable(position, item_key, value)
                else:
                    yield position, item_key, value
        self.ref = None

    def _units(self, units: Iterator[Any], entry: int, key: Any) -> Iterator[Any]:
        try:
            yield from units
        except GeneratorExit:
            raise
        except BaseException as error:
            self._units_failed(error, entry, key)
            raise

    def _open(self, entry: int, key: Any, ref: Any) -> tuple[int, Iterator[Any]] | None:
        raise NotImplementedError

    def _units_failed(self, error: BaseException, entry: int, key: Any) -> None:
        raise NotImplementedError

    def _unreadable(self, position: int, key: Any, value: Any) -> None:
        raise NotImplementedError


def stream_items(
    items: Iterable[tuple[int, Any, Any]],
    mark: Callable[[int, Any], object],
    mapfn: Callable[[Any, Any], Any] | None,
    pairs_of: Callable[[Any], Iterator[Any]],
    /,
) -> Iterator[Any]:
    """Yield the records of all items, one after another, as mapfn gives them.

    `items` are (position, key, value). For each item this calls `mark(position, key)`, then
    `mapfn(key, value)`. `pairs_of` makes an iterator of its result, unless that is a generator.
    Without mapfn, (key, value) is the record. Exceptions pass through.
    """
    if mapfn is None:
        return _marked(items, mark)
    return chain.from_iterable(_outputs(items, mark, mapfn, pairs_of))


def _marked(
    items: Iterable[tuple[int, Any, Any]], mark: Callable[[int, Any], object]
) -> Iterator[tuple[Any, Any]]:
    for position, key, value in items:
        mark(position, key)
        yield key, value


def _outputs(
    items: Iterable[tuple[int, Any, Any]],
    mark: Callable[[int, Any], object],
    mapfn: Callable[[Any, Any], Any],
    pairs_of: Callable[[Any], Iterator[Any]],
) -> Iterator[Iterator[Any]]:
    for position, key, value in items:
        mark(position, key)
        output = mapfn(key, value)
        yield output if type(output) is GeneratorType else pairs_of(output)
