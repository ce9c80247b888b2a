"""Results in object stores: one object, folders of parts, and what keeps them from being whole."""

import gzip
import json
import threading
import uuid

import pytest

import mmgevent as mmg
from mmgevent.driver.runners.inline_cluster import InlineCluster
from mmgevent.errors import OutputError
from mmgevent.job.outputs import remote_objects, units
from mmgevent.job.outputs.contents import find_made
from mmgevent.job.outputs.opening import open_output
from mmgevent.job.outputs.record import RECORD, Made
from tests.integration.commands import Commands
from tests.job.remote.s3_server import running_s3

fsspec = pytest.importorskip("fsspec")

PART_BYTES = 64
WAIT_S = 30.0

JOB = """
import os

os.chdir("/")
datasource = {1: "b a b"}

def mapfn(key, text):
    for word in text.split():
        yield word, 1

def reducefn(word, counts):
    return sum(counts)
"""


@pytest.fixture
def memory():
    """Yield the file system and a folder in it that is not there."""
    system, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    yield system, folder
    if system.exists(folder):
        system.rm(folder, recursive=True)


def names(system, folder):
    system.invalidate_cache()
    return sorted(name.rpartition("/")[2] for name in system.find(folder))


def fill(url, count=20, *, fails=False, **options):
    part_bytes = PART_BYTES if url.endswith("/") else None
    with open_output(url, part_bytes=part_bytes, **options) as sink:
        for i in range(count):
            sink.write(f"key{i:02}", i)
        if fails:
            raise ZeroDivisionError


def test_an_object_appears_when_it_is_whole(memory):
    system, folder = memory
    url = f"memory:/{folder}/x.tsv.gz"
    sink = open_output(url)
    with sink:
        sink.write("a", 1)
        assert not system.exists(folder)
    assert gzip.decompress(system.cat_file(f"{folder}/x.tsv.gz")) == b"a\t1\n"
    with pytest.raises(ZeroDivisionError):
        fill(f"memory:/{folder}/y.tsv", fails=True)
    assert names(system, folder) == ["x.tsv.gz"]


def test_parts_then_success(memory):
    system, folder = memory
    fill(f"memory:/{folder}/", format="jsonl.gz")
    *parts, success = sorted(names(system, folder), key=lambda name: name.startswith("_"))
    assert success == "_SUCCESS"
    assert len(parts) > 2
    told = json.loads(system.cat_file(f"{folder}/_SUCCESS"))
    assert [part["name"] for part in told["parts"]] == parts
    assert [part["bytes"] for part in told["parts"]] == [system.size(f"{folder}/{name}") for name in parts]
    assert told["records"] == 20
    text = b"".join(gzip.decompress(system.cat_file(f"{folder}/{name}")) for name in parts)
    assert text.decode().splitlines() == [f'["key{i:02}", {i}]' for i in range(20)]


def test_parts_of_parquet(memory):
    parquet = pytest.importorskip("pyarrow.parquet")
    system, folder = memory
    fill(f"memory:/{folder}/", format="parquet")
    *parts, success = sorted(names(system, folder), key=lambda name: name.startswith("_"))
    assert success == "_SUCCESS"
    found = []
    for name in parts:
        with system.open(f"{folder}/{name}") as file:
            found += parquet.read_table(file).column(1).to_pylist()
    assert found == list(range(20))


def test_a_failure_leaves_no_success(memory, caplog):
    system, folder = memory
    with pytest.raises(ZeroDivisionError):
        fill(f"memory:/{folder}/", fails=True)
    assert names(system, folder)[0] == "part-00000.tsv"
    assert "_SUCCESS" not in names(system, folder)
    assert "is not complete" in caplog.text


def test_success_is_sent_last_and_removed_first(memory, monkeypatch):
    system, folder = memory
    fill(f"memory:/{folder}/")
    system.pipe_file(f"{folder}/mine.txt", b"mine")
    old = names(system, folder)
    calls = []
    for name in ("put_file", "rm_file"):
        own = getattr(type(system), name)

        def noted(self, *paths, _own=own, _name=name, **options):
            calls.append((_name, paths[-1].rpartition("/")[2]))
            return _own(self, *paths, **options)

        monkeypatch.setattr(type(system), name, noted)
    fill(f"memory:/{folder}/", count=5, overwrite=True)
    assert calls[:2] == [("rm_file", "_SUCCESS"), ("put_file", "part-00000.tsv")]
    assert calls[2:-1] == [
        ("rm_file", name) for name in old if name[:5] == "part-" and name != "part-00000.tsv"
    ]
    assert calls[-1] == ("put_file", "_SUCCESS")
    assert names(system, folder) == ["_SUCCESS", "mine.txt", "part-00000.tsv"]


