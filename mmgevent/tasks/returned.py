"""Find the records in what a function returned, and say what is wrong with them.

A function may return a generator, a list, a mapping, or any other iterable of pairs. Our loops and
the C core look into it. This module makes the failure if there are no pairs in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Any

from mmgevent._speedups import BadKeyError, Block, NoPairError
from mmgevent.tasks.blame import NO_KEY, TaskFailure, blame_exception, make_failure, short_repr

_PAIRS_ADVICE = "yield (key, value) pairs, or return a list of them or a mapping; for nothing, return []"


def pairs_of(output: Any, function: str) -> Iterator[Any]:
    """Return an iterator over the records in what a function returned. Raise NoRecordsError."""
    if isinstance(output, (list, GeneratorType)):
        return iter(output)
    if isinstance(output, Mapping):
        return iter(output.items())
    if isinstance(output, Block):
        return iter((output,))
    if output is not None and not isinstance(output, (str, bytes)):
        try:
            return iter(output)
        except TypeError:
            if hasattr(type(output), "__iter__"):  # its own __iter__ failed
                raise
    what = "None" if output is None else f"an object of type {type(output).__name__}"
    raise NoRecordsError(f"{function} returned {what}, which holds no records")


class NoRecordsError(TypeError):
    """A function returned something that holds no records."""


def blame_records(
    error: BaseException,
    function: str | None,
    key: Any = NO_KEY,
    index: int | None = None,
    *,
    with_traceback: bool = True,
) -> TaskFailure:
    """Make the failure of an exception that was raised while records were read."""
    if isinstance(error, NoRecordsError):
        return TaskFailure(
            make_failure("record", str(error), function=function, key=key, advice=_PAIRS_ADVICE), index
        )
    if isinstance(error, NoPairError):
        text = f"{function or 'the datasource'} must yield (key, value) pairs, got {error.came}"
        failure = make_failure("record", text, function=function, key=key, advice=_PAIRS_ADVICE)
        return TaskFailure(failure, index)
    if isinstance(error, BadKeyError):
        return TaskFailure(make_failure("key", str(error), function=function, key=key), index)
    return blame_exception(error, function, key, index, with_traceback=with_traceback)


def no_pair(record: Any, function: str, key: Any) -> dict[str, Any]:
    """Return the failure record of a record that is no pair."""
    return make_failure(
        "record",
        f"{function} gave {short_repr(record)}, which is no (key, value) pair",
        function=function,
        key=key,
        advice=_PAIRS_ADVICE,
    )
