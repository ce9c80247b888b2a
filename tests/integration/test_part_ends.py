"""Parts that executors write, seen from outside: ends of every kind, full disks, workers that see other disks."""

import json
import os
import random
import select
import signal
import subprocess
import sys

import pytest

from mmgevent.job.outputs.parts_plan import TOKEN_PREFIX
from mmgevent.tasks.part_writer import MIN_OWN_BYTES
from tests.effort import share_of
from tests.integration.test_commands import kill_and_wait_for_children
from tests.integration.test_parts import check_whole, parts_of
from tests.job.outputs.test_resume import recorded_parts
from tests.trust.test_disks import needs_mount, small_disk

PARTITIONS = 4
KEYS = 160
#: characters of a result: each partition has enough to be written where it was reduced
CHARS = 2 * MIN_OWN_BYTES * PARTITIONS // KEYS

#: a job whose reducefn writes a line for each key into a pipe, if there is one
JOB = f"""
import os, sys
datasource = [(i, i) for i in range({KEYS})]
options = {{"partitions": {PARTITIONS}}}
def mapfn(key, value):
    yield key, value
def reducefn(key, values):
    if sys.argv[1:]:
        with open(sys.argv[1], "a") as pipe:
            print("key", file=pipe)
    return f"{{key}}" + "x" * {CHARS}
"""

#: a job whose executor has begun a part, says so through a pipe, and then does nothing for ever
BLOCKS = f"""
import sys, threading
datasource = [(i, i) for i in range({KEYS})]
options = {{"partitions": 1}}
def mapfn(key, value):
    yield key, value
def reducefn(items):
    for count, (key, values) in enumerate(items):
        yield key, "x" * {4 * CHARS}
    with open(sys.argv[1], "w") as pipe:
        pipe.write("runs")
    threading.Event().wait()
"""

EXPECTED = {i: f"{i}" + "x" * CHARS for i in range(KEYS)}


def read(folder):
    records = [json.loads(line) for path in parts_of(folder) for line in path.read_text().splitlines()]
    assert len(records) == len(dict(records))
    return dict(records)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGHUP, 129),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.long),
    ],
)
def test_a_command_that_ends_while_executors_write_leaves_nothing_that_looks_complete(commands, number, code):
    job = commands.write("blocks.py", BLOCKS)
    pipe = commands.folder / "pipe"
    os.mkfifo(pipe)
    process = commands.start("run", "--procs", "1", "-o", "out/", job, pipe)
    assert pipe.read_text() == "runs"
    _, _, left = kill_and_wait_for_children(process, number)
    assert left == []
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert not (commands.folder / "out").exists()
        return
    names = sorted(name.partition("-")[0] for name in os.listdir(commands.folder / "out"))
    assert names == [".mmg", ".mmg"]  # the lock, which locks nothing, and the token
    assert {name[: len(TOKEN_PREFIX)] for name in os.listdir(commands.folder / "out")} == {
        TOKEN_PREFIX,
        ".mmg-lock",
    }
    (commands.folder / "again.py").write_text(JOB)
    ended = commands.run("run", "--procs", "1", "-o", "out/", "again.py")
    assert ended.returncode == 0, ended
    check_whole(commands.folder / "out")


@pytest.mark.long
def test_a_command_that_is_killed_at_any_moment_and_resumed_gives_what_one_run_gives(commands):
    job = commands.write("job.py", JOB)
    out, draw = commands.folder / "out", random.Random(13)
    pipe = commands.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # writers never wait for a reader
    try:
        for _ in range(share_of(8)):
            kept = {name: (out / name).stat().st_ino for name in recorded_parts(out)}
            process = commands.start(
                "run", "--procs", "2", "--resume", "--format", "jsonl", "-o", "out/", job, pipe
            )
            lines = draw.randrange(1, KEYS)
            while lines > 0 and process.poll() is None:
                lines -= read_lines_or_end(reader, process)
            process.kill()
            process.communicate()
            if (out / "_SUCCESS").exists():
                break
            assert {name: (out / name).stat().st_ino for name in kept} == kept
        ended = commands.run("run", "--procs", "2", "--resume", "--format", "jsonl", "-o", "out/", job, pipe)
        assert ended.returncode == 0, ended
    finally:
        os.close(reader)
    check_whole(out)
    assert read(out) == EXPECTED


