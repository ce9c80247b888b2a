"""Take objects of the standard library and numpy apart into builtin types, and put them together.

For each kind there is a function that takes an object apart, and one that makes it again. The
latter gets parts from anybody, so it checks their types. It calls nothing but the constructor of
its own class. Objects come back as they do from the usual pickle: equal, and of the same type.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mmgevent.tasks.unpicklable import NotPlainError

#: Names of builtin types that a defaultdict may make its values with.
_FACTORIES = ("list", "dict", "set", "int", "float", "str", "tuple", "frozenset", "bytes", "bool", "complex")

#: Keys of time zones: names of files below the folder of time zones.
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")

#: Texts that numpy gives for types without objects, such as "<f8" and "<M8[25s]".
_DTYPE = re.compile(r"[<>|=][?biufcSUVmM]\d+(\[\d*\w+\])?")

#: Longest of these texts, characters.
_MAX_DTYPE_CHARS = 50

#: Deepest array type within array types, and most types within one.
_MAX_DTYPE_DEPTH = 20
_MAX_DTYPES = 10_000

#: Longest text of a path, characters. Linux has 4,096.
_MAX_PATH_CHARS = 32 * 1024

#: Most elements of an array whose elements have no bytes: one made of nothing could be endless.
MAX_EMPTY = 1_000_000

Parts = tuple[Any, ...]

_COUNTED: frozenset[type] = frozenset({dict, list, tuple, bytes, bytearray})
_COUNTED_TEXT = _COUNTED | {str}


def split_known(cls: type) -> Callable[[Any], Parts] | None:
    """Return the function that takes instances of a library's class apart, or None."""
    known = _SPLITS.get(cls.__qualname__)
    if known is not None and getattr(sys.modules.get(known[0]), cls.__qualname__, None) is cls:
        return known[1]
    if cls.__qualname__ == "OrderedValues" and cls.__module__ == "mmgevent.tasks.ordered_values":
        return lambda values: ("list", list(values))
    if cls is type(...):
        return lambda _: ("ellipsis",)
    numpy = sys.modules.get("numpy")
    if numpy is not None and cls is numpy.ndarray:
        return _split_array
    if numpy is not None and issubclass(cls, numpy.generic) and cls.__module__ == "numpy":
        return _split_scalar
    return None


def count_parts(kind: str, parts: Parts) -> int:
    """Return how much of its parts an object copies or computes with: items, or bytes.

    Pickled parts of this kind are never shared by two objects. So those of all objects are no more
    than the bytes of their pickle.
    """
    counted = _COUNTED_TEXT if kind == "decimal" else _COUNTED
    return sum(
        len(part) if type(part) in counted else part.bit_length() // 8 if type(part) is int else 0
        for part in parts
    )


def make_known(kind: str, parts: Parts) -> Any:
    """Make an object of the kind that comes first in what was taken apart. Raise NotPlainError."""
    make = _MAKERS.get(kind)
    if make is None:
        raise NotPlainError(f"holds an object of no known kind: {kind!r:.60}")
    return make(*parts)


def expect(value: Any, *kinds: type | None) -> Any:
    """Return a part if its type is one of these. Raise NotPlainError otherwise."""
    if type(value) not in kinds and not (value is None and None in kinds):
        raise NotPlainError(f"holds an object with a {type(value).__name__} where another type belongs")
    return value


# -- numbers and the like


def _make_complex(real: Any, imag: Any) -> complex:
    return complex(expect(real, float), expect(imag, float))


def _make_range(start: Any, stop: Any, step: Any) -> range:
    return range(expect(start, int), expect(stop, int), expect(step, int))


def _make_decimal(text: Any) -> Any:
    from decimal import Decimal

    return Decimal(expect(text, str))


def _make_fraction(numerator: Any, denominator: Any) -> Any:
    from fractions import Fraction

    return Fraction(expect(numerator, int), expect(denominator, int))


def _split_uuid(uuid: Any) -> Parts:
    return "uuid", uuid.int, uuid.is_safe.name


def _make_uuid(number: Any, safe: Any) -> Any:
    from uuid import UUID, SafeUUID

    return UUID(int=expect(number, int), is_safe=SafeUUID[expect(safe, str)])


def _split_path(path: Any) -> Parts:
    return "path", type(path).__qualname__, tuple(map(str, path.__reduce__()[1]))


