"""mmgevent.text: iterators for any mapfn, and ready map functions, on every source of text."""

import bz2
import collections
import copy
import gzip
import os
import pickle
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmgevent as mmg
from mmgevent.errors import FunctionError, JobError, UsageError
from mmgevent.job.functions import Functions
from mmgevent.job.inputs.files import PIECE_BYTES, FileRef
from mmgevent.job.inputs.refs import ContentNeeded
from mmgevent.reducers import count_values, sum_values
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.items import EncodedText
from mmgevent.tasks.records import decode_flush, decode_segment, encode_items
from mmgevent.tasks.run import read_batch, run_map
from mmgevent.text import count_fields, count_ngrams, count_words, counting, fields, ngrams, words
from tests.integration.commands import ROOT, read_tsv
from tests.job.remote.web_server import running_web_server

TEXT = (
    "The quick brown fox's \u2018tail\u2019: caf\u00e9 na\u00efve; KELVIN \u212a and \u0130stanbul, \u039f\u0394\u039f\u03a3 \u039f\u0394\u039f\u03a3.\n"
    "2 x\u00b2 \u2167 _under_score_ don't DON'T \U00010400 \u1c80\r\n\ttabs\vand\fmore\x00nul\x1c\x85end\rThe the THE"
)

#: mapfn -> what it counts, in plain Python
MAPFNS = {
    "words": (count_words(), lambda text: re.findall(r"[a-z']+", text.lower())),
    "any letters": (count_words(r"\w+"), lambda text: re.findall(r"\w+", text.lower())),
    "as they are": (count_words(r"\w+", lower=False), lambda text: re.findall(r"\w+", text)),
    "compiled": (
        count_words(re.compile("[a-z]+", re.I), lower=False),
        lambda text: re.findall("(?i)[a-z]+", text),
    ),
    "unknown": (count_words(r"\b\w\w+\b"), lambda text: re.findall(r"\b\w\w+\b", text.lower())),
    "line ends": (count_words("[\na-z]+"), lambda text: re.findall("[\na-z]+", text.lower())),
    "ngrams": (count_ngrams(2), lambda text: joined(re.findall(r"[a-z']+", text.lower()), 2)),
    "unknown ngrams": (
        count_ngrams(3, r"[^\W\d]+"),
        lambda text: joined(re.findall(r"[^\W\d]+", text.lower()), 3),
    ),
    "fields": (count_fields(), str.split),
    "separated": (count_fields(","), lambda text: text.split(",")),
    "separated by more": (count_fields(" the "), lambda text: text.split(" the ")),
}


def joined(found, n):
    return [" ".join(found[at : at + n]) for at in range(len(found) - n + 1)]


@pytest.fixture(params=list(MAPFNS))
def mapper(request):
    return MAPFNS[request.param]


def inline(source, mapfn, reducefn=sum_values, **options):
    return mmg.run(mmg.Job(source, mapfn, reducefn, **options), inline=True)


def counted(texts, find):
    total = collections.Counter()
    for text in texts:
        total.update(find(text))
    return total


# Iterators.


@given(st.text() | st.text(st.sampled_from(TEXT)))
def test_iterators_give_what_python_gives(text):
    assert list(words(text)) == re.findall(r"[a-z']+", text.lower())
    assert list(words(text, r"\w+")) == re.findall(r"\w+", text.lower())
    assert list(words(text, r"\w+", lower=False)) == re.findall(r"\w+", text)
    assert list(words(text, r"[^,]{1,3}")) == re.findall(r"[^,]{1,3}", text.lower())
    assert list(words(text, re.compile("e|t"))) == re.findall("e|t", text.lower())
    assert list(ngrams(text, 2)) == joined(re.findall(r"[a-z']+", text.lower()), 2)
    assert list(ngrams(text, 3, r"\w+", lower=False)) == joined(re.findall(r"\w+", text), 3)
    assert list(fields(text)) == text.split()
    for sep in (",", "the", "\x85"):
        assert list(fields(text, sep)) == text.split(sep)


