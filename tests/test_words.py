"""Words of text, in C and in Python: the same as `re` and `str.split` find, and the same counts."""

import collections
import gc
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgevent._speedups import _words
from mmgevent._speedups._words import WordRules
from tests.kinds import native, needs_native

IMPLEMENTATIONS = [
    pytest.param(_words, id="fallback"),
    pytest.param(native, id="native", marks=needs_native),
]

#: Patterns that the core knows.
KNOWN = [r"[a-z']+", r"\w+", r"\S+", r"[\w'-]+", "[A-Z]+", "[a-z ]+", "[\0-\x7f]+", "[k]+"]
#: Patterns that it leaves to `re`.
UNKNOWN = [
    r"[^,]+",
    r"\w+\b",
    r"[a-z]",
    r"(?i)[a-z]+",
    r"[à-ü]+",
    r"\d+",
    r"[a-z]+?",
    r"[\d]+",
    "a+",
]
SEPS = [",", "::", "é", "\n", " ", "\ud800", "aab"]

#: Starts of blocks of 256 characters: all that are in use, and some of the others.
CODES = [*range(0, 0x3400, 256), *range(0xA000, 0xAC00, 256), *range(0xD700, 0x11000, 256)]
CODES += [*range(0x11000, 0x20000, 0x300), *range(0x20000, 0x110000, 0x4000), 0x1E900, 0xE0100]

#: Characters at which something is special, somewhere.
ODD = "abkzABKZ'.: ^`_-,;\n\r\t\0\x1c\x1f\x7f059éÉßΣσςİıiIK\u0307Åſ\u00a0\u2028\u0085\u1c80\u2019\ufeff\ufb01Ⅷ²\ud800\udcff\U00010400𝒳"
TEXTS = st.one_of(st.text(st.sampled_from(ODD), max_size=60), st.text(max_size=60))

#: Bytes that are broken UTF-8, alone or between others.
BROKEN = [
    b"\xff",
    b"\xe9",
    b"\xc4",
    b"\xe2\x84",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xce",
]
ENCODED = st.lists(
    st.one_of(
        st.sampled_from(BROKEN), st.text(st.sampled_from(ODD)).map(lambda t: t.encode("utf-8", "replace"))
    )
).map(b"".join)


@pytest.fixture(params=IMPLEMENTATIONS)
def core(request):
    return request.param


def rules_of(pattern, lower=True, n=1):
    return WordRules(re.compile(pattern), None, lower, n)


RULES = [rules_of(pattern, lower, n) for pattern in KNOWN for lower in (False, True) for n in (1, 3)]
RULES += [WordRules(None, sep, False, n) for sep in SEPS for n in (1, 2)]


def wanted_of(text, rules):
    """What the rules say, in plain Python."""
    if rules.pattern is None:
        words = text.split(rules.sep)
    else:
        words = re.findall(rules.pattern.pattern, text.lower() if rules.lower else text)
    return [" ".join(words[at : at + rules.n]) for at in range(len(words) - rules.n + 1)]


def count(core, texts, rules, *, max_words=1 << 16, max_bytes=1 << 20, **how):
    """Count texts that go on from one another; what was taken each time."""
    counter = core.WordCounter(rules, max_words, max_bytes)
    taken = []
    for number, text in enumerate(texts):
        counter.begin(text, how.get("encoding", "utf-8"), how.get("errors", "strict"), number > 0)
        while not counter.run():
            taken.append(counter.take())
    taken.append(counter.take())
    assert counter.take() == []
    return taken


@pytest.mark.parametrize(
    "rules", RULES, ids=lambda rules: f"{rules.pattern or rules.sep!r}-{rules.lower}-{rules.n}"
)
def test_the_core_knows_these_rules_and_finds_what_python_finds(core, rules):
    assert rules.plan is not None

    @given(TEXTS)
    def check(text):
        assert list(core.words_of(text, rules)) == wanted_of(text, rules)

    check()


