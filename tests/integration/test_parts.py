"""Executors write parts of a folder themselves: what they write, who does if they cannot, and what is left."""

import csv
import json
import os
import random
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent.errors import JobError, UsageError
from mmgevent.job.outputs import order, parts_plan
from mmgevent.job.outputs.compression import open_to_read
from mmgevent.job.outputs.opening import open_output
from mmgevent.job.outputs.receipts import Receipt
from mmgevent.tasks.part_writer import MIN_OWN_BYTES
from mmgevent.tasks.results import FIRST_CHUNK
from tests.job.remote.s3_server import running_s3

PARTITIONS = 2
#: keys, and characters of a value: enough for each partition to be written where it was reduced
KEYS = 60
VALUE_CHARS = MIN_OWN_BYTES // 15

DATA = [(i, i) for i in range(KEYS)]


def mapfn(key, value):
    yield key, value


def reducefn(key, values):
    return f"{sum(values)}," + "x" * VALUE_CHARS


def small(key, values):
    return sum(values)


EXPECTED = {key: reducefn(key, [key]) for key in range(KEYS)}


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(procs=2) as cluster:
        yield cluster


def make_job(**functions):
    return mmg.Job(DATA, **{"mapfn": mapfn, "reducefn": reducefn, "partitions": PARTITIONS, **functions})


def write(cluster, job, folder, **options):
    """Write a job's results as mmg-run does; return what came to the driver, and the notices."""
    notices, came = [], []
    with open_output(f"{folder}/", job=job, **options) as sink:
        handle = cluster.submit(job, parts_plan=sink.plan_parts(), on_notice=notices.append)
        for key, value in handle.stream_to(sink):
            came.append(key)
            sink.write(key, value)
    return came, notices


def parts_of(folder):
    return sorted(path for path in Path(folder).iterdir() if path.name.startswith("part-"))


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def check_whole(folder):
    """Assert that a folder has `_SUCCESS`, the parts that it names and nothing else."""
    told = json.loads((Path(folder) / "_SUCCESS").read_text())
    assert names_in(folder) == ["_SUCCESS", *(part["name"] for part in told["parts"])]
    assert [path.stat().st_size for path in parts_of(folder)] == [part["bytes"] for part in told["parts"]]
    assert sum(part["records"] for part in told["parts"]) == told["records"]
    return told


def read_text(path):
    file, _ = open_to_read(path)
    with file:
        return file.read().decode()


def read_lines(path):
    return [line.split("\t") for line in read_text(path).splitlines()]


def read_json(path):
    return [json.loads(line) for line in read_text(path).splitlines()]


def read_parquet(path):
    pytest.importorskip("pyarrow.parquet")
    return [(row["n"], row["text"]) for _, row in mmg.Parquet(path)]


def read_csv(path):
    rows = list(csv.reader(read_text(path).splitlines()))
    assert rows[0] == ["n", "text"]
    return rows[1:]


@pytest.mark.parametrize(
    ("format", "read", "options"),
    [
        ("tsv", read_lines, {}),
        ("jsonl.gz", read_json, {}),
        pytest.param("csv.xz", read_csv, {"columns": "n, text"}, marks=pytest.mark.long),
        ("pickle.bz2", mmg.load, {}),
        ("parquet", read_parquet, {"columns": "n,text"}),
    ],
)
def test_executors_write_what_the_driver_would(format, read, options, cluster, tmp_path):
    came, _ = write(cluster, make_job(), tmp_path / "out", format=format, **options)
    assert [type(key) for key in came] == [Receipt] * PARTITIONS
    told = check_whole(tmp_path / "out")
    assert told["records"] == KEYS
    records = [record for path in parts_of(tmp_path / "out") for record in read(path)]
    assert {int(key): value for key, value in records} == EXPECTED
    assert len(records) == KEYS


def mixed(key, values):
    number = None if key % 3 == 0 else key if key % 2 else key + 0.5
    return number, "x" * VALUE_CHARS


def spoil_types(key, values):
    return (key if key % 2 else "text"), "x" * VALUE_CHARS


