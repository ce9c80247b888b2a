"""Workers that batch systems start and end: they leave in time, and whoever expects them waits."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.commands import patience_s, read_tsv, wait_for
from tests.ports import free_port

#: items that end when their file is gone; each attempt leaves a file that names its process
GATED = """
import os, time
from pathlib import Path

HERE = Path(__file__).parent
datasource = [(n, n) for n in range(ITEMS)]
options = {"retransmit": 0, "partitions": 1}

def mapfn(key, value):
    path = HERE / f"{key}-{os.getpid()}.begun"
    path.write_text(str(os.nice(0)))
    while (HERE / f"{key}.gate").exists():
        time.sleep(0.01)
    yield key, os.getpid()
"""

#: touches more memory than its worker allows, which its job does not limit
BOMB = """
import time

datasource = {1: 1}

def mapfn(key, value):
    memory = [bytes(1 << 20) + b"x" for _ in range(400)]
    time.sleep(60)
    yield key, len(memory)
"""


def write_job(commands, items):
    return commands.write("gated.py", GATED.replace("ITEMS", str(items)))


def begun(commands, key="*"):
    return sorted(commands.folder.glob(f"{key}-*.begun"))


def wait_until(condition):
    end_s = time.monotonic() + 20 * patience_s()
    while not condition():
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.01)


def join(commands, where, *options):
    worker = commands.start("worker", "--procs", "1", *options, where)
    wait_for(worker.stderr, "joined the server")
    return worker


@pytest.mark.long
@pytest.mark.parametrize("way", ["lifetime", "SIGTERM"])
def test_an_item_that_outlives_its_worker_is_given_back_and_costs_no_retry(commands, way):
    """With retries=0 and max_skipped=0, any death or failure would end the job."""
    _server, where = commands.start_server()
    gate = commands.folder / "0.gate"
    gate.touch()
    run = commands.start("run", "-v", "--join", where, write_job(commands, 1))
    options = ("--lifetime", "4", "--grace", "1") if way == "lifetime" else ("--grace", "0.2")
    began_s = time.monotonic()
    first = join(commands, where, *options)
    wait_until(lambda: len(begun(commands)) == 1)
    if way == "SIGTERM":
        first.send_signal(signal.SIGTERM)
    ended = commands.finish(first)
    assert ended.returncode == (0 if way == "lifetime" else 143)
    if way == "lifetime":
        assert "worker leaves: its lifetime of 4 s is over" in ended.stderr
        assert 3 < time.monotonic() - began_s < 4 + 3 * patience_s()
    assert run.poll() is None
    gate.unlink()
    join(commands, where)
    done = commands.finish(run)
    assert done.returncode == 0, done.stderr
    assert len(begun(commands)) == 2
    assert "died" not in done.stderr
    assert "retr" not in done.stderr
    assert read_tsv(done.stdout).keys() == {"0"}


def test_a_worker_near_its_end_takes_nothing_new(commands):
    """The second item waits for the next worker, although the first one's slot is free before its end."""
    _server, where = commands.start_server()
    gate = commands.folder / "0.gate"
    gate.touch()
    run = commands.start("run", "--join", where, write_job(commands, 2))
    first = join(commands, where, "--lifetime", "62", "--grace", "60")
    wait_until(lambda: len(begun(commands, 0)) == 1)
    wait_for(first.stderr, "worker leaves: its lifetime of 62 s is over")
    gate.unlink()
    assert commands.finish(first).returncode == 0  # as soon as its item is done
    assert run.poll() is None
    assert len(begun(commands, 0)) == 1
    join(commands, where)
    done = commands.finish(run)
    assert done.returncode == 0, done.stderr
    pids = {key: json.loads(value) for key, value in (line.split("\t") for line in done.stdout.splitlines())}
    assert pids["0"] != pids["1"]
    assert len(begun(commands)) == 2


@pytest.mark.long
def test_a_worker_without_tasks_leaves_and_one_with_a_task_does_not(commands):
    _server, where = commands.start_server()
    gate = commands.folder / "0.gate"
    gate.touch()
    run = commands.start("run", "--join", where, write_job(commands, 1))
    wait_for(run.stderr, "there are no workers; the job waits for one")
    worker = join(commands, where, "--idle-timeout", "1.5")
    wait_until(lambda: len(begun(commands)) == 1)
    began_s = time.monotonic()
    while time.monotonic() < began_s + 2.5:  # a time in which nothing may happen
        assert worker.poll() is None
        time.sleep(0.05)
    gate.unlink()
    assert commands.finish(run).returncode == 0
    ended = commands.finish(worker)
    assert ended.returncode == 0
    assert "worker leaves: it had no task for 1.5 s" in ended.stderr
    alone = commands.run("worker", "--procs", "1", "--idle-timeout", "0.5", "127.0.0.1:9")
    assert alone.returncode == 0  # nobody answers: that is idleness, too
    elected = commands.run("worker", "--idle-timeout", "0.5", "--elect", f"127.0.0.1:{free_port()}")
    assert elected.returncode == 0, elected.stderr


