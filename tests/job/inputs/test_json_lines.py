import gzip
import json
import math
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmgevent import DatasourceError, Job, JsonLines, Lines
from mmgevent.driver.runners.inline import run_inline
from mmgevent.job.inputs import lines
from mmgevent.job.inputs.refs import Unreadable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def write(tmp_path, data):
    path = tmp_path / "f.jsonl"
    path.write_bytes(data)
    return str(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    values=st.lists(VALUES, max_size=8),
    ascii_only=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n", "\n\n", " \n", "\n \t\n"]),
    split=st.integers(1, 50),
    is_ended=st.booleans(),
)
def test_values_come_back_once_with_their_offsets(
    values, ascii_only, ending, split, is_ended, tmp_path, monkeypatch
):
    monkeypatch.setattr(lines, "LINES_SPLIT_BYTES", split)
    texts = [json.dumps(value, ensure_ascii=ascii_only).encode() for value in values]
    data = ending.encode().join(texts) + (ending.encode() if is_ended and texts else b"")
    path = write(tmp_path, data)
    expected, offset = [], 0
    for text, value in zip(texts, values, strict=True):
        expected.append(((path, offset), value))
        offset += len(text) + len(ending)
    assert list(JsonLines(path)) == expected
    refs = [pickle.loads(pickle.dumps(ref.with_content())) for ref in JsonLines(path).refs()]
    assert [item for ref in refs for item in ref.items()] == expected


def failures(data, tmp_path):
    path = write(tmp_path, data)
    (ref,) = JsonLines(path).refs()
    found = list(ref.units())
    assert all(isinstance(value, Unreadable) for _, value in found)
    return [str(value.error) for _, value in found]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"a": 1', "the line ends before its value does"),
        (b"[1, 2", "the line ends before its value does"),
        (b'{"a": 1} {"b": 2}', "at its character 9 another value follows"),
        (b'{"a": "open}', "the string at its character 6 does not end"),
        (b"{'a': 1}", "at its character 1, \"'a': 1}\" cannot follow"),
        (b'{"a": tru}', "at its character 6"),
        (b"nothing", "at its character 0, 'nothing' cannot follow"),
        (b"[" * 200_000, "too deep"),
        (b"1" * 5000, "more digits"),
        (b'{"a": "\xff"}', "byte 7 is not utf-8"),
        (b'"a\tb"', "cannot follow"),
    ],
)
def test_a_line_that_is_no_json_names_path_offset_and_what_is_wrong(line, says, tmp_path):
    (text,) = failures(line + b"\n\n", tmp_path)
    assert says in text
    assert "f.jsonl: " in text
    assert len(text) < 500


def test_a_value_over_several_lines_is_none(tmp_path):
    first, second, third = failures(b'{\n"a": 1\n}\n', tmp_path)
    assert "byte 0 is not JSON: the line ends before its value does" in first
    assert "byte 2 is not JSON: at its character 3 another value follows" in second
    assert "byte 9 is not JSON" in third


def test_nan_is_accepted_as_json_dumps_writes_it_and_names_may_be_repeated(tmp_path):
    (_, one), (_, two) = JsonLines(write(tmp_path, b'[NaN, Infinity, -Infinity]\n{"a": 1, "a": 2}'))
    assert math.isnan(one[0])
    assert one[1:] == [math.inf, -math.inf]
    assert two == {"a": 2}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_ignored(encoding, tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbf{"a": "\xc3\xa4"}\n1\n')
    assert [value for _, value in JsonLines(path, encoding=encoding)] == [{"a": "\u00e4"}, 1]


def test_broken_lines_are_set_aside(tmp_path):
    path = write(tmp_path, b'{"n": 1}\n' * 30 + b"{broken\n" + b'{"n": 1}\n' * 30)
    job = Job(JsonLines(path), lambda at, value: [("n", value["n"])], lambda key, ns: sum(ns), max_skipped=1)
    assert dict(run_inline(job)) == {"n": 60}


def test_compressed_lines(tmp_path):
    path = write(tmp_path, gzip.compress(b'{"n": 1}\nbroken\n2'))
    found = [(at, value) for ref in JsonLines(path).refs() for (_, at), value in ref.units()]
    assert [found[0], found[2]] == [(0, {"n": 1}), (16, 2)]
    assert "the line at byte 9 of its content is not JSON" in str(found[1][1].error)


def test_sources_add_up_repeat_and_refuse(tmp_path):
    path = write(tmp_path, b"1\n")
    both = JsonLines(path) + Lines(path)
    assert [value for _, value in both] == [1, "1"]
    assert both.is_safe_to_repeat()
    assert repr(JsonLines(path)) == f"JsonLines({path!r})"
    with pytest.raises(DatasourceError, match="JsonLines cannot cut utf-16"):
        JsonLines(path, encoding="utf-16").check()