@pytest.mark.parametrize(
    ("protocol", "wanted"),
    [("abfs", {"overwrite": True}), (("az", "abfss"), {"overwrite": True}), ("s3", {})],
)
def test_azure_is_told_to_replace_objects_and_others_do_so(protocol, wanted, memory, monkeypatch):
    system, folder = memory
    given, own = [], type(system).put_file

    def noted(self, local, path, **options):
        given.append(options)
        own(self, local, path)

    monkeypatch.setattr(type(system), "put_file", noted)
    file = remote_objects.open_object(f"memory:/{folder}/x.tsv")
    monkeypatch.setattr(type(system), "protocol", protocol)
    file.write(memoryview(b"x"))
    file.commit()
    assert given == [wanted]


def test_a_part_that_cannot_be_sent_is_named(memory, monkeypatch):
    system, folder = memory

    def refuse(self, local, path, **options):
        raise PermissionError("not for you")

    monkeypatch.setattr(type(system), "put_file", refuse)
    with pytest.raises(
        OutputError, match=rf"^cannot write memory:/{folder}/part-00000\.tsv: no access"
    ) as caught:
        fill(f"memory:/{folder}/", count=2)
    assert "pass-env" not in str(caught.value)
    with pytest.raises(OutputError, match=rf"^cannot write memory:/{folder}/x\.tsv: no access"):
        fill(f"memory:/{folder}/x.tsv")
    assert names(system, folder) == []


def test_a_store_that_never_answers_is_given_up(memory, monkeypatch):
    system, folder = memory
    goes_on, own = threading.Event(), type(system).put_file
    has_ended = threading.Event()

    def wait(self, local, path, **options):
        goes_on.wait()
        own(self, local, path, **options)
        has_ended.set()

    sink = open_output(f"memory:/{folder}/x.tsv")
    monkeypatch.setattr(remote_objects, "ANSWER_S", 0.2)
    with monkeypatch.context() as blocked:
        blocked.setattr(type(system), "put_file", wait)
        with (
            pytest.raises(OutputError, match=rf"cannot write memory:/{folder}/x\.tsv: no answer in 0\.2"),
            sink,
        ):
            sink.write("a", 1)
        goes_on.set()
        assert has_ended.wait(WAIT_S)  # the call that was given up has the file that it was made for
    assert system.cat_file(f"{folder}/x.tsv") == b"a\t1\n"


def test_what_cannot_be_written_is_refused_at_once(memory):
    _, folder = memory
    fill(f"memory:/{folder}/")
    for url, options, text in (
        (f"memory:/{folder}/", {}, "is not empty"),
        (f"memory:/{folder}/", {"resume": True}, "it ends with this process"),
        ("zip://x.tsv::memory://a.zip", {"format": "tsv"}, "results go to files here and to s3://"),
        ("http://127.0.0.1/x.tsv", {}, "results go to files here and to s3://"),
        ("file:///tmp/x.tsv", {}, "results go to files here and to s3://"),
        ("sftp://me:hunter2@host/x.tsv", {}, "has a password in it"),
        ("sx3://bucket/", {}, "results go to files here and to s3://"),
        ("memory://", {}, "is not empty"),
        (f"memory:/{folder}/x.csv", {"overwrite": True}, "is for folders"),
    ):
        with pytest.raises(OutputError, match=text) as caught:
            open_output(url, **options)
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def count(key, text):
    for word in text.split():
        yield word, 1


def add(word, counts):
    return sum(counts)


def test_handles_write_there(memory):
    system, folder = memory
    with InlineCluster() as cluster:
        handle = cluster.submit(mmg.Job({1: "b a b"}, count, add))
        assert handle.write(f"memory:/{folder}/top/", top=1) == 1
    assert system.cat_file(f"{folder}/top/part-00000.tsv") == b"b\t2\n"
    assert json.loads(system.cat_file(f"{folder}/top/_SUCCESS"))["top"] == 1


