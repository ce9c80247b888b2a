"""Standard input, pipes and lists of paths: read once, by the driver, and named."""

import bz2
import gzip
import os
import random
import socket
import subprocess
import sys
import threading

import pytest

from mmgevent.driver.feeding import Feeder
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import streams
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.lines import Lines
from mmgevent.job.inputs.sources import check_datasource, is_one_shot, is_safe_to_repeat
from mmgevent.job.job import Job

TEXT = "".join(f"line {i}\r\n" if i % 7 == 0 else f"line {i}\n" for i in range(3000)) + "\n\nlast"
EXPECTED = [f"line {i}" for i in range(3000)] + ["", "", "last"]


@pytest.fixture
def piped():
    """Return a function that gives a path of this process from which bytes can be read once."""
    ends, threads = [], []

    def pipe(data):
        read, write = os.pipe()
        ends.append(read)

        def fill():
            with open(write, "wb") as file:
                file.write(data)

        threads.append(threading.Thread(target=fill))
        threads[-1].start()
        return f"/dev/fd/{read}"

    yield pipe
    for end in ends:
        os.close(end)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lambda data: gzip.compress(data) + b"\0\0"]
)
def test_a_pipe_gives_the_lines_of_a_file(compress, piped, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LINES_BYTES", 5000)
    path = piped(compress(TEXT.encode()))
    (tmp_path / "f").write_bytes(TEXT.encode())
    refs = list(Lines(path).refs())
    found = [item for ref in refs for item in ref.units()]
    assert [line for _, line in found] == EXPECTED
    assert [place for place, _ in found] == [(path, place[1]) for place, _ in Lines(tmp_path / "f")]
    assert len(refs) > 1


def test_a_pipe_is_one_item_of_files(piped):
    path = piped(gzip.compress(b"content\r\n"))
    assert list(Files(path)) == [(path, "content\n")]
    path = piped(gzip.compress(b"content"))
    [(_, data)] = Files(path, binary=True)
    assert gzip.decompress(data) == b"content"
    assert next(iter(Files(piped(b""))))[1] == ""


def test_a_fifo_is_read_when_its_writer_comes(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    source = Lines(path)
    check_datasource(source)  # does not wait
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_text("a\nb\n"))
    writer.start()
    assert list(source) == [((path, 0), "a"), ((path, 2), "b")]
    writer.join()
    assert is_one_shot(source)
    with pytest.raises(DatasourceError, match="no input files"):  # globs and folders leave it out
        check_datasource(Lines(tmp_path))


def test_what_can_be_read_once_is_read_once(piped):
    path = piped(b"a\n")
    with pytest.raises(DatasourceError, match=f"{path} is named twice, and can be read only once"):
        check_datasource(Lines(path) + Files(path))
    source = Lines(path)
    assert is_one_shot(source)
    assert not is_safe_to_repeat(source)
    assert len(list(source)) == 1
    with pytest.raises(DatasourceError, match=f"{path} was read before, and can be read only once; save it"):
        check_datasource(Lines(path))
    with pytest.raises(DatasourceError, match="was read before"):
        list(Files(path).refs())


def test_a_job_that_is_submitted_again_says_what_was_used_up(piped):
    job = Job(Lines(piped(b"a\n")), lambda place, line: [])
    job.claim_datasource()
    assert len(list(job.datasource)) == 1
    with pytest.raises(DatasourceError, match="was read before"):
        job.check()


def test_damaged_input_is_named(piped):
    path = piped(gzip.compress(TEXT.encode())[:-9])
    with pytest.raises(DatasourceError, match=f"{path}: its gzip data ends at byte .*cut off"):
        list(Lines(path).refs())
    path = piped(b"text")
    with pytest.raises(DatasourceError, match=f"{path} is not gzip"):
        list(Lines(path, compression="gzip").refs())


def test_sockets_and_devices_are_no_files(tmp_path):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        with pytest.raises(DatasourceError, match="s is not a regular file"):
            list(Files(tmp_path / "s").refs())
    with pytest.raises(DatasourceError, match="/dev/zero is not a regular file"):
        list(Files("/dev/zero").refs())


def test_what_was_read_is_not_kept_in_memory(piped, monkeypatch):
    monkeypatch.setattr(streams, "LINES_BYTES", 1000)
    feeder = Feeder(Job(Lines(piped(TEXT.encode()))))
    batches = []
    while (batch := feeder.next_batch(speed())) is not None:
        batches.append(batch[1])
    assert not feeder._refs
    feeder.restart()
    again = []
    while (batch := feeder.next_batch(speed())) is not None:
        again.append(batch[1])
    assert [(b.data, b.has_refs) for b in again] == [(b.data, True) for b in batches]
    place = (1, 1)
    [(_, (key, line))] = feeder.read_again([place])
    assert (key[1], line) == (8, "line 1")
    feeder.close()


def speed():
    from mmgevent.driver.batching import Speed

    return Speed()


PROGRAM = """
import sys
from mmgevent import Files, Lines
from mmgevent.errors import MmgeventError
try:
    for item in eval(sys.argv[1]):
        print(item)
except MmgeventError as error:
    print(error)
"""


def read(expression, stdin, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, expression],
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


class TestStandardInput:
    def test_it_is_called_minus(self, tmp_path):
        (tmp_path / "f").write_text("a\nb\n")
        with open(tmp_path / "f") as file:
            assert read('Lines("-")', file).stdout == "(('-', 0), 'a')\n(('-', 2), 'b')\n"
        with open(tmp_path / "f") as file:
            file.seek(2)
            assert read('Lines("/dev/stdin")', file).stdout == "(('/dev/stdin', 0), 'b')\n"
        with open(tmp_path / "f") as file:
            assert read('Files("-")', file).stdout == "('-', 'a\\nb\\n')\n"

    def test_a_closed_one_is_named(self):
        done = read('Lines("-")', None, preexec_fn=lambda: os.close(0))
        assert done.stdout.startswith("standard input is closed; name files")

    def test_a_socket_and_one_that_does_not_wait_are_read(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, 'Lines("-")'], stdin=theirs, stdout=subprocess.PIPE, text=True
            )
            ours.sendall(b"a\n")
            ours.sendall(b"b")
            ours.shutdown(socket.SHUT_WR)
            out, _ = process.communicate(timeout=60)
        assert out == "(('-', 0), 'a')\n(('-', 2), 'b')\n"

    def test_a_terminal_is_told_how_to_end(self):
        ours, theirs = os.openpty()
        try:
            os.write(ours, b"typed\n\x04")
            done = read('Lines("-")', theirs)
        finally:
            os.close(ours)
            os.close(theirs)
        assert done.stdout == "(('-', 0), 'typed')\n"
        assert "reading standard input; end with Ctrl-D" in done.stderr


