"""A folder of parts goes on where a killed run ended, and never keeps what is not whole."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmgevent import Files, Job, Lines, LocalCluster
from mmgevent.driver.readable import Readable
from mmgevent.errors import OutputError, UsageError
from mmgevent.job.outputs import folder_files, units
from mmgevent.job.outputs.contents import find_made
from mmgevent.job.outputs.opening import open_output
from mmgevent.job.outputs.part_files import PartFiles
from mmgevent.job.outputs.record import RECORD, Made
from mmgevent.reducers import sum_values
from tests.effort import share_of

ITEMS = {i: i for i in range(40)}


def mapfn(key, value):
    yield f"key {key}", value


def other_mapfn(key, value):
    yield f"key {key}", value + 1


def finish_each(key, value):
    return value


JOB = Job(ITEMS, mapfn, sum_values, partitions=8)

#: Writes the partitions that are not there yet, a few records each; prints once it has begun.
WRITER = """
import sys
from mmgevent import Job
from mmgevent.job.outputs import units
from mmgevent.job.outputs.opening import open_output
from tests.job.outputs.test_resume import JOB, PARTITIONS, records_of
units.MIN_AGE_S = units.AGE_SHARE = 0.0
with open_output(sys.argv[1], resume=True, part_bytes=int(sys.argv[2]), job=JOB) as sink:
    print("begins", flush=True)
    if not sink.is_complete:
        done = sink.made.partitions if sink.made else ()
        for partition in range(PARTITIONS):
            if partition not in done:
                for key, value in records_of(partition):
                    sink.write(key, value)
                sink.note_partitions((partition,), PARTITIONS)