@pytest.mark.parametrize("pattern", UNKNOWN)
def test_other_patterns_have_no_plan(pattern):
    assert rules_of(pattern).plan is None
    assert WordRules(re.compile("[a-z]+", re.IGNORECASE), None, True, 1).plan is None
    assert WordRules(re.compile(r"\w+", re.ASCII), None, True, 1).plan is None
    if native is not None:
        for make in (native.words_of, lambda text, rules: native.WordCounter(rules, 10, 10)):
            with pytest.raises(TypeError, match="no plan"):
                make("text", rules_of(pattern))


def test_sets_that_will_mean_something_else_have_no_plan():
    re.purge()  # it warns once
    with pytest.warns(FutureWarning):
        assert rules_of("[a-f||x]+").plan is None


@needs_native
@pytest.mark.parametrize(("before", "after"), [("a", "b "), (" ", " "), ("Σ", "."), ("a.", ".b")], ids=repr)
def test_every_character_of_unicode_is_where_python_has_it(before, after):
    rules = [rules_of(pattern, lower) for pattern in KNOWN[:3] for lower in (False, True)]
    for start in CODES:
        text = "\n".join(before + chr(code) + after for code in range(start, start + 256))
        for each in rules:
            assert list(native.words_of(text, each)) == list(_words.words_of(text, each)), (
                start,
                each.pattern,
            )


@pytest.mark.parametrize(
    "rules", RULES[::3], ids=lambda rules: f"{rules.pattern or rules.sep!r}-{rules.lower}-{rules.n}"
)
@needs_native
def test_both_count_alike_and_stop_at_the_same_words(rules):
    @given(TEXTS, st.integers(1, 5), st.integers(1, 40))
    def check(text, max_words, max_bytes):
        limits = {"max_words": max_words, "max_bytes": max_bytes}
        taken = count(native, [text], rules, **limits)
        assert taken == count(_words, [text], rules, **limits)
        assert all(len(each) <= max_words for each in taken)
        total = collections.Counter()
        for each in taken:
            total.update(dict(each))
        assert total == collections.Counter(wanted_of(text, rules))

    check()


@needs_native
@pytest.mark.parametrize("errors", sorted(_words.ERRORS))
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso8859-1"])
@pytest.mark.parametrize("pattern", [r"[a-z']+", r"\w+", r"\S+"])
def test_bytes_are_counted_as_the_text_they_are(pattern, encoding, errors):
    @given(ENCODED, st.booleans(), st.integers(1, 2))
    def check(data, lower, n):
        rules = rules_of(pattern, lower, n)
        how = {"encoding": encoding, "errors": errors}
        try:
            wanted = collections.Counter(wanted_of(data.decode(encoding, errors), rules))
        except UnicodeDecodeError:
            wanted = None
        for core in (native, _words):
            try:
                found = dict(count(core, [data], rules, **how)[0])
            except UnicodeDecodeError:
                found = None
            assert found == wanted, (core, data)

    check()


