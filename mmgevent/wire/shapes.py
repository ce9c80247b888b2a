"""What the fields of messages may hold: a shape for each kind of value, with the words for errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mmgevent.wire.limits import are_counters

#: Bytes that the message which announces them may carry.
MAX_INLINE_BYTES = 16 * 1024

#: Largest integer of a message.
MAX_INT = 2**63 - 1


class Shape(NamedTuple):
    """What the value of a field must be: words for the error, and the check."""

    words: str
    fits: Callable[[Any], bool]


class Field(NamedTuple):
    shape: Shape
    required: bool


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def _is_number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or is_count(value)


def _rows_of(width: int) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return type(value) is list and all(
            type(row) is list and len(row) == width and all(map(is_count, row)) for row in value
        )

    return fits


def one_of(*words: str) -> Shape:
    return Shape(" or ".join(map(repr, words)), lambda value: type(value) is str and value in words)


COUNT = Shape("an integer from 0 to 2**63 - 1", is_count)
NUMBER = Shape("a number", _is_number)
STRING = Shape("a string", lambda value: type(value) is str)
FLAG = Shape("true or false", lambda value: type(value) is bool)
OBJECT = Shape("an object", lambda value: type(value) is dict)
INLINE = Shape(
    f"1 to {MAX_INLINE_BYTES} bytes behind the object",
    lambda value: type(value) is bytes and 0 < len(value) <= MAX_INLINE_BYTES,
)
FAILURE = Shape(
    "an object of strings, integers and nulls",
    lambda value: (
        type(value) is dict
        and all(type(k) is str and (v is None or type(v) in (str, int)) for k, v in value.items())
    ),
)
COUNTERS = Shape("counts by name", lambda value: are_counters(value) and all(map(is_count, value.values())))
COUNTS = Shape("a list of integers", lambda value: type(value) is list and all(map(is_count, value)))
STRINGS = Shape(
    "a list of strings", lambda value: type(value) is list and all(type(entry) is str for entry in value)
)
PAIRS = Shape("a list of [integer, integer]", _rows_of(2))
TRIPLES = Shape("a list of [integer, integer, integer]", _rows_of(3))
ROWS = Shape("a list of objects", lambda value: type(value) is list and all(type(r) is dict for r in value))
LISTS = Shape("a list of lists", lambda value: type(value) is list and all(type(r) is list for r in value))
PHASE = one_of("map", "reduce")
STATE = one_of("connecting", "worker", "server", "occupied", "closed")


def fields_of(optional: dict[str, Shape] | None = None, **required: Shape) -> dict[str, Field]:
    fields = {name: Field(shape, True) for name, shape in required.items()}
    fields.update({name: Field(shape, False) for name, shape in (optional or {}).items()})
    return fields