"""

PARTITIONS = 60

ENVIRON = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def records_of(partition):
    return [(f"{partition}.{i}", "x" * i) for i in range(partition % 7)]


def read(path):
    """Return the lines of all parts, sorted."""
    names = [name for name in os.listdir(path) if name.startswith("part-")]
    return sorted("".join((path / name).read_text() for name in names).splitlines())


def check_complete(path):
    """Check that `_SUCCESS` says what is there, and that nothing else is; return what it says."""
    told = json.loads((path / "_SUCCESS").read_text())
    parts = {part["name"]: part["bytes"] for part in told["parts"]}
    there = {name: os.path.getsize(path / name) for name in os.listdir(path) if name != "_SUCCESS"}
    assert there == parts
    return told


@pytest.fixture
def each_partition_ends_a_part(monkeypatch):
    monkeypatch.setattr(units, "MIN_AGE_S", 0.0)
    monkeypatch.setattr(units, "AGE_SHARE", 0.0)


def leave_half(path, job=JOB, **options):
    """Write three whole partitions and a part of a fourth, as a run does that is killed then."""
    sink = open_output(f"{path}/", job=job, warn=lambda text: None, **options)
    for partition in range(3):
        sink.write(f"key {partition}", partition)
        sink.note_partitions((partition,), 8)
    sink.write("half of a partition", 1)
    sink.abort()
    return sink


@pytest.mark.usefixtures("each_partition_ends_a_part")
def test_a_part_is_kept_if_its_partitions_are_whole_and_no_other(tmp_path):
    leave_half(tmp_path, part_bytes=10)
    sink = open_output(f"{tmp_path}/", job=JOB, resume=True)
    assert sink.made == Made(frozenset(range(3)), 8)
    assert sink.made_records == 3
    assert read(tmp_path) == ["key 0\t0", "key 1\t1", "key 2\t2"]
    with sink:
        sink.write("the rest", 1)
        sink.note_partitions((3, 4, 5, 6, 7), 8)
    told = check_complete(tmp_path)
    assert told["records"] == 4
    assert [part["name"] for part in told["parts"]] == [f"part-{i:05}.tsv" for i in range(4)]


@pytest.mark.usefixtures("each_partition_ends_a_part")
def test_a_partition_in_several_parts_is_kept_whole_or_not_at_all(tmp_path):
    sink = open_output(f"{tmp_path}/", job=JOB, part_bytes=10, warn=lambda text: None)
    for i in range(3):
        sink.write("one", i)
    sink.note_partitions((0,), 8)
    for i in range(3):
        sink.write("two", i)  # two parts of it have their names, its last part has not
    assert len(read(tmp_path)) == 5
    sink.abort()
    with open_output(f"{tmp_path}/", job=JOB, part_bytes=10, resume=True) as sink:
        assert sink.made == Made(frozenset([0]), 8)
        assert read(tmp_path) == ["one\t0", "one\t1", "one\t2"]
        os.unlink(tmp_path / "part-00001.tsv")
        sink.abort()
    with open_output(f"{tmp_path}/", job=JOB, resume=True, warn=lambda text: None) as sink:
        assert sink.made is None
        assert read(tmp_path) == []
        sink.abort()


@pytest.mark.usefixtures("each_partition_ends_a_part")
@pytest.mark.parametrize("harm", ["cut", "longer", "gone", "record cut", "record gone"])
def test_what_is_not_as_it_was_is_made_again_or_refused(harm, tmp_path):
    leave_half(tmp_path)
    part, record = tmp_path / "part-00001.tsv", tmp_path / RECORD
    expected = {0, 2}
    if harm == "cut":
        part.write_text("key")
    elif harm == "longer":
        part.write_text(part.read_text() + "more\n")
    elif harm == "gone":
        part.unlink()
    elif harm == "record cut":
        record.write_bytes(record.read_bytes()[:-5])
        expected = {0, 1}
    else:
        record.unlink()
        with pytest.raises(OutputError, match=r"its parts have no record of what made them; .*--overwrite"):
            open_output(f"{tmp_path}/", job=JOB, resume=True)
        return
    with open_output(f"{tmp_path}/", job=JOB, resume=True, warn=lambda text: None) as sink:
        assert sink.made == Made(frozenset(expected), 8)
        assert read(tmp_path) == [f"key {i}\t{i}" for i in sorted(expected)]
        sink.abort()


@pytest.mark.usefixtures("each_partition_ends_a_part")
@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        (Job(ITEMS, other_mapfn, sum_values, partitions=8), {}, "mapfn has changed"),
        (Job(ITEMS, mapfn, sum_values, partitions=9), {}, "option partitions was '8' and is '9'"),
        (
            Job(ITEMS, mapfn, sum_values, partitions=8, max_skipped=1),
            {},
            "option max_skipped was '0' and is '1'",
        ),
        (Job({**ITEMS, 1: 2}, mapfn, sum_values, partitions=8), {}, "the datasource has changed"),
        (Job(ITEMS, mapfn, partitions=8), {}, "reducefn is no longer part of the job"),
        (Job(ITEMS, mapfn, sum_values, partitions=8, setupfn=print), {}, "setupfn is new"),
        (Job(ITEMS, mapfn, sum_values, partitions=8, finishfn=finish_each), {}, "finishfn is new"),
        (JOB, {"format": "jsonl"}, "format was 'tsv' and is 'jsonl'"),
    ],
)
def test_a_folder_of_another_job_is_refused_and_the_difference_named(changed, options, said, tmp_path):
    leave_half(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OutputError) as caught:
        open_output(f"{tmp_path}/", job=changed, resume=True, **options)
    assert f"another job made what is there: {said}; name another folder, or begin anew: --overwrite" in str(
        caught.value
    )
    assert sorted(os.listdir(tmp_path)) == before
    with open_output(f"{tmp_path}/", job=JOB.with_options(retries=3, name="other"), resume=True) as sink:
        sink.abort()  # what does not change results does not count


@pytest.mark.usefixtures("each_partition_ends_a_part")
def test_inputs_that_have_changed_are_named(tmp_path):
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_text("x\n")
    job = Job(Lines(*paths), mapfn, sum_values, partitions=8)
    out = tmp_path / "out"
    leave_half(out, job)
    os.utime(paths[1], ns=(0, 0))
    with pytest.raises(OutputError, match=rf"input {paths[1]} has changed"):
        open_output(f"{out}/", job=job, resume=True)
    fewer = Job(Lines(paths[0]), mapfn, sum_values, partitions=8)
    with pytest.raises(OutputError, match=rf"input {paths[1]} is no longer part of the job"):
        open_output(f"{out}/", job=fewer, resume=True)
    read_otherwise = Job(Lines(*paths, encoding="latin-1"), mapfn, sum_values, partitions=8)
    with pytest.raises(OutputError, match="the datasource has changed"):
        open_output(f"{out}/", job=read_otherwise, resume=True)


def test_many_inputs_have_one_digest(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(101):
        (tmp_path / "in" / f"{i}.txt").write_text("x")
    job = Job(Files(tmp_path / "in"), mapfn, partitions=8)
    leave_half(tmp_path / "out", job, part_bytes=1)
    (tmp_path / "in" / "50.txt").write_text("xy")
    with pytest.raises(OutputError, match="one of 101 input files has changed"):
        open_output(f"{tmp_path}/out/", job=job, resume=True)


@pytest.mark.usefixtures("each_partition_ends_a_part")
def test_without_parts_a_folder_may_have_other_partitions(tmp_path):
    leave_half(tmp_path, part_bytes=10)
    for part in tmp_path.glob("part-*"):
        part.unlink()
    assert find_made(tmp_path) is None
    with open_output(f"{tmp_path}/", job=JOB, resume=True, warn=lambda text: None) as sink:
        sink.write("key 0", 0)
        sink.note_partitions((0,), 5)  # of a cluster with fewer executors
        sink.write("key 1", 1)
        sink.note_partitions((1,), 5)
        sink.abort()
    assert find_made(tmp_path) == Made(frozenset([0, 1]), 5)


def test_what_was_left_out_must_be_what_the_folder_has():
    none, nothing, some = None, Made(frozenset(), 8), Made(frozenset([1]), 8)
    for left_out, there, is_right in [
        (none, none, True), (nothing, none, True), (none, nothing, True), (some, some, True),
        (nothing, some, False), (none, some, False), (some, nothing, False), (some, none, False),
        (some, Made(frozenset([1]), 7), False),
    ]:  # fmt: skip
        handle = Readable.__new__(Readable)
        handle._runner = SimpleNamespace(made=left_out, parts_plan=None)
        with nullcontext() if is_right else pytest.raises(UsageError, match="resume=FOLDER"):
            handle._check_goes_on_in(SimpleNamespace(made=there))


def generate():
    yield 1, 1


def finish_all(records):
    yield from records


@pytest.mark.parametrize(
    ("job", "options", "said"),
    [
        (Job(generate(), mapfn), {}, "the datasource is a generator"),
        (Job(iter([(1, 1)]), mapfn), {}, "the datasource is a list_iterator"),
        (Job(generate, mapfn), {}, "the datasource is a function"),
        (Job(Lines("-"), mapfn), {}, "the input - can be read only once"),
        (Job(ITEMS, "offered"), {}, "the function 'offered', which workers offer"),
        (Job(ITEMS, mapfn, allocation="oneshot"), {}, "oneshot"),
        (Job(ITEMS, mapfn, sum_values).then(mapfn, sum_values), {}, "a job of several stages"),
        (Job(ITEMS, mapfn, finishfn=finish_all), {}, "finishfn is called once, with all results"),
        (JOB, {"sort": "key"}, "results in order are written at the end"),
        (JOB, {"top": 3}, "results in order are written at the end"),
    ],
)
def test_what_has_no_fingerprint_is_refused_in_one_sentence(job, options, said, tmp_path):
    with pytest.raises(OutputError, match=rf"cannot resume .*{said}.*; leave --resume away") as caught:
        open_output(f"{tmp_path}/out/", job=job, resume=True, **options)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"the input .*pipe can be read only once"):
        open_output(f"{tmp_path}/out/", job=Job(Lines(tmp_path / "pipe"), mapfn), resume=True)


def test_resuming_is_for_folders_and_does_not_overwrite(tmp_path):
    with pytest.raises(OutputError, match="resuming is for folders"):
        open_output(tmp_path / "out.tsv", job=JOB, resume=True)
    with pytest.raises(OutputError, match="leave one away"):
        open_output(f"{tmp_path}/out/", job=JOB, resume=True, overwrite=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("each_partition_ends_a_part")
def test_a_second_run_waits_for_no_lock_and_is_refused(tmp_path):
    with open_output(f"{tmp_path}/", job=JOB, resume=True) as sink:
        with pytest.raises(OutputError, match=rf"process {os.getpid()} on .* writes results there"):
            open_output(f"{tmp_path}/", job=JOB, resume=True)
        sink.write(1, 2)
    check_complete(tmp_path)


def test_a_plain_run_does_not_go_on_and_names_the_option(tmp_path):
    leave_half(tmp_path, part_bytes=1)
    with pytest.raises(OutputError, match="or finish what an earlier run began: --resume"):
        open_output(f"{tmp_path}/", job=JOB)
    with open_output(f"{tmp_path}/", job=JOB, overwrite=True) as sink:
        sink.write("new", 1)
    assert read(tmp_path) == ["new\t1"]
    check_complete(tmp_path)


def test_parts_are_cut_where_partitions_end_if_they_fit(tmp_path):
    with open_output(f"{tmp_path}/", job=JOB, part_bytes=100) as sink:
        for partition in range(8):
            for i in range(3):
                sink.write(f"{partition}.{i}", "x" * 6)  # 3 x 11 bytes
            sink.note_partitions((partition,), 8)
    sizes = [part["bytes"] for part in check_complete(tmp_path)["parts"]]
    assert sizes == [99, 99, 66]


def kill_at_random(path, draw, part_bytes):
    """Start a writer and kill it at a random moment; return whether it was killed."""
    arguments = [sys.executable, "-c", WRITER, f"{path}/", str(part_bytes)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=ENVIRON) as process:
        process.stdout.readline()
        time.sleep(draw.random() * 0.03)  # the moment is what is drawn; nothing waits for it
        process.kill()
    return process.returncode == -signal.SIGKILL


class Killed(BaseException):
    """Stands for SIGKILL: from then on no system call of the writer has an effect."""


def write_until(path, kill_at, part_bytes, executors_write):
    """Write what is missing, and die at such a system call; return how many calls there were."""
    calls, files = 0, None

    def counted(name, function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if kill_at is not None and calls > kill_at:
                raise Killed(name)
            return function(*args, **kwargs)

        return call

    sink, locks, lock = None, [], folder_files.lock_folder
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(
            folder_files, "lock_folder", lambda *arguments: locks.append(lock(*arguments)) or locks[-1]
        )
        patches.setattr(os, "fsync", counted("fsync", lambda descriptor: None))  # which takes long
        for name in ("replace", "unlink", "link"):
            patches.setattr(os, name, counted(name, getattr(os, name)))
        try:
            sink = open_output(f"{path}/", job=JOB, resume=True, part_bytes=part_bytes)
            done = sink.made.partitions if sink.made else ()
            plan = sink.plan_parts() if executors_write else None
            for partition in range(7):
                if partition not in done and not sink.is_complete:
                    if plan is not None and partition % 2:
                        files = PartFiles(plan)
                        assert files.begin() is None
                        files.write([files.encode(*record) for record in records_of(partition)])
                        sink.write(files.end()._replace(partitions=(partition,), of=7), None)
                        files = None
                    else:
                        for key, value in records_of(partition):
                            sink.write(key, value)
                    sink.note_partitions((partition,), 7)
            sink.commit()
        except Killed:
            with suppress(OSError):  # it was over
                os.close(locks[0])  # as the system does when a process ends
            if files is not None and files._open is not None and files._open.file._file is not None:
                files._open.file._file.close()
            if sink is not None and sink._file is not None and sink._file._file is not None:
                sink._file._file.close()
    return calls


@pytest.mark.usefixtures("each_partition_ends_a_part")
@pytest.mark.parametrize(
    ("part_bytes", "executors_write"),
    [pytest.param(1, False, marks=pytest.mark.long), (15, True), (15, False), (1000, False)],
)
def test_a_kill_at_each_system_call_loses_only_what_was_not_whole(part_bytes, executors_write, tmp_path):
    expected = sorted(f"{k}\t{v}" for partition in range(7) for k, v in records_of(partition))
    n_calls = write_until(tmp_path / "whole", None, part_bytes, executors_write)
    assert read(tmp_path / "whole") == expected
    for kill_at in range(n_calls):
        path = tmp_path / f"killed at {kill_at}"
        write_until(path, kill_at, part_bytes, executors_write)
        write_until(path, kill_at // 2, part_bytes, executors_write)  # a killed run that resumes a killed run
        if (path / "_SUCCESS").exists():
            assert read(path) == expected, kill_at
        kept = {name: (path / name).stat().st_ino for name in recorded_parts(path)}
        write_until(path, None, part_bytes, executors_write)
        assert read(path) == expected, kill_at
        assert {name: (path / name).stat().st_ino for name in kept} == kept
        check_complete(path)


@pytest.mark.long
def test_a_writer_that_is_killed_at_any_moment_and_resumed_gives_what_one_run_gives(tmp_path):
    draw = random.Random(1)
    path = tmp_path / "out"
    for _ in range(max(4, share_of(12))):
        part_bytes = draw.choice((20, 60, 1000))
        kept = {name: (path / name).stat().st_ino for name in recorded_parts(path)}
        kill_at_random(path, draw, part_bytes)
        for name, inode in kept.items():
            assert (path / name).stat().st_ino == inode, "a part that was whole was made again"
        if (path / "_SUCCESS").exists():
            (path / "_SUCCESS").unlink()
            for name in os.listdir(path):
                (path / name).unlink()
    subprocess.run(
        [sys.executable, "-c", WRITER, f"{path}/", "60"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=ENVIRON,
    )
    check_complete(path)
    assert read(path) == sorted(
        f"{k}\t{v}" for partition in range(PARTITIONS) for k, v in records_of(partition)
    )


def recorded_parts(path):
    """Return the names of the parts in the units of a folder's record that are all there."""
    names = set()
    if not (path / RECORD).exists():
        return names
    for line in (path / RECORD).read_text().splitlines()[1:]:
        parts = [part["name"] for part in json.loads(line)["parts"]]
        if all((path / name).exists() for name in parts):
            names.update(parts)
    return names


