"""Blocks: two columns of records, as arrays or lists, that a mapfn yields instead of pairs.

A block stands for the pairs `zip(keys.tolist(), values.tolist())`. What its columns are is found
without an import of any library: by their methods, and by the buffer protocol (PEP 3118).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, cast

#: Records of a block that are made into objects at a time.
SLICE_RECORDS = 4096

#: Formats of the buffer protocol that `ColumnFold` reads, by kind: int or float, in native order.
_WHOLE_FORMATS = frozenset("bBhHiIlLqQ")
_REAL_FORMATS = frozenset("fd")

#: Name of an Arrow type -> its format in the buffer protocol.
_ARROW_FORMATS = {
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float": "f",
    "double": "d",
}

#: Methods that make a list of a column, in the order in which they are looked for.
_LISTERS = ("tolist", "to_pylist", "to_list")

_EXPECTED = "a list or an array of one dimension (numpy, arrow, pandas, polars, array.array)"


class Block:
    """Two columns of equal length: the records of many keys and values at once.

    A column is a list, tuple or range, or an array of one dimension that has `tolist()`,
    `to_pylist()` or `to_list()`: of numpy, arrow, pandas or polars, an `array.array` or a memoryview.
    The columns are read, not copied, and not before the block has been yielded.

    Raises TypeError for a column of another kind, ValueError for lengths that differ, for more than
    one dimension and for masked arrays.
    """

    __slots__ = ("_key_lister", "_keys", "_length", "_value_lister", "_values")

    def __init__(self, keys: Any, values: Any):
        self._keys, self._key_lister = _as_column(keys, "keys")
        self._values, self._value_lister = _as_column(values, "values")
        self._length = len(self._keys)
        if len(self._values) != self._length:
            raise ValueError(
                f"a Block needs as many values as keys, got {self._length} keys and {len(self._values)} values"
            )

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"<Block of {self._length} records>"

    def __reduce__(self) -> Any:
        raise TypeError("a Block cannot be pickled: yield it from mapfn, as a record of its own")

    def pairs(self, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Yield the records from `start` on, a few thousand of them as objects at a time."""
        return chain.from_iterable(map(self._slice, range(start, self._length, SLICE_RECORDS)))

    def _slice(self, start: int) -> Iterator[tuple[Any, Any]]:
        end = min(start + SLICE_RECORDS, self._length)
        keys = self._key_lister(self._keys[start:end])
        values = self._value_lister(self._values[start:end])
        if len(keys) != end - start or len(values) != end - start:
            raise RuntimeError(f"a column of {self!r} changed its length while it was read")
        return zip(keys, values)  # noqa: B905 - strict= would cost time for each record

    def plain_keys(self) -> tuple[Any, str] | None:
        """Return the keys as a buffer, and their kind ("whole" or "real"); None for other keys."""
        return _plain_buffer(self._keys)

    def plain_values(self) -> tuple[Any, str] | None:
        """Return the values as a buffer, and their kind ("whole" or "real"); None for other values."""
        return _plain_buffer(self._values)


def spread(records: Iterator[Any]) -> Iterator[Any]:
    """Yield the pairs of each block in its place, and all other records as they are."""
    for record in records:
        if isinstance(record, Block):
            yield from record.pairs()
        else:
            yield record


def _as_column(given: Any, name: str) -> tuple[Any, Callable[[Any], list[Any]]]:
    """Return what can be sliced of a column, and what makes a list of a slice."""
    if isinstance(given, list | tuple | range):
        return given, list
    cls = type(given)
    if isinstance(given, str | bytes | bytearray):
        raise TypeError(f"the {name} of a Block must be {_EXPECTED}, got {cls.__name__}")
    _check_dimensions(given, name)
    if any(base.__name__ == "MaskedArray" for base in cls.__mro__):
        raise ValueError(
            f"the {name} of a Block are a masked array: say what masked elements count as, by filled(...), "
            "or leave them out, by compressed()"
        )
    lister = next((method for method in _LISTERS if callable(getattr(cls, method, None))), None)
    if lister is None:
        given = _from_arrow(given, name)
        lister = "to_pylist"
    column = getattr(given, "iloc", given)  # slices of a pandas series go by its labels
    if column is not given:
        column = _Positions(given)
    if isinstance(given, memoryview):
        _check_memoryview(given, name)
    return column, lambda part: getattr(part, lister)()


def _check_dimensions(given: Any, name: str) -> None:
    dimensions = getattr(given, "ndim", 1)
    if dimensions != 1:
        shape = getattr(given, "shape", None)
        raise ValueError(
            f"the {name} of a Block must have one dimension, got {dimensions}"
            + (f" (shape {shape})" if isinstance(shape, tuple) else "")
        )


def _check_memoryview(view: memoryview, name: str) -> None:
    try:
        view[:1].tolist()
    except NotImplementedError as error:
        raise TypeError(
            f"the {name} of a Block are a memoryview of format {view.format!r}, which Python cannot read: "
            "pass the array itself"
        ) from error


def _from_arrow(given: Any, name: str) -> Any:
    """Return an arrow array of an object of another library that has arrow's interface."""
    pyarrow = sys.modules.get("pyarrow")
    has_array, has_stream = (hasattr(given, f"__arrow_c_{kind}__") for kind in ("array", "stream"))
    if pyarrow is not None and has_array:
        return pyarrow.array(given)
    if pyarrow is not None and has_stream:
        return pyarrow.chunked_array(given)
    if has_array or has_stream:
        raise TypeError(
            f"the {name} of a Block are arrow data of class {type(given).__name__}: import pyarrow first, or "
            "pass a list"
        )
    raise TypeError(f"the {name} of a Block must be {_EXPECTED}, got {type(given).__name__}")


class _Positions:
    """A pandas series whose slices go by position."""

    def __init__(self, series: Any):
        self.series = series

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, part: slice) -> Any:
        return self.series.iloc[part]


#: Modules of the classes whose buffers hold the numbers that their `tolist` gives. Numbers of others may
#: have units, or be decoded.
_KNOWN_MODULES = frozenset(("array", "builtins", "numpy", "pyarrow", "pandas"))


def _plain_buffer(column: Any) -> tuple[Any, str] | None:
    """Return a buffer of the numbers of a column, and their kind; None if it has no such buffer."""
    length = len(column)
    if isinstance(column, _Positions):
        column = column.series
        if type(column.dtype).__module__.partition(".")[0] != "numpy":
            return None
        column = column.to_numpy()
    module = type(column).__module__.partition(".")[0]
    if module not in _KNOWN_MODULES:
        return None
    if module == "pyarrow":
        column = _arrow_buffer(column)
    try:
        view = memoryview(column)
    except (TypeError, ValueError, BufferError):
        return None
    if view.ndim != 1 or len(view) != length:
        return None
    if view.format in _WHOLE_FORMATS:
        return view, "whole"
    return (view, "real") if view.format in _REAL_FORMATS else None


def _arrow_buffer(array: Any) -> Any:
    """Return the buffer of an arrow array of numbers without nulls; None for any other."""
    if not (hasattr(array, "null_count") and hasattr(array, "type")):
        return None
    form = _ARROW_FORMATS.get(str(array.type))
    if form is None or array.null_count:
        return None
    if hasattr(array, "num_chunks"):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if not hasattr(array, "buffers"):
        return None
    buffer = array.buffers()[1]
    if buffer is None:
        return None
    whole = memoryview(buffer).cast("B")
    size = array.type.bit_width // 8
    start, end = array.offset * size, (array.offset + len(array)) * size
    return whole[start:end].cast(cast(Any, form)) if end <= len(whole) else None
