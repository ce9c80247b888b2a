"""Make two columns of the results of a job."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmgevent.tasks.number_arrays import array_of_numbers


def columns_of(records: Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the keys and the values of records as arrays; without numpy, as lists where it must be."""
    keys: list[Any] = []
    values: list[Any] = []
    for key, value in records:
        keys.append(key)
        values.append(value)
    try:
        import numpy
    except ImportError:
        numpy = None  # type: ignore[assignment]
    return _column(keys, numpy), _column(values, numpy)


def _column(column: list[Any], numpy: Any) -> Any:
    made = array_of_numbers(column, numpy)
    if made is not None or numpy is None:
        return column if made is None else made
    objects = numpy.empty(len(column), object)
    for place, thing in enumerate(column):  # all at once, equal tuples would become a matrix
        objects[place] = thing
    return objects
