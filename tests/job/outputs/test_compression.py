"""Compressed results: every format with every compression, equal bytes for equal results, damage is named."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys

import pytest

from mmgevent.errors import DatasourceError, OutputError
from mmgevent.job.outputs.compression import open_compressor
from mmgevent.job.outputs.formats import COMPRESSIBLE, load
from mmgevent.job.outputs.sinks import open_sink

READERS = {"gz": gzip.decompress, "bz2": bz2.decompress, "xz": lzma.decompress}

#: Records of several buffers' size.
RECORDS = [(f"key {i}", i * "x") for i in range(1500)]


def reader_of(compression):
    if compression in READERS:
        return READERS[compression]
    try:
        from compression import zstd
    except ImportError:
        zstd = pytest.importorskip("backports.zstd", reason="needs Python 3.14 or backports.zstd")
    return zstd.decompress


def write(path, records=RECORDS, format=None):
    with open_sink(path, format) as sink:
        for key, value in records:
            sink.write(key, value)
    return path.read_bytes()


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("format", COMPRESSIBLE)
def test_the_suffix_compresses_every_format(format, compression, tmp_path):
    decompress = reader_of(compression)
    plain = write(tmp_path / f"out.{format}")
    data = write(tmp_path / f"out.{format}.{compression}")
    assert len(data) < len(plain)
    assert decompress(data) == plain
    assert write(tmp_path / f"other.{format}.{compression.upper()}") == data
    assert write(tmp_path / "bare", format=f"{format}.{compression}") == data
    if format == "pickle":
        assert list(load(tmp_path / f"out.pickle.{compression}")) == RECORDS


def test_equal_results_are_equal_bytes_whenever_and_wherever_they_are_written(tmp_path):
    program = (
        "import sys; from mmgevent.job.outputs.sinks import open_sink\n"
        "with open_sink(sys.argv[1]) as sink: sink.write('a', 1)"
    )
    data = []
    for name in ("a.tsv.gz", "b.tsv.gz"):
        subprocess.run([sys.executable, "-c", program, tmp_path / name], check=True)
        data.append((tmp_path / name).read_bytes())
    assert data[0] == data[1]
    assert data[0][4:8] == bytes(4)  # RFC 1952: MTIME
    assert not data[0][3]  # no name, no comment


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_no_results_are_an_empty_file_of_that_kind(compression, tmp_path):
    decompress = reader_of(compression)
    data = write(tmp_path / f"out.pkl.{compression}", ())
    assert data
    assert decompress(data) == b""
    assert list(load(tmp_path / f"out.pkl.{compression}")) == []


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_damage_is_named(compression, tmp_path):
    reader_of(compression)
    path = tmp_path / f"out.pkl.{compression}"
    data = write(path)
    for damaged in (data[: len(data) // 2], b"no such data at all", data[:-9] + bytes(9)):
        path.write_bytes(damaged)
        with pytest.raises(DatasourceError, match=rf"out\.pkl\.{compression} is damaged"):
            list(load(path))


def test_a_file_appears_only_when_all_is_compressed(tmp_path):
    path = tmp_path / "out.tsv.gz"
    with pytest.raises(OutputError, match="record of 'bad'"):
        write(path, [*RECORDS, ("bad", lambda: 1)], "pickle")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_an_output_error():
    with (
        pytest.raises(OutputError, match="/dev/full: No space left"),
        open_sink("/dev/full", "tsv.gz") as sink,
    ):
        sink.write(1, 2)


def test_two_compressions_are_one_too_many(tmp_path):
    for path, format in (("a.tsv.gz", "tsv.xz"), ("a.gz", "jsonl.bz2")):
        with pytest.raises(OutputError, match="is not what the suffix of"):
            open_sink(tmp_path / path, format)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["tsv.zip", "gz", ".gz", "tsv.gz.gz", "xml.gz"])
def test_an_unknown_compression_is_refused(format):
    with pytest.raises(
        OutputError, match=r"there are tsv, jsonl, csv, pickle, and each with \.gz, \.bz2, \.xz, \.zst"
    ):
        open_sink(None, format, io.BytesIO())


def test_compressed_results_do_not_go_to_a_terminal():
    master, slave = os.openpty()
    try:
        with os.fdopen(slave, "w") as terminal, pytest.raises(OutputError, match="not for terminals"):
            open_sink(None, "tsv.gz", terminal)
    finally:
        os.close(master)


@pytest.mark.parametrize(
    ("suffix", "names", "says"),
    [
        ("zst", ["compression.zstd", "backports.zstd"], r"pip install 'mmgevent\[zstd\]'"),
        ("bz2", ["bz2"], "the module bz2;"),
        ("xz", ["lzma"], "the module lzma;"),
    ],
)
def test_a_python_without_a_module_says_what_to_do(suffix, names, says, monkeypatch, tmp_path):
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OutputError, match=says):
        open_compressor(suffix)
    with pytest.raises(OutputError, match=says):
        open_sink(tmp_path / f"out.tsv.{suffix}")
    assert os.listdir(tmp_path) == []
    (tmp_path / f"in.pkl.{suffix}").write_bytes(b"")
    with pytest.raises(DatasourceError, match=rf"cannot read .*in\.pkl\.{suffix}: .*{says}"):
        list(load(tmp_path / f"in.pkl.{suffix}"))
