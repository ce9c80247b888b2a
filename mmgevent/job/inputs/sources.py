"""Say where the items of a job come from, and walk through them once.

`iterate` turns whatever the user gave into items: a mapping, an iterable of pairs, a Source, or a
function that returns one of these. A Source gives refs to files instead of contents. It touches the
disk when it is checked or walked, never when it is made. Workers read the contents.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Generator, Iterator
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.source import Source
from mmgevent.job.inputs.streams import check_streams
from mmgevent.job.inputs.streams import used_up as stream_used_up
from mmgevent.job.inputs.walks import claim as _claim
from mmgevent.job.inputs.walks import is_iterator, is_repeatable


def iterate(datasource: Any) -> Iterator[tuple[Any, Any, int]]:
    """Walk through a datasource once, lazily, and yield `(key, value, weight)`.

    An item of a Source has a Ref as its value, and the bytes of the ref as its weight. All others
    have weight 0: their encoded size is their weight. Raise DatasourceError for anything that is no
    datasource, and for an item that is no pair. What the user's own iterator raises passes
    unchanged.
    """
    return walk(open_datasource(datasource))


def check_datasource(datasource: Any) -> None:
    """Raise DatasourceError for whatever is wrong with a datasource before it is walked.

    Calls no function but the connect of a Query, and takes nothing from iterators.
    """
    if isinstance(datasource, Source):
        _check_source(datasource)
    elif not _is_mapping(datasource) and not _is_iterable(datasource):
        if not callable(datasource):
            raise _no_datasource(datasource)
        _check_no_parameters(datasource)


def connectors_of(datasource: Any) -> tuple[Any, ...]:
    """Return what opens connections for the refs of a datasource; it travels with the job's functions."""
    return tuple(datasource.connectors()) if isinstance(datasource, Source) else ()


def is_in_memory(datasource: Any) -> bool:
    """Return whether all items are in memory, so that nobody has to wait for one."""
    return type(datasource) in (list, tuple, dict, set, frozenset, range)


def is_one_shot(datasource: Any) -> bool:
    """Return whether a walk through `datasource` uses it up, as with a generator."""
    if isinstance(datasource, Source):
        return bool(datasource.streams())
    return not _is_mapping(datasource) and is_iterator(datasource)


def is_safe_to_repeat(opened: Any) -> bool:
    """Return whether what `open_datasource` returned surely gives the same items again."""
    return opened.is_safe_to_repeat() if isinstance(opened, Source) else is_repeatable(opened)


def claim(datasource: Any) -> None:
    """Note that a job walks through `datasource`. Raise DatasourceError if it was used up before.

    Called once a submit, not when a driver resubmits by itself.
    """
    if is_one_shot(datasource):
        _claim(datasource, lambda: used_up(datasource))


def used_up(datasource: Any) -> DatasourceError:
    """Return the error for a second submit of a one-shot datasource."""
    if isinstance(datasource, Source):
        return stream_used_up(datasource.streams()[0])
    return DatasourceError(
        f"the datasource is a {type(datasource).__name__} that an earlier submit used up; pass a "
        f"function that makes a new one each time: Job(lambda: ..., ...)"
    )


def open_datasource(datasource: Any) -> Any:
    """Return what is to be walked through: the datasource itself, or what its function returns.

    Raise DatasourceError for anything that is no datasource, and for a function that returns the
    same iterator twice.
    """
    check_datasource(datasource)
    if isinstance(datasource, Source) or _is_mapping(datasource) or _is_iterable(datasource):
        return datasource
    made = datasource()
    if isinstance(made, Source):
        if made.connectors():  # too late: the job's functions have been packed
            raise DatasourceError(
                f"the datasource function {_name(datasource)} returned a Query, whose connect travels with the functions "
                f"of the job; make the Query the datasource itself"
            )
        _check_source(made)
    elif not _is_mapping(made) and not _is_iterable(made):
        raise DatasourceError(
            f"the datasource function {_name(datasource)} returned {_describe(made)}; "
            f"it must return (or yield) (key, value) pairs, a mapping, Files or Lines"
        )
    if is_one_shot(made):
        _claim(made, lambda: _not_new(datasource, made))
    return made


def walk(opened: Any) -> Generator[tuple[Any, Any, int], None, None]:
    """Walk through what `open_datasource` returned, as `iterate` does."""
    if isinstance(opened, Source):
        for ref in opened.refs():
            yield ref.key, ref, ref.weight
    elif _is_mapping(opened):
        for key in opened.keys():  # noqa: SIM118 - not every mapping iterates over its keys
            yield key, opened[key], 0
    else:
        for index, pair in enumerate(opened):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise _no_pair(index, pair)
            yield pair[0], pair[1], 0


def _check_source(source: Source) -> None:
    check_streams(source.streams())
    source.check()


def _is_mapping(datasource: Any) -> bool:
    return (
        not isinstance(datasource, type)
        and callable(getattr(datasource, "keys", None))
        and hasattr(type(datasource), "__getitem__")
    )


def _is_iterable(datasource: Any) -> bool:
    if isinstance(datasource, (str, bytes, bytearray, os.PathLike, type)):
        return False
    return hasattr(type(datasource), "__iter__") or hasattr(type(datasource), "__getitem__")


def _not_new(function: Any, made: Any) -> DatasourceError:
    return DatasourceError(
        f"the datasource function {_name(function)} returned a {type(made).__name__} that was used up before; "
        f"it must make a new one each time it is called"
    )


def _check_no_parameters(function: Any) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # no signature can be read: the call will tell
    required = [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise DatasourceError(
            f"the datasource function {_name(function)} requires {', '.join(required)}, but is called "
            f"without arguments; pass lambda: {_name(function)}(...)"
        )


def _no_datasource(datasource: Any) -> DatasourceError:
    if isinstance(datasource, (str, os.PathLike)):
        advice = f"for a file, glob or folder pass Files({os.fspath(datasource)!r})"
    elif datasource is None:
        advice = "pass (key, value) pairs, a mapping, Files or Lines"
    else:
        advice = (
            "pass (key, value) pairs, a mapping, Files, Lines, or a function without arguments "
            "that returns one of these"
        )
    return DatasourceError(f"the datasource is {_describe(datasource)}; {advice}")


def _no_pair(index: int, item: Any) -> DatasourceError:
    advice = "pass enumerate(...) to number them"
    if isinstance(item, (str, os.PathLike)):
        advice += ", or Files(...) if these are paths"
    return DatasourceError(
        f"item {index} of the datasource is {_describe(item)}, not a (key, value) pair; {advice}"
    )


def _describe(thing: Any) -> str:
    if thing is None:
        return "None"
    text = repr(thing)
    if len(text) > 60:
        text = text[:57] + "..."
    return f"the {type(thing).__name__} {text}"


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