RESUMED = mmg.Job({i: i for i in range(8)}, count, add, partitions=8)


def write_some(folder, partitions, *, ends=False, **options):
    """Write partitions into a folder as a run does that is killed then, or ends."""
    sink = open_output(folder, job=RESUMED, warn=lambda text: None, **options)
    made = sink.made.partitions if sink.made else frozenset()
    for partition in partitions:
        assert partition not in made
        sink.write(f"key {partition}", "x" * PART_BYTES)
        sink.write(f"other {partition}", 1)
        sink.note_partitions((partition,), 8)
    if not ends:
        sink.write("half of a partition", 1)
        return sink  # nothing is closed: it was killed
    sink.commit()
    return sink


def lines(system, folder):
    texts = [system.cat_file(f"{folder}{name}") for name in names(system, folder) if name.startswith("part-")]
    return sorted(b"".join(texts).decode().splitlines())


@pytest.fixture
def each_partition_ends_a_part(monkeypatch):
    monkeypatch.setattr(units, "MIN_AGE_S", 0.0)
    monkeypatch.setattr(units, "AGE_SHARE", 0.0)


@pytest.mark.usefixtures("each_partition_ends_a_part")
@pytest.mark.filterwarnings("ignore")  # of the libraries that serve
def test_a_remote_folder_goes_on_where_a_killed_run_ended(monkeypatch):
    with running_s3(monkeypatch) as (system, _):
        folder = f"s3://{uuid.uuid4().hex}/results/"
        system.mkdir(folder.split("/")[2])
        killed = write_some(folder, [0, 1, 2], part_bytes=PART_BYTES)  # two parts for each partition
        assert find_made(folder) == Made(frozenset([0, 1, 2]), 8)
        system.rm_file(f"{folder}part-00003.tsv")  # of the second partition
        system.pipe_file(f"{folder}.mmg-part-0123456789abcdef.tmp", b"left behind")
        sink = open_output(folder, job=RESUMED, resume=True, warn=lambda text: None)
        assert sink.made == Made(frozenset([0, 2]), 8)
        assert "part-00002.tsv" not in names(system, folder)  # half of a partition
        assert not [name for name in names(system, folder) if name.endswith(".tmp")]
        assert find_made(folder) == sink.made
        units_there = [name for name in names(system, folder) if name.startswith(f"{RECORD}-")]
        assert len(units_there) == 2  # that of the second partition would count again with a new part
        ended = write_some(folder, [1, 3, 4, 5, 6, 7], ends=True, resume=True)
        told = json.loads(system.cat_file(f"{folder}_SUCCESS"))
        assert names(system, folder) == ["_SUCCESS", *(part["name"] for part in told["parts"])]
        assert told["records"] == 16
        assert lines(system, folder) == sorted(
            line for i in range(8) for line in (f"key {i}\t{'x' * PART_BYTES}", f"other {i}\t1")
        )
        again = open_output(folder, job=RESUMED, resume=True)
        assert again.is_complete
        with pytest.raises(OutputError, match="another job made what is there: option partitions was '8'"):
            open_output(folder, job=RESUMED.with_options(partitions=9), resume=True)
        for each in (killed, sink, ended, again):
            each.abort()


@pytest.mark.usefixtures("each_partition_ends_a_part")
@pytest.mark.filterwarnings("ignore")  # of the libraries that serve
def test_an_overwritten_remote_folder_has_the_record_of_the_new_run(monkeypatch):
    with running_s3(monkeypatch) as (system, _):
        folder = f"s3://{uuid.uuid4().hex}/results/"
        system.mkdir(folder.split("/")[2])
        runs = [write_some(folder, [0, 1, 2], part_bytes=PART_BYTES)]
        runs.append(write_some(folder, [5, 4], overwrite=True))
        assert find_made(folder) == Made(frozenset([4, 5]), 8)
        assert [name for name in names(system, folder) if name.startswith("part-")] == [
            "part-00000.tsv",
            "part-00001.tsv",
        ]
        with open_output(folder, overwrite=True) as sink:  # nobody knows what makes these
            sink.write("a", 1)
        assert names(system, folder) == ["_SUCCESS", "part-00000.tsv"]
        for each in runs:
            each.abort()