def _make_path(name: Any, parts: Any) -> Any:
    import pathlib

    if name not in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
        raise NotPlainError("holds a path of no known kind")
    if sum(len(expect(part, str)) for part in expect(parts, tuple)) > _MAX_PATH_CHARS:
        raise NotPlainError("holds a path that is too long")
    return getattr(pathlib, name)(*parts)


# -- dates and times


def _split_dated(kind: str, cls: str) -> Callable[[Any], Parts]:
    def split(moment: Any) -> Parts:
        import datetime

        return kind, *getattr(datetime, cls).__reduce_ex__(moment, 4)[1]

    return split


def _make_date(data: Any) -> Any:
    from datetime import date

    return date(expect(data, bytes)).replace()  # type: ignore[call-arg] # replace() checks all fields


def _make_time(data: Any, zone: Any = None) -> Any:
    from datetime import time

    return time(expect(data, bytes), _zone(zone)).replace()


def _make_datetime(data: Any, zone: Any = None) -> Any:
    from datetime import datetime

    return datetime(expect(data, bytes), _zone(zone)).replace()  # type: ignore[call-arg]


def _zone(zone: Any) -> Any:
    from datetime import timezone

    zoneinfo = sys.modules.get("zoneinfo")
    if zone is None or type(zone) is timezone or (zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo):
        return zone
    raise NotPlainError("holds a time whose zone is none")


def _make_timedelta(days: Any, seconds: Any, microseconds: Any) -> Any:
    from datetime import timedelta

    return timedelta(expect(days, int), expect(seconds, int), expect(microseconds, int))


def _make_timezone(offset: Any, name: Any = None) -> Any:
    from datetime import timedelta, timezone

    if name is None:
        return timezone(expect(offset, timedelta))
    return timezone(expect(offset, timedelta), expect(name, str))


def _split_zoneinfo(zone: Any) -> Parts:
    return "zoneinfo", *zone.__reduce__()[1]


def _make_zoneinfo(key: Any, from_cache: Any) -> Any:
    from zoneinfo import ZoneInfo

    if not _ZONE.fullmatch(expect(key, str)):
        raise NotPlainError(f"holds a time zone of an impossible name: {key!r:.60}")
    return ZoneInfo(key) if from_cache else ZoneInfo.no_cache(key)


# -- containers


def _make_list(items: Any) -> list[Any]:
    """Make the list that stands for values on disk."""
    return list(expect(items, list))


def _split_ordered(ordered: Any) -> Parts:
    if vars(ordered):
        raise NotPlainError("holds an OrderedDict with attributes of its own")
    return "ordered", list(ordered.items())


def _make_ordered(items: Any) -> Any:
    from collections import OrderedDict

    return OrderedDict(expect(items, list))


def _make_counter(counts: Any) -> Any:
    from collections import Counter

    return Counter(expect(counts, dict))


def _split_default(mapping: Any) -> Parts:
    import builtins

    factory = mapping.default_factory
    name = getattr(factory, "__name__", None)
    if factory is not None and not (name in _FACTORIES and getattr(builtins, name) is factory):
        raise NotPlainError("holds a defaultdict whose default_factory is no builtin type")
    return "default", None if factory is None else name, dict(mapping)


def _make_default(name: Any, content: Any) -> Any:
    import builtins
    from collections import defaultdict

    if name is not None and name not in _FACTORIES:
        raise NotPlainError("holds a defaultdict whose default_factory is no builtin type")
    return defaultdict(None if name is None else getattr(builtins, name), expect(content, dict))


# -- numpy


def _describe_dtype(dtype: Any) -> Any:
    """Return what describes an array type in builtin types. Raise NotPlainError for objects."""
    import numpy as np

    described = None if dtype.hasobject else np.lib.format.dtype_to_descr(dtype)
    try:
        if described is not None and _dtype(described) == dtype:
            return described
    except NotPlainError:
        pass
    raise NotPlainError(f"holds a numpy array of dtype {dtype!r:.60}")


def _dtype(described: Any) -> Any:
    import numpy as np

    _check_described(described, _MAX_DTYPE_DEPTH, itertools.count(1))
    dtype = np.lib.format.descr_to_dtype(described)
    if dtype.hasobject:
        raise NotPlainError("holds a numpy array of objects")
    return dtype


