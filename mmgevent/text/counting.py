"""Ready map functions that count words, n-grams and fields.

As a function of a job one gives (word, count) records. Each item has a table of counts, which is
given away when it is full, so a word of a large text may come several times. If the job sums what
comes, which `sum_values` says, `summing` makes one table for all items of a task: from the bytes of
a file to the sums, Python objects are made once for each different word of a full table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mmgevent._speedups import _words
from mmgevent._speedups._words import CODECS, ERRORS, WordRules
from mmgevent.text.rules import LETTERS, check_n, core, is_for_core, rules_of, rules_of_fields

#: Different words that are counted at once. Their table takes 4 MiB in C; the frequent ones stay in
#: the cache.
MAX_WORDS = 65_536

#: Bytes of these words in UTF-8. Prose has a tenth of that.
MAX_WORD_BYTES = 4 * 1024 * 1024

#: Memory of one of these words as a record of a flush, bytes: a str, an int and their places.
BYTES_A_WORD = 200

Record = tuple[str, int]

#: What a mapfn returns that has nothing to give yet.
_NOTHING: list[Record] = []


def count_words(pattern: str | re.Pattern[str] = LETTERS, *, lower: bool = True) -> CountWords:
    """Make a mapfn that counts words: those of `words`, with the same arguments.

    Its records are (word, count), perhaps several for one word: reduce them with `sum_values`.
    """
    rules_of(pattern, lower)
    return CountWords("count_words", pattern, bool(lower))


def count_ngrams(n: int, pattern: str | re.Pattern[str] = LETTERS, *, lower: bool = True) -> CountWords:
    """Make a mapfn that counts n-grams: those of `ngrams`, with the same arguments; see `count_words`."""
    check_n(n)
    rules_of(pattern, lower, n)
    return CountWords("count_ngrams", pattern, bool(lower), n)


def count_fields(sep: str | None = None) -> CountWords:
    """Make a mapfn that counts fields, those of `text.split(sep)`; see `count_words`.

    With a separator, line ends belong to fields: read the text with `Lines`.
    """
    rules_of_fields(sep)
    return CountWords("count_fields", None, False, 1, sep)


@dataclass(frozen=True)
class CountWords:
    """A mapfn that counts the words of text. Make one with `count_words` and its relatives."""

    #: name of the function that made it
    maker: str
    #: pattern of words; None for fields
    pattern: str | re.Pattern[str] | None
    lower: bool
    n: int = 1
    #: separator of fields; None for words, and for fields between blanks
    sep: str | None = None

    #: whether it takes an EncodedText instead of a str, see `tasks/items.py`
    takes_encoded: ClassVar[bool] = True

    def __call__(self, key: Any, value: Any) -> Iterator[Record]:
        """Yield the words of one item, and how often each comes."""
        counter = _make_counter(self.rules())
        yield from self.records(counter, value)
        yield from counter.take()

    def summing(self, budget: int) -> SummedWords:
        """Return this mapfn for one task that adds up all counts of a word.

        budget: size of the groups in a flush, bytes.
        """
        return SummedWords(self, budget)

    def rules(self) -> WordRules:
        """Return what a word is."""
        if self.pattern is None:
            return rules_of_fields(self.sep)
        return rules_of(self.pattern, self.lower, self.n)

    def records(self, counter: _words.WordCounter, value: Any) -> Iterator[Record]:
        """Count the words of a value. Yield what there is no room for, and leave the rest in the counter."""
        try:
            for _ in self._texts(counter, value):
                while not counter.run():
                    yield from counter.take()
        except UnicodeDecodeError:
            value.text()  # raises what says where in the file that is
            raise

    def _texts(self, counter: _words.WordCounter, value: Any) -> Iterator[None]:
        """Begin each of the texts of which a value consists; yield to have it counted."""
        rules = self.rules()
        if isinstance(value, str):
            counter.begin(value)
            yield
        elif not hasattr(type(value), "pieces"):
            hint = "; leave binary=True out, or decode it" if isinstance(value, (bytes, bytearray)) else ""
            raise TypeError(f"{self.maker} takes text, items (key, str); got {type(value).__name__}{hint}")
        elif not rules.run_ends or value.encoding not in CODECS or value.errors not in ERRORS:
            counter.begin(value.text())
            yield
        else:
            for number, data in enumerate(_whole_runs(value.pieces(), rules.run_ends)):
                counter.begin(data, value.encoding, value.errors, number > 0)
                yield


class SummedWords:
    """A mapfn that counts the words of all items of a task in one table. It gives them later."""

    def __init__(self, mapfn: CountWords, budget: int):
        self._mapfn = mapfn
        self._counter = _make_counter(mapfn.rules(), budget)
        self._has_given = False

    def __call__(self, key: Any, value: Any) -> list[Record] | Iterator[Record]:
        """Count the words of an item; return what there is no room for."""
        if type(value) is not str:
            return self._noted(self._mapfn.records(self._counter, value))
        self._counter.begin(value)
        return _NOTHING if self._counter.run() else self._noted(self._make_room())

    def rest(self) -> Iterator[Record]:
        """Yield what was not given after the last item, if anything was given before."""
        if self._has_given:
            yield from self._counter.take()

    def sums(self) -> dict[str, int]:
        """Return all counts, if none were given."""
        return self._counter.take_dict()

    def _make_room(self) -> Iterator[Record]:
        yield from self._counter.take()
        while not self._counter.run():
            yield from self._counter.take()

    def _noted(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._has_given = True
            yield record


def _make_counter(rules: WordRules, budget: int = MAX_WORDS * BYTES_A_WORD) -> _words.WordCounter:
    max_words = max(1, min(MAX_WORDS, budget // BYTES_A_WORD))
    counter = core.WordCounter if is_for_core(rules) else _words.WordCounter
    return counter(rules, max_words, max(1, min(MAX_WORD_BYTES, budget)))


def _whole_runs(pieces: Iterator[bytes], ends: tuple[bytes, ...]) -> Iterator[bytes]:
    """Yield the bytes of pieces, cut where words may be cut."""
    rest: list[bytes] = []
    for piece in pieces:
        end = max(map(piece.rfind, ends)) + 1
        if not end:
            rest.append(piece)
            continue
        yield b"".join([*rest, piece[:end]])
        rest = [piece[end:]]
    yield b"".join(rest)
