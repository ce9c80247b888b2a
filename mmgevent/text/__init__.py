"""Words, n-grams and fields of text, found and counted in C."""

from __future__ import annotations

from mmgevent.text.counting import count_fields, count_ngrams, count_words
from mmgevent.text.finding import fields, ngrams, words

__all__ = ["count_fields", "count_ngrams", "count_words", "fields", "ngrams", "words"]
