"""Check, without running it, that a pickle can only make plain data. `_opcodes.h` does it in C.

A pickle is a program for a stack machine. This plays that program with what it needs to know of
each object: its kind, how deep objects lie in one another, and its weight. It accepts what the
picklers of `tasks.plain_data` write, and nothing else:

- There is no opcode that makes an instance of a class, sets attributes, looks up an extension or a
  persistent object, or chooses its own place in the memo.
- What STACK_GLOBAL gives may only be called, by REDUCE. So it never gets into the data.
- Items are added to lists, dicts and sets only. So no method of another object is called.
- Every length is within the data. So no pickle makes Python allocate more than it has sent.
- Objects are nested at most `max_depth` deep. Python's hash of a tuple has no limit of its own: a
  tuple that is nested a million deep, as a key, would crash the process.
- Keys and elements of sets weigh at most `max_weight` together, and no tuple weighs more. The
  weight of an object is the number of objects that its hash visits. It counts those again that
  occur again: a tuple that holds the same tuple twice, 60 deep, has 400 bytes, and Python would
  hash it for years, deaf to Ctrl-C.

Lists, dicts and sets change after they got into the memo. So an object stands for one of them by
its number, and what is known of it is in a table.
"""

from __future__ import annotations

from typing import Any

#: A number that stands for an object: its kind above KIND_SHIFT. Below are its depth and its weight
#: or, of a list, dict or set, its number.
KIND_SHIFT = 60
_DEPTH_SHIFT = 40
_DEPTH = (1 << 20) - 1
_WEIGHT = (1 << _DEPTH_SHIFT) - 1
_BELOW_KIND = (1 << KIND_SHIFT) - 1
_LIST, _DICT, _SET, _GLOBAL, _MARK = (kind << KIND_SHIFT for kind in range(1, 6))
_LEAF = 1  # depth 0, weight 1
_EMPTY_TUPLE = (1 << _DEPTH_SHIFT) + 1

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
_EMPTY = {ord("]"): _LIST, ord("}"): _DICT, 0x8F: _SET}
#: Opcodes that put everything above the last mark into the container below it -> its kind
_ADDING = {ord("e"): _LIST, ord("u"): _DICT, 0x90: _SET}
#: Opcodes that make a tuple of a fixed length
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}


def check_pickle(data: Any, max_depth: int, max_weight: int) -> int:
    """Return the weight of the object that a pickle makes.

    That of a list is what its elements weigh. Raise ValueError unless `data` is one whole pickle
    of plain data, and nothing more.
    """
    if not 0 <= max_depth < _DEPTH or not 0 <= max_weight < _WEIGHT:
        raise ValueError(f"a limit is out of range: {max_depth} or {max_weight}")
    return _Check(memoryview(data), max_depth, max_weight).run()