@pytest.mark.usefixtures("each_partition_ends_a_part")
def test_programs_resume_what_they_have_written(tmp_path):
    path = f"{tmp_path}/out/"
    with LocalCluster(1) as cluster:
        expected = sorted(f"{k}\t{v}" for k, v in cluster.submit(JOB).result().items())
        assert cluster.submit(JOB).write(path, resume=True) == 40
        assert read(tmp_path / "out") == expected
        told = check_complete(tmp_path / "out")
        assert len(told["parts"]) == 8
        assert cluster.submit(JOB).write(path, resume=True) == 40  # it is complete
        with pytest.raises(OutputError, match="mapfn has changed"):
            cluster.submit(Job(ITEMS, other_mapfn, sum_values, partitions=8)).write(path, resume=True)
        with pytest.raises(OutputError, match="not empty"):
            cluster.submit(JOB).write(path)

        sink = leave_half(tmp_path / "half")
        half = f"{tmp_path}/half/"
        with pytest.raises(UsageError, match=r"cluster\.submit\(job, resume=FOLDER\)"):
            cluster.submit(JOB).write(half, resume=True)
        handle = cluster.submit(JOB, resume=half)
        for give_all in (handle.result, handle.stream, lambda: handle.write(f"{tmp_path}/other/")):
            with pytest.raises(UsageError, match="makes only what is not in that folder"):
                give_all()
        n_records = handle.write(half, resume=True)
        kept = [f"key {i}\t{i}" for i in range(3)]  # by hand: not what these partitions hold
        lines = read(tmp_path / "half")
        assert n_records == len(lines) == sink.made_records + check_complete(tmp_path / "half")["records"]
        assert set(kept) < set(lines)
