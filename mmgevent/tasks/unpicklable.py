"""Say which record cannot be pickled, which part of it is at fault, and what to do.

Pickling is tried on whole columns. Only if that fails does anybody look for the culprit.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from mmgevent.errors import MmgeventError

#: Version of the pickle protocol of records.
PICKLE_PROTOCOL = 5

#: Deepest part of an object that is looked at.
_MAX_DEPTH = 20

#: Longest text of a key in an error, characters.
_MAX_SHOWN_CHARS = 200


#: Longest text of what is no plain data, characters.
_MAX_NAMED_CHARS = 400

#: What to do about a class that plain results do not hold.
ADVICE = (
    "if it is a class that your functions give, name it: plain_classes=['MODULE.CLASS'] (mmg-run: --set "
    "plain_classes=MODULE.CLASS); if you trust whoever runs the workers: results='trusted' (mmg-run: "
    "--trust-workers)"
)


class NotPlainError(MmgeventError):
    """Something is no plain data. The text names it, as in "holds an object of type m.C".

    It may quote what others sent, so only printable characters of it are shown.
    """

    exit_code = 1
    #: what to do, for messages
    advice = ADVICE

    def __init__(self, text: str):
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:_MAX_NAMED_CHARS])
        super().__init__(shown if len(text) <= _MAX_NAMED_CHARS else f"{shown}...")


class RecordError(MmgeventError):
    """A key or value cannot be pickled. The message names its key and the type at fault.

    `key` is the key of the record. `advice` says what to do, or is None.
    """

    exit_code = 1

    def __init__(self, message: str, key: Any = None, advice: str | None = None):
        super().__init__(message)
        self.key = key
        self.advice = advice


def find_culprit(
    keys: list[Any],
    values: list[Any],
    grouped: bool,
    error: Exception,
    dump_plain: Callable[[Any], object] | None = None,
) -> RecordError:
    """Return the error for the first record that cannot be pickled, or of all of them together.

    If records must be plain data, `dump_plain` raises NotPlainError for what is not.
    """
    if dump_plain is not None and (found := _find_not_plain(keys, values, grouped, dump_plain)) is not None:
        return found
    for key, value in zip(keys, values):  # noqa: B905
        group = value if grouped else [value]
        for role, obj in (("key", key), *(("value of key", each) for each in group)):
            cause = _pickling_error(obj)
            if cause is not None:
                culprit = _unpicklable_part(obj, set(), _MAX_DEPTH)
                cause = _pickling_error(culprit) or cause
                inside = "" if culprit is obj else f" (in a {type(obj).__name__})"
                return RecordError(
                    f"{role} {_short(key)} cannot be pickled: {_kind_of(culprit)}{inside}: "
                    f"{type(cause).__name__}: {cause}",
                    key,
                    _advice_for(culprit),
                )
    # Each record pickles alone: the sum of them does not, or an object answers differently each
    # time.
    return RecordError(f"records cannot be pickled together: {type(error).__name__}: {error}")


def _find_not_plain(
    keys: list[Any], values: list[Any], grouped: bool, dump_plain: Callable[[Any], object]
) -> RecordError | None:
    """Return the error for the first record that is not plain data, or None if all are."""
    for key, value in zip(keys, values):  # noqa: B905
        group = value if grouped else [value]
        for role, obj in (("key", key), *(("value of key", each) for each in group)):
            try:
                dump_plain(obj)
            except NotPlainError as error:
                text = f"{role} {_short(key)} is no plain data: it {error}"
                return RecordError(text, key, ADVICE)
            except Exception:
                break  # it cannot be pickled at all
    return None


def _pickling_error(obj: Any) -> Exception | None:
    try:
        pickle.dumps(obj, PICKLE_PROTOCOL)
    except MemoryError:
        raise
    except Exception as error:
        return error
    return None


def _unpicklable_part(obj: Any, seen: set[int], depth: int) -> Any:
    """Return the innermost part of `obj` that cannot be pickled by itself."""
    seen.add(id(obj))
    parts: list[Any] = []
    if isinstance(obj, Mapping):
        parts = [*obj.keys(), *obj.values()]
    elif isinstance(obj, (list, tuple, set, frozenset)):
        parts = list(obj)
    elif not isinstance(obj, type):
        if "<locals>" in type(obj).__qualname__:
            return obj
        parts = list(getattr(obj, "__dict__", {}).values())
    for part in parts:
        if depth and id(part) not in seen and _pickling_error(part) is not None:
            return _unpicklable_part(part, seen, depth - 1)
    return obj


def _kind_of(obj: Any) -> str:
    if isinstance(obj, type) or callable(obj):
        name = getattr(obj, "__qualname__", None)
        if name:
            return f"{type(obj).__name__} {name}"
    return f"an object of type {type(obj).__module__}.{type(obj).__qualname__}"


def _advice_for(obj: Any) -> str | None:
    if hasattr(obj, "__next__"):
        return "an iterator can be used once and cannot travel: make it a list"
    named = obj if isinstance(getattr(obj, "__qualname__", None), str) else type(obj)
    if named.__name__ == "<lambda>":
        return "a lambda cannot be a key or value: write it as a def at the top level of its module"
    if "<locals>" in named.__qualname__:
        return (
            f"classes and functions made inside functions, and their instances, cannot be keys or values: "
            f"define {named.__name__} at the top level of its module"
        )
    return None


def _short(obj: Any) -> str:
    try:
        text = repr(obj)
    except Exception:
        return f"<{type(obj).__name__}>"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