class _Check:
    """The state of the machine."""

    def __init__(self, data: memoryview, max_depth: int, max_weight: int):
        self.data = data
        self.max_depth = max_depth
        self.max_weight = max_weight
        self.hashed = 0  # weight of all keys and elements of sets
        self.odd = 0  # weight of every other object that was removed: of a dict's items, the keys
        self.at = 0  # of the next byte
        self.stack: list[int] = []
        self.memo: list[int] = []
        self.containers: list[int] = []  # depth and weight of each list, dict and set

    def run(self) -> int:
        data, stack = self.data, self.stack
        while True:
            start = self.at
            op = self._argument(1)
            if op in _LEAVES:
                size, is_length = _LEAVES[op]
                argument = self._argument(size)
                if is_length:
                    self._skip(argument)
                stack.append(_LEAF)
            elif op == 0x94:  # MEMOIZE
                self.memo.append(self._top(start))
            elif op == ord("h") or op == ord("j"):
                index = self._argument(1 if op == ord("h") else 4)
                if index >= len(self.memo):
                    raise _misuse(op, start)
                stack.append(self.memo[index])
            elif op == ord("("):
                stack.append(_MARK)
            elif op == ord(")"):
                stack.append(_EMPTY_TUPLE)
            elif op in _EMPTY:
                stack.append(_EMPTY[op] | len(self.containers))
                self.containers.append(_EMPTY_TUPLE)
            elif op in _TUPLES:
                stack.append(self._nest(self._pop_many(_TUPLES[op], op, start), start))
            elif op in _ADDING:
                self._add(self._pop_to_mark(op, start), _ADDING[op], op, start)
            elif op == ord("a") or op == ord("s"):
                parts = self._pop_many(1 if op == ord("a") else 2, op, start)
                self._add(parts, _LIST if op == ord("a") else _DICT, op, start)
            elif op == ord("t"):
                stack.append(self._nest(self._pop_to_mark(op, start), start))
            elif op == 0x91:  # FROZENSET
                stack.append(self._nest(self._pop_to_mark(op, start), start))
                self._hash(stack[-1] & _WEIGHT, start)
            elif op == 0x93:  # STACK_GLOBAL
                self._pop_many(2, op, start)
                stack.append(_GLOBAL)
            elif op == ord("R"):
                parts = self._pop_many(1, op, start)
                if not stack or stack.pop() != _GLOBAL:
                    raise _misuse(op, start)
                stack.append(self._nest(parts, start))
            elif op == ord("0"):
                self._pop_many(1, op, start)
            elif op == ord("1"):
                self._pop_to_mark(op, start)
            elif op == 0x80:  # PROTO
                if self._argument(1) > _MAX_PROTOCOL:
                    raise _misuse(op, start)
            elif op == 0x95:  # FRAME
                if self._argument(8) > len(data) - self.at:
                    raise _misuse(op, start)
            elif op == ord("."):
                return self._end(op, start)
            else:
                raise ValueError(f"opcode 0x{op:02x} at byte {start} is not one of plain data")

    def _end(self, op: int, start: int) -> int:
        """Return the weight of the object that is left. That of a list is what is in it."""
        made = self.stack[-1] if self.stack else _MARK
        parts = self._pop_many(1, op, start)
        if self.stack or self.at != len(self.data):
            raise _misuse(op, start)
        if made >> KIND_SHIFT == _LIST >> KIND_SHIFT:
            parts = self.containers[made & _BELOW_KIND]
        return parts & _WEIGHT

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

    def _look(self, item: int) -> int:
        """Return depth and weight of an object. A list is never hashed, so it weighs 1."""
        kind = item >> KIND_SHIFT
        if not kind:
            return item
        found = self.containers[item & _BELOW_KIND]
        return found if kind != _LIST >> KIND_SHIFT else (found & ~_WEIGHT) | 1

    def _pop_many(self, count: int, op: int, start: int) -> int:
        """Remove objects and return the largest depth among them, and their weight together."""
        parts = self.odd = 0
        for number in range(count):
            if not self.stack or self.stack[-1] >= _GLOBAL:
                raise _misuse(op, start)
            part = self._look(self.stack.pop())
            parts = _join(parts, part)
            self.odd = _join(self.odd, part & _WEIGHT) if number % 2 else self.odd
        return parts

    def _pop_to_mark(self, op: int, start: int) -> int:
        """Remove all objects above the last mark, and the mark; return as `_pop_many`."""
        parts = self.odd = number = 0
        while True:
            if not self.stack or self.stack[-1] == _GLOBAL:
                raise _misuse(op, start)
            top = self.stack.pop()
            if top == _MARK:
                return parts
            part = self._look(top)
            parts = _join(parts, part)
            self.odd = _join(self.odd, part & _WEIGHT) if number % 2 else self.odd
            number += 1

    def _nest(self, parts: int, start: int) -> int:
        """Return what is known of an object around others."""
        if parts >> _DEPTH_SHIFT >= self.max_depth:
            raise ValueError(f"objects are nested more than {self.max_depth} deep at byte {start}")
        self._weigh(parts & _WEIGHT, start)
        return _join(parts + (1 << _DEPTH_SHIFT), 1)

    def _add(self, parts: int, kind: int, op: int, start: int) -> None:
        """Put objects into the container on top, which must be of this kind."""
        if not self.stack or self.stack[-1] >> KIND_SHIFT != kind >> KIND_SHIFT:
            raise _misuse(op, start)
        if parts >> _DEPTH_SHIFT >= self.max_depth:
            raise ValueError(f"objects are nested more than {self.max_depth} deep at byte {start}")
        if kind != _LIST:
            self._hash(self.odd if kind == _DICT else parts & _WEIGHT, start)
        index = self.stack[-1] & _BELOW_KIND
        self.containers[index] = _join(self.containers[index], parts + (1 << _DEPTH_SHIFT))

    def _hash(self, weight: int, start: int) -> None:
        """Count objects that are hashed when the pickle is read."""
        self.hashed += weight
        self._weigh(self.hashed, start)

    def _weigh(self, weight: int, start: int) -> None:
        if weight > self.max_weight:
            raise ValueError(f"keys would take too long to hash at byte {start}")


def _join(one: int, other: int) -> int:
    """Return the larger depth of two, and both weights together."""
    weight = min((one & _WEIGHT) + (other & _WEIGHT), _WEIGHT)
    return (max(one >> _DEPTH_SHIFT, other >> _DEPTH_SHIFT) << _DEPTH_SHIFT) | weight


def _misuse(op: int, start: int) -> ValueError:
    return ValueError(f"opcode 0x{op:02x} at byte {start} is used as plain data does not use it")
