"""Encode keys so that equal keys hash alike in every process.

`hash_key(key, seed)` is XXH64 of one tag byte and a payload; docs/keys.md gives every case byte by
byte. The hash only decides the partition. Two different keys may have one encoding: they then share
a partition. Two keys that Python calls equal must never differ in it.

The class of a key decides which rule applies. It is the first class of the method resolution order
that is in a table below *and* still gives the key its `__eq__` and `__hash__`. So a namedtuple is a
tuple and an IntEnum an int. A str subclass with its own comparison is a class of the user's.
Classes are found by name: if `decimal` is not imported, no key is a Decimal, so it need not be
imported here.

Keys of other than builtin classes are encoded here even if the C core is in use.
"""

from __future__ import annotations

import numbers
import operator
import struct
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from xxhash import xxh64_intdigest

#: (encoding, whether it relies on hash() of a user's class)
Encoded = tuple[bytes, bool]

if sys.hash_info.modulus != (1 << 61) - 1:
    raise ImportError(
        "mmgevent needs a 64-bit Python: numbers hash differently here than on the other workers"
    )

#: The one object that stands for every NaN key of this process.
NAN = float("nan")

_U64 = (1 << 64) - 1


def xxh64(data: Any, seed: int = 0) -> int:
    """Return XXH64 of a bytes-like object; only the low 64 bits of `seed` count.

    Raises TypeError for anything that is not bytes-like, such as a str.
    """
    return xxh64_intdigest(memoryview(data), seed & _U64)


def hash_key(key: Any, seed: int = 0) -> int:
    """Return the 64-bit hash of a key that is the same in every process and for every equal key.

    Raises TypeError for a key that is unhashable or whose class hashes by identity, and
    RecursionError for one that is nested too deeply. Exceptions of the key's own `__hash__` and
    `__partition_key__` pass through.
    """
    return xxh64_intdigest(encode(key)[0], seed & _U64)


def is_hashed(key: Any) -> bool:
    """Return whether `hash_key` relies on `hash()` of a class that it does not know.

    Such a key must be hashed again where it is reduced, because processes may disagree. Raises what
    `hash_key` raises.
    """
    return encode(key)[1]


def encode(key: Any) -> Encoded:
    """Return the canonical encoding of a key, and whether that uses `hash()` of a user's class."""
    cls = type(key)
    encoder = _EXACT.get(cls) or _find(cls, _BY_VALUE)
    if encoder is not None:
        return encoder(key)
    if cls.__hash__ is None:
        raise BadKeyError(_unhashable_message(cls))
    replace = getattr(cls, "__partition_key__", None)
    if replace is not None:
        return encode(replace(key))
    encoder = _find(cls, _BY_CLASS)
    if encoder is not None:
        return encoder(key)
    fields = _compared_fields(cls)
    if fields is not None:
        return _encode_items(b"c", [*_name_of(cls), *(getattr(key, name) for name in fields)])
    return _encode_other(key, cls)


def unify_nan(key: Any) -> Any:
    """Return the key with every NaN in it, also inside tuples and frozensets, replaced by `NAN`.

    A NaN is a number that differs from itself. A key without one is returned itself. Raises
    TypeError for a signaling Decimal NaN, which is unhashable.
    """
    cls = type(key)
    if cls in _NEVER_NAN:
        return key
    base = _EXACT.get(cls) or _find(cls, _BY_VALUE)
    if base is _encode_tuple:
        return _unify_items(key, tuple)
    if base is _encode_frozenset:
        return _unify_items(key, frozenset)
    if not (issubclass(cls, complex) or hasattr(cls, "__float__")):
        return key  # no number, so no NaN; this check is faster than the next one
    if base is _encode_number or (base is None and isinstance(key, numbers.Number)):
        return NAN if _encode_number(key) == (_NAN_CODE, False) else key
    return key


def _unify_items(key: Any, base: Any) -> Any:
    items = list(map(unify_nan, base.__iter__(key)))
    if all(map(operator.is_, items, base.__iter__(key))):
        return key
    return base.__new__(type(key), items)


class BadKeyError(TypeError):
    """An object cannot be a key: it is unhashable, or its hash differs from process to process."""


class NoPairError(TypeError):
    """An object should be a (key, value) pair and is not; `came` describes it."""

    def __init__(self, came: str):
        super().__init__(f"mapfn must yield (key, value) pairs, got {came}")
        self.came = came


def unhashable_error(key: Any) -> BadKeyError | None:
    """Return why an object that raised TypeError cannot be a key, or None for other reasons."""
    cls = type(key)
    if cls.__hash__ is None:
        return BadKeyError(_unhashable_message(cls))
    if issubclass(cls, tuple):
        return next(filter(None, map(unhashable_error, tuple.__iter__(key))), None)
    return None