@pytest.mark.long
def test_executors_are_replaced_run_at_low_priority_and_within_memory(commands):
    _server, where = commands.start_server()
    options = ("--max-items", "2", "--nice", "7", "--memory-limit", "300MiB", "--name", "cheap:1")
    worker = join(commands, where, *options)
    slow = write_job(commands, 12)
    commands.write(
        "gated.py", Path(slow).read_text() + "    time.sleep(0.3)\n"
    )  # so that tasks have one item
    run = commands.run("run", "--join", where, "--set", "memory_limit=2GiB", slow)
    assert run.returncode == 0, run.stderr
    assert len({path.name.partition("-")[2] for path in begun(commands)}) >= 4
    assert len(begun(commands)) == 12
    assert {path.read_text() for path in begun(commands)} == {str(min(19, os.nice(0) + 7))}
    bomb = commands.write("bomb.py", BOMB)
    died = commands.run("run", "--join", where, bomb)
    assert died.returncode == 1
    assert "mapfn at 1 on cheap:1: MemoryError" in died.stderr
    worker.send_signal(signal.SIGINT)
    assert commands.finish(worker).returncode == 130


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--lifetime", "0"), "above 0"),
        (("--lifetime", "nan"), "above 0"),
        (("--idle-timeout", "-1"), "above 0"),
        (("--grace", "soon"), "above 0"),
        (("--lifetime", "10", "--grace", "10"), "less than --lifetime"),
        (("--max-items", "0"), "from 1 to 999999999999999999"),
        (("--max-items", "9" * 5000), "from 1 to 999999999999999999"),
        (("--nice", "20"), "0 to 19"),
        (("--nice", "-1"), "0 to 19"),
        (("--memory-limit", "1MiB"), "16MiB"),
        (("--name", ""), "ASCII"),
        (("--name", "a\x1b[31mb"), "ASCII"),
        (("--name", "x" * 101), "1 to 100"),
    ],
)
def test_options_out_of_range_are_refused(commands, options, error):
    refused = commands.run("worker", *options, "127.0.0.1:9")
    assert refused.returncode == 2
    assert error in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("way", ["--listen", "--join"])
def test_a_run_waits_for_the_workers_that_it_expects(commands, way):
    job = write_job(commands, 4)
    if way == "--listen":
        run = commands.start("run", "--procs", "0", "--listen", "127.0.0.1:0", "--expect-workers", "2", job)
        where = wait_for(run.stderr, r"listening on (\S+)")[1]
    else:
        _server, where = commands.start_server()
        run = commands.start("run", "--join", where, "--expect-workers", "2", job)
    wait_for(run.stderr, r"^mmg-run: waiting for 2 workers: 0 so far$")
    first = join(commands, where, "--once")
    wait_for(run.stderr, r"^mmg-run: waiting for 2 workers: 1 so far$")
    assert not begun(commands)
    second = join(commands, where, "--once")
    assert commands.finish(run).returncode == 0
    if way == "--listen":
        assert commands.finish(first).returncode == commands.finish(second).returncode == 0


def test_expected_workers_that_do_not_come_are_counted(commands):
    job = write_job(commands, 1)
    late = commands.run(
        "run",
        "--elect",
        f"127.0.0.1:{free_port()}",
        "--procs",
        "1",
        "--expect-workers",
        "3",
        "--workers-timeout",
        "1",
        job,
    )
    assert late.returncode == 7
    assert "1 of 3 workers joined in 1 s" in late.stderr
    assert not begun(commands)
    run = commands.start("run", "--procs", "0", "--listen", "127.0.0.1:0", "--expect-workers", "2", job)
    wait_for(run.stderr, "waiting for 2 workers")
    run.send_signal(signal.SIGINT)
    assert commands.finish(run).returncode == 130
    alone = commands.run("run", "--expect-workers", "2", job)
    assert alone.returncode == 2
    assert "--listen, --join or --elect" in alone.stderr
    none = commands.run("run", "--listen", "0", "--expect-workers", "0", job)
    assert none.returncode == 2
    assert "from 1 to 999999999999999999" in none.stderr
    assert not commands.left_behind()
