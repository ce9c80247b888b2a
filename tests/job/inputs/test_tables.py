import csv
import io
import os
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmgevent import Bytes, Csv, Files, Job, JobError
from mmgevent.driver.runners.inline import run_inline
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import quotes
from mmgevent.job.inputs import rows as csv_rows
from mmgevent.job.inputs.refs import ContentNeeded, Unreadable

#: Texts in which everything that CSV gives a meaning to is frequent, and little makes sense.
SOUP = st.text(alphabet='",\r\na\u00e9 ', max_size=60)
FIELD = st.text(alphabet='",;\r\nab\u00e9 \u2028\x85', max_size=8)
ROWS = st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=12)
FIXTURES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def write(tmp_path, data, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def units(source, *, travels=False):
    for ref in source.refs():
        yield from (pickle.loads(pickle.dumps(ref.with_content())) if travels else ref).units()


def plain(text, **dialect):
    """The rows of a whole file, and where each begins, as csv.reader has them."""
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(iter(lines), **dialect)
    rows, line = [], 0
    for row in reader:
        if row:
            rows.append((sum(len(each.encode()) for each in lines[:line]), tuple(row)))
        line = reader.line_num
    return rows


def cut_into(monkeypatch, split_bytes):
    monkeypatch.setattr(csv_rows, "CSV_SPLIT_BYTES", split_bytes)


@FIXTURES
@given(
    rows=ROWS,
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([0, 1]),
    split=st.integers(1, 40),
)
def test_rows_that_a_writer_wrote_come_back_once_wherever_files_are_cut(
    rows, ending, quoting, split, tmp_path, monkeypatch
):
    cut_into(monkeypatch, split)
    monkeypatch.setattr(quotes, "_PIECE_BYTES", 3)
    monkeypatch.setattr(quotes, "_MORE_BYTES", 1)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ending, quoting=quoting).writerows(rows)
    path = write(tmp_path, text.getvalue())
    expected = [((path, at), row) for at, row in plain(text.getvalue())]
    for stray in (False, True):
        source = Csv(path, header=False, stray_quotes=stray)
        assert list(units(source)) == expected
        assert list(units(source, travels=True)) == expected


@FIXTURES
@given(text=SOUP, split=st.integers(1, 40))
def test_any_text_gives_the_rows_of_a_csv_reader_if_quotes_are_followed(text, split, tmp_path, monkeypatch):
    cut_into(monkeypatch, split)
    monkeypatch.setattr(quotes, "_PIECE_BYTES", 3)
    monkeypatch.setattr(quotes, "_MORE_BYTES", 1)
    path = write(tmp_path, text)
    for travels in (False, True):
        expected = plain(text)
        found = list(units(Csv(path, header=False, stray_quotes=True), travels=travels))
        if found and isinstance(found[-1][1], Unreadable):
            (_, at), broken = found.pop()
            assert f"byte {at}" in str(broken.error)
            assert "does not end" in str(broken.error)
            assert expected.pop()[0] == at
        assert found == [((path, at), row) for at, row in expected]


@FIXTURES
@given(text=SOUP, split=st.integers(1, 40))
def test_counted_quotes_give_the_rows_of_a_csv_reader_or_an_error(text, split, tmp_path, monkeypatch):
    cut_into(monkeypatch, split)
    path = write(tmp_path, text)
    source = Csv(path, header=False)
    expected = plain(text)
    try:
        found = list(units(source))
    except ContentNeeded:
        with pytest.raises(DatasourceError, match="stray_quotes=True"):
            list(units(source, travels=True))
        return
    if found and isinstance(found[-1][1], Unreadable):
        found.pop()
        expected.pop()
    assert found == [((path, at), row) for at, row in expected]


@FIXTURES
@given(text=SOUP, split=st.integers(1, 40))
def test_where_quotes_are_text_rows_end_at_every_line_end(text, split, tmp_path, monkeypatch):
    cut_into(monkeypatch, split)
    monkeypatch.setattr(quotes, "_PIECE_BYTES", 3)
    path = write(tmp_path, text)
    expected = [((path, at), row) for at, row in plain(text, quoting=csv.QUOTE_NONE)]
    assert list(units(Csv(path, header=False, quotechar=None))) == expected


SALES = '\ufeffregion,"note, with\nlines",amount\r\n\r\nnorth,"a ""b""\r\nc",1\r\nsouth,,2'


def test_rows_are_dicts_by_the_header_of_each_file(tmp_path):
    one = write(tmp_path, SALES, "a.csv")
    two = write(tmp_path, "amount,region\n3,west\n", "b.csv")
    empty = write(tmp_path, "", "c.csv")
    only_header = write(tmp_path, "a,b\n\n", "d.csv")
    note = "note, with\nlines"
    assert list(Csv(one, two, empty, only_header)) == [
        ((one, 39), {"region": "north", note: 'a "b"\r\nc', "amount": "1"}),
        ((one, 61), {"region": "south", note: "", "amount": "2"}),
        ((two, 14), {"amount": "3", "region": "west"}),
    ]


