"""Standard input, pipes and lists of paths: read once, by the driver, and named."""

import bz2
import gzip
import lzma
import os
import random
import socket
import subprocess
import sys
import threading

import pytest

from mmgevent.driver.input.feeding import Feeder
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import compressed, streams
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.lines import Lines
from mmgevent.job.inputs.sources import check_datasource, is_one_shot, is_safe_to_repeat
from mmgevent.job.job import Job
from tests.descriptors import count_same

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
    from mmgevent.driver.input.batching import Speed

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


class TestDescriptors:
    def test_a_stream_that_is_refused_is_closed(self):
        read, write = os.pipe()
        os.write(write, b"text")
        os.close(write)
        try:
            with pytest.raises(DatasourceError, match="is not gzip"):
                next(Lines(f"/dev/fd/{read}", compression="gzip").refs())
            assert count_same(read) == 1
        finally:
            os.close(read)

    def test_a_stream_that_cannot_be_read_is_closed(self, tmp_path):
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(DatasourceError, match="cannot read /dev/fd/"):
                streams.InputStream(f"/dev/fd/{folder}")
            assert count_same(folder) == 1
        finally:
            os.close(folder)

    @pytest.fixture
    def numbered(self, monkeypatch):
        """Let every stream have one inode number, as another pipe has that is made when one is gone."""
        monkeypatch.setattr(streams, "_identity_of", lambda path: (1, 2))
        monkeypatch.setattr(streams, "_read_before", {})

    def test_another_pipe_may_have_the_number_of_one_that_was_read(self, numbered, piped):
        first, second = piped(b"a\n"), piped(b"b\n")
        assert [line for _, line in Lines(first)] == ["a"]
        for _ in range(2):
            check_datasource(Lines(second))
        assert [line for _, line in Lines(second)] == ["b"]
        for path in (first, second):
            with pytest.raises(DatasourceError, match="was read before"):
                check_datasource(Lines(path))
            with pytest.raises(DatasourceError, match="was read before"):
                list(Lines(path))

    def test_what_was_left_before_its_end_is_refused(self, piped, monkeypatch):
        monkeypatch.setattr(streams, "LINES_BYTES", 1)
        monkeypatch.setattr(streams, "READ_BYTES", 100)
        path = piped(b"a\n" * 1000)
        refs = Lines(path).refs()
        next(refs)
        for _ in range(2):  # while it is read, and when it was left
            with pytest.raises(DatasourceError, match="was read before"):
                check_datasource(Lines(path))
            refs.close()
        os.read(int(path.rpartition("/")[2]), 10_000)

    def test_an_open_file_is_read_again_once_it_was_moved(self, tmp_path):
        (tmp_path / "f").write_text("a\nb\n")
        with open(tmp_path / "f", "rb") as file:
            path = f"/dev/fd/{file.fileno()}"
            assert [line for _, line in Lines(path)] == ["a", "b"]
            with pytest.raises(DatasourceError, match="was read before"):
                check_datasource(Lines(path))
            os.lseek(file.fileno(), 2, os.SEEK_SET)
            check_datasource(Lines(path))
            assert [line for _, line in Lines(path)] == ["b"]
            with open(tmp_path / "f", "rb") as another:
                assert [line for _, line in Lines(f"/dev/fd/{another.fileno()}")] == ["a", "b"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_reader_waits_for_as_many_bytes_as_show_what_they_are(compress):
    data = compress(b"BZh text\n")
    for n_bytes in range(1, len(data)):
        kinds = {compressed.find_kind(data[:n]) for n in range(n_bytes, len(data) + 1)}
        assert compressed.is_undecided(data[:n_bytes]) or len(kinds) == 1
    assert not compressed.is_undecided(b"1\n")
    assert not compressed.is_undecided(data[:10])


def test_lines_do_not_wait_for_the_next_ones():
    """As with `tail -f`: whoever reads a burst of lines must not wait for the next burst."""
    read, write = os.pipe()
    given = []
    reader = threading.Thread(target=lambda: given.append(feeder.next_batch(speed())), daemon=True)
    try:
        feeder = Feeder(Job(Lines(f"/dev/fd/{read}")))
        os.write(write, b"a\nb\nthe next one is not who")
        reader.start()
        reader.join(60)
        assert [batch.items for _, batch in given] == [1]
        os.write(write, b"le\n")
        os.close(write)
        write = None
        number, batch = feeder.next_batch(speed())
        assert (number, batch.items) == (2, 1)
        assert feeder.next_batch(speed()) is None
        feeder.close()
    finally:
        if write is not None:
            os.close(write)  # ends a reader that waits
        reader.join()
        os.close(read)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_text_in_another_encoding_is_named_as_such_in_a_compressed_stream(compress, piped):
    path = piped(compress(b"a\n\xff\n"))
    with pytest.raises(DatasourceError, match=rf"{path}: byte 2 is not utf-8 .*pass the right encoding="):
        list(Lines(path))
    path = piped(compress(b"a\n\xff\n"))
    with pytest.raises(DatasourceError, match=r"it is \w+; leave out compression=None"):
        list(Lines(path, compression=None))
