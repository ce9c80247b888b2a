"""Choose types of pyarrow for columns of values, and make arrays that have just these values.

pyarrow itself changes values that do not go together, without a word: in a column of integers 1.5
becomes 1, beside bytes text becomes bytes, a time loses its hours beside dates, and a dict its keys
that others have not. So the types of all values are found first, and must go together:

- None goes with anything.
- An integer goes with floats, and with decimals, if it is exact there.
- Times with a time zone go together, those without one go together.
- Lists go together if their elements do. A tuple or set in a column is a list.
- Dicts go together if the values of equal keys do; keys are str. One may lack keys of another.
- Anything else goes only with its own type.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.formats import short

#: {types of the values of a column: what pyarrow calls that of the column}
_SIMPLE: dict[frozenset[type], str] = {
    frozenset(): "null",
    frozenset([str]): "string",
    frozenset([bytes]): "binary",
    frozenset([bool]): "bool",
    frozenset([int]): "int64",
    frozenset([float]): "double",
    frozenset([int, float]): "double",
}

#: Digits of decimals: the most that there are, so that later ones fit if they are larger.
_DECIMAL_DIGITS = 38

#: Units of numpy's times: a file of Parquet has no seconds, and other runs go on with its types.
_SECONDS, _MILLISECONDS = "M8[s]", "M8[ms]"

#: Characters of an error of pyarrow that are shown.
_MAX_ERROR_CHARS = 200


def first_line(error: Exception) -> str:
    """Return what an error of pyarrow says, in short: some have many lines."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if len(text) <= _MAX_ERROR_CHARS else text[: _MAX_ERROR_CHARS - 3] + "..."


class _Misfit(Exception):
    """A value has no type, or goes with none before it; the text says which."""


def make_column(name: str, values: Sequence[Any], keys: Sequence[Any], expected: Any = None) -> Any:
    """Return an array of pyarrow with these values.

    `keys`: of the records that they are of. `expected`: the type of pyarrow; None if the values
    decide. Raise OutputError for the first record whose value does not fit.
    """
    import pyarrow

    kind = _simple_kind(values)
    if kind is None or (expected is not None and merge_types(expected, kind) != expected):
        kind = _kind_of_each(name, values, keys, expected)
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_timestamp(kind):
        values = [_as_written(value) for value in values]
    try:
        return pyarrow.array(values, type=expected or kind)
    except Exception as error:
        for key, value in zip(keys, values, strict=True):
            try:
                pyarrow.array([value], type=expected or kind)
            except Exception as why:
                raise _refusal(name, key, value, f"cannot be {expected or kind}: {first_line(why)}") from why
        raise OutputError(f"pyarrow cannot make the column {name!r}: {first_line(error)}") from error


def _kind_of_each(name: str, values: Sequence[Any], keys: Sequence[Any], expected: Any) -> Any:
    """Return the type of all values; raise OutputError for the first one that does not fit."""
    import pyarrow

    kind = pyarrow.null() if expected is None else expected
    fitting: set[Any] = set()  # few types, as a rule: most values are done here
    for key, value in zip(keys, values, strict=True):
        try:
            own = _kind_of([value])
        except _Misfit as misfit:
            raise _refusal(name, key, value, str(misfit)) from misfit
        except RecursionError:
            raise _refusal(name, key, value, "has too many lists within lists") from None
        if own in fitting:
            continue
        merged = merge_types(kind, own)
        if merged is None or (expected is not None and merged != expected):
            before = "there is only None" if pyarrow.types.is_null(kind) else f"the type is {kind}"
            raise _refusal(
                name,
                key,
                value,
                f"is {own} and does not go with those before it, where {before}",
            )
        kind = merged
        fitting.add(own)
    return kind


def _refusal(name: str, key: Any, value: Any, why: str) -> OutputError:
    return OutputError(
        f"pyarrow has no type for the column {name!r}: the record of {short(key)} has {short(value)} there, "
        f"which {why}; change it in finishfn"
    )


# -- types


def _simple_kind(values: Iterable[Any]) -> Any:
    """Return the type of values whose types are simple; None if some are not."""
    import pyarrow

    name = _SIMPLE.get(frozenset(map(type, values)) - {type(None)})
    return None if name is None else pyarrow.type_for_alias(name)


def _kind_of(values: Iterable[Any]) -> Any:
    """Return the type of values that are in one column or list. Raise _Misfit if there is none."""
    import pyarrow

    values = list(values)
    kind = _simple_kind(values)
    if kind is not None:
        return kind
    kind = pyarrow.null()
    for value in values:
        own = _kind_of_one(value)
        merged = merge_types(kind, own)
        if merged is None:
            raise _Misfit(f"has both {kind} and {own} in it")
        kind = merged
    return kind