def test_columns_name_what_has_no_header_and_replace_one(tmp_path):
    path = write(tmp_path, "a;b\n1;2\n")
    read = Csv(path, header=False, columns=["x", "y"], delimiter=";")
    assert [row for _, row in read] == [{"x": "a", "y": "b"}, {"x": "1", "y": "2"}]
    assert [row for _, row in Csv(path, columns=iter("xy"), delimiter=";")] == [{"x": "1", "y": "2"}]
    assert [row for _, row in Csv(path, header=False, delimiter=";")] == [("a", "b"), ("1", "2")]


@pytest.mark.parametrize("split", [1, 7, 1000])
def test_the_header_is_found_from_every_split(split, tmp_path, monkeypatch):
    cut_into(monkeypatch, split)
    path = write(tmp_path, SALES + "\n" + "east,\u00e4,3\n" * 20)
    assert [row["region"] for _, row in Csv(path)] == ["north", "south"] + ["east"] * 20
    refs = [pickle.loads(pickle.dumps(ref.with_content())) for ref in Csv(path).refs()]
    assert [item for ref in refs for item in ref.items()] == list(Csv(path))


def test_a_header_longer_than_what_is_read_of_a_file_first(tmp_path, monkeypatch):
    cut_into(monkeypatch, 5000)
    names = [f"column number {i}" for i in range(6_000)]
    path = write(tmp_path, ",".join(names) + "\n" + ("x," * 5_999 + "y\n") * 3)
    assert [list(row) for _, row in Csv(path)] == [names] * 3


def failures(source):
    return [str(value.error) for _, value in units(source) if isinstance(value, Unreadable)]


def test_rows_that_cannot_be_read_name_path_offset_and_what_is_wrong(tmp_path):
    path = write(tmp_path, b'a,b\n1,2\n3\n4,5,6\n7,"\xff\n8"\n' + b"x" * 200_000 + b',1\n9,"open\n10,11\n')
    assert [value for _, value in units(Csv(path)) if not isinstance(value, Unreadable)] == [
        {"a": "1", "b": "2"}
    ]
    short, long, undecoded, huge, unclosed = failures(Csv(path))
    assert f"{path}: the row at byte 8 has 1 fields, and the header 2" in short
    assert "byte 10 has 3 fields" in long
    assert "'4,5,6" in long
    assert f"{path}: byte 19 is not utf-8" in undecoded
    assert "byte 24 has a field of more than csv.field_size_limit()" in huge
    assert (
        "byte 200027 has no end: its quote at byte 200029 does not end before the end of the file" in unclosed
    )
    assert "columns=[...] 2" in failures(Csv(path, columns=["x", "y"]))[0]


def test_failed_rows_are_set_aside_and_counted(tmp_path):
    path = write(tmp_path, "a,b\n" + "1,2\n" * 50 + "broken\n" + "1,2\n" * 50)
    job = Job(
        Csv(path), lambda at, row: [("a", int(row["a"]))], lambda key, values: sum(values), max_skipped=1
    )
    assert dict(run_inline(job)) == {"a": 100}
    with pytest.raises(JobError, match="byte 204 has 1 fields"):
        dict(run_inline(Job(Csv(path), lambda at, row: [("a", 1)])))


def test_a_wrong_cut_ends_the_job_whatever_may_be_skipped(tmp_path, monkeypatch):
    cut_into(monkeypatch, 20)
    path = write(tmp_path, 'a,b\n1,5" pipe\n2,x\n3,"one\n4,two\n5,three"\n' * 5)
    job = Job(Csv(path), lambda at, row: [(at[1], 1)], max_skipped=0.9)
    with pytest.raises(DatasourceError, match=r"the quote at byte 7 .*stray_quotes=True") as caught:
        dict(run_inline(job))
    assert path in str(caught.value)
    assert len(list(Csv(path, stray_quotes=True))) == 19


@pytest.mark.parametrize("stray", [False, True])
@pytest.mark.parametrize("middle", ['"' + "x,\n" * 300 + '"', "y" * 900, '"' + "x,\n" * 300])
def test_a_row_over_the_limit_costs_bounded_memory_and_itself(stray, middle, tmp_path, monkeypatch):
    cut_into(monkeypatch, 50)
    monkeypatch.setattr(csv_rows, "MAX_ROW_BYTES", 100)
    end = "" if middle.count('"') == 1 else "\n" + "1,2\n" * 30
    path = write(tmp_path, "a,b\n" + "1,2\n" * 20 + "3," + middle + end)
    refs = list(Csv(path, stray_quotes=stray).refs())
    with pytest.raises(ContentNeeded):
        [list(ref.units()) for ref in refs]
    refs = [ref.with_content() for ref in refs]
    assert max(len(ref.content) for ref in refs) <= 150
    found = [item for ref in refs for item in ref.units()]
    (broken,) = (str(value.error) for _, value in found if isinstance(value, Unreadable))
    assert "the row" in broken
    assert len(found) == 21 + (30 if end else 0)


