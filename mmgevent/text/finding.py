"""Iterators over the words, n-grams and fields of a text, for any mapfn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mmgevent._speedups import _words
from mmgevent._speedups._words import WordRules
from mmgevent.text.rules import LETTERS, check_n, core, is_for_core, rules_of, rules_of_fields


def words(text: str, pattern: str | re.Pattern[str] = LETTERS, *, lower: bool = True) -> Iterator[str]:
    """Iterate over the words of a text, those of `re.findall(pattern, text.lower())`.

    lower: whether the text is made lower case first.

    The C core finds words of one set of characters, such as `[a-z']+`, and `\\w+`; `re` those of any
    other pattern. Raises FunctionError for what is no pattern, TypeError for a text that is no str.
    """
    return _words_of("words", text, rules_of(pattern, lower))


def ngrams(
    text: str, n: int, pattern: str | re.Pattern[str] = LETTERS, *, lower: bool = True
) -> Iterator[str]:
    """Iterate over runs of `n` words of a text, each joined by blanks: "to be", "be or", "or not".

    There are as many as there are words, less n - 1. The other arguments are those of `words`.
    Raises FunctionError unless `n` is an int from 1 to 1,000, and what `words` raises.
    """
    check_n(n)
    return _words_of("ngrams", text, rules_of(pattern, lower, n))


def fields(line: str, sep: str | None = None) -> Iterator[str]:
    """Iterate over `line.split(sep)`. Raises FunctionError for an empty `sep`, TypeError for no str."""
    return _words_of("fields", line, rules_of_fields(sep))


def _words_of(function: str, text: Any, rules: WordRules) -> Iterator[str]:
    if not isinstance(text, str):
        hint = "; decode it first" if isinstance(text, (bytes, bytearray, memoryview)) else ""
        raise TypeError(f"{function} takes a str, got {type(text).__name__}{hint}")
    find = core.words_of if is_for_core(rules) else _words.words_of
    found: Iterator[str] = find(text, rules)
    return found
