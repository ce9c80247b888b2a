"""csv: what Python's own reader reads back, and what is said of records that do not fit."""

import collections
import csv
import io

import pytest

from mmgevent.errors import OutputError
from mmgevent.job.outputs.sinks import open_sink

Point = collections.namedtuple("Point", "x y")


def csv_of(*records, columns=None):
    out = io.BytesIO()
    with open_sink(None, "csv", out, columns=columns) as sink:
        for key, value in records:
            sink.write(key, value)
    return out.getvalue().decode()


def read(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_tuples_are_columns_and_everything_else_is_one():
    text = csv_of((("a", 1), Point(2, 3.5)), (("b", None), (True, [1, "x"])))
    assert text == 'a,1,2,3.5\nb,,true,"[1, ""x""]"\n'
    assert csv_of(("k", {"a": (1,)})) == 'k,"{""a"": [1]}"\n'
    assert csv_of((frozenset({2, 1}), b"x")) == "\"[1, 2]\",b'x'\n"


@pytest.mark.parametrize(
    "word",
    ["", " ", " a", "a ", 'say "hi"', "a,b", "a\nb", "a\r\nb", "\r", '"', "''", "\\n", "größe", "\u2028", "a\tb", "-", "#x"],
)  # fmt: skip
def test_any_text_is_read_back_as_it_was(word):
    text = csv_of((word, (word, word)), columns=[word.strip() or "x", "y", "z"])
    assert read(text) == [[word.strip() or "x", "y", "z"], [word] * 3]


def test_nothing_and_an_empty_text_differ_and_no_line_is_empty():
    assert csv_of((None, "")) == ',""\n'
    assert csv_of(((), (None,))) == '""\n'
    assert csv_of(("\udc80", 1)) == "\\udc80,1\n"


def test_names_are_the_first_line_even_without_records():
    assert csv_of(columns="word, count") == "word,count\n"
    assert csv_of(("a", 1), columns=['the "word"', "n"]) == '"the ""word""",n\na,1\n'


@pytest.mark.parametrize(
    ("records", "columns", "expected"),
    [
        ([("a", 1), ("b", (1, 2))], None, "the record of 'b' has 3 columns (1 of the key, 2 of the value), but the first record, of 'a', has 2"),
        ([("a", (1, 2))], "word,count", "the record of 'a' has 3 columns (1 of the key, 2 of the value), but there are names for 2: 'word,count'"),
        ([((), ())], None, "has 0 columns"),
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_named(records, columns, expected):
    with pytest.raises(OutputError) as caught:
        csv_of(*records, columns=columns)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("", "a name of a column is empty"),
        ("a,,b", "a name of a column is empty"),
        ("a, a", "two columns have the name 'a'"),
        ([1, 2], "expected names of columns"),
        (["c"] * 10_001, "10001 columns are too many"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_written(columns, expected):
    with pytest.raises(OutputError) as caught:
        open_sink(None, "csv", io.BytesIO(), columns=columns)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("format", ["tsv", "jsonl", "pickle"])
def test_other_formats_have_no_names(format):
    with pytest.raises(OutputError, match=f"the format {format} has no columns to name; write csv"):
        open_sink(None, format, io.BytesIO(), columns=["a", "b"])
