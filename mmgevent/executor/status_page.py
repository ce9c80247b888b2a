"""The status page, which an executor shares with its worker: which item it is on, since when.

When an executor has died, or hangs in a C call, nobody can ask it anything. So before each item it
writes 256 bytes of shared memory. The worker reads them when it needs to know which item is to
blame.

Layout, little-endian:

    offset  size  field
         0     8  u64: attempt; 0 for none, SETUP for the job's setupfn
         8     8  u64: position of the item (see `positions`); NO_ITEM before the first one,
                  SEVERAL for several items, CALL for a call of several items, whose first key
                  follows
        16     8  f64: time at which the item began (CLOCK_MONOTONIC, which all processes of a
                  machine share); infinity while the clock is stopped
        24     1  u8: how the key is written: KEY_TYPE_ONLY, KEY_STR, KEY_RENDERED or KEY_PLACE
        25   120  the key, as a Pascal string of at most 119 bytes
       145     4  u32: items of the call, if there is one
       149     4  token of the marks in what the executor prints (see `prints`), or zeros
       153   102  zeros
       255     1  u8: 1 while several items run at once

Behind the page the file has an area for stacks. The executor keeps it open, and faulthandler
writes there, without Python, when STACK_SIGNAL is received.

Writing must be cheap, since it happens once for each item: `_speedups.make_mark` does it. A str, an int and
the (path, offset) of a line are written as they are. A key of another type is rendered only if the
item before took so long that the cost does not matter.
"""

from __future__ import annotations

import faulthandler
import math
import mmap
import os
import signal
import struct
from time import monotonic
from typing import Any, NamedTuple

from mmgevent._speedups import make_mark
from mmgevent._speedups._marking import (
    BIG,
    ITEM,
    ITEM_OFFSET,
    KEY_CHARS,
    KEY_PLACE,
    KEY_RENDERED,
    KEY_STR,
    KEY_TYPE_ONLY,
    is_place,
)
from mmgevent.machine.resources import create_nameless_file

#: Size of a status page, bytes.
PAGE_BYTES = 256

#: Where the stacks begin in the file of a page, bytes: behind the pages of memory of the page.
STACK_OFFSET = 64 * 1024

#: Size of the stacks, bytes: some 50 of them. No memory is used before there is one.
STACK_AREA_BYTES = 256 * 1024

#: Signal on which an executor writes its stack; None if the system has none to spare. Nobody uses
#: it by accident, as SIGUSR1 is used.
STACK_SIGNAL: int | None = getattr(signal, "SIGRTMAX", None) and int(signal.SIGRTMAX) - 7

#: Item number that means: on no item yet.
NO_ITEM = 2**64 - 1

#: Item number that means: on several items together, such as those of a flush.
SEVERAL = 2**64 - 2

#: Item number that means: in one call of several items.
CALL = 2**64 - 3

#: Attempt number that means: in the job's setupfn. Attempts have numbers of 32 bits.
SETUP = 2**64 - 1

#: Most elements of a tuple that is rendered. Larger ones show their type only.
MAX_TUPLE = 4

#: Bytes kept of the end of a path, in the key of a line. The offset fits into the rest of the key.
PATH_BYTES = 90

_WHOLE = struct.Struct("<QQdB120p")
_BEGAN = struct.Struct("<d")
_NUMBER = struct.Struct("<Q")
_BEGAN_OFFSET, _KEY_OFFSET = 16, 24
_CALL_OFFSET, _CALL_COUNT = 145, struct.Struct("<I")
_CROWD_OFFSET = PAGE_BYTES - 1
_TOKEN_OFFSET, _TOKEN_BYTES = 149, 4

#: Bytes that say where an executor is: all before the token, and the last one of the page.
MARK_BYTES = _TOKEN_OFFSET + 1

#: Types whose repr runs no code of the user, and stays short if the value is.
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


