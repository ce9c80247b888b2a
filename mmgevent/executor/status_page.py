"""The page that an executor shares with its worker: which item it is on, since when.

When an executor dies, or hangs in a C call, nobody can ask it anything. So before each item it
writes 256 bytes of shared memory, and the worker reads them when it needs to know whom to blame.

Layout, little-endian: u64 attempt (0: none; SETUP: the job's setupfn), u64 position of the item (see `positions`; NO_ITEM: none
has begun, SEVERAL: what runs concerns several), f64 time at which the item began (CLOCK_MONOTONIC, one
clock for all processes of a machine; infinity while the clock is stopped), u8 how the key is written,
then the key as a Pascal string of at most 119 bytes. What follows is zero, but for the last byte: 1 while
the item is one of several that run at once.

Writing must cost next to nothing, for it happens once an item: one `pack_into`. A str, an int and the
(path, offset) of a line are written as they are. Keys of other types are rendered only when the item
before took long enough to make that free.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from mmgevent.machine.resources import create_nameless_file

PAGE_BYTES = 256
#: the item number that means "on no item yet"
NO_ITEM = 2**64 - 1
#: the item number that means "on several items together", such as those of a flush
SEVERAL = 2**64 - 2
#: The attempt number that means "in the job's setupfn". Those of attempts have 32 bits.
SETUP = 2**64 - 1
#: characters of a key that are kept
KEY_CHARACTERS = 60
#: an item that took this long pays for the repr (about 1 µs) of the next key
WORTH_A_REPR_S = 20e-6
#: elements of a tuple that is rendered; larger ones show their type only
MAX_TUPLE = 4

#: bytes of the end of a path that are kept, in the key of a line: with an offset they fit the key
PATH_BYTES = 90

KEY_TYPE_ONLY, KEY_STR, KEY_RENDERED, KEY_PLACE = 0, 1, 2, 3

_BIG = 10**60  # larger numbers are not written out
_WHOLE = struct.Struct("<QQdB120p")
_ITEM = struct.Struct("<QdB120p")
_BEGAN = struct.Struct("<d")
_NUMBER = struct.Struct("<Q")
_ITEM_OFFSET, _BEGAN_OFFSET = 8, 16
_CROWD_OFFSET = PAGE_BYTES - 1
#: types whose repr runs no code of the user's and stays short once shortened
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


class Position(NamedTuple):
    """Where an executor is."""

    attempt: int  #: 0 when it runs none, SETUP
    item: int | None  #: None between items
    running_s: float  #: how long on this item; 0.0 while it waits for its worker
    key: str | None  #: the key as it would be written in Python, shortened
    is_alone: bool = True  #: False: others run at the same time, this one the longest
    is_of_several: bool = False  #: what runs concerns several items

    @property
    def is_setup(self) -> bool:
        """Whether the job's setupfn runs, since `running_s`."""
        return self.attempt == SETUP


