import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmgevent import Bytes, DatasourceError, Job
from mmgevent.driver.runners.inline import run_inline
from mmgevent.job.inputs import binary
from mmgevent.job.inputs.refs import Unreadable

FIXTURES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
SOUP = st.text(alphabet="ab\n", max_size=50).map(str.encode)


def write(tmp_path, data):
    path = tmp_path / "f.bin"
    path.write_bytes(data)
    return str(path)


def travelled(source):
    for ref in source.refs():
        yield from pickle.loads(pickle.dumps(ref.with_content())).items()


def offsets(path, records, beyond):
    at = 0
    for record in records:
        yield (path, at), record
        at += len(record) + beyond


@FIXTURES
@given(
    data=SOUP,
    delimiter=st.text(alphabet="ab\n", min_size=1, max_size=4).map(str.encode),
    split=st.integers(1, 30),
    seek=st.integers(1, 9),
)
def test_delimited_records_are_those_of_split_wherever_files_are_cut(
    data, delimiter, split, seek, tmp_path, monkeypatch
):
    monkeypatch.setattr(binary, "BYTES_SPLIT_BYTES", split)
    monkeypatch.setattr(binary, "SEEK_BYTES", seek)
    path = write(tmp_path, data)
    records = data.split(delimiter)
    if not records[-1]:
        records.pop()
    expected = list(offsets(path, records, len(delimiter)))
    source = Bytes(path, delimiter=delimiter)
    assert list(source) == expected
    assert list(travelled(source)) == expected


@FIXTURES
@given(data=st.binary(max_size=60), record_bytes=st.integers(1, 9), split=st.integers(1, 30))
def test_records_of_one_size(data, record_bytes, split, tmp_path, monkeypatch):
    monkeypatch.setattr(binary, "BYTES_SPLIT_BYTES", split)
    path = write(tmp_path, data)
    source = Bytes(path, record_bytes=record_bytes)
    units = [unit for ref in source.refs() for unit in ref.units()]
    rest = len(data) % record_bytes
    if rest:
        (_, at), broken = units.pop()
        assert at == len(data) - rest
        text = str(broken.error)
        assert f"{path}: its size, {len(data)} bytes, is no multiple of record_bytes={record_bytes}" in text
        assert f"at byte {at}, has only {rest}" in text
    whole = data[: len(data) - rest]
    assert units == list(
        offsets(path, [whole[i : i + record_bytes] for i in range(0, len(whole), record_bytes)], 0)
    )


def test_a_last_record_that_is_too_short_can_be_set_aside(tmp_path):
    path = write(tmp_path, b"abcabcab")
    source = Bytes(path, record_bytes=3)
    job = Job(source, lambda at, record: [(record, 1)], lambda key, ones: sum(ones), max_skipped=1)
    assert dict(run_inline(job)) == {b"abc": 2}
    assert [type(value) for ref in source.refs() for _, value in ref.units()] == [bytes, bytes, Unreadable]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "either record_bytes=N or delimiter"),
        ({"record_bytes": 4, "delimiter": b"x"}, "either record_bytes=N or delimiter"),
        ({"record_bytes": 0}, "record_bytes=0: it is a number of bytes"),
        ({"record_bytes": True}, "record_bytes=True"),
        ({"record_bytes": "4"}, "record_bytes='4'"),
        ({"delimiter": b""}, "delimiter=b''"),
        ({"delimiter": "\n"}, "it is bytes"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_before_the_job(options, says, tmp_path):
    with pytest.raises(DatasourceError, match=says):
        Bytes(write(tmp_path, b"x"), **options).check()


def test_sources_add_up_repeat_and_show_themselves(tmp_path):
    path = write(tmp_path, b"a\0b\0")
    both = Bytes(path, delimiter=b"\0") + Bytes(path, record_bytes=4)
    assert [value for _, value in both] == [b"a", b"b", b"a\0b\0"]
    assert both.is_safe_to_repeat()
    assert repr(Bytes(path, record_bytes=4)) == f"Bytes({path!r})"