def test_iterators_are_lazy_and_end_once():
    found = words("one two")
    assert iter(found) is found
    assert [next(found), next(found), *found, *found] == ["one", "two"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: words("a", b"[a-z]+"), r"pattern must be a regular expression for str.*; got b'\[a-z\]\+'"),
        (lambda: words("a", re.compile(b"a")), "pattern must be a regular expression for str"),
        (lambda: words("a", None), "pattern must be .*; got NoneType"),
        (lambda: words("a", ["[a-z]+"]), "pattern must be .*; got list"),
        (lambda: words("a", "[a-z"), r"pattern '\[a-z' is no regular expression: unterminated"),
        (lambda: words("a", "(a)(b)"), r"has a group.*write \(\?:\.\.\.\)"),
        (lambda: count_words(7), "pattern must be .*; got 7"),
        (lambda: ngrams("a", 0), "n must be an int from 1 to 1,000, the words of an n-gram; got 0"),
        (lambda: ngrams("a", True), "n must be an int"),
        (lambda: count_ngrams(-1), "n must be an int .*; got -1"),
        (lambda: count_ngrams(2.0), "n must be an int .*; got 2.0"),
        (lambda: count_ngrams(1001), "n must be an int from 1 to 1,000"),
        (lambda: count_ngrams("[a-z]+"), "n must be an int"),
        (lambda: fields("a", ""), "sep must be a str of at least one character, or None; got ''"),
        (lambda: count_fields(""), "sep must be a str"),
        (lambda: count_fields(b","), "sep must be a str .*; got b','"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(call, message):
    with pytest.raises(FunctionError, match=message) as raised:
        call()
    assert isinstance(raised.value, UsageError)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("call", [words, lambda text: ngrams(text, 2), fields])
def test_bytes_are_no_text(call):
    with pytest.raises(TypeError, match="takes a str, got bytes; decode it first"):
        call(b"text")
    with pytest.raises(TypeError, match=r"takes a str, got NoneType$"):
        call(None)


# Map functions.


def test_a_mapfn_is_a_function_that_can_be_called_compared_copied_and_pickled(mapper):
    mapfn, find = mapper
    for same in (pickle.loads(pickle.dumps(mapfn)), copy.deepcopy(mapfn)):
        assert same == mapfn
        assert repr(same) == repr(mapfn)
        total = collections.Counter()
        for word, number in same("key", TEXT):
            total[word] += number
        assert total == collections.Counter(find(TEXT))
    assert mapfn != count_words("x")


def test_items_are_counted_whatever_reduces_them(mapper):
    mapfn, find = mapper
    texts = [TEXT, "", "one two", TEXT[::-1], "a" * 100]
    items = list(enumerate(texts))
    wanted = counted(texts, find)
    assert inline(items, mapfn) == wanted
    assert inline(items, mapfn, lambda key, counts: sum(counts)) == wanted
    assert inline(items, mapfn, lambda key, counts: sum(counts), collectfn=sum_values) == wanted
    assert inline(items, mapfn, max_skipped=1) == wanted
    assert inline(items, mapfn, retries=1) == wanted
    assert inline(items, mapfn, sort_values=True) == wanted
    assert inline(items, mapfn, count_values) == collections.Counter(
        word for text in texts for word in set(find(text))
    )


@pytest.fixture
def small_tables(monkeypatch):
    monkeypatch.setattr(counting, "MAX_WORDS", 3)


def test_a_full_table_gives_what_it_has(small_tables, mapper):
    mapfn, find = mapper
    texts = [TEXT, TEXT, "", "one two"]
    assert inline(enumerate(texts), mapfn) == counted(texts, find)
    assert inline(enumerate(texts), mapfn, max_skipped=1) == counted(texts, find)


def test_a_task_with_little_memory_holds_few_words():
    text = " ".join(f"word{number}" for number in range(1050))
    summing = count_words(r"\w+").summing(100 * counting.BYTES_A_WORD)
    given = list(summing("key", text))
    assert len(given) == 1000
    assert dict([*given, *summing.rest()]) == dict.fromkeys(text.split(), 1)
    summing = count_words(r"\w+").summing(1 << 30)
    assert list(summing("key", text)) == list(summing.rest()) == []
    assert summing.sums() == dict.fromkeys(text.split(), 1)


def test_few_and_many_items_of_one_task_have_one_table():
    items = [(number, "to be or not to be") for number in range(50)]
    emitted = []
    stats = run_map(
        Functions.of(count_words(), None, sum_values),
        read_batch(encode_items(items)),
        partitions=4,
        memory_bytes=1 << 20,
        emit=emitted.append,
        mark=lambda position, key: None,
    )
    assert (stats.items, stats.records, stats.groups, stats.flushes) == (50, 4, 4, 1)
    pairs = {}
    for flush in emitted:
        for _, segment in decode_flush(flush):
            decoded = decode_segment(segment)
            pairs.update(zip(decoded.keys, decoded.values, strict=True))
    assert pairs == {"to": 100, "be": 100, "or": 50, "not": 50}


@pytest.mark.parametrize("options", [{}, {"max_skipped": 1}], ids=str)
def test_a_value_that_is_no_text_fails_its_item(options, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    sources = [[("good", "text"), ("bad", b"text")], [("bad", None)], mmg.Files(tmp_path, binary=True)]
    for source in sources:
        if options:
            assert inline(source, count_words(), **options) in ({}, {"text": 1})
            continue
        with pytest.raises(
            JobError, match=r"count_words takes text, items \(key, str\); got (bytes; leave binary|NoneType)"
        ):
            inline(source, count_words())


# Files.

CONTENTS = {
    "utf-8": TEXT.encode(),
    "bom": b"\xef\xbb\xbf" + TEXT.encode(),
    "empty": b"",
    "ends in a word": b"one two",
    "crlf": b"one\r\ntwo,\r\nthree\r\r\n",
    "broken": b"caf\xe9 \xff\xfe na\xc3 \xe2\x84 x\xed\xa0\x80y " + TEXT.encode() + b"\xe2\x84",
    "nul": b"a\0b\0\0 \0",
    "long": ((TEXT + "\n") * (3 * PIECE_BYTES // len(TEXT))).encode(),
    "one run": b"x" * (2 * PIECE_BYTES + 5) + "\u00e9".encode() * PIECE_BYTES + b" y",
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize(
    "how",
    [
        {"errors": "replace"},
        {"errors": "ignore"},
        {"errors": "surrogateescape"},
        {"errors": "backslashreplace"},
        {"encoding": "latin-1"},
        {"encoding": "L1", "errors": "ignore"},
        {"encoding": "ascii", "errors": "replace"},
        {"encoding": "cp1252", "errors": "replace"},
        {"encoding": "utf-8-sig", "errors": "replace"},
        {"encoding": "utf-16", "errors": "replace"},
        {"encoding": "UTF8", "errors": "replace"},
    ],
    ids=lambda how: "-".join(how.values()),
)
def test_files_are_counted_as_the_text_they_are(name, how, tmp_path):
    path = tmp_path / "a.txt"
    data = CONTENTS[name]
    path.write_bytes(data.decode("latin-1").encode("utf-16") if how.get("encoding") == "utf-16" else data)
    with open(path, **{"encoding": "utf-8", **how}) as file:
        text = file.read()
    for kind in ("words", "any letters", "fields", "ngrams", "line ends", "separated"):
        mapfn, find = MAPFNS[kind]
        assert inline(mmg.Files(path, **how), mapfn) == collections.Counter(find(text)), kind


@pytest.mark.parametrize("mapfn", [count_words(), count_words(r"\w+"), count_fields(), count_words("[a-z]")])
@pytest.mark.parametrize("reducefn", [sum_values, lambda key, counts: sum(counts)], ids=["summed", "reduced"])
def test_a_file_that_is_no_text_fails_as_for_any_mapfn(mapfn, reducefn, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good " * PIECE_BYTES + b"caf\xe9 " + b"good " * 9)
    (tmp_path / "b.txt").write_bytes(b"good")

    def plain(path, text):
        return []

    def message(mapfn):
        with pytest.raises(JobError) as raised:
            inline(mmg.Files(tmp_path), mapfn, reducefn)
        return str(raised.value)

    assert message(mapfn) == message(plain)
    assert f"byte {5 * PIECE_BYTES + 3} is not utf-8" in message(mapfn)
    assert inline(mmg.Files(tmp_path), mapfn, reducefn, max_skipped=1) == inline([("b", "good")], mapfn)


def test_bytes_of_files_reach_the_mapfn_in_pieces(tmp_path, monkeypatch):
    """A file is not in memory as a whole, and not decoded."""
    path = tmp_path / "a.txt"
    path.write_bytes(CONTENTS["long"])
    sizes = []
    read = FileRef.pieces

    def pieces(self):
        for piece in read(self):
            sizes.append(len(piece))
            yield piece

    def decoded(self):
        raise AssertionError("the file was read as a whole")

    monkeypatch.setattr(FileRef, "pieces", pieces)
    monkeypatch.setattr(FileRef, "units", decoded)
    wanted = collections.Counter(re.findall(r"[a-z']+", CONTENTS["long"].decode().lower()))
    assert inline(mmg.Files(path), count_words()) == wanted
    assert max(sizes) <= PIECE_BYTES
    assert sum(sizes) == path.stat().st_size


def test_a_mapfn_that_does_not_ask_gets_a_str(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one")
    given = []

    def mapfn(path, text):
        given.append(type(text))
        yield from count_words()(path, text)

    assert inline(mmg.Files(tmp_path), mapfn) == {"one": 1}
    assert given == [str]


def test_a_file_that_changes_meanwhile_is_asked_for_again(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one two " * PIECE_BYTES)
    (ref,) = mmg.Files(path).refs()
    path.write_bytes(b"one")
    for reducefn in (sum_values, None):
        with pytest.raises(ContentNeeded):
            do_map(count_words(), ref, reducefn)
    monkeypatch.setattr(FileRef, "_check_stat", lambda self, file, at_driver: None)
    monkeypatch.setattr(FileRef, "_check_head", lambda self, head: None)
    path.write_bytes(b"one two " * PIECE_BYTES)
    (ref,) = mmg.Files(path).refs()
    path.write_bytes(b"one two " * (PIECE_BYTES - 1))  # it ends sooner than it should
    with pytest.raises(ContentNeeded):
        do_map(count_words(), ref)


def do_map(mapfn, ref, reducefn=sum_values):
    return run_map(
        Functions.of(mapfn, None, reducefn),
        [(ref.key, ref)],
        partitions=4,
        memory_bytes=1 << 20,
        emit=lambda flush: None,
        mark=lambda position, key: None,
    )


def test_content_that_the_driver_sends_is_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(CONTENTS["broken"])
    (ref,) = mmg.Files(path, errors="replace").refs()
    full = ref.with_content()
    path.unlink()
    assert do_map(count_words(), full).records > 10
    with gzip.open(path, "wb") as file:
        file.write(b"one two")
    (ref,) = mmg.Files(path).refs()
    full = ref.with_content()
    path.unlink()
    assert do_map(count_words(), full).records == 2


def test_an_encoded_text_says_what_it_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\n\xff")
    (ref,) = mmg.Files(path, encoding="LATIN1", errors="ignore").refs()

    def failed(error):
        raise error

    value = EncodedText(ref, ref.encoded, "a.txt", 0, failed)
    assert (value.encoding, value.errors, value.text(), b"".join(value.pieces())) == (
        "iso8859-1",
        "ignore",
        "a\n\xff",
        b"a\r\n\xff",
    )
    (ref,) = mmg.Files(path).refs()
    with pytest.raises(TaskFailure, match="byte 3 is not utf-8"):
        EncodedText(ref, ref.encoded, "a.txt", 0, failed).text()
    (ref,) = mmg.Files(path, binary=True).refs()
    assert ref.encoded is None


# Other sources, and other processes.


def lines_of(text):
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


@pytest.mark.parametrize("kind", ["words", "any letters", "fields", "separated", "ngrams"])
def test_every_source_of_text_is_counted(kind, tmp_path):
    mapfn, find = MAPFNS[kind]
    text = (TEXT.replace("\r", "") + "\n") * 50
    for name, data in {
        "a.txt": text.encode(),
        "b.txt.gz": gzip.compress(text.encode()),
        "c.txt.bz2": bz2.compress(text.encode()),
    }.items():
        (tmp_path / name).write_bytes(data)
    assert inline(mmg.Files(tmp_path), mapfn) == counted([text] * 3, find)
    assert inline(mmg.Lines(tmp_path), mapfn) == counted(lines_of(text) * 3, find)
    assert inline(mmg.Files(tmp_path) + mmg.Lines(tmp_path), mapfn) == counted(
        [text] * 3 + lines_of(text) * 3, find
    )


def test_remote_files_are_counted():
    pytest.importorskip("fsspec")
    with running_web_server() as server:
        server.files["a.txt"] = TEXT.encode()
        for kind in ("ranges", "plain", "chunked"):
            found = inline(mmg.Files(f"{server.url}/{kind}/a.txt"), count_words())
            assert found == counted([TEXT], MAPFNS["words"][1]), kind


ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("MMG_")}

JOB = """
import sys
from mmgevent import Files, Lines
from mmgevent.job.inputs.refs import ContentNeeded
from mmgevent.reducers import sum_values
from mmgevent.text import count_ngrams
datasource = {source}
mapfn = count_ngrams(2, r"\\w+")
reducefn = sum_values
"""


@pytest.mark.parametrize("source", ["Files", "Lines"])
@pytest.mark.parametrize("pure", ["0", "1"])
def test_a_job_file_counts_on_executors_and_from_standard_input(source, pure, tmp_path):
    (tmp_path / "job.py").write_text(JOB.format(source=f"{source}(sys.argv[1:] or '-')"))
    text = (TEXT.replace("\r", "") + "\n") * 20
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.txt"))
        (tmp_path / f"{number}.txt").write_text(text, newline="")
    texts = [text] if source == "Files" else lines_of(text)
    find = lambda text: joined(re.findall(r"\w+", text.lower()), 2)  # noqa: E731

    def run(*args, **how):
        command = [sys.executable, "-m", "mmgevent", "run", "-q", "--procs", "2", tmp_path / "job.py", *args]
        ran = subprocess.run(
            command, capture_output=True, timeout=100, cwd=ROOT, **how, env={**ENVIRON, "MMGEVENT_PURE": pure}
        )
        assert ran.returncode == 0, ran.stderr
        return read_tsv(ran.stdout.decode())

    assert run(*paths) == counted(texts * 3, find)
    assert run(input=text.encode()) == counted(texts, find)
