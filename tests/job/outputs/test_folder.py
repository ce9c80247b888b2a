"""Folders of parts: an output that is not complete never looks complete, whatever ends its writer."""

import contextlib
import errno
import fcntl
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mmgevent import Job
from mmgevent.errors import OutputError
from mmgevent.job.outputs import destinations, part_list, units
from mmgevent.job.outputs.opening import open_output
from mmgevent.job.outputs.order import choose_order, put_in_order
from mmgevent.reducers import max_value
from tests.effort import share_of
from tests.file_sizes import file_size_limit

#: Writes so many records into parts of a few records each, and prints once it has begun.
WRITER = """
import sys
from mmgevent.job.outputs.opening import open_output
with open_output(sys.argv[1], overwrite=True, part_bytes=100) as sink:
    print("begins", flush=True)
    for i in range(int(sys.argv[2])):
        sink.write(i, sys.argv[3])
"""

RECORDS = 400


def write(path, records, **options):
    with open_output(f"{path}/", **options) as sink:
        for key, value in records:
            sink.write(key, value)


def read(path):
    """Return the lines of all parts, in the order of their names."""
    names = sorted(name for name in os.listdir(path) if name.startswith("part-"))
    return "".join((path / name).read_text() for name in names).splitlines()


def check_complete(path):
    """Check that `_SUCCESS` says what is there; return what it says."""
    told = json.loads((path / "_SUCCESS").read_text())
    parts = {part["name"]: part["bytes"] for part in told["parts"]}
    there = {name: os.path.getsize(path / name) for name in os.listdir(path) if name.startswith("part-")}
    assert there == parts
    return told


def test_parts_are_bounded_and_success_says_what_is_there(tmp_path):
    path = tmp_path / "out"
    records = [(i, "x" * 10) for i in range(100)]
    write(path, records, part_bytes=300, about={"job": "mine"})
    assert read(path) == [f"{key}\t{value}" for key, value in records]
    told = check_complete(path)
    assert told["records"] == sum(part["records"] for part in told["parts"]) == 100
    assert told["format"] == "tsv"
    assert told["job"] == "mine"
    assert len(told["parts"]) == 5
    assert max(part["bytes"] for part in told["parts"]) <= 300
    assert sorted(os.listdir(path)) == ["_SUCCESS", *(f"part-{i:05}.tsv" for i in range(5))]


def test_parts_have_formats_and_compressions(tmp_path):
    write(tmp_path / "out", [("a", 1), ("b", 2)], format="csv.gz", columns="k,v", part_bytes=1)
    assert sorted(os.listdir(tmp_path / "out")) == ["_SUCCESS", "part-00000.csv.gz", "part-00001.csv.gz"]
    assert gzip.decompress((tmp_path / "out" / "part-00001.csv.gz").read_bytes()) == b"k,v\nb,2\n"
    check_complete(tmp_path / "out")


def test_no_results_are_one_empty_part(tmp_path):
    write(tmp_path / "out", [])
    assert check_complete(tmp_path / "out")["parts"] == [{"name": "part-00000.tsv", "records": 0, "bytes": 0}]


@pytest.mark.parametrize(
    "name", ["_SUCCESS", "part-00000.tsv", "part-00007.jsonl.gz", "notes.txt", ".hidden"]
)
def test_a_folder_that_is_not_empty_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_text("before")
    with pytest.raises(OutputError, match=rf"the folder is not empty \('{name}'\); .*--overwrite"):
        open_output(f"{tmp_path}/")
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "before"


