"""Check what a job gives as `sort_values`: whether, or by what, the values of a key are sorted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mmgevent import reducers
from mmgevent.errors import FunctionError
from mmgevent.shown_text import shown

#: True, or what to compare values by; None without order.
SortValues = Callable[[Any], Any] | bool | None


def check_sort_values(
    sort_values: Any, functions: tuple[Any, Any, Any]
) -> Callable[[Any], Any] | bool | None:
    """Return `sort_values` as executors get it: True, a key function, or None.

    `functions`: mapfn, collectfn and reducefn of the job. Raise FunctionError for anything else, and
    if it cannot go with one of them.
    """
    if sort_values is None or sort_values is False:
        return None
    if sort_values is not True:
        _check_key_function(sort_values)
    _, collectfn, reducefn = functions
    name = next((fn for fn in functions if isinstance(fn, str)), None)
    if name is not None:
        raise FunctionError(
            f"sort_values cannot go with the function {name!r}, which is given by name and runs in the process that "
            f"offers it; sort there (sorted(values)), or pass the functions themselves"
        )
    if collectfn is not None and collectfn is reducefn and not reducers.is_recognised(reducefn):
        raise FunctionError(
            "collectfn and reducefn are one function, but sort_values puts values in order for reducefn alone; "
            "leave collectfn out, or sort_values"
        )
    checked: Callable[[Any], Any] | bool = sort_values
    return checked


def _check_key_function(function: Any) -> None:
    if not callable(function):
        raise FunctionError(
            f"sort_values must be True, or a function of a value such as lambda value: value[0]; "
            f"got {shown(repr(function), max_line_chars=_SHOWN_CHARS)}"
        )
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise FunctionError("sort_values is async; write a plain function (def, not async def)")
    if inspect.isgeneratorfunction(called):
        raise FunctionError("sort_values yields; return what a value is compared by")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # C code without a signature, as of operator.itemgetter(0): the call will tell
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    named = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    takes_one = any(p.kind in (*positional, p.VAR_POSITIONAL) for p in parameters)
    if len(required) > 1 or named or not takes_one:
        raise FunctionError(
            f"sort_values is called with one value, and requires {', '.join(required + named) or 'none'}; "
            f"write it with one parameter: lambda value: value[0]"
        )


#: Most characters of a wrong `sort_values` that its error shows.
_SHOWN_CHARS = 100
