"""Remote files: what every source reads of them, and what is said if it cannot."""

import bz2
import gzip
import logging
import socket
import subprocess
import sys
import threading
import zipfile

import pytest

from mmgevent import Bytes, Csv, Files, JsonLines, Lines
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import binary, lines, rows
from mmgevent.job.inputs.refs import ContentNeeded
from mmgevent.job.remote.objects import version_of
from mmgevent.job.remote.urls import without_password
from mmgevent.job.remote.web import open_stream
from tests.job.remote.web_server import running_web_server

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
import_web = pytest.importorskip("fsspec.implementations.http")

LINES = b"".join(b"line %d of many\n" % i for i in range(9_000))
ROWS = b"id,name\n" + b"".join(b'%d,"a\nb %d"\n' % (i, i) for i in range(5_000))
JSON = b"".join(b'{"n": %d}\n' % i for i in range(6_000))

#: More than sockets hold, bytes, and a limit of a library, seconds.
LONG_BYTES, SHORT_S = 32 * 1024**2, 0.3


@pytest.fixture(scope="module")
def web():
    with running_web_server() as server:
        server.files = {
            "a.txt": LINES,
            "a.bz2": bz2.compress(LINES),
            "a.txt.gz": gzip.compress(LINES),
            "rows.csv": ROWS,
            "n.jsonl": JSON,
            "empty.txt": b"",
        }
        yield server


@pytest.fixture(autouse=True)
def _small_splits(monkeypatch):
    monkeypatch.setattr(lines, "LINES_SPLIT_BYTES", 20_000)
    monkeypatch.setattr(rows, "CSV_SPLIT_BYTES", 20_000)
    monkeypatch.setattr(binary, "BYTES_SPLIT_BYTES", 20_000)