def test_overwriting_removes_what_is_ours_and_nothing_else(tmp_path):
    write(tmp_path, [(i, i) for i in range(9)], part_bytes=1)
    foreign = ["notes.txt", "part-1.tsv", "part-00000.tsv.bak", "part-00000.xml", "_success", ".mmg-lock2"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".mmg-part-0123456789abcdef.tmp").write_text("left by a killed run")
    write(tmp_path, [("new", 1)], format="jsonl", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted([*foreign, "_SUCCESS", "part-00000.jsonl"])
    assert {(tmp_path / name).read_text() for name in foreign} == {"mine"}


def test_parts_of_sorted_results_that_exceed_memory_are_in_order_one_after_another(tmp_path):
    records = [(i * 7919 % 5000, "x" * 20) for i in range(5000)]
    write(tmp_path, put_in_order(records, choose_order("key", None), 40_000), part_bytes=5000)
    assert len(check_complete(tmp_path)["parts"]) > 20
    assert [int(line.partition("\t")[0]) for line in read(tmp_path)] == list(range(5000))


def test_the_temporary_file_of_another_run_that_writes_a_file_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(destinations, "_create_unnamed", lambda folder, mode: None)
    with open_output(tmp_path / "single.tsv") as single:
        single.write("key", 1)
        (temporary,) = os.listdir(tmp_path)
        with pytest.raises(OutputError, match="the folder is not empty"):
            open_output(f"{tmp_path}/")
        write(tmp_path, [(1, "part")], overwrite=True)
        assert sorted(os.listdir(tmp_path)) == [temporary, "_SUCCESS", "part-00000.tsv"]
    assert (tmp_path / "single.tsv").read_text() == "key\t1\n"


def test_old_results_stay_whole_until_the_first_new_part_is(tmp_path):
    write(tmp_path, [(1, "old"), (2, "old")], part_bytes=1)
    with open_output(f"{tmp_path}/", overwrite=True, part_bytes=1000) as sink:
        sink.write(1, "new")
        assert check_complete(tmp_path)["records"] == 2
        sink.abort()
    assert check_complete(tmp_path)["records"] == 2
    with open_output(f"{tmp_path}/", overwrite=True, part_bytes=1, warn=lambda text: None) as sink:
        for i in range(3):
            sink.write(i, "new")
        assert sorted(os.listdir(tmp_path)) == [".mmg-lock", "part-00000.tsv", "part-00001.tsv"]
        sink.abort()


def test_a_disk_that_is_full_at_the_end_of_the_first_part_leaves_the_old_results(tmp_path):
    write(tmp_path / "out/", [("old", 1)])
    with file_size_limit(100), pytest.raises(OutputError, match="File too large"):
        write(tmp_path / "out/", [("new", n) for n in range(1000)], overwrite=True)
    check_complete(tmp_path / "out")
    assert read(tmp_path / "out") == ["old\t1"]


def test_a_run_that_ends_between_two_removals_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    write(tmp_path, [(i, "old") for i in range(5)], part_bytes=1)
    unlink = os.unlink

    def end_at_a_part(path):
        if os.path.basename(path) == "part-00002.tsv":
            raise KeyboardInterrupt
        unlink(path)

    monkeypatch.setattr(os, "unlink", end_at_a_part)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, [(1, "new")], overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["part-00002.tsv", "part-00003.tsv", "part-00004.tsv"]


def test_a_failure_leaves_whole_parts_without_success_and_says_so(tmp_path):
    said = []

    def failing():
        for i in range(3):
            yield i, "x"
        raise KeyError

    with pytest.raises(KeyError):
        write(tmp_path / "out", failing(), part_bytes=1, warn=said.append)
    assert sorted(os.listdir(tmp_path / "out")) == ["part-00000.tsv", "part-00001.tsv"]
    assert len(said) == 1
    assert "is not complete: it has 2 parts, and no _SUCCESS" in said[0]


def test_a_failure_before_the_first_part_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="jsonl cannot say"):
        write(tmp_path / "out", [("a", 1), ("b", b"")], format="jsonl")
    assert os.listdir(tmp_path) == []


def test_two_runs_at_once_are_one_too_many(tmp_path):
    with open_output(f"{tmp_path}/") as sink:
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=rf"process {os.getpid()} on .* writes results there"):
                open_output(f"{tmp_path}/", overwrite=overwrite)
        ended = subprocess.run(
            [sys.executable, "-c", WRITER, f"{tmp_path}/", "1", "x"], capture_output=True, text=True
        )
        assert f"process {os.getpid()} on" in ended.stderr
        sink.write(1, 2)
    assert check_complete(tmp_path)["records"] == 1