@pytest.mark.usefixtures("each_partition_ends_a_part")
@pytest.mark.filterwarnings("ignore")  # of the libraries that serve
def test_a_kill_between_any_two_requests_loses_only_what_was_not_whole(monkeypatch):
    """Each run is ended by one request of its own more than the one before it."""

    class Killed(BaseException):
        pass

    with running_s3(monkeypatch) as (system, _):
        folder = f"s3://{uuid.uuid4().hex}/results/"
        system.mkdir(folder.split("/")[2])
        left, own = [0], {name: getattr(type(system), name) for name in ("put_file", "pipe_file", "rm_file")}

        def counted(name):
            def call(self, *arguments, **options):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return own[name](self, *arguments, **options)

            return call

        for name in own:
            monkeypatch.setattr(type(system), name, counted(name))
        for requests in range(2, 200):
            left[0] = requests
            try:
                made = find_made(folder)
                there = made.partitions if made else frozenset()
                sink = open_output(folder, job=RESUMED, resume=True, part_bytes=PART_BYTES)
                if sink.is_complete:
                    break
                for partition in sorted(set(range(8)) - (sink.made.partitions if sink.made else there)):
                    sink.write(f"key {partition}", "x" * PART_BYTES)
                    sink.write(f"other {partition}", 1)
                    sink.note_partitions((partition,), 8)
                sink.commit()
            except Killed:
                left[0] = -1
                kept = find_made(folder)
                assert there <= (kept.partitions if kept else frozenset())
                if "_SUCCESS" in names(system, folder):
                    assert len(lines(system, folder)) == 16
        else:
            pytest.fail("no run ended")
        assert len(lines(system, folder)) == len(set(lines(system, folder))) == 16


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the libraries that serve
def test_results_go_to_s3(tmp_path, monkeypatch):
    with running_s3(monkeypatch) as (system, url):
        system.mkdir("out")
        fill("s3://out/results/")
        found = names(system, "out/results")
        assert found[0] == "_SUCCESS"
        assert len(found) > 3
        with pytest.raises(OutputError, match="is not empty"):
            fill("s3://out/results/")
        fill("s3://out/results/", count=3, overwrite=True)
        assert names(system, "out/results") == ["_SUCCESS", "part-00000.tsv"]
        with open_output("s3://out/x.csv.gz") as sink:
            sink.write("a", 1)
        assert gzip.decompress(system.cat_file("out/x.csv.gz")) == b"a,1\n"
        for address in ("s3://nobucket/results/", "s3://nobucket/x.tsv"):
            with pytest.raises(OutputError, match=f"cannot write {address}: it does not exist") as caught:
                open_output(address)
            assert "\n" not in str(caught.value)
        with pytest.raises(OutputError, match="name an object in a bucket"):
            open_output("s3://out", "tsv")
        commands = Commands(tmp_path)
        path = commands.write("job.py", JOB)
        environ = {"FSSPEC_S3_ENDPOINT_URL": url}
        written = commands.run("run", "-o", "s3://out/command/", "--sort", "key", path, environ=environ)
        assert (written.returncode, written.stderr) == (0, "")
        assert system.cat_file("out/command/part-00000.tsv") == b"a\t1\nb\t2\n"
        assert system.exists("out/command/_SUCCESS")
        refused = commands.run("run", "-o", "s3://out/command/", path, environ=environ)
        assert refused.returncode == 2
        assert "cannot write s3://out/command/: the folder is not empty" in refused.stderr
        for words in ("", "mmg-run: s3://out/resumed/ is complete: nothing is left to do\n"):
            resumed = commands.run("run", "-o", "s3://out/resumed/", "--resume", path, environ=environ)
            assert (resumed.returncode, resumed.stderr) == (0, words)
        assert names(system, "out/resumed") == ["_SUCCESS", "part-00000.tsv"]
        commands.close()
        sink = open_output("s3://out/late/", part_bytes=PART_BYTES)
        system.rm("out", recursive=True)
        with pytest.raises(OutputError, match=r"cannot write s3://out/late/part-00000\.tsv: "), sink:
            sink.write("a", 1)