def test_rows_lost_behind_a_row_that_only_seems_endless_are_an_error(tmp_path, monkeypatch):
    cut_into(monkeypatch, 50)
    monkeypatch.setattr(csv_rows, "MAX_ROW_BYTES", 100)
    path = write(tmp_path, "a,b\n" + '1,5" pipe\n' + "1,2\n" * 500)
    with pytest.raises(DatasourceError, match="the quote at byte 7"):
        [ref.with_content() for ref in Csv(path).refs()]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delimiter": ""}, "one ASCII character"),
        ({"delimiter": "||"}, "one ASCII character"),
        ({"delimiter": "\n"}, "one ASCII character"),
        ({"delimiter": "\u00a7"}, "one ASCII character"),
        ({"quotechar": "''"}, "quotechar="),
        ({"quotechar": ","}, "must differ"),
        ({"columns": "ab"}, "a list of names"),
        ({"columns": []}, "a list of names"),
        ({"columns": [1, 2]}, "a list of names"),
        ({"columns": ["a", "a"]}, "twice"),
        ({"encoding": "utf-16"}, "Csv cannot cut utf-16"),
        ({"encoding": "iso2022_jp"}, "Csv cannot cut"),
        ({"encoding": "shift_jis", "delimiter": "|"}, "Csv cannot cut"),
        ({"encoding": "utf-9"}, "utf-9"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_before_the_job(options, says, tmp_path):
    path = write(tmp_path, "a,b\n")
    with pytest.raises(DatasourceError, match=says):
        Csv(path, **options).check()


def test_headers_that_cannot_be_used_are_errors(tmp_path):
    with pytest.raises(DatasourceError, match="names the column 'a' twice; pass columns"):
        list(Csv(write(tmp_path, "a,a\n1,2\n")))
    with pytest.raises(DatasourceError, match="the header, which begins at byte 0, has no end"):
        list(Csv(write(tmp_path, '"a,a\n1,2\n')))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8-sig", "koi8-r", "euc_jp", "cp866"])
def test_other_encodings(encoding, tmp_path, monkeypatch):
    cut_into(monkeypatch, 9)
    text = "name,n\n" + "".join(
        f'"\u0416\n",{i}\n' if encoding[0] in "ke" else f'"\u00e9\n",{i}\n' for i in range(9)
    )
    text = text if encoding != "cp866" else text.replace("\u00e9", "\u0416")
    path = write(tmp_path, text.encode(encoding))
    assert [int(row["n"]) for _, row in Csv(path, encoding=encoding)] == list(range(9))
    assert {row["name"] for _, row in Csv(path, encoding=encoding)} == {text[8:10]}


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_compressed_files_are_read_in_blocks(module, tmp_path, monkeypatch):
    cut_into(monkeypatch, 60)
    text = SALES + "\n" + "".join(f'"x\n{i}",\u00e4"b,{i}\n' for i in range(200)) + 'z,"y,1\n'
    plain_path = write(tmp_path, text)
    path = write(tmp_path, __import__(module).compress(text.encode()), "packed")
    expected = [(at, row) for (_, at), row in units(Csv(plain_path, stray_quotes=True))]
    for travels in (False, True):
        found = [(at, row) for (_, at), row in units(Csv(path), travels=travels)]
        assert found[:-1] == expected[:-1]
        assert isinstance(found[-1][1], Unreadable)
        assert found[-1][0] == expected[-1][0]


def test_sources_add_up_repeat_and_show_themselves(tmp_path):
    path = write(tmp_path, "a\n1\n")
    both = Csv(path) + Files(path)
    assert [value for _, value in both] == [{"a": "1"}, "a\n1\n"]
    assert both.is_safe_to_repeat()
    assert repr(Csv(path)) == f"Csv({path!r})"
    assert next(Csv(path).refs()).weight == os.path.getsize(path)


def test_a_folder_is_not_read_before_its_first_row_is_mapped(tmp_path, monkeypatch):
    cut_into(monkeypatch, 1000)
    paths = [write(tmp_path, "a,b\n" + '1,"2"\n' * 10_000, f"{i}.csv") for i in range(20)]
    looked_at = []
    find_cut = quotes.Quotes.find_cut
    monkeypatch.setattr(quotes.Quotes, "find_cut", lambda *args: looked_at.append(args[2]) or find_cut(*args))
    refs = Csv(tmp_path).refs()
    assert next(refs).path == paths[0]
    assert looked_at == [0]


@pytest.mark.parametrize("source", [Csv("-"), Bytes("-", record_bytes=4), Csv("/dev/fd/0")])
def test_a_stream_is_refused_before_the_job(source):
    with pytest.raises(DatasourceError, match="is a stream, which can be read only once"):
        source.check()