def test_a_file_system_without_locks_draws_a_warning(tmp_path, monkeypatch):
    def without(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    said = []
    monkeypatch.setattr(fcntl, "flock", without)
    write(tmp_path, [(1, 2)], warn=said.append)
    assert "cannot be locked" in said[0]
    check_complete(tmp_path)


def test_a_full_disk_leaves_no_success_and_no_half_part(tmp_path):
    records = [("a", "x" * 100), ("b", "x" * 100_000)]
    with file_size_limit(50_000), pytest.raises(OutputError, match=r"cannot write .*part-00001\.tsv: "):
        write(tmp_path / "out", records, part_bytes=200, warn=lambda text: None)
    assert os.listdir(tmp_path / "out") == ["part-00000.tsv"]
    # The parts fit, and what _SUCCESS says of them does not.
    with file_size_limit(150), pytest.raises(OutputError, match="_SUCCESS"):
        write(tmp_path / "more", [("a", 1)] * 20, part_bytes=1, warn=lambda text: None)
    assert "_SUCCESS" not in os.listdir(tmp_path / "more")


def kill_at_random(path, draw, value, within_s):
    """Kill a writer at a random moment within a time; return whether it was killed before its end."""
    arguments = [sys.executable, "-c", WRITER, f"{path}/", str(RECORDS), value]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(draw.random() * within_s)  # the moment is what is drawn; nothing waits for it
        process.kill()
    return process.returncode == -signal.SIGKILL


def check_after_a_kill(path):
    """Check that what looks complete is, and that no part is half of one."""
    if (path / "_SUCCESS").exists():
        told = check_complete(path)
        assert told["records"] == RECORDS
        lines = read(path)
        assert [int(line.split("\t")[0]) for line in lines] == list(range(RECORDS))
        assert len({line.split("\t")[1] for line in lines}) == 1
    for name in os.listdir(path):
        if name.startswith("part-"):
            assert (path / name).read_text().endswith("\n")


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.long)])
def test_a_writer_that_is_killed_at_any_moment_leaves_nothing_that_looks_complete(count, tmp_path):
    draw = random.Random(count)
    path = tmp_path / "out"
    write(path, [(i, "first") for i in range(RECORDS)], part_bytes=100)
    turns = max(6, share_of(count))
    killed, within_s = 0, 0.12
    while killed < turns:
        if kill_at_random(path, draw, f"kill {killed}", within_s):
            killed += 1
        else:  # it ended first, so the next moments are drawn earlier
            within_s *= 0.9
        check_after_a_kill(path)
    subprocess.run(
        [sys.executable, "-c", WRITER, f"{path}/", str(RECORDS), "last"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    check_after_a_kill(path)
    assert sorted(set(os.listdir(path)) - set(check_complete_names(path))) == ["_SUCCESS"]


def check_complete_names(path):
    return [part["name"] for part in check_complete(path)["parts"]]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("file/", "it is a file, not a folder"),
        ("file/out/", "does not exist; make it first"),
        ("no/out/", "does not exist; make it first"),
        ("held/", "part-00000.tsv in it is a folder"),
    ],
)
def test_a_path_that_cannot_be_is_refused_up_front(path, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "held" / "part-00000.tsv").mkdir(parents=True)
    with pytest.raises(OutputError) as caught:
        open_output(path, overwrite=True)
    assert expected in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "held"]
    assert os.listdir("held") == ["part-00000.tsv"]


def test_more_parts_than_their_names_can_count_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(part_list, "MAX_PARTS", 3)
    with pytest.raises(OutputError, match="more than 3 parts; choose a larger part size"):
        write(tmp_path / "out", [(i, i) for i in range(9)], part_bytes=1, warn=lambda text: None)


def test_what_is_for_folders_is_refused_for_files(tmp_path):
    for options, what in (({"overwrite": True}, "overwriting"), ({"part_bytes": 5}, "the size of parts")):
        with pytest.raises(OutputError, match=f"{what} is for folders"):
            open_output(tmp_path / "out.tsv", **options)
    assert os.listdir(tmp_path) == []


