"""What a function of the user's returned: its records, and what is wrong with them.

Functions may return a generator, a list, a mapping, or any other iterable of pairs. What they return is
looked at by our loops and by the C core; this module says whose fault it is when there are no pairs in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Any

from mmgevent.tasks.blame import NO_KEY, TaskFailure, blame_exception, is_users, make_failure, short_repr

#: how the core's own complaints begin, see `_speedups._fallback.pair_message` and `_encoding`
_CORE_PAIR_WORDS = "mapfn must yield (key, value) pairs"
_CORE_KEY_WORDS = ("keys must be hashable", "keys cannot be of class")

_PAIRS_ADVICE = "yield (key, value) pairs, or return a list of them or a mapping; for nothing, return []"


def pairs_of(output: Any, function: str) -> Iterator[Any]:
    """Return an iterator of the records in what a function returned.

    Raises TypeError, with the advice in its text, for what holds no records.
    """
    if isinstance(output, (list, GeneratorType)):
        return iter(output)
    if isinstance(output, Mapping):
        return iter(output.items())
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
    """Judge an exception that came up while the core consumed the records of a function."""
    if isinstance(error, NoRecordsError):
        return TaskFailure(
            make_failure("record", str(error), function=function, key=key, advice=_PAIRS_ADVICE), index
        )
    kind = _core_kind(error)
    if kind is None:
        return blame_exception(error, function, key, index, with_traceback=with_traceback)
    advice = _PAIRS_ADVICE if kind == "record" else None
    text = str(error).replace("mapfn", function or "the datasource", 1)
    return TaskFailure(make_failure(kind, text, function=function, key=key, advice=advice), index)


def _core_kind(error: BaseException) -> str | None:
    """Return the kind of an error that the core itself raised; None for one of the user's under it.

    No frame but ours tells them apart, up to code of the user's that has no frames, such as `1 + "1"` in a fold or
    `map(int, words)`.  There the core's own first words decide.
    """
    if not isinstance(error, TypeError) or is_users(error.__traceback__):
        return None
    text = str(error)
    if text.startswith(_CORE_PAIR_WORDS):
        return "record"
    return "key" if text.startswith(_CORE_KEY_WORDS) else None


def no_pair(record: Any, function: str, key: Any) -> dict[str, Any]:
    return make_failure(
        "record",
        f"{function} gave {short_repr(record)}, which is no (key, value) pair",
        function=function,
        key=key,
        advice=_PAIRS_ADVICE,
    )
