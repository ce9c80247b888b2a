"""What a word, an n-gram or a field is: arguments of users, checked and compiled once."""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from typing import Any

from mmgevent import _speedups
from mmgevent._speedups import _words
from mmgevent._speedups._words import WordRules
from mmgevent.errors import FunctionError

#: What finds the words of rules for which `is_for_core` holds.
core: Any = _words
if _speedups.NATIVE:
    core = importlib.import_module("mmgevent._speedups._core")

#: Words of English as the examples count them: letters and apostrophes.
LETTERS = r"[a-z']+"

#: Largest n of n-grams. Phrases of more words hardly ever occur twice.
MAX_N = 1000

#: Rules that are kept, compiled. A job needs one or two.
_KEPT_RULES = 64


def rules_of(pattern: Any, lower: bool, n: int = 1) -> WordRules:
    """Return the rules of words that match a pattern. Raise FunctionError if they make no sense."""
    if not isinstance(pattern, (str, re.Pattern)) or (
        isinstance(pattern, re.Pattern) and _is_of_bytes(pattern)
    ):
        raise FunctionError(
            f"pattern must be a regular expression for str, such as {LETTERS!r}; got {_came(pattern)}"
        )
    return _rules_of(pattern, bool(lower), n)


def rules_of_fields(sep: Any) -> WordRules:
    """Return the rules of what stands between separators, or of `str.split()`. Raise as `rules_of`."""
    if sep is not None and (not isinstance(sep, str) or not sep):
        raise FunctionError(f"sep must be a str of at least one character, or None; got {_came(sep)}")
    return _rules_of_fields(sep)


def check_n(n: Any) -> None:
    """Raise FunctionError unless there are n-grams of this n."""
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_N:
        raise FunctionError(f"n must be an int from 1 to {MAX_N:,}, the words of an n-gram; got {_came(n)}")


def is_for_core(rules: WordRules) -> bool:
    """Return whether the C core finds the words of these rules."""
    return _speedups.NATIVE and rules.plan is not None


@lru_cache(_KEPT_RULES)
def _rules_of(pattern: str | re.Pattern[str], lower: bool, n: int) -> WordRules:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise FunctionError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if compiled.groups:
        raise FunctionError(
            f"pattern {compiled.pattern!r} has a group, so what it finds is no word: write (?:...) instead of (...)"
        )
    return WordRules(compiled, None, lower, n)


@lru_cache(_KEPT_RULES)
def _rules_of_fields(sep: str | None) -> WordRules:
    if sep is None:  # as str.split(): Python has one idea of what is blank
        return WordRules(re.compile(r"\S+"), None, False, 1)
    return WordRules(None, sep, False, 1)


def _is_of_bytes(pattern: re.Pattern[Any]) -> bool:
    return isinstance(pattern.pattern, bytes)


def _came(argument: Any) -> str:
    return f"{argument!r:.60}" if isinstance(argument, (str, bytes, int, float)) else type(argument).__name__