_NAN_CODE = b"?"


def _le64(number: int) -> bytes:
    return (number & _U64).to_bytes(8, "little")


def _encode_none(key: None) -> Encoded:
    return b"0", False


def _encode_ellipsis(key: Any) -> Encoded:
    return b".", False


def _encode_number(key: Any) -> Encoded:
    value = hash(key)  # first: a signaling Decimal NaN raises TypeError here, and a worse error below
    return (_NAN_CODE if key != key else b"#" + _le64(value)), False


def _encode_str(key: str) -> Encoded:
    return b"s" + str.encode(key, "utf-8", "surrogatepass"), False


def _encode_bytes(key: bytes) -> Encoded:
    return b"".join((b"b", key)), False


def _encode_items(tag: bytes, items: Iterable[Any]) -> Encoded:
    any_hashed = False
    digests = []
    for item in items:
        code, hashed = encode(item)
        digests.append(xxh64_intdigest(code))
        any_hashed = any_hashed or hashed
    return tag + struct.pack(f"<Q{len(digests)}Q", len(digests), *digests), any_hashed


def _encode_tuple(key: tuple[Any, ...]) -> Encoded:
    return _encode_items(b"(", tuple.__iter__(key))


def _encode_frozenset(key: frozenset[Any]) -> Encoded:
    key = unify_nan(key)  # {nan, nan} becomes {nan} in the group, so its count must be 1 here too
    codes = [encode(item) for item in frozenset.__iter__(key)]
    total = sum(xxh64_intdigest(code) for code, _ in codes)
    return b"{" + _le64(len(codes)) + _le64(total), any(hashed for _, hashed in codes)


def _encode_datetime(key: Any) -> Encoded:
    moment = sys.modules["datetime"].datetime
    # As datetime.__hash__ does: of two readings of a clock that was set back, take the earlier one.
    local = moment(key.year, key.month, key.day, key.hour, key.minute, key.second, key.microsecond)
    offset = local.replace(tzinfo=key.tzinfo).utcoffset()
    since = local - moment(1, 1, 1)
    if offset is None:
        return b"d" + _le64(_microseconds(since)), False
    return b"D" + _le64(_microseconds(since) - _microseconds(offset)), False


def _encode_date(key: Any) -> Encoded:
    return b"y" + _le64(key.toordinal()), False


def _encode_time(key: Any) -> Encoded:
    since = ((key.hour * 60 + key.minute) * 60 + key.second) * 1_000_000 + key.microsecond
    offset = key.utcoffset()
    if offset is None:
        return b"h" + _le64(since), False
    return b"H" + _le64(since - _microseconds(offset)), False


