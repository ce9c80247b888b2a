"""Check, without running it, that a pickle can only make plain data. `_opcodes.h` does it in C.

A pickle is a program for a stack machine. This plays that program with what it needs to know of
each object: its kind, and how deep objects lie in one another. It accepts what the picklers of
`tasks.plain_data` write, and nothing else:

- There is no opcode that makes an instance of a class, sets attributes, looks up an extension or a
  persistent object, or chooses its own place in the memo.
- What STACK_GLOBAL gives may only be called, by REDUCE. So it never gets into the data.
- Items are added to lists, dicts and sets only. So no method of another object is called.
- Every length is within the data. So no pickle makes Python allocate more than it has sent.
- Objects are nested at most `max_depth` deep. Python's hash of a tuple has no limit of its own: a
  tuple that is nested a million deep, as a key, would crash the process.
"""

from __future__ import annotations

from typing import Any

#: A number that stands for an object: its depth, and its kind above KIND_SHIFT.
KIND_SHIFT = 24
_DEPTH = (1 << KIND_SHIFT) - 1
_LIST, _DICT, _SET, _GLOBAL, _MARK = (kind << KIND_SHIFT for kind in range(1, 6))

#: Newest protocol that is read.
_MAX_PROTOCOL = 5

#: Opcodes that push an object without parts -> (bytes of the argument, whether that is the length
#: of bytes that follow)
_LEAVES = {
    **dict.fromkeys(b"N\x88\x89", (0, False)),
    ord("K"): (1, False),
    ord("M"): (2, False),
    ord("J"): (4, False),
    ord("G"): (8, False),
    **dict.fromkeys(b"\x8a\x8cC", (1, True)),  # LONG1, SHORT_BINUNICODE, SHORT_BINBYTES
    **dict.fromkeys(b"\x8bXB", (4, True)),  # LONG4, BINUNICODE, BINBYTES
    **dict.fromkeys(b"\x8d\x8e\x96", (8, True)),  # BINUNICODE8, BINBYTES8, BYTEARRAY8
}
#: Opcodes that push an empty container -> its kind
_EMPTY = {ord(")"): 0, ord("]"): _LIST, ord("}"): _DICT, 0x8F: _SET}
#: Opcodes that put everything above the last mark into the container below it -> its kind
_ADDING = {ord("e"): _LIST, ord("u"): _DICT, 0x90: _SET}
#: Opcodes that make a tuple of a fixed length
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}


def check_pickle(data: Any, max_depth: int) -> None:
    """Raise ValueError unless `data` is one whole pickle of plain data, and nothing more."""
    _Check(memoryview(data), max_depth).run()


class _Check:
    """The state of the machine."""

    def __init__(self, data: memoryview, max_depth: int):
        self.data = data
        self.max_depth = max_depth
        self.at = 0  # of the next byte
        self.stack: list[int] = []
        self.memo: list[int] = []

    def run(self) -> None:
        data, stack = self.data, self.stack
        while True:
            start = self.at
            op = self._argument(1)
            if op in _LEAVES:
                size, is_length = _LEAVES[op]
                argument = self._argument(size)
                if is_length:
                    self._skip(argument)
                stack.append(0)
            elif op == 0x94:  # MEMOIZE
                self.memo.append(self._top(start))
            elif op == ord("h") or op == ord("j"):
                index = self._argument(1 if op == ord("h") else 4)
                if index >= len(self.memo):
                    raise _misuse(op, start)
                stack.append(self.memo[index])
            elif op == ord("("):
                stack.append(_MARK)
            elif op in _EMPTY:
                stack.append(_EMPTY[op] | 1)
            elif op in _TUPLES:
                stack.append(self._nest(self._pop_many(_TUPLES[op], op, start), start))
            elif op in _ADDING:
                inner = self._pop_to_mark(op, start)
                self._add(inner, _ADDING[op], op, start)
            elif op == ord("a") or op == ord("s"):
                inner = self._pop_many(1 if op == ord("a") else 2, op, start)
                self._add(inner, _LIST if op == ord("a") else _DICT, op, start)
            elif op == ord("t") or op == 0x91:  # FROZENSET
                stack.append(self._nest(self._pop_to_mark(op, start), start))
            elif op == 0x93:  # STACK_GLOBAL
                self._pop_many(2, op, start)
                stack.append(_GLOBAL)
            elif op == ord("R"):
                inner = self._pop_many(1, op, start)
                if not stack or stack.pop() != _GLOBAL:
                    raise _misuse(op, start)
                stack.append(self._nest(inner, start))
            elif op == ord("0"):
                self._pop_many(1, op, start)
            elif op == ord("1"):
                self._pop_to_mark(op, start)
            elif op == 0x80:  # PROTO
                if self._argument(1) > _MAX_PROTOCOL:
                    raise _misuse(op, start)
            elif op == 0x95:  # FRAME
                self._argument(8)
            elif op == ord("."):
                self._pop_many(1, op, start)
                if stack or self.at != len(data):
                    raise _misuse(op, start)
                return
            else:
                raise ValueError(f"opcode 0x{op:02x} at byte {start} is not one of plain data")

    def _argument(self, size: int) -> int:
        at = self.at
        self._skip(size)
        return int.from_bytes(self.data[at : at + size], "little")

    def _skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise ValueError(f"a pickle is cut short at byte {self.at}")
        self.at += size

    def _top(self, start: int) -> int:
        if not self.stack or self.stack[-1] == _MARK:
            raise _misuse(0x94, start)
        return self.stack[-1]

    def _pop_many(self, count: int, op: int, start: int) -> int:
        """Remove objects and return the largest depth among them."""
        depth = 0
        for _ in range(count):
            if not self.stack or self.stack[-1] >= _GLOBAL:
                raise _misuse(op, start)
            depth = max(depth, self.stack.pop() & _DEPTH)
        return depth

    def _pop_to_mark(self, op: int, start: int) -> int:
        """Remove all objects above the last mark, and the mark; return the largest depth."""
        depth = 0
        while True:
            if not self.stack or self.stack[-1] == _GLOBAL:
                raise _misuse(op, start)
            top = self.stack.pop()
            if top == _MARK:
                return depth
            depth = max(depth, top & _DEPTH)

    def _nest(self, inner: int, start: int) -> int:
        """Return the depth of an object around others."""
        if inner >= self.max_depth:
            raise ValueError(f"objects are nested more than {self.max_depth} deep at byte {start}")
        return inner + 1

    def _add(self, inner: int, kind: int, op: int, start: int) -> None:
        """Put objects into the container on top, which must be of this kind."""
        if not self.stack or self.stack[-1] >> KIND_SHIFT != kind >> KIND_SHIFT:
            raise _misuse(op, start)
        depth = max(self.stack[-1] & _DEPTH, self._nest(inner, start))
        self.stack[-1] = kind | depth


def _misuse(op: int, start: int) -> ValueError:
    return ValueError(f"opcode 0x{op:02x} at byte {start} is used as plain data does not use it")
