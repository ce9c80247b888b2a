"""Write to a status page which item begins: once for each item, so it must be cheap.

The page is described in `executor/status_page.py`. This is the specification of `_marking.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from time import monotonic
from typing import Any

#: Ways to write a key: the name of its type, a str itself, a repr, offset and path of a line.
KEY_TYPE_ONLY, KEY_STR, KEY_RENDERED, KEY_PLACE = 0, 1, 2, 3

#: Characters of a key that are kept.
KEY_CHARS = 60

#: Duration of an item that makes the repr of the next key affordable, seconds. A repr takes about 1
#: µs.
WORTH_A_REPR_S = 20e-6

#: Smallest number that is too long to be written out.
BIG = 10**60

#: Item, time, way to write the key, and the key as a Pascal string; and where that is in the page.
ITEM = struct.Struct("<QdB120p")
ITEM_OFFSET = 8


def make_mark(
    page: Any, show: Callable[[int, Any, float], object], end_of: Callable[[str], bytes], /
) -> Callable[[int, Any], None]:
    """Return `mark(item, key)`, which says that the item at this position, with this key, begins now.

    page: a buffer that can be written to. After it is closed, `mark` raises.
    show: called with (item, key, time) for other keys than a str, an int or a (path, offset), if the
        item before took so long that its cost does not matter.
    end_of: returns what is kept of a path.

    This is a closure: reading attributes would cost as much as the rest of it.
    """
    offset, pack, now, big, characters = ITEM_OFFSET, ITEM.pack_into, monotonic, BIG, KEY_CHARS
    last_s = 0.0
    last_path: Any = None
    path_end = b""

    def mark(item: int, key: Any, /) -> None:
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
            path_end = end_of(last_path)
            pack(page, offset, item, began_s, KEY_PLACE, b"%d %b" % (key[1], path_end))
        elif began_s - last_s < WORTH_A_REPR_S:
            pack(page, offset, item, began_s, KEY_TYPE_ONLY, kind.__name__.encode())
        else:
            show(item, key, began_s)
        last_s = began_s

    return mark


def is_place(key: Any) -> bool:
    """Return whether a key is a (path, offset), as lines have it."""
    if type(key) is not tuple or len(key) != 2:
        return False
    path, offset = key
    return type(path) is str and type(offset) is int and -BIG < offset < BIG