def local(server, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(server.files[name])
    return str(path)


def values(source):
    source.check()
    return [(key[1:] if isinstance(key, tuple) else (), value) for key, value in source]


SOURCES = {
    "files": (Files, {}, "a.txt"),
    "binary": (Files, {"binary": True}, "a.bz2"),
    "lines": (Lines, {}, "a.txt"),
    "gzip": (Lines, {}, "a.txt.gz"),
    "bz2": (Lines, {}, "a.bz2"),
    "empty": (Lines, {}, "empty.txt"),
    "csv": (Csv, {}, "rows.csv"),
    "json": (JsonLines, {}, "n.jsonl"),
    "records": (Bytes, {"record_bytes": 7}, "n.jsonl"),
    "delimiter": (Bytes, {"delimiter": b"\n"}, "a.txt"),
}


@pytest.mark.parametrize("kind", ["ranges", "plain", "chunked"])
@pytest.mark.parametrize("case", SOURCES)
def test_a_web_object_gives_what_the_file_gives(web, tmp_path, case, kind):
    source, options, name = SOURCES[case]
    if case == "records":
        web.files[name] = JSON[: len(JSON) // 7 * 7]
    expected = values(source(local(web, tmp_path, name), **options))
    remote = source(f"{web.url}/{kind}/{name}", **options)
    assert values(remote) == expected
    refs = list(remote.refs())
    assert [item for ref in refs for item in ref.with_content().items()] == list(remote), (
        "the driver sends the same"
    )
    if kind == "ranges" and case in ("lines", "csv", "json", "records", "delimiter"):
        assert len(refs) > 2
    else:
        assert len(refs) == 1 or kind == "ranges"


def test_executors_read_ranges_of_one_object_and_no_more(web):
    source = Lines(f"{web.url}/ranges/a.txt")
    refs = list(source.refs())
    web.asked.clear()
    list(refs[2].items())
    [(path, asked)] = web.asked
    assert path.endswith("a.txt")
    assert asked.startswith("bytes=40000-")


def test_bytes_from_elsewhere_are_not_taken(web):
    web.files["elsewhere.txt"] = LINES
    first, second, *_ = Lines(f"{web.url}/ranges/elsewhere.txt").refs()
    try:
        assert next(iter(first.items()))[1] == "line 0 of many"
        with pytest.raises(DatasourceError, match="gave bytes from 0, and was asked for those from"):
            second.with_content()
    finally:
        del web.files["elsewhere.txt"]


def test_an_object_that_changes_is_another_one(web):
    web.files["changing.txt"] = LINES
    first, second, *_ = Lines(f"{web.url}/ranges/changing.txt").refs()
    whole = next(Lines(f"{web.url}/plain/changing.txt").refs())
    assert len(list(first.items())) > 100
    web.files["changing.txt"] = LINES.replace(b"many", b"MANY")
    for ref in (second, whole):
        with pytest.raises(ContentNeeded):
            list(ref.items())
        with pytest.raises(DatasourceError, match=r"changing\.txt changed or went away"):
            ref.with_content()


def test_globs_and_folders_of_a_web_server(web):
    assert {value for _, value in values(Files(f"{web.url}/ranges/*.csv"))} == {ROWS.decode()}
    paths = [key for key, _ in Files(f"{web.url}/ranges/", binary=True)]
    assert paths == sorted(f"{web.url}/ranges/{name}" for name in web.files)


def test_members_of_archives_and_chains(web, tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.txt", LINES)
        archive.writestr("in/b.txt", b"one\ntwo\n")
        archive.writestr("in/.hidden", b"no")
        archive.writestr(".hidden.csv", ROWS)
        archive.writestr("c.csv", ROWS)
    here = str(tmp_path / "all.zip")
    web.files["all.zip"] = (tmp_path / "all.zip").read_bytes()
    for place in (here, f"{web.url}/ranges/all.zip"):
        assert [line for _, line in values(Lines(f"zip://in/a.txt::{place}"))] == LINES.decode().splitlines()
        assert [key for key, _ in Files(f"zip://in::{place}")] == [
            f"zip://in/a.txt::{place}",
            f"zip://in/b.txt::{place}",
        ]
        assert [key for key, _ in Files(f"zip://*.csv::{place}")] == [f"zip://c.csv::{place}"]
        assert len(values(Files(f"zip://::{place}"))) == 3
        assert len(values(Files(f"zip://.*.csv::{place}"))) == 1
    web.files.pop("all.zip")


def test_an_archive_that_is_replaced_is_opened_anew(tmp_path):
    path = tmp_path / "all.zip"
    names = tmp_path / "names.txt"
    names.write_text(f"zip://a.csv::{path}\n")
    for text in ("old\n", "new\nlines\n"):
        with zipfile.ZipFile(tmp_path / "next.zip", "w") as archive:
            archive.writestr("a.csv", text)
        (tmp_path / "next.zip").replace(path)
        for source in (Lines(f"zip://*.csv::{path}"), Lines(f"zip://a.csv::{path}"), Lines.listed(names)):
            assert [line for _, line in values(source)] == text.split()


def test_a_stream_may_be_read_for_longer_than_the_library_waits(web, monkeypatch):
    import aiohttp.client

    monkeypatch.setattr(aiohttp.client, "DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=SHORT_S))
    web.files["long.txt"] = b"x" * LONG_BYTES
    system = fsspec.filesystem("http", skip_instance_cache=True)
    with open_stream(system, f"{web.url}/plain/long.txt") as stream:
        n_bytes = len(stream.read(1))
        threading.Event().wait(2 * SHORT_S)  # as a slow function of the user's does
        while part := stream.read(1024**2):
            n_bytes += len(part)
    del web.files["long.txt"]
    assert n_bytes == LONG_BYTES


def test_files_in_memory_are_read_and_listed(tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe({"/box/a.txt": LINES, "/box/b/c.txt": b"x\n", "/box/.d": b"hidden"})
    assert [key for key, _ in Files("memory://box")] == ["memory://box/a.txt", "memory://box/b/c.txt"]
    assert len(values(Lines("memory://box/**/*.txt"))) == 9_001
    names = tmp_path / "names.txt"
    names.write_text("memory://box/a.txt\n\nmemory://box/b/c.txt\n")
    assert len(values(Lines.listed(names))) == 9_001
    system.pipe("/box/list", names.read_bytes())
    assert len(values(Lines.listed("memory://box/list"))) == 9_001
    names.write_text("memory://box/a.txt\n\nmemory://box/lost\n")
    with pytest.raises(
        DatasourceError, match=r"names\.txt, line 3: cannot read memory://box/lost: it does not"
    ):
        Lines.listed(names).check()
    system.rm("/box", recursive=True)


def refused(source):
    with pytest.raises(DatasourceError) as caught:
        source.check()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_cannot_be_read_is_one_sentence_before_the_job(web):
    nobody = socket.create_server(("127.0.0.1", 0))
    port = nobody.getsockname()[1]
    nobody.close()
    for path, why in {
        f"{web.url}/ranges/lost.txt": "it does not exist",
        f"{web.url}/ranges/*.lost": "nothing is in or matches",
        f"{web.url}/forbidden/a.txt": "no access",
        f"http://127.0.0.1:{port}/a.txt": "cannot read",
        "memory://nothing/here": "it does not exist",
        "htp://host/file": "fsspec has no protocol 'htp'; did you mean http://?",
        "zip://a.txt::/no/such.zip": "it does not exist",
    }.items():
        text = refused(Lines(path))
        assert why in text
        assert path in text


def test_what_distinguishes_versions_is_the_same_in_lists_and_looks():
    assert version_of({"etag": '"0x8D"', "modified": 1}) == version_of({"etag": "0x8D"}) != ""
    for name in ("modify", "modificationTime"):  # of ftp and webhdfs
        assert version_of({"size": 1, name: 1}) != version_of({"size": 1, name: 2})


@pytest.mark.parametrize(
    "url", ["ftp://user:p@ss@host/f", "sftp://me@corp:p@s:s@host", "zip://a::ftp://u:p@ss@host/b@c"]
)
def test_no_part_of_a_password_is_shown(url):
    assert "***@host" in without_password(f"cannot read {url}")
    assert "ss" not in without_password(f"cannot read {url}").replace("/b@c", "")
    assert "ss" not in refused(Lines(url)).partition(" has a password")[0]


def test_a_password_in_a_path_is_refused_and_not_shown():
    text = refused(Lines("sftp://me:hunter2@host/file"))
    assert "hunter2" not in text
    assert "FSSPEC_SFTP_PASSWORD" in text


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    from mmgevent.job.remote import objects, windows

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.txt"
        monkeypatch.setattr(objects, "LISTING_S", 0.2)
        monkeypatch.setattr("mmgevent.job.remote.deadlines.ANSWER_S", 0.2)
        with pytest.raises(DatasourceError, match=r"cannot read http://.*: no answer in 0\.2 s"):
            list(Lines(url))
        monkeypatch.setattr(windows, "ANSWER_S", 0.2)
        window = windows.RemoteWindow(url, 1000, 0)
        with pytest.raises(OSError, match=r"at byte 500: no answer in 0\.2 s"):
            window.read(500, 10)


def test_large_files_without_ranges_are_said_once(web, caplog, monkeypatch):
    monkeypatch.setattr("mmgevent.job.inputs.remote_files.LARGE_BYTES", 1000)
    with caplog.at_level(logging.WARNING):
        assert len(list(Lines(f"{web.url}/plain/a.txt", f"{web.url}/chunked/n.jsonl").refs())) == 2
    [record] = caplog.records
    assert "one executor reads each of them (2)" in record.getMessage()


def test_local_files_never_touch_fsspec(tmp_path):
    (tmp_path / "a.txt").write_bytes(LINES)
    program = (
        "import sys; from mmgevent import Lines, Files, Job, run\n"
        "def fn(key, value): yield 'n', ('fsspec' in sys.modules)\n"
        "if __name__ == '__main__':\n"
        f"    job = Job(Lines({str(tmp_path / 'a.txt')!r}) + Files({str(tmp_path)!r}), fn, lambda k, v: any(v))\n"
        "    assert run(job, procs=1) == {'n': False}\n"
        "    ours = [m for m in sys.modules if m.startswith('mmgevent.job.remote.')]\n"
        "    assert 'fsspec' not in sys.modules and ours == ['mmgevent.job.remote.urls'], ours\n"
    )
    (tmp_path / "program.py").write_text(program)
    subprocess.run([sys.executable, tmp_path / "program.py"], check=True, timeout=60)