def _kind_of_one(value: Any) -> Any:
    import pyarrow

    if isinstance(value, (list, tuple, set, frozenset)):
        return pyarrow.list_(_kind_of(value))
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise _Misfit(f"is a dict with the key {short(key)}; only str keys are possible")
        return pyarrow.struct([(key, _kind_of([element])) for key, element in value.items()])
    if isinstance(value, datetime.time) and value.tzinfo is not None:
        raise _Misfit("is a time with a time zone, which a column of times loses")
    try:
        kind = pyarrow.infer_type([value])
    except Exception as error:
        raise _Misfit(f"is a {type(value).__name__}, no type of a column: {first_line(error)}") from error
    if pyarrow.types.is_decimal(kind):
        return pyarrow.decimal128(_DECIMAL_DIGITS, max(kind.scale, 0))
    if pyarrow.types.is_timestamp(kind) and kind.unit == "s":
        return pyarrow.timestamp("ms", kind.tz)
    return kind


def merge_types(one: Any, other: Any) -> Any:
    """Return the type that holds the values of both, None if there is none.

    It is `one` itself if that can hold the values of `other`.
    """
    import pyarrow
    from pyarrow import types

    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_list(one) and types.is_list(other):
        element = merge_types(one.value_type, other.value_type)
        if element is None:
            return None
        return one if element == one.value_type else pyarrow.list_(element)
    if types.is_struct(one) and types.is_struct(other):
        return _merged_structs(one, other)
    if types.is_timestamp(one) and types.is_timestamp(other):
        return one if one.unit == other.unit and (one.tz is None) == (other.tz is None) else None
    return _merged_numbers(one, other)


def _merged_structs(one: Any, other: Any) -> Any:
    import pyarrow

    fields = {field.name: field.type for field in one}
    for field in other:
        kind = merge_types(fields.get(field.name, pyarrow.null()), field.type)
        if kind is None:
            return None
        fields[field.name] = kind
    merged = pyarrow.struct(list(fields.items()))
    return one if merged == one else merged


def _merged_numbers(one: Any, other: Any) -> Any:
    import pyarrow
    from pyarrow import types

    both = (one, other)
    if all(map(types.is_decimal, both)):
        return one if one.scale >= other.scale else other
    if types.is_decimal(one) and types.is_integer(other):
        return one  # pyarrow refuses one that is too large
    if types.is_integer(one) and types.is_decimal(other):
        return other
    if all(map(types.is_integer, both)):
        if types.is_signed_integer(one) != types.is_signed_integer(other):
            return pyarrow.int64() if pyarrow.uint64() not in both else None
        return one if one.bit_width >= other.bit_width else other
    if all(map(types.is_floating, both)):
        return one if one.bit_width >= other.bit_width else other
    if all(types.is_floating(kind) or types.is_integer(kind) for kind in both):
        return pyarrow.float64()  # pyarrow refuses an integer that is not exact there
    return None


def widen(array: Any, kind: Any) -> Any:
    """Return an array with a type that `merge_types` gave for its own and another one.

    Raise an exception of pyarrow for a value that would change.
    """
    import pyarrow
    from pyarrow import types

    if array.type == kind:
        return array
    if types.is_null(array.type):
        return pyarrow.nulls(len(array), kind)
    if types.is_struct(kind):
        own = {field.name for field in array.type}
        columns = [
            widen(array.field(field.name), field.type)
            if field.name in own
            else pyarrow.nulls(len(array), field.type)
            for field in kind
        ]
        return pyarrow.StructArray.from_arrays(columns, fields=list(kind), mask=array.is_null())
    if types.is_list(kind):
        lengths = pyarrow.compute.list_value_length(array).fill_null(0)
        offsets = pyarrow.concat_arrays(
            [pyarrow.array([0], pyarrow.int32()), pyarrow.compute.cumulative_sum(lengths)]
        )
        values = widen(array.flatten(), kind.value_type)
        return pyarrow.ListArray.from_arrays(offsets, values, type=kind, mask=array.is_null())
    return array.cast(kind)


def _as_written(value: Any) -> Any:
    """Return a value as it is written: with sorted lists for sets, and milliseconds for seconds."""
    if isinstance(value, (set, frozenset)):
        elements = [_as_written(element) for element in value]
        try:
            return sorted(elements)
        except TypeError:
            return sorted(elements, key=repr)
    if isinstance(value, (list, tuple)):
        return [_as_written(element) for element in value]
    if isinstance(value, dict):
        return {key: _as_written(element) for key, element in value.items()}
    if type(value).__module__ == "numpy" and value.dtype.str[1:] == _SECONDS:
        moved = value.astype(_MILLISECONDS)
        is_same = moved.astype(_SECONDS) == value or value != value  # NaT equals nothing
        return moved if is_same else value  # which pyarrow refuses: there are no such milliseconds
    return value