def _microseconds(delta: Any) -> int:
    return int((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds)


def _encode_timedelta(key: Any) -> Encoded:
    return b"~" + _microseconds(key).to_bytes(16, "little", signed=True), False


def _encode_uuid(key: Any) -> Encoded:
    return b"u" + key.int.to_bytes(16, "little"), False


def _encode_range(key: range) -> Encoded:
    length = len(key)
    return _encode_items(b"r", (length, key.start if length else None, key.step if length > 1 else None))


def _encode_member(key: Any) -> Encoded:
    return _encode_items(b"e", (*_name_of(type(key)), key._name_))


def _encode_flag(key: Any) -> Encoded:
    return _encode_items(b"e", (*_name_of(type(key)), key._value_))  # bits of no member have no name


def _encode_type(key: type) -> Encoded:
    return _encode_items(b"t", _name_of(key))


def _encode_function(key: Any) -> Encoded:
    return _encode_items(b"f", (key.__module__, key.__qualname__))


def _encode_other(key: Any, cls: Any) -> Encoded:
    if cls.__hash__ is object.__hash__:
        raise BadKeyError(
            f"keys cannot be of class {cls.__module__}.{cls.__qualname__}: it hashes by identity, which "
            "differs from process to process; define __eq__ and __hash__, or __partition_key__"
        )
    if _is_not_a_time(key, cls):
        raise BadKeyError(
            f"keys cannot be of class {cls.__module__}.{cls.__qualname__} where they are NaT, which equals "
            "nothing, not even itself; leave such records out, or yield None or 'NaT' as their key"
        )
    # The tag of numbers: if a user's class equals a number, it also hashes like it.
    if isinstance(key, numbers.Number):
        return _encode_number(key)
    return b"#" + _le64(hash(key)), True


def _is_not_a_time(key: Any, cls: type) -> bool:
    """Return whether a key is numpy's NaT of a date. Its hash is its address."""
    return cls.__module__ == "numpy" and cls.__qualname__ == "datetime64" and bool(key != key)


#: Encoders of exact classes. Nearly all keys are of these, so they are looked up first.
_EXACT: dict[type, Callable[[Any], Encoded]] = {
    str: _encode_str,
    int: _encode_number,
    tuple: _encode_tuple,
    bytes: _encode_bytes,
    float: _encode_number,
    bool: _encode_number,
    type(None): _encode_none,
    type(...): _encode_ellipsis,
    frozenset: _encode_frozenset,
}

_NEVER_NAN = frozenset({str, int, bytes, bool, type(None)})

#: Encoders of classes whose instances equal others of the same value, whatever their subclass.
_BY_VALUE: dict[tuple[str, str], Callable[[Any], Encoded]] = {
    ("builtins", "str"): _encode_str,
    ("builtins", "bytes"): _encode_bytes,
    ("builtins", "int"): _encode_number,
    ("builtins", "float"): _encode_number,
    ("builtins", "complex"): _encode_number,
    ("builtins", "tuple"): _encode_tuple,
    ("builtins", "frozenset"): _encode_frozenset,
    ("builtins", "range"): _encode_range,
    ("decimal", "Decimal"): _encode_number,
    ("fractions", "Fraction"): _encode_number,
    ("datetime", "datetime"): _encode_datetime,
    ("datetime", "date"): _encode_date,
    ("datetime", "time"): _encode_time,
    ("datetime", "timedelta"): _encode_timedelta,
    ("uuid", "UUID"): _encode_uuid,
}

#: Encoders of classes whose instances equal only themselves, but have a name.
_BY_CLASS: dict[tuple[str, str], Callable[[Any], Encoded]] = {
    ("enum", "Flag"): _encode_flag,
    ("enum", "Enum"): _encode_member,
    ("builtins", "type"): _encode_type,
    ("builtins", "function"): _encode_function,
    ("builtins", "builtin_function_or_method"): _encode_function,
}


def _find(
    cls: type, table: dict[tuple[str, str], Callable[[Any], Encoded]]
) -> Callable[[Any], Encoded] | None:
    for base in cls.__mro__:
        encoder = table.get((base.__module__, base.__qualname__))
        if encoder is not None and _compares_like(cls, base):
            return encoder
    return None


def _compares_like(cls: type, base: type) -> bool:
    if base.__eq__ is cls.__eq__ and base.__hash__ is cls.__hash__:
        return True
    return cls.__module__ == "numpy"  # its scalars define both anew and still equal Python's


#: {class: names of the fields that its generated __eq__ compares, or None for another __eq__}
_fields_by_class: weakref.WeakKeyDictionary[type, tuple[str, ...] | None] = weakref.WeakKeyDictionary()


def _compared_fields(cls: type) -> tuple[str, ...] | None:
    """Return the names of the fields that decide equality.

    None unless `dataclass` made `__eq__` and `__hash__`.
    """
    if not hasattr(cls, "__dataclass_fields__"):
        return None
    if cls not in _fields_by_class:
        _fields_by_class[cls] = _read_compared_fields(cls)
    return _fields_by_class[cls]


def _read_compared_fields(cls: type) -> tuple[str, ...] | None:
    dataclasses = sys.modules["dataclasses"]
    owner = next(base for base in cls.__mro__ if "__eq__" in vars(base))
    if "__dataclass_fields__" not in vars(owner):
        return None
    fields = dataclasses.fields(owner)
    # Only their code distinguishes generated methods from others: generate them again and compare.
    specs = [(f.name, object, dataclasses.field(compare=f.compare, hash=f.hash)) for f in fields]
    model = dataclasses.make_dataclass("Model", specs, frozen=True)
    if _same_code(cls.__eq__, model.__eq__) and _same_code(cls.__hash__, model.__hash__):
        return tuple(f.name for f in fields if f.compare)
    return None


def _same_code(method: Any, generated: Any) -> bool:
    code, model = getattr(method, "__code__", None), generated.__code__
    if code is None:
        return False
    return (code.co_code, code.co_consts, code.co_names) == (model.co_code, model.co_consts, model.co_names)


def _name_of(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


#: Advice for the unhashable classes that people use most.
_INSTEAD = {
    list: "use a tuple",
    set: "use a frozenset",
    bytearray: "use bytes",
    dict: "use a tuple of its items",
}


def _unhashable_message(cls: type) -> str:
    message = f"keys must be hashable, got {cls.__name__}"
    return f"{message}: {_INSTEAD[cls]}" if cls in _INSTEAD else message