class Position(NamedTuple):
    """Where an executor is."""

    attempt: int  #: number of the attempt; 0 for none, SETUP for the job's setupfn
    item: int | None  #: position of the item; None between items
    running_s: float  #: time on this item, seconds; 0.0 while it waits for its worker
    key: str | None  #: the key as written in Python, shortened
    is_alone: bool = True  #: whether no other item runs at the same time; else this is the oldest
    is_of_several: bool = False  #: whether the executor is on several items together
    call: str | None = None  #: which call of several items runs, in words

    @property
    def is_setup(self) -> bool:
        """Whether the job's setupfn runs, for `running_s`."""
        return self.attempt == SETUP


class StatusPage:
    """One mapping of a status page.

    One side makes the page with `create`. The other side opens it by its descriptor.
    """

    def __init__(self, fd: int, map_bytes: int = PAGE_BYTES):
        self._map = mmap.mmap(fd, map_bytes)
        self._is_abandoned = False
        #: `read_item` of the last mark in what the executor prints: both streams share one pipe
        self.printed_item = b""
        #: `mark(item, key)` says that the item at this position, with this key, begins now
        self.mark = make_mark(self._map, self.show, _end_of)

    @classmethod
    def create(cls) -> tuple[StatusPage, int]:
        """Make a page. Return it, and a close-on-exec descriptor of it that the caller owns."""
        fd = create_nameless_file("mmgevent-page")
        try:
            os.ftruncate(fd, STACK_OFFSET + STACK_AREA_BYTES)
            page = cls(fd, STACK_OFFSET + STACK_AREA_BYTES)
        except OSError:  # mmap needs a descriptor of its own, and there may be none
            os.close(fd)
            raise
        page.end()
        return page, fd

    @property
    def token(self) -> bytes:
        """The token of marks; b"" if nothing is marked, as in a child that has abandoned the page."""
        token = self._map[_TOKEN_OFFSET : _TOKEN_OFFSET + _TOKEN_BYTES]
        return token if token[0] else b""

    def mark_prints(self) -> bytes:
        """Let the executor mark what it prints (see `prints`). Return the token of its marks.

        Its first byte is in no UTF-8 text.
        """
        token = b"\xff" + os.urandom(_TOKEN_BYTES - 1)
        self._map[_TOKEN_OFFSET : _TOKEN_OFFSET + _TOKEN_BYTES] = token
        return self.token

    # -- the executor's side

    def read_item(self) -> bytes:
        """Return what differs from item to item; b"" in a child that has abandoned the page."""
        if self._is_abandoned:
            return b""
        return self._map[:_KEY_OFFSET] + self._map[_CROWD_OFFSET:PAGE_BYTES]

    def read_mark(self) -> bytes:
        """Return where the executor is, as `decode_mark` takes it."""
        return self._map[:_TOKEN_OFFSET] + self._map[_CROWD_OFFSET:PAGE_BYTES]

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

    def set_item(self, item: int | None) -> None:
        """Say that several items run (None), or this one again. The clock goes on."""
        _NUMBER.pack_into(self._map, ITEM_OFFSET, SEVERAL if item is None else item)

    def mark_call(self, count: int, key: Any) -> None:
        """Say that a call of `count` items begins now, the first of which has this key.

        0 says that the items of a call are read.
        """
        if not count:
            ITEM.pack_into(self._map, ITEM_OFFSET, SEVERAL, monotonic(), KEY_TYPE_ONLY, b"")
            return
        _CALL_COUNT.pack_into(self._map, _CALL_OFFSET, count)
        self.show(CALL, key, monotonic())

    def show(self, item: int, key: Any, began_s: float, *, is_alone: bool = True) -> None:
        """Do what `mark` does, for an item that began at `began_s`. The key is always rendered."""
        self._map[_CROWD_OFFSET] = not is_alone
        if is_place(key):
            how, shown = KEY_PLACE, b"%d %b" % (key[1], _end_of(key[0]))
        else:
            text = render_key(key)
            how = KEY_TYPE_ONLY if text is None else KEY_RENDERED
            shown = (type(key).__name__ if text is None else text).encode("utf-8", "replace")
        ITEM.pack_into(self._map, ITEM_OFFSET, item, began_s, how, shown)

    def stop_clock(self) -> float:
        """Stop the item's clock, while the executor waits for its worker.

        Returns what `start_clock` needs.
        """
        began_s = _BEGAN.unpack_from(self._map, _BEGAN_OFFSET)[0]
        _BEGAN.pack_into(self._map, _BEGAN_OFFSET, math.inf)
        return float(began_s - monotonic())

    def start_clock(self, stopped: float) -> None:
        """Continue the item's clock from where `stop_clock` stopped it."""
        _BEGAN.pack_into(self._map, _BEGAN_OFFSET, stopped + monotonic())

    # -- the worker's side

    def stacks(self) -> bytes:
        """Return all stacks that the executor has written, one behind the other."""
        return self._map[STACK_OFFSET:].rstrip(b"\0")

    def read(self) -> Position:
        """Return where the executor is.

        If it runs, the answer may be one item old. A mix of two items is possible only for an
        instant.
        """
        return decode_mark(self.read_mark())

    def close(self) -> None:
        """Unmap the page. Nothing may be called after this. Idempotent."""
        self._map.close()

    def abandon(self) -> None:
        """In a forked child: write to memory that nobody reads. The next item is refused."""
        self._map.close()
        self._map = mmap.mmap(-1, PAGE_BYTES)
        self._is_abandoned = True


