"""Cut text into words, and count them: the specification of `_words.h` and the headers that use it.

`WordRules` says what a word is, for both. Its `plan` tells the core what it needs. It is None for
patterns that the core does not know: they are this module's work everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

#: Kinds of rules: sets of ASCII, sets that contain `\\w`, `\\S`, and text between separators.
ASCII_SET, WORD_SET, NOT_SPACE, SEPARATED = range(4)

#: Classes of bytes in a plan.
_BETWEEN_WORDS, _IN_WORD, _BEYOND_ASCII = range(3)

#: A pattern that the core knows: a set of characters, one or more of them.
_SET = re.compile(r"(?:\\w|\\S|\[(?:\\[w'.\-]|[^\\\[\]^])(?:\\[w'.\-]|[^\\\[\]])*\])\+", re.ASCII)

#: In a set of characters these will mean something else in a later Python.
_RESERVED = re.compile(r"--|&&|\|\||~~")

#: Encodings, by the names of their codecs, whose bytes the core reads.
CODECS = frozenset({"utf-8", "ascii", "iso8859-1"})

#: What the core knows to do about bytes that are not of the encoding.
ERRORS = frozenset({"strict", "replace", "ignore", "surrogateescape", "backslashreplace"})

Plan = tuple[bytes, int, bool, bytes, int, Any]


class WordRules:
    """What the words of a text are, and how many of them make one n-gram.

    Exactly one of `pattern` and `sep` is given. Words are those of `pattern.findall`, or of
    `split(sep)`. An n-gram is `n` words that follow each other, joined by blanks.
    """

    def __init__(self, pattern: re.Pattern[str] | None, sep: str | None, lower: bool, n: int):
        """lower: whether the text is made lower case first."""
        self.pattern = pattern
        self.sep = sep
        self.lower = lower
        self.n = n

    def find(self, text: str) -> list[str]:
        """Return the words of a text."""
        if self.lower:
            text = text.lower()
        if self.pattern is None:
            return text.split(self.sep)
        return self.pattern.findall(text)

    def find_run(self, run: bytes, encoding: str, errors: str) -> list[str]:
        """Return the words of a part of a text in which the core met what is not its work.

        A run ends at bytes that are between words, and that change nothing of what is beside them.
        """
        return self.find(run.decode(encoding, errors))

    def grams(self, words: list[str]) -> Iterator[str]:
        """Yield the n-grams of words."""
        if self.n == 1:
            return iter(words)
        return map(" ".join, zip(*(islice(words, start, None) for start in range(self.n)), strict=False))

    @cached_property
    def plan(self) -> Plan | None:
        """Return what the core needs, or None if it cannot find these words.

        It is (classes of the bytes and which of them end a run, kind, lower, separator in UTF-8, n,
        `find_run`).
        """
        kind = _kind_of(self.pattern)
        if kind is None:
            return None
        classes = bytearray([_BEYOND_ASCII] * 256)
        ends = bytearray(256)
        for code in range(128):
            char = chr(code)
            is_in = self.pattern is None or bool(self.pattern.fullmatch(char.lower() if self.lower else char))
            classes[code] = _IN_WORD if is_in else _BETWEEN_WORDS
            ends[code] = not is_in and _is_neutral(char)
        sep = (self.sep or "").encode("utf-8", "surrogatepass")
        return bytes(classes + ends), kind, self.lower, sep, self.n, self.find_run

    @cached_property
    def run_ends(self) -> tuple[bytes, ...]:
        """Return bytes at which encoded text may be cut for the core.

        It is empty if the text must be decoded first: patterns that the core does not know, and
        words that may contain line ends, which text files have as one character.
        """
        if self.plan is None or self.pattern is None:
            return ()
        ends = self.plan[0][256:]
        if not (ends[ord("\n")] and ends[ord("\r")]):
            return ()
        return tuple(byte for byte in (b"\n", b"\r", b" ") if ends[byte[0]])


class WordCounter:
    """Counts the words of texts, as many different ones as there is room for."""

    def __init__(self, rules: WordRules, max_words: int, max_bytes: int, /):
        """max_words, max_bytes: words that are held at once, and their bytes in UTF-8."""
        self._rules = rules
        self._max_words = max_words
        self._max_bytes = max_bytes
        self._counts: dict[str, int] = {}
        self._bytes = 0
        self._left: Iterator[str] = iter(())
        self._last: list[str] = []

    def begin(
        self, data: str | bytes, encoding: str = "utf-8", errors: str = "strict", goes_on: bool = False, /
    ) -> None:
        """Take a text to be counted by `run`.

        goes_on: whether it goes on where the one before it ended, which was cut at one of `run_ends`.

        Raises UnicodeDecodeError for bytes that are not of the encoding, or `run` does.
        """
        if not isinstance(data, (str, bytes)):
            raise TypeError(f"a text must be str or bytes, got {type(data).__name__}")
        words = self._rules.find(data if isinstance(data, str) else data.decode(encoding, errors))
        n = self._rules.n
        if n > 1:
            words = self._last + words if goes_on else words
            self._last = words[1 - n :]
        self._left = self._rules.grams(words)

    def run(self) -> bool:
        """Count words until none are left, or there is room for no more.

        Return whether none are left. Otherwise `take` makes room.
        """
        counts = self._counts
        for word in self._left:
            if word in counts:
                counts[word] += 1
                continue
            counts[word] = 1
            self._bytes += len(word.encode("utf-8", "surrogatepass"))
            if len(counts) >= self._max_words or self._bytes >= self._max_bytes:
                return False
        return True

    def take(self) -> list[tuple[str, int]]:
        """Return the words and their counts, in the order in which they came, and forget them."""
        return list(self.take_dict().items())

    def take_dict(self) -> dict[str, int]:
        """Return what `take` does, as a dict."""
        taken, self._counts = self._counts, {}
        self._bytes = 0
        return taken


def words_of(text: str, rules: WordRules, /) -> Iterator[str]:
    """Return an iterator over the words of a text, or its n-grams."""
    return rules.grams(rules.find(text))


def _kind_of(pattern: re.Pattern[str] | None) -> int | None:
    """Return the kind of a pattern's rules, or None if the core does not know the pattern."""
    if pattern is None:
        return SEPARATED
    text = pattern.pattern
    is_known = text.isascii() and _SET.fullmatch(text) and not _RESERVED.search(text)
    if pattern.flags != re.UNICODE or not is_known:
        return None
    if text == r"\S+":
        return NOT_SPACE
    return WORD_SET if r"\w" in text else ASCII_SET


def _is_neutral(char: str) -> bool:
    """Return whether text beside an ASCII character becomes lower case as if it were alone."""
    before, after = f"a{char}Σ", f"aΣ{char}a"
    return before.lower() == f"a{char}σ" and after.lower() == f"aς{char}a"