def test_parquet_parts_of_executors_have_one_schema(cluster, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    job = make_job(reducefn=mixed)
    came, notices = write(cluster, job, tmp_path / "out", format="parquet", part_bytes=VALUE_CHARS)
    assert {type(key) for key in came} == {Receipt}  # a record each, so types differ
    assert not notices
    told = check_whole(tmp_path / "out")
    schemas = [pq.read_schema(path) for path in parts_of(tmp_path / "out")]
    assert len(schemas) == KEYS
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert str(schemas[0].field("value_0").type) == "double"
    table = pq.read_table(tmp_path / "out")
    assert sorted(table.column("key").to_pylist()) == list(range(KEYS))
    for key, number in zip(table.column("key").to_pylist(), table.column("value_0").to_pylist(), strict=True):
        assert number == mixed(key, [])[0]
    assert told["records"] == KEYS


def test_parquet_parts_of_executors_that_do_not_go_together_are_named(cluster, tmp_path):
    pytest.importorskip("pyarrow.parquet")
    job = make_job(reducefn=spoil_types)
    with pytest.raises(
        mmg.OutputError, match=r"'value_0' has them: the row \(\d+, .* and the row \(\d+, "
    ) as caught:
        write(cluster, job, tmp_path / "out", format="parquet", part_bytes=VALUE_CHARS)
    assert "'text'" in str(caught.value)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    with pytest.raises(JobError, match=r"the record of \d+ has .* there, which is \w+ and does not go with"):
        cluster.write(job, f"{tmp_path}/whole/", "parquet")


@pytest.mark.long
def test_parts_have_the_size_that_was_asked_for(cluster, tmp_path):
    write(cluster, make_job(), tmp_path / "out", part_bytes=5 * VALUE_CHARS)
    told = check_whole(tmp_path / "out")
    assert max(part["bytes"] for part in told["parts"]) <= 5 * VALUE_CHARS
    assert len(told["parts"]) >= KEYS / 5


@pytest.mark.long
def test_figures_count_records_and_not_receipts(cluster, tmp_path):
    job = make_job()
    with open_output(f"{tmp_path}/out/", job=job) as sink:
        handle = cluster.submit(job, parts_plan=sink.plan_parts())
        for key, value in handle.stream_to(sink):
            sink.write(key, value)
    assert handle.stats()["records"] == cluster_records(cluster, job)


def cluster_records(cluster, job):
    handle = cluster.submit(job)
    handle.result()
    return handle.stats()["records"]


def test_few_results_are_one_part_of_the_driver(cluster, tmp_path):
    came, notices = write(cluster, make_job(reducefn=small), tmp_path / "out")
    assert sorted(came) == list(range(KEYS))
    assert not notices
    assert len(check_whole(tmp_path / "out")["parts"]) == 1


def finish(key, value):
    return value


def test_with_a_finishfn_or_an_order_the_driver_writes(tmp_path):
    for job, options in [
        (make_job(finishfn=finish), {}),
        (make_job(), {"sort": "key"}),
        (make_job(), {"top": 3}),
    ]:
        with open_output(f"{tmp_path}/out/", job=job, overwrite=True, **options) as sink:
            assert sink.plan_parts() is None
    untrusted = make_job(results="plain")
    for format in ("pickle", "parquet"):
        with open_output(f"{tmp_path}/out/", format, job=untrusted, overwrite=True) as sink:
            assert sink.plan_parts() is None


def test_a_program_writes_as_the_command_does(cluster, tmp_path):
    options = {"format": "jsonl", "resume": True}
    assert cluster.write(make_job(), f"{tmp_path}/out/", **options) == KEYS
    assert len(check_whole(tmp_path / "out")["parts"]) == PARTITIONS
    assert cluster.write(make_job(), f"{tmp_path}/out/", **options) == KEYS  # nothing is left to do
    assert cluster.write(make_job(reducefn=small), tmp_path / "top.tsv", top=2) == 2
    with pytest.raises(UsageError, match="is no name that a worker can offer"):
        cluster.write(mmg.Job(DATA, "offered by nobody", reducefn), f"{tmp_path}/never/", resume=True)
    assert not (tmp_path / "never").exists()


def test_results_of_a_plan_go_nowhere_else(cluster, tmp_path):
    job = make_job()
    with open_output(f"{tmp_path}/out/", job=job) as sink:
        handle = cluster.submit(job, parts_plan=sink.plan_parts())
        for use in (handle.result, handle.stream, partial(handle.write, tmp_path / "other.tsv")):
            with pytest.raises(UsageError, match="was submitted to write its results into"):
                use()
        for key, value in handle.stream_to(sink):
            sink.write(key, value)
    check_whole(tmp_path / "out")


@pytest.mark.long
def test_executors_write_into_an_object_store(cluster, tmp_path, monkeypatch):
    pytest.importorskip("fsspec")
    with running_s3(monkeypatch) as (system, url):
        monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", url)
        system.mkdir("bucket")
        system.pipe_file("bucket/out/part-00009.tsv", b"old")
        system.pipe_file("bucket/out/_SUCCESS", b"old")
        job, came = make_job(), []
        with (
            open_output("s3://bucket/out/", "jsonl.gz", job=job, overwrite=True) as sink,
            mmg.LocalCluster(procs=2) as own,  # whose executors have this environment
        ):
            handle = own.submit(job, parts_plan=sink.plan_parts())
            for key, value in handle.stream_to(sink):
                came.append(type(key))
                sink.write(key, value)
        assert came == [Receipt] * PARTITIONS
        system.invalidate_cache()
        system.get("bucket/out", str(tmp_path / "got"), recursive=True)
    assert check_whole(tmp_path / "got")["records"] == KEYS
    records = [record for path in parts_of(tmp_path / "got") for record in read_json(path)]
    assert dict(records) == EXPECTED


# Who writes if executors cannot.


def test_without_the_token_the_driver_writes_and_says_so_once(cluster, tmp_path):
    job, notices = make_job(), []
    with open_output(f"{tmp_path}/out/", job=job) as sink:
        plan = sink.plan_parts()
        os.unlink(tmp_path / "out" / plan.token_name)  # as on a machine with another folder of that name
        handle = cluster.submit(job, parts_plan=plan, on_notice=notices.append)
        for key, value in handle.stream_to(sink):
            assert type(key) is int
            sink.write(key, value)
    assert check_whole(tmp_path / "out")["records"] == KEYS
    assert [notice for notice in notices if "is not a folder of every worker" in notice] == notices
    assert len(notices) == 1


def open_nothing():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


@pytest.mark.parametrize("format", ["tsv", "csv", "parquet"])
def test_who_sees_the_folder_and_cannot_write_there_sends_results(format, cluster, tmp_path):
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    came, notices = write(cluster, make_job(setupfn=open_nothing), tmp_path / "out", format=format)
    assert sorted(came) == list(range(KEYS))
    check_whole(tmp_path / "out")
    assert len(notices) == 1
    assert "cannot write there" in notices[0]


def hide_library(name):
    sys.modules[name] = None


@pytest.mark.parametrize(("format", "library"), [("parquet", "pyarrow"), ("tsv.xz", "lzma")])
def test_who_lacks_a_library_sends_results(format, library, cluster, tmp_path):
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    job = make_job(setupfn=partial(hide_library, library))
    came, notices = write(cluster, job, tmp_path / "out", format=format)
    assert sorted(came) == list(range(KEYS))
    check_whole(tmp_path / "out")
    assert len(notices) == 1
    assert library in notices[0]
    assert "its results are written here" in notices[0]


def keep_files_small():
    sys.dont_write_bytecode = True  # it would be cut short
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIN_OWN_BYTES // 2, MIN_OWN_BYTES // 2))


def write_noise(key, values):
    return random.Random(key).randbytes(VALUE_CHARS)  # not even Parquet makes that smaller


@pytest.mark.long
@pytest.mark.parametrize("format", ["tsv", "parquet"])
def test_a_full_disk_ends_the_job_in_one_sentence_and_leaves_nothing(format, cluster, tmp_path):
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    job = make_job(setupfn=keep_files_small, reducefn=write_noise)
    with pytest.raises(JobError, match=f"cannot write {tmp_path}/out/: File too large$") as caught:
        write(cluster, job, tmp_path / "out", format=format)
    assert caught.value.kind == "output"
    assert not (tmp_path / "out").exists()  # it was new


#: keys whose first chunk of results is a part's worth, so that the last key is written behind it
MANY_KEYS = 2 * FIRST_CHUNK + 100


def spoil(key, values):
    return object() if key == MANY_KEYS - 1 else "x" * (MIN_OWN_BYTES // FIRST_CHUNK)


def test_a_record_that_the_format_cannot_say_names_its_key(cluster, tmp_path):
    job = mmg.Job([(i, i) for i in range(MANY_KEYS)], mapfn, spoil, partitions=1)
    with pytest.raises(JobError, match=rf"the record of {MANY_KEYS - 1}: JSON has no object"):
        write(cluster, job, tmp_path / "out", format="jsonl")
    assert not list(tmp_path.glob("out/*"))


def spoil_and_say(path, key, values):
    if key == MANY_KEYS - 1:
        with open(path, "a") as file:
            print("tried", file=file)
    return spoil(key, values)


@pytest.mark.parametrize("engine", ["own", "of another"])
def test_what_cannot_be_written_is_not_tried_again(engine, tmp_path):
    options = {"retries": 2, "max_skipped": 3, "partitions": 1}
    reducefn = partial(spoil_and_say, str(tmp_path / "tries"))
    job = mmg.Job([(i, i) for i in range(MANY_KEYS)], mapfn, reducefn, **options)
    with (
        ThreadPoolExecutor(1) as pool,
        mmg.LocalCluster(procs=1) if engine == "own" else mmg.connect(pool) as cluster,
        pytest.raises(JobError, match="JSON has no object") as caught,
    ):
        write(cluster, job, tmp_path / "out", format="jsonl")
    assert (tmp_path / "tries").read_text() == "tried\n"
    assert caught.value.kind == "output"
    assert "max_skipped" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def widen(key, values):
    return (1, "x" * VALUE_CHARS) if key % 2 else "x" * VALUE_CHARS


def test_rows_of_two_executors_have_the_same_width(cluster, tmp_path):
    def split(key, value):
        yield key, value

    # whole partitions have one width each: equal keys have equal remainders
    job = mmg.Job(DATA, split, widen, partitions=PARTITIONS)
    with pytest.raises((JobError, mmg.OutputError), match=r"has \d columns?.*, but the first record, of"):
        write(cluster, job, tmp_path / "out", format="csv")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


# What is left.


def die_once(flag, key, values):
    if not os.path.exists(flag) and values and key > KEYS // 2:
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return reducefn(key, values)


def test_a_killed_executor_leaves_nothing_and_no_part_is_there_twice(cluster, tmp_path):
    flag = str(tmp_path / "flag")
    came, _ = write(cluster, make_job(reducefn=partial(die_once, flag)), tmp_path / "out")
    assert os.path.exists(flag)
    assert {type(key) for key in came} == {Receipt}
    assert check_whole(tmp_path / "out")["records"] == KEYS


def test_files_of_attempts_that_did_not_count_are_removed_at_the_end(cluster, tmp_path):
    job = make_job()
    with open_output(f"{tmp_path}/out/", job=job) as sink:
        plan = sink.plan_parts()
        lost = tmp_path / "out" / f"{plan.temporary_prefix}{16 * 'a'}.tmp"
        lost.write_text("of a duplicate")
        handle = cluster.submit(job, parts_plan=plan)
        for key, value in handle.stream_to(sink):
            sink.write(key, value)
    check_whole(tmp_path / "out")


def test_what_a_killed_run_has_left_the_next_one_removes(cluster, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in (
        f"{parts_plan.TEMPORARY_PREFIX}{16 * 'a'}-{16 * 'b'}.tmp",
        f"{parts_plan.TOKEN_PREFIX}{16 * 'a'}",
    ):
        (out / name).write_text("old")
    write(cluster, make_job(), out)
    assert check_whole(out)["records"] == KEYS


def test_an_executor_that_is_late_removes_its_part_itself(tmp_path):
    from mmgevent.job.outputs.part_files import PartFiles

    job = make_job()
    with open_output(f"{tmp_path}/out/", job=job) as sink:
        files = PartFiles(sink.plan_parts())
        assert files.begin() is None
        files.write([files.encode(1, "x")])
    with pytest.raises(mmg.OutputError, match="the run that wanted its parts is over"):
        files.end()
    files.abort()
    check_whole(tmp_path / "out")


# Order.


@pytest.mark.parametrize(
    ("sort", "reverse"), [("key", False), pytest.param("-key", True, marks=pytest.mark.long)]
)
def test_parts_of_many_partitions_are_in_order_one_after_another(
    cluster, tmp_path, monkeypatch, sort, reverse
):
    outside_memory = partial(order.put_in_order, memory_bytes=20_000)
    monkeypatch.setattr(order, "put_in_order", outside_memory)
    count = 3000
    numbers = [(n * 7919 % count, n) for n in range(count)]
    job = mmg.Job(numbers, mapfn, small, partitions=64)
    cluster.write(job, f"{tmp_path}/out/", sort=sort, part_size=1000)
    told = check_whole(tmp_path / "out")
    assert len(told["parts"]) > 20
    keys = [int(key) for path in parts_of(tmp_path / "out") for key, _ in read_lines(path)]
    assert keys == sorted(range(count), reverse=reverse)
    with pytest.raises(mmg.OutputError, match="results in order are written at the end"):
        cluster.write(job, f"{tmp_path}/out/", sort=sort, resume=True)
