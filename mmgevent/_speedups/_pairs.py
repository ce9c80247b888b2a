"""Pairs, groups and columns, as `_fallback` and `_folds` take them."""

from __future__ import annotations

from typing import Any

from mmgevent._speedups._encoding import NoPairError, unhashable_error

#: What stands for no object. No value, key or record can be this object.
ABSENT: Any = object()


def pair_error(pair: Any) -> NoPairError:
    """Return the error for an object that should be a (key, value) pair and is not."""
    came = type(pair).__name__
    if issubclass(type(pair), (tuple, list)):
        came += f" of {len(pair)}"
    elif issubclass(type(pair), str):
        came += f" {str.__str__(pair)[:40]!r}"
    return NoPairError(came)


def as_pair(pair: Any) -> Any:
    if type(pair) is tuple and len(pair) == 2:
        return pair
    cls = type(pair)  # not isinstance: an object can lie about its __class__
    if issubclass(cls, tuple) and tuple.__len__(pair) == 2:
        return tuple.__iter__(pair)
    if issubclass(cls, list) and list.__len__(pair) == 2:
        return list.__iter__(pair)
    raise pair_error(pair)


def find(table: dict[Any, Any], key: Any) -> Any:
    try:
        return dict.get(table, key, ABSENT)
    except TypeError:
        refused = unhashable_error(key)
        if refused is None:
            raise
    raise refused


def check_list(values: Any) -> None:
    if type(values) is not list:
        raise TypeError(f"the values of a group must be a list, got {type(values).__name__}")


def check_columns(keys: list[Any], values: list[Any]) -> None:
    if len(keys) != len(values):
        raise ValueError(f"there must be one value for each key, got {len(keys)} keys, {len(values)} values")
