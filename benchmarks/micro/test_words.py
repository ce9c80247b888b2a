"""Find and count words: in C, in the twin, and as one would write it."""

import collections
import re

import pytest

from mmgevent._speedups import _words
from mmgevent._speedups._words import WordRules

try:
    from mmgevent._speedups import _core
except ModuleNotFoundError:
    _core = None

ENGLISH = "The quick brown fox's tail, and the lazy dog: don't wake it up; it sleeps!\n" * 2_000
FRENCH = (
    "D\u00e9j\u00e0 vu, na\u00efve fa\u00e7ade: \u00ab\u00a0l'\u00e9l\u00e8ve a pay\u00e9 le caf\u00e9\u00a0\u00bb\n"
    * 2_000
)
GREEK = (
    "\u039f \u039f\u0394\u039f\u03a3 \u03c4\u03b7\u03c2 \u03b8\u03ac\u03bb\u03b1\u03c3\u03c3\u03b1\u03c2\n"
    * 2_000
)
MANY = " ".join(f"word{number * 7_919 % 50_021}" for number in range(30_000))
TEXTS = {
    "English": ENGLISH,
    "French": FRENCH,
    "Greek": GREEK,
    "many words": MANY,
    "few words": "to be or not",
}
PATTERNS = {"letters": r"[a-z']+", "any letters": r"\w+"}


@pytest.fixture(params=["c", "twin", "plain"])
def core(request):
    if request.param == "c" and _core is None:
        pytest.skip("the C core is not built")
    return {"c": _core, "twin": _words, "plain": None}[request.param]


@pytest.fixture(params=[(text, pattern) for text in TEXTS for pattern in PATTERNS], ids="-".join)
def case(request, benchmark):
    text, pattern = request.param
    benchmark.group = f"{request.node.originalname[5:]}, {text}, {pattern}"
    return TEXTS[text], WordRules(re.compile(PATTERNS[pattern]), None, True, 1)


def test_words(benchmark, core, case):
    text, rules = case

    def plain():
        return list(rules.pattern.findall(text.lower()))

    def run():
        return list(core.words_of(text, rules))

    assert benchmark(plain if core is None else run) == plain()


def test_counts(benchmark, core, case):
    text, rules = case

    def plain():
        return dict(collections.Counter(rules.pattern.findall(text.lower())))

    def run():
        counter = core.WordCounter(rules, 65_536, 4 * 1024 * 1024)
        counter.begin(text)
        counter.run()
        return counter.take_dict()

    assert benchmark(plain if core is None else run) == plain()