class TestLists:
    def test_paths_are_listed_one_a_line(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("a", "b c", "[x]", "-"):
            (tmp_path / name).write_text(f"{name}\n")
        (tmp_path / "names").write_text("a\n\n  \nb c\r\n[x]\n-")
        source = Lines.listed("names", encoding="ascii")
        assert [text for _, text in source] == ["a", "b c", "[x]", "-"]
        assert [path for path, _ in Files.listed(tmp_path / "names")] == ["a", "b c", "[x]", "./-"]
        assert repr(source) == "Lines.listed('names')"
        assert is_safe_to_repeat(source)

    def test_nul_is_recognised(self, tmp_path, monkeypatch, piped):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a\nb").write_text("text")
        assert list(Files.listed(piped(b"a\nb\0"))) == [("a\nb", "text")]

    def test_a_list_that_can_be_read_once_serves_all_walks(self, tmp_path, piped):
        (tmp_path / "a").write_text("text")
        source = Files.listed(piped(os.fsencode(tmp_path / "a")))
        check_datasource(source)
        assert len(list(source)) == len(list(source)) == 1

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ("a\n\nmissing\n", "names, line 3: cannot read missing: No such file.*looked in"),
            ("a\0missing\0", "names, name 2: cannot read missing"),
            ("a\nfolder", "names, line 2: folder is a folder; list the files in it"),
            ("\n\n", "no input files: .*names lists none"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, names, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a").touch()
        (tmp_path / "folder").mkdir()
        (tmp_path / "names").write_text(names)
        with pytest.raises(DatasourceError, match=message):
            check_datasource(Files.listed("names"))

    def test_a_stream_in_a_list_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "names").write_text(f"{tmp_path / 'pipe'}\n")
        for source in (Lines, Files):
            with pytest.raises(DatasourceError, match=r"names, line 1: .*pipe is a stream"):
                check_datasource(source.listed(tmp_path / "names"))

    def test_a_list_that_is_missing_is_named(self):
        with pytest.raises(DatasourceError, match="cannot read the list nowhere: No such file"):
            check_datasource(Lines.listed("nowhere"))


def test_memory_is_bounded_whatever_comes(piped):
    import tracemalloc

    path = piped(random.Random(1).randbytes(1000).hex().encode() + b"\n" + (b"x" * 99 + b"\n") * 400_000)
    tracemalloc.start()
    n_lines = sum(ref.content.count(b"\n") for ref in Lines(path).refs())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_lines == 400_001
    assert peak < 12 * 2**20