def read_lines_or_end(descriptor, process):
    """Return how many lines came; wait for one, or for the end of the process."""
    ready, _, _ = select.select([descriptor], [], [], 0.2)
    if not ready:
        return 0
    return os.read(descriptor, 64 * 1024).count(b"\n")


@pytest.mark.long
def test_two_runs_with_one_folder_and_with_one_file(commands):
    job = commands.write("blocks.py", BLOCKS)
    commands.write("job.py", JOB)
    pipe = commands.folder / "pipe"
    os.mkfifo(pipe)
    first = commands.start("run", "--procs", "1", "-o", "out/", job, pipe)
    assert pipe.read_text() == "runs"
    second = commands.run("run", "--procs", "1", "--overwrite", "-o", "out/", "job.py")
    assert second.returncode == 2
    assert f"process {first.pid} on" in second.stderr
    assert "writes results there" in second.stderr
    third = commands.run("run", "--inline", "-o", "out.jsonl", "job.py")
    assert third.returncode == 0
    kill_and_wait_for_children(first, signal.SIGTERM)
    fourth = commands.start("run", "--inline", "-o", "out.jsonl", "job.py")
    fifth = commands.start("run", "--inline", "-o", "out.jsonl", "job.py")
    assert [commands.finish(fourth).returncode, commands.finish(fifth).returncode] == [0, 0]
    lines = (commands.folder / "out.jsonl").read_text().splitlines()
    assert dict(map(json.loads, lines)) == EXPECTED
    assert len(lines) == KEYS
    assert not [name for name in os.listdir(commands.folder) if name.startswith(".mmg")]


@needs_mount
def test_a_full_disk_is_one_sentence_and_what_is_there_is_not_complete(commands):
    commands.write("job.py", JOB)
    folder = commands.folder / "disk"
    folder.mkdir()
    command = f"{sys.executable} -m mmgevent run -q --procs 2 --format jsonl -o disk/out/ job.py; echo $?; ls -A disk/out"
    ended = subprocess.run(
        [*small_disk(folder, "3m"), "sh", "-c", command],
        cwd=commands.folder, env=commands.environ, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    code, *left = ended.stdout.splitlines()
    assert code == "1", ended
    assert ended.stderr.count("cannot write disk/out/: No space left on device") == 1
    assert not [name for name in left if not name.startswith("part-") and name != ".mmg-parts"], left


@needs_mount
@pytest.mark.long
def test_workers_that_see_another_folder_send_their_results(commands):
    commands.write("job.py", JOB)
    out = commands.folder / "out"
    out.mkdir()
    environ = {"MMG_PASSWORD": "of this test"}
    server, address = commands.start_server(environ=environ)
    run = ("run", "--join", address, "--format", "jsonl.gz", "--overwrite", "-o", "out/", "job.py")
    worker = ("-m", "mmgevent", "worker", "--procs", "1", address)

    seeing = commands.start(*worker[2:], environ=environ)
    ended = commands.run(*run, environ=environ)
    assert ended.returncode == 0, ended
    assert "is not a folder of every worker" not in ended.stderr
    assert check_whole(out)["records"] == KEYS
    seeing.send_signal(signal.SIGKILL)
    seeing.wait()

    blind = subprocess.Popen(
        [*small_disk(out, "1m"), sys.executable, *worker],
        cwd=commands.folder, env={**commands.environ, **environ}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        ended = commands.run(*run, environ=environ)
        assert ended.returncode == 0, ended
        assert ended.stderr.count("is not a folder of every worker") == 1
        assert check_whole(out)["records"] == KEYS
    finally:
        blind.kill()
        blind.communicate()
    server.send_signal(signal.SIGTERM)
    server.wait()