@pytest.mark.parametrize("pattern", [r"[a-z']+", r"\w+", r"\S+"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_text_may_be_cut_where_runs_end(core, pattern, n):
    rules = rules_of(pattern, True, n)
    assert rules.run_ends == (b"\n", b"\r", b" ")

    @given(st.lists(st.text(st.sampled_from(ODD + "   \n"))), st.sampled_from(["\n", " ", "\r"]))
    def check(parts, end):
        parts = [part.encode("utf-8", "replace").decode() + end for part in parts]
        found = count(core, [part.encode() for part in parts], rules)[0]
        assert dict(found) == collections.Counter(wanted_of("".join(parts), rules))

    check()


def test_runs_end_only_where_nothing_beside_them_changes(core):
    for pattern in KNOWN:
        rules = rules_of(pattern)
        ends = [chr(code) for code in range(128) if rules.plan[0][256 + code]]
        assert not set("'.:^`aZ") & set(ends)
        for end in ends:
            for text in (f"AΣ{end}A", f"A{end}Σ", f"{end}Σ{end}", f"aΣ{end}Σa"):
                cut = end.join(part.lower() for part in text.split(end))
                assert text.lower() == cut, (pattern, text)


@pytest.mark.parametrize("n", [1, 2, 3, 400])
def test_long_words_and_many_of_them(core, n):
    words = [letter * size for size in (1, 7, 8, 9, 15, 16, 17, 63, 64, 5000) for letter in "abz"] * 40
    text = " ".join(words)
    rules = rules_of(r"[a-z]+", False, n)
    assert list(core.words_of(text, rules)) == wanted_of(text, rules)
    assert dict(count(core, [text], rules, max_bytes=1 << 60)[0]) == collections.Counter(
        wanted_of(text, rules)
    )


def test_many_words_are_counted_in_the_order_in_which_they_come(core):
    words = [f"word{number * 7919 % 100_003}" for number in range(150_000)]
    found = count(core, [" ".join(words)], rules_of(r"\w+"), max_words=1 << 24, max_bytes=1 << 60)
    assert found == [list(collections.Counter(words).items())]


def test_sums_are_a_dict(core):
    counter = core.WordCounter(rules_of(r"\w+"), 100, 1000)
    assert counter.take_dict() == {}
    counter.begin("b a b")
    assert counter.run()
    assert list(counter.take_dict().items()) == [("b", 2), ("a", 1)]
    assert counter.take_dict() == {}
    assert counter.take() == []


def test_a_text_that_is_begun_ends_the_one_before(core):
    counter = core.WordCounter(rules_of(r"\w+", True, 2), 1, 1000)
    counter.begin("a b c d e f")
    assert not counter.run()
    assert counter.take() == [("a b", 1)]
    counter.begin("x y")
    assert not counter.run()
    assert counter.take() == [("x y", 1)]
    assert counter.run()
    assert counter.run()
    counter.begin("z q", "utf-8", "strict", True)
    assert not counter.run()
    assert counter.take() == [("y z", 1)]


def begin_and_run(counter, data):
    """Count bytes: one implementation decodes them at first, the other where it meets them."""
    counter.begin(data)
    counter.run()


def test_what_is_no_text_is_refused(core):
    counter = core.WordCounter(rules_of(r"\w+"), 10, 100)
    for text in (None, 1, ["a"], bytearray(b"a"), memoryview(b"a")):
        with pytest.raises(TypeError, match="str"):
            counter.begin(text)
    with pytest.raises(UnicodeDecodeError):
        begin_and_run(counter, b"a \xff b")
    with pytest.raises((LookupError, ValueError)):
        counter.begin(b"a", "no-such-encoding")
    assert counter.run()
    assert counter.take_dict() in ({}, {"a": 1})


@needs_native
def test_the_core_refuses_what_is_no_plan():
    rules = rules_of(r"\w+")

    class Odd:
        plan = None

    tables, kind, lower, sep, n, find = rules.plan
    for plan in (
        None,
        (),
        [*rules.plan],
        (tables[:-1], kind, lower, sep, n, find),
        (tables, 9, lower, sep, n, find),
        (tables, -1, lower, sep, n, find),
        (tables, _words.SEPARATED, lower, b"", n, find),
        (tables, kind, lower, sep, 0, find),
        (tables, kind, lower, sep, sys.maxsize + 1, find),
    ):
        Odd.plan = plan
        with pytest.raises((TypeError, ValueError, OverflowError)):
            native.words_of("a", Odd())
        with pytest.raises((TypeError, ValueError, OverflowError)):
            native.WordCounter(Odd(), 1, 1)
    Odd.plan = (tables, kind, lower, sep, sys.maxsize, find)
    with pytest.raises(MemoryError):
        native.words_of("a", Odd())
    for max_words in (0, 1 << 25):
        with pytest.raises(ValueError, match="max_words"):
            native.WordCounter(rules, max_words, 1)


def asked_rules(find):
    """Rules that leave to `find` what the core cannot do: the capital sigma of `ODD_TEXT`."""

    class Asked:
        plan = (*rules_of(r"\w+").plan[:-1], find)

    return Asked()


ODD_TEXT = "one aΣ two"


@needs_native
def test_what_the_core_asks_python_may_not_ask_the_core():
    def find(run, encoding, errors):
        assert (run, encoding, errors) == ("aΣ two".encode(), "utf-8", "surrogatepass")
        for use in uses:
            with pytest.raises(ValueError, match="already"):
                use()
        return ["found", "two"]

    found = native.words_of(ODD_TEXT, asked_rules(find))
    uses = [lambda: next(found)]
    assert list(found) == ["one", "found", "two"]
    counter = native.WordCounter(asked_rules(find), 10, 100)
    uses = [counter.run, counter.take, counter.take_dict, lambda: counter.begin("x")]
    counter.begin(ODD_TEXT)
    assert counter.run()
    assert counter.take() == [("one", 1), ("found", 1), ("two", 1)]


@needs_native
@pytest.mark.parametrize("answer", [None, ("a",), [1], [b"a"], ArithmeticError()], ids=repr)
def test_what_python_answers_may_be_wrong(answer):
    def find(run, encoding, errors):
        if isinstance(answer, Exception):
            raise answer
        return answer

    wrong = TypeError if not isinstance(answer, Exception) else ArithmeticError
    found = native.words_of(ODD_TEXT, asked_rules(find))
    assert next(found) == "one"
    with pytest.raises(wrong):
        next(found)
    assert list(found) == []
    counter = native.WordCounter(asked_rules(find), 10, 100)
    counter.begin(ODD_TEXT)
    with pytest.raises(wrong):
        counter.run()
    counter.begin("more")
    assert counter.run()
    assert dict(counter.take())["more"] == 1


@needs_native
def test_python_may_answer_fewer_words_than_the_core_has_given():
    """So no list is read beyond its end."""
    rules = asked_rules(lambda run, encoding, errors: [])
    text = "a.b.Σ " + "x" * 300 + " two"
    assert list(native.words_of(text, rules)) == ["a", "b", "two"]


def every_call(core):
    for rules in (rules_of(r"\w+"), rules_of(r"[a-z']+", False, 3), WordRules(None, ",", False, 1)):
        use_rules(core, rules)


def use_rules(core, rules):
    text = "one, two aΣ THREE " + "x" * 100 + " é,\u212a İ" * 3
    list(core.words_of(text, rules))
    next(core.words_of(text, rules))
    counter = core.WordCounter(rules, 4, 1000)
    counter.begin(text)
    while not counter.run():
        counter.take()
    counter.begin(text)
    counter.run()
    counter.take_dict()
    counter.begin(text)
    counter.run()
    for failing in (
        lambda: core.words_of(b"text", rules),
        lambda: core.words_of("text", None),
        lambda: core.WordCounter(None, 1, 1).begin("a"),
        lambda: core.WordCounter(rules, 1, 1).begin(7),
    ):
        with pytest.raises((TypeError, AttributeError)):
            list(failing())
    if rules.pattern is not None:
        counter.begin(b"one \xc3\xa9 \xff two", "utf-8", "ignore", True)
        counter.run()
        with pytest.raises(UnicodeDecodeError):
            begin_and_run(counter, b"one \xff two")


def test_no_call_keeps_memory_even_when_it_fails(core):
    rounds = 100

    def measure():
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(rounds):
            every_call(core)
        gc.collect()
        return sys.getallocatedblocks() - before

    assert min(measure() for _ in range(4)) < rounds


@needs_native
def test_objects_are_released():
    """A text, a plan and words that were found are not kept by who used them."""
    rules = rules_of(r"\w+")
    plan = rules.plan
    text = "".join(["one ", "aΣ ", "two"])
    before = sys.getrefcount(text), sys.getrefcount(plan)
    found, counter = native.words_of(text, rules), native.WordCounter(rules, 10, 100)
    counter.begin("ab" * 50 + text)
    meanwhile = sys.getrefcount(plan)
    next(found)
    counter.run()
    del found, counter
    after = sys.getrefcount(text), sys.getrefcount(plan)
    assert meanwhile == before[1] + 2
    assert after == before
