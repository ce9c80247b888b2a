"""Input without line ends costs bounded memory, and what is too long is a failed item, named."""

import bz2
import gzip
import os
import pickle
import threading
import tracemalloc

import pytest

from mmgevent import Bytes, Csv, DatasourceError, Files, JsonLines, Lines
from mmgevent.job.inputs import binary, compressed_splits, lines, members, pieces, rows, streams
from mmgevent.job.inputs.refs import Unreadable
from tests.job.inputs.compressing import bgzf, bz2_block, bz2_stream

LIMIT = 1000
LONG = b"ab" * 3000
#: texts of lines; a line end may be missing only at the end
TEXTS = [
    b"1\n2\n" + LONG + b"\n3\n4\n",
    LONG + b"\n3\n",
    b"1\n" + LONG,
    LONG,
    b"1\n" + LONG + b"\n" + LONG + b"\n" + b"xy" * 499 + b"\n3",
    b"1\n" * 300 + LONG + b"\n" + b"2\n" * 300,
]


@pytest.fixture
def small(monkeypatch):
    """Make limits and splits small."""
    for module in (lines, pieces, compressed_splits):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", LIMIT)
    monkeypatch.setattr(lines, "LINES_SPLIT_BYTES", 100)
    monkeypatch.setattr(streams, "LINES_BYTES", 100)
    monkeypatch.setattr(streams, "READ_BYTES", 300)
    monkeypatch.setattr(members, "PIECE_BYTES", 300)
    for name in ("SPLIT_BYTES", "BZ2_SPLIT_BYTES"):
        monkeypatch.setattr(compressed_splits, name, 300)


def expected(text):
    """Return the lines of a text, None for those that are too long, and the offsets of these."""
    found, long, offset = [], [], 0
    for line in text.splitlines(keepends=True):
        is_long = len(line) > LIMIT
        found.append(None if is_long else line.rstrip(b"\n").decode())
        long += [offset] if is_long else []
        offset += len(line)
    return found, long


def read(ref):
    for key, value in ref.units():
        yield key, None if type(value) is Unreadable else value, value


def blocks_of_bz2(data):
    parts = [data[i : i + 40] for i in range(0, len(data), 40)]
    return bz2_stream([bz2_block(part) for part in parts])


@pytest.mark.parametrize("carried", [False, True], ids=["read", "carried"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzf, bz2.compress, blocks_of_bz2])
def test_a_line_that_is_too_long_is_a_failed_item_and_all_others_count(
    compress, text, carried, small, tmp_path
):
    if compress is bgzf:
        packed = bgzf(text, 200)
    else:
        packed = compress(text)
    path = tmp_path / "f"
    path.write_bytes(packed)
    refs = list(Lines(path).refs())
    if carried:
        refs = [pickle.loads(pickle.dumps(ref.with_content())) for ref in refs]
        path.unlink()
    found = [unit for ref in refs for unit in read(ref)]
    wanted, long = expected(text)
    assert [value for _, value, _ in found] == wanted
    broken = [(key, value) for key, shown, value in found if shown is None]
    for (name, _), value in broken:
        assert type(value.error) is DatasourceError
        assert f"{path}: the line at " in str(value.error)
        assert "has more than 1,000 bytes" in str(value.error)
        assert name == str(path)
    if compress is not blocks_of_bz2:
        assert [offset for (_, offset), _ in broken] == long


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_stream_goes_on_behind_a_line_that_is_too_long(compress, text, small):
    end, write = os.pipe()
    with open(write, "wb") as file:
        file.write(compress(text))
    path = f"/dev/fd/{end}"
    try:
        found = [unit for ref in Lines(path).refs() for unit in read(ref)]
    finally:
        os.close(end)
    wanted, long = expected(text)
    assert [value for _, value, _ in found] == wanted
    assert [key for key, value, _ in found if value is None] == [(path, offset) for offset in long]
    assert all(f"{path}: the line at byte " in str(v.error) for _, shown, v in found if shown is None)


def test_json_lines_pass_it_on(small, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b'{"a": 1}\n"' + LONG + b'"\n2\n')
    found = [unit for ref in JsonLines(path).refs() for unit in read(ref)]
    assert [value for _, value, _ in found] == [{"a": 1}, None, 2]
    assert "the line at byte 9 has more than" in str(found[1][2].error)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_memory_does_not_grow_with_a_line(compress, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "MAX_LINE_BYTES", 2 * 2**20)
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 2 * 2**20)
    path = tmp_path / "f"
    path.write_bytes(compress(bytes(40 * 2**20) + b"\nlast\n"))
    end, write = os.pipe()
    writer = threading.Thread(target=fill, args=(write, 40 * 2**20))
    writer.start()
    tracemalloc.start()
    try:
        [(ref, *_)] = [list(Lines(path).refs())]
        (_, value), last = ref.units()
        assert type(value) is Unreadable
        assert last[1] == "last"
        with pytest.raises(DatasourceError, match=r"f: the row at byte 0 .* has more than|the header"):
            list(Csv(path, header=False))
        long, last = (ref for ref in Lines(f"/dev/fd/{end}").refs())
        assert (long.long_line, last.content) == (0, b"last\n")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        os.close(end)
        writer.join()
    assert peak < 30 * 2**20


def fill(descriptor, n_bytes):
    with open(descriptor, "wb") as file:
        for _ in range(n_bytes // 2**20):
            file.write(b"x" * 2**20)
        file.write(b"\nlast\n")


@pytest.mark.parametrize("delimiter", [b"|", b"||", b"|+"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("carried", [False, True], ids=["read", "carried"])
def test_a_record_that_is_too_long_is_a_failed_item(carried, text, delimiter, tmp_path, monkeypatch):
    monkeypatch.setattr(binary, "BYTES_SPLIT_BYTES", 100)
    monkeypatch.setattr(binary, "SEEK_BYTES", 30)
    monkeypatch.setattr(binary, "MAX_RECORD_BYTES", LIMIT)
    path = tmp_path / "f"
    data = text.replace(b"\n", delimiter)
    path.write_bytes(data)
    refs = list(Bytes(path, delimiter=delimiter).refs())
    if carried:
        refs = [ref.with_content() for ref in refs]
    found = [unit for ref in refs for unit in read(ref)]
    records = data.split(delimiter)
    if not records[-1]:
        records.pop()
    at, wanted = 0, []
    for record in records:
        wanted.append(((str(path), at), None if len(record) > LIMIT else record))
        at += len(record) + len(delimiter)
    assert [(key, value) for key, value, _ in found] == wanted
    for (_, offset), shown, value in found:
        if shown is None:
            assert f"{path}: the record at byte {offset} has more than 1,000 bytes" in str(value.error)


def test_no_split_looks_for_records_behind_its_end(tmp_path, monkeypatch):
    """Else a large file without the delimiter would be read once for each split."""
    monkeypatch.setattr(binary, "BYTES_SPLIT_BYTES", 100)
    monkeypatch.setattr(binary, "SEEK_BYTES", 30)
    path = tmp_path / "f"
    path.write_bytes(b"x" * 20_000)
    first, second, *_ = Bytes(path, delimiter=b"|").refs()
    with second._open(at_driver=False) as window:
        window.reached = 0
        assert second._after_delimiter(window, second.start, second.end) is None
        assert window.reached <= second.end + 30
    assert len(list(first.units())) == 1


def test_a_file_without_line_ends_is_still_one_item_of_files(small, tmp_path):
    (tmp_path / "f").write_bytes(gzip.compress(LONG))
    assert [len(text) for _, text in Files(tmp_path / "f")] == [len(LONG)]