def _check_described(described: Any, depth: int, counter: Iterator[int]) -> None:
    if next(counter) > _MAX_DTYPES:
        raise NotPlainError("holds a numpy array of more fields than anybody needs")
    if type(described) is str:
        if len(described) > _MAX_DTYPE_CHARS or not _DTYPE.fullmatch(described):
            raise NotPlainError(f"holds a numpy array of an impossible type: {described!r:.60}")
    elif type(described) is tuple and len(described) == 2 and depth:
        _check_described(described[0], depth - 1, counter)
        _shape(described[1])
    elif type(described) is list and depth:
        for field in described:
            if type(field) is not tuple or len(field) not in (2, 3):
                raise NotPlainError("holds a numpy array with an impossible field")
            for name in field[0] if type(field[0]) is tuple else (field[0],):
                expect(name, str)
            _check_described(field[1], depth - 1, counter)
            if len(field) == 3:
                _shape(field[2])
    else:
        raise NotPlainError("holds a numpy array of an impossible type")


def _shape(shape: Any) -> Any:
    if any(expect(size, int) < 0 for size in expect(shape, tuple)):
        raise NotPlainError("holds a numpy array of an impossible shape")
    return shape


def _split_array(array: Any) -> Parts:
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    order = "F" if is_fortran else "C"
    data = array.tobytes(order)
    is_fixed = not array.flags.writeable and array.flags.forc
    return "array", _describe_dtype(array.dtype), array.shape, order, data if is_fixed else bytearray(data)


def _make_array(described: Any, shape: Any, order: Any, data: Any) -> Any:
    import numpy as np

    dtype = _dtype(described)
    count = 1
    for size in _shape(shape):
        count *= size
    if count > MAX_EMPTY and not dtype.itemsize:
        raise NotPlainError("holds a numpy array of more elements without bytes than anybody needs")
    if order not in ("C", "F") or count * dtype.itemsize != len(expect(data, bytes, bytearray)):
        raise NotPlainError("holds a numpy array of an impossible shape")
    return np.ndarray(shape, dtype, data, order=order)


def _split_scalar(scalar: Any) -> Parts:
    return "scalar", _describe_dtype(scalar.dtype), scalar.tobytes()


def _make_scalar(described: Any, data: Any) -> Any:
    return _make_array(described, (), "C", data)[()]


#: Class -> (the module that has it, the function that takes it apart)
_SPLITS: dict[str, tuple[str, Callable[[Any], Parts]]] = {
    "complex": ("builtins", lambda number: ("complex", number.real, number.imag)),
    "range": ("builtins", lambda each: ("range", each.start, each.stop, each.step)),
    "Decimal": ("decimal", lambda number: ("decimal", str(number))),
    "Fraction": ("fractions", lambda number: ("fraction", number.numerator, number.denominator)),
    "UUID": ("uuid", _split_uuid),
    **dict.fromkeys(
        ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"), ("pathlib", _split_path)
    ),
    "date": ("datetime", _split_dated("date", "date")),
    "time": ("datetime", _split_dated("time", "time")),
    "datetime": ("datetime", _split_dated("datetime", "datetime")),
    "timedelta": ("datetime", lambda span: ("timedelta", span.days, span.seconds, span.microseconds)),
    "timezone": ("datetime", lambda zone: ("timezone", *zone.__getinitargs__())),
    "ZoneInfo": ("zoneinfo", _split_zoneinfo),
    "Counter": ("collections", lambda counts: ("counter", dict(counts))),
    "OrderedDict": ("collections", _split_ordered),
    "defaultdict": ("collections", _split_default),
}

#: Kind -> the function that makes it
_MAKERS: dict[str, Callable[..., Any]] = {
    "complex": _make_complex,
    "range": _make_range,
    "ellipsis": lambda: ...,
    "decimal": _make_decimal,
    "fraction": _make_fraction,
    "uuid": _make_uuid,
    "path": _make_path,
    "date": _make_date,
    "time": _make_time,
    "datetime": _make_datetime,
    "timedelta": _make_timedelta,
    "timezone": _make_timezone,
    "zoneinfo": _make_zoneinfo,
    "list": _make_list,
    "counter": _make_counter,
    "ordered": _make_ordered,
    "default": _make_default,
    "array": _make_array,
    "scalar": _make_scalar,
}