def decode_mark(mark: bytes) -> Position:
    """Return where an executor was that has given this mark."""
    attempt, item, began_s, how, raw = _WHOLE.unpack_from(mark, 0)
    running_s = max(0.0, monotonic() - began_s)
    if attempt == 0 or item > CALL:
        return Position(attempt, None, running_s, None, is_of_several=attempt != 0 and item == SEVERAL)
    key = raw.decode("utf-8", "ignore")  # the last character may be cut
    if how == KEY_STR:
        key = repr(key)
    elif how == KEY_PLACE:
        at, _, path = key.partition(" ")
        key = f"({path!r}, {at})"
    elif how == KEY_TYPE_ONLY:
        key = f"a key of type {key}"
    if item == CALL:
        count = _CALL_COUNT.unpack_from(mark, _CALL_OFFSET)[0]
        call = f"a call of {count} items, from {key} on"
        return Position(attempt, None, running_s, None, is_of_several=True, call=call)
    return Position(attempt, item, running_s, key, not mark[-1])


def write_stacks_on_signal(fd: int) -> None:
    """Let this process write its Python stack behind its page when STACK_SIGNAL is received.

    The descriptor must stay open.
    """
    if STACK_SIGNAL is not None:
        os.lseek(fd, STACK_OFFSET, os.SEEK_SET)
        faulthandler.register(STACK_SIGNAL, file=fd, all_threads=True, chain=False)


def _end_of(path: str) -> bytes:
    """Return the part of the end of a path that is kept."""
    end = path[-PATH_BYTES:].encode("utf-8", "replace")[-PATH_BYTES:]
    return end if len(end) >= len(path) else b"..." + end


def render_key(key: Any) -> str | None:
    """Return the repr of a key of plain type, shortened.

    Returns None for other types, whose repr could run code of the user.
    """
    kind = type(key)
    if kind is tuple and len(key) <= MAX_TUPLE:
        parts = [render_key(element) for element in key]
        if None in parts:
            return None
        return "(" + ", ".join(part or "" for part in parts) + (",)" if len(parts) == 1 else ")")
    if kind not in _PLAIN:
        return None
    if kind is str or kind is bytes:
        return repr(key[:KEY_CHARS])
    if kind is int and not -BIG < key < BIG:
        return f"an int of {key.bit_length()} bits"
    return repr(key)
