import csv
import io
import os
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmgevent import Csv, Files, Job, JobError
from mmgevent.driver.runners.inline import run_inline
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import quotes, tables
from mmgevent.job.inputs.quotes import Quotes
from mmgevent.job.inputs.refs import ContentNeeded, Unreadable

#: Texts in which everything that CSV gives a meaning to is frequent, and little makes sense.
SOUP = st.text(alphabet='",\r\na\u00e9 ', max_size=60)
FIELD = st.text(alphabet='",;\r\nab\u00e9 \u2028\x85', max_size=8)
ROWS = st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=12)
FIXTURES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300
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
    monkeypatch.setattr(tables, "CSV_SPLIT_BYTES", split_bytes)


@FIXTURES
@given(rows=ROWS, ending=st.sampled_from(["\n", "\r\n", "\r"]), quoting=st.sampled_from([0, 1]), split=st.integers(1, 40))
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