class StatusPage:
    """One mapping of the page. `create` makes it, the other side opens it by descriptor."""

    def __init__(self, fd: int):
        self._map = mmap.mmap(fd, PAGE_BYTES)
        #: mark(item, key) says that the item number `item`, of this key, begins now
        self.mark = self._make_mark()

    @classmethod
    def create(cls) -> tuple[StatusPage, int]:
        """Make a page; return it and a close-on-exec descriptor of it, which the caller owns."""
        fd = create_nameless_file("mmgevent-page")
        try:
            os.ftruncate(fd, PAGE_BYTES)
            page = cls(fd)
        except OSError:  # mmap needs a descriptor of its own, and may find none
            os.close(fd)
            raise
        page.end()
        return page, fd

    # -- the executor's side

    def begin(self, attempt: int) -> None:
        """Say that `attempt` runs from now on, on no item yet."""
        _WHOLE.pack_into(self._map, 0, attempt, NO_ITEM, math.inf, KEY_TYPE_ONLY, b"")
        self._map[_CROWD_OFFSET] = False

    def begin_setup(self) -> None:
        """Say that the job's setupfn runs from now on."""
        self.begin(SETUP)
        _BEGAN.pack_into(self._map, _BEGAN_OFFSET, monotonic())

    def end(self) -> None:
        """Say that nothing runs."""
        self.begin(0)

    def _make_mark(self) -> Callable[[int, Any], None]:
        """Build `mark`, which every item passes: a closure, since attributes cost as much as its work."""
        page, offset, pack, now = self._map, _ITEM_OFFSET, _ITEM.pack_into, monotonic
        big, characters = _BIG, KEY_CHARACTERS
        last_s = 0.0
        last_path: Any = None
        path_end = b""

        def mark(item: int, key: Any) -> None:
            nonlocal last_s, last_path, path_end
            kind = type(key)
            began_s = now()
            if kind is str:
                if len(key) > characters:
                    key = key[:characters]
                try:
                    text = key.encode()  # half of what it costs with "replace"
                except UnicodeEncodeError:
                    text = key.encode("utf-8", "replace")
                pack(page, offset, item, began_s, KEY_STR, text)
            elif kind is int and -big < key < big:
                pack(page, offset, item, began_s, KEY_RENDERED, b"%d" % key)
            elif kind is tuple and len(key) == 2 and key[0] is last_path and type(key[1]) is int:
                pack(page, offset, item, began_s, KEY_PLACE, b"%d %b" % (key[1], path_end))
            elif kind is tuple and is_place(key):
                last_path = key[0]
                path_end = _end_of(last_path)
                pack(page, offset, item, began_s, KEY_PLACE, b"%d %b" % (key[1], path_end))
            elif began_s - last_s < WORTH_A_REPR_S:
                pack(page, offset, item, began_s, KEY_TYPE_ONLY, kind.__name__.encode())
            else:
                self.show(item, key, began_s)
            last_s = began_s

        return mark

    def set_item(self, item: int | None) -> None:
        """Say that what runs concerns several items (None), or this one again; the clock goes on."""
        _NUMBER.pack_into(self._map, _ITEM_OFFSET, SEVERAL if item is None else item)

    def show(self, item: int, key: Any, began_s: float, *, is_alone: bool = True) -> None:
        """Like `mark`, for an item that began at `began_s`; always renders the key."""
        self._map[_CROWD_OFFSET] = not is_alone
        if is_place(key):
            how, shown = KEY_PLACE, b"%d %b" % (key[1], _end_of(key[0]))
        else:
            text = render_key(key)
            how = KEY_TYPE_ONLY if text is None else KEY_RENDERED
            shown = (type(key).__name__ if text is None else text).encode("utf-8", "replace")
        _ITEM.pack_into(self._map, _ITEM_OFFSET, item, began_s, how, shown)

    def stop_clock(self) -> float:
        """Stop the item's clock (the executor waits for its worker); return what `start_clock` takes."""
        began_s = _BEGAN.unpack_from(self._map, _BEGAN_OFFSET)[0]
        _BEGAN.pack_into(self._map, _BEGAN_OFFSET, math.inf)
        return began_s - monotonic()

    def start_clock(self, stopped: float) -> None:
        """Let the item's clock go on from where `stop_clock` stopped it."""
        _BEGAN.pack_into(self._map, _BEGAN_OFFSET, stopped + monotonic())

    # -- the worker's side

    def read(self) -> Position:
        """Where the executor is. Of a running one the answer may be one item old, never mixed for long."""
        attempt, item, began_s, how, raw = _WHOLE.unpack_from(self._map, 0)
        running_s = max(0.0, monotonic() - began_s)
        if attempt == 0 or item >= SEVERAL:
            return Position(attempt, None, running_s, None, is_of_several=attempt != 0 and item == SEVERAL)
        key = raw.decode("utf-8", "ignore")  # the last character may be cut
        if how == KEY_STR:
            key = repr(key)
        elif how == KEY_PLACE:
            at, _, path = key.partition(" ")
            key = f"({path!r}, {at})"
        elif how == KEY_TYPE_ONLY:
            key = f"a key of type {key}"
        return Position(attempt, item, running_s, key, not self._map[_CROWD_OFFSET])

    def close(self) -> None:
        """Unmap; nothing may be called after this. Idempotent."""
        self._map.close()

    def abandon(self) -> None:
        """In a forked child: write where nobody reads; the next item is refused."""
        self._map.close()
        self._map = mmap.mmap(-1, PAGE_BYTES)


def is_place(key: Any) -> bool:
    """Return whether a key is a (path, offset), as lines have it."""
    if type(key) is not tuple or len(key) != 2:
        return False
    path, offset = key
    return type(path) is str and type(offset) is int and -_BIG < offset < _BIG


def _end_of(path: str) -> bytes:
    """Return as much of the end of a path as is kept."""
    end = path[-PATH_BYTES:].encode("utf-8", "replace")[-PATH_BYTES:]
    return end if len(end) >= len(path) else b"..." + end


def render_key(key: Any) -> str | None:
    """The repr of a key of plain type, shortened; None where it would run code of the user's."""
    kind = type(key)
    if kind is tuple and len(key) <= MAX_TUPLE:
        parts = [render_key(element) for element in key]
        if None in parts:
            return None
        return "(" + ", ".join(part or "" for part in parts) + (",)" if len(parts) == 1 else ")")
    if kind not in _PLAIN:
        return None
    if kind is str or kind is bytes:
        return repr(key[:KEY_CHARACTERS])
    if kind is int and not -_BIG < key < _BIG:
        return f"an int of {key.bit_length()} bits"
    return repr(key)
