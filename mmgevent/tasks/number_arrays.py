"""Make one array of many numbers: the values of a key for reducefn, and columns of results.

Numbers become an array only if all of them are of one plain kind, so that what comes out is what went
in: ints of 64 bits, floats, or bools.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

from mmgevent.tasks.blame import TaskFailure, make_failure

#: Kind of number -> its name in numpy, and its code in `array.array`, which has no bools.
_KINDS: dict[type, tuple[str, str | None]] = {
    int: ("int64", "q"),
    float: ("float64", "d"),
    bool: ("bool", None),
}


def array_of_numbers(values: list[Any], numpy: Any) -> Any:
    """Return an array of the values, or None if they are not all of one plain kind of number.

    numpy: that module, or None for an `array.array`. An empty list gives None.
    """
    kinds = set(map(type, values))
    name, code = _KINDS.get(kinds.pop(), (None, None)) if len(kinds) == 1 else (None, None)
    if name is None or (numpy is None and code is None):
        return None
    try:
        return array(code or "q", values) if numpy is None else numpy.array(values, name)
    except OverflowError:  # an int of more than 64 bits
        return None


def array_for_reducefn(key: Any, values: Iterable[Any]) -> Any:
    """Return the values of a key as one numpy array. Raise TaskFailure if they do not make one."""
    try:
        import numpy
    except ImportError as error:
        failure = make_failure(
            "record",
            f"the option arrays needs numpy, which this worker does not have ({error})",
            function="reducefn",
            key=key,
            advice="install numpy there, or leave the option out",
        )
        raise TaskFailure(failure) from error
    listed = values if type(values) is list else list(values)
    made = array_of_numbers(listed, numpy)
    if made is None:
        failure = make_failure(
            "record",
            "the option arrays needs values of one kind of number (int of 64 bits, float or bool), got "
            f"{_describe(listed)}",
            function="reducefn",
            key=key,
            advice="let mapfn yield numbers of one kind, or leave the option out",
        )
        raise TaskFailure(failure)
    return made


def _describe(values: list[Any]) -> str:
    names = sorted({type(value).__name__ for value in values})
    if names == ["int"]:
        return "an int of more than 64 bits"
    return " and ".join(names)