def test_a_link_to_a_folder_is_that_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", [(1, 2)])
    assert (tmp_path / "link").is_symlink()
    check_complete(tmp_path / "real")


@contextlib.contextmanager
def without_unnamed_files():
    before = os.O_TMPFILE
    del os.O_TMPFILE
    try:
        yield
    finally:
        os.O_TMPFILE = before


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no unnamed files anyway")
def test_without_unnamed_files_it_works_too(tmp_path):
    with without_unnamed_files():
        for overwrite in (False, True):
            write(tmp_path, [(i, "x") for i in range(9)], part_bytes=10, overwrite=overwrite)
    assert check_complete(tmp_path)["records"] == 9


def test_a_lock_that_is_a_link_is_named(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    os.symlink(tmp_path / "victim", tmp_path / "out" / ".mmg-lock")
    with pytest.raises(OutputError, match=r"cannot write .*/out/: \.mmg-lock in it is a link: "):
        open_output(f"{tmp_path}/out/")
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("name", ["a\0b.tsv", "a\0b/"])
def test_a_path_with_nul_is_refused_in_one_sentence(name, tmp_path):
    with pytest.raises(OutputError, match="no path has a NUL character in it"):
        open_output(f"{tmp_path}/{name}")


def test_a_path_may_be_bytes(tmp_path):
    for name in (b"grusse.tsv", b"gr\xfc\xdfe/"):  # no UTF-8
        with open_output(os.fsencode(tmp_path) + b"/" + name) as sink:
            sink.write("key", 1)
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"grusse.tsv", b"gr\xfc\xdfe"]


#: What needs room on a disk, or leave to write: at each of these calls it may be refused.
CALLS = ("open", "fsync", "link", "replace", "mkdir")


@pytest.mark.parametrize("format", ["tsv", "parquet"])
@pytest.mark.parametrize("errno_name", ["ENOSPC", "EROFS"])
def test_a_disk_that_is_full_at_any_call_ends_in_one_sentence_and_can_be_resumed(
    format, errno_name, tmp_path
):
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    job = Job({i: i for i in range(4)}, max_value, max_value, partitions=4)

    def write(path, refuse_at):
        calls = 0

        def refusing(own, name):
            def call(*arguments, **options):
                nonlocal calls
                if name == "open" and not arguments[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                    return own(*arguments, **options)
                calls += 1
                if calls == refuse_at:
                    raise OSError(getattr(errno, errno_name), "the disk is full")
                return own(*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(units, "MIN_AGE_S", 0.0)
            patches.setattr(units, "AGE_SHARE", 0.0)
            for name in CALLS:
                patches.setattr(os, name, refusing(getattr(os, name), name))
            with open_output(path, format, resume=True, job=job, warn=lambda text: None) as sink:
                done = sink.made.partitions if sink.made else ()
                for partition, value in enumerate([1, None, 1.5, 2]):
                    if partition not in done and not sink.is_complete:
                        sink.write(partition, value)
                        sink.note_partitions((partition,), 4)
        return calls

    n_calls = write(f"{tmp_path}/whole/", None)
    assert n_calls > 20
    for refuse_at in range(1, n_calls + 1):
        path, said = f"{tmp_path}/{refuse_at}/", None
        try:
            write(path, refuse_at)
        except OutputError as error:
            said = str(error)
        if said is not None:  # some file systems do not write names of folders to the disk
            assert "\n" not in said
            assert "the disk is full" in said
            assert not os.path.exists(f"{path}_SUCCESS") or "_SUCCESS" in said
            names = os.listdir(path) if os.path.exists(path) else []
            assert not [name for name in names if name.endswith((".tmp", ".mmg-lock"))], refuse_at
        write(path, None)
        told = json.loads((tmp_path / str(refuse_at) / "_SUCCESS").read_text())
        assert told["records"] == 4
        assert sorted(os.listdir(path)) == ["_SUCCESS", *(part["name"] for part in told["parts"])], refuse_at
