"""Who dies under a job is told to its driver within a second: of what, on which task, and what was done about it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

import mmgevent as mmg
from mmgevent.access.addresses import format_address
from tests.integration.commands import Commands, wait_for
from tests.trust.watch import PATIENCE_S, Watched, wait_until


def a_second():
    """A second, and more while this machine takes long to get to the three processes that the news passes through."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-IS", "-c", ""], check=True)
    return 1.0 + 10 * (time.monotonic() - began)


def add(key, values):
    return sum(values)


@pytest.fixture(scope="module")
def watched():
    watched = Watched()
    yield watched
    watched.close()


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    yield started
    started.close()


class Heard:
    """Notices and the time they came."""

    def __init__(self):
        self._came = []
        self._news = threading.Condition()

    def __call__(self, text):
        with self._news:
            self._came.append((time.monotonic(), text))
            self._news.notify_all()

    def wait_for(self, pattern):
        """(time, match) of the first notice with this pattern."""

        def find():
            return next(((at, m) for at, text in self._came if (m := re.search(pattern, text))), None)

        with self._news:
            assert self._news.wait_for(find, PATIENCE_S), self._came
            return find()

    def texts(self):
        return [text for _, text in self._came]


def waiting_for(go, folder):
    """A mapfn whose item "wait" says its process and waits for a file."""

    def mapfn(key, value):
        if key == "wait":
            print("the last line it printed")  # noqa: T201
            with open(os.path.join(folder, f"pid-{os.getpid()}"), "w"):
                pass
            while not os.path.exists(go):
                time.sleep(0.005)
        yield "sum", value

    return mapfn


def arrived(folder):
    """The pids of the executors that wait, which there are none of yet if this is empty."""
    return [int(path.name.partition("-")[2]) for path in folder.glob("pid-*")]


def test_a_killed_executor_is_told_within_a_second_with_all_that_is_known(watched, tmp_path):
    go = tmp_path / "go"
    heard = Heard()
    job = mmg.Job({"wait": 1, "b": 2}, waiting_for(str(go), str(tmp_path)), add)
    handle = watched.cluster.submit(job, on_notice=heard)
    (pid,) = wait_until(lambda: arrived(tmp_path))
    died_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    told_s, _ = heard.wait_for(
        r"signal 9 \(SIGKILL\).*MiB at most\); tried again on \S+/\d+\n  \| the last line"
    )
    assert told_s - died_s < a_second()
    (death,) = handle.deaths()
    go.touch()
    assert handle.result(PATIENCE_S) == {"sum": 3}
    assert death["kind"] == "died"
    assert (death["function"], death["key"], death["outcome"]) == ("mapfn", "'wait'", "retried")
    assert death["exit"] == "signal 9 (SIGKILL)"
    assert re.fullmatch(r"items? \d+( to \d+)? of batch \d+", death["task"])
    assert 5 << 20 < death["peak_bytes"] < 1 << 30
    assert death["last_words"] == "the last line it printed\n"
    assert death["worker"] == death["retried_on"] == watched.cluster.workers()[0].name
    assert handle.deaths() == [death]
    watched.check()


def test_a_death_in_reduce_names_the_reduce_task_and_the_key(watched, tmp_path):
    once = tmp_path / "once"

    def die_once(key, values):
        if key == 2 and not once.exists():
            once.touch()
            os._exit(3)
        return sum(values)

    handle = watched.submit([(n, n) for n in range(9)], lambda k, v: [(k % 3, v)], die_once)
    assert handle.result(PATIENCE_S) == {0: 9, 1: 12, 2: 15}
    (death,) = handle.deaths()
    assert (death["function"], death["key"], death["exit"]) == ("reducefn", "2", "exit code 3")
    assert death["outcome"] == "retried"
    assert re.fullmatch(r"reduce task \d+", death["task"])


def test_a_death_that_ends_the_job_is_recorded_and_told_by_its_error_alone(watched):
    def die(key, value):
        os._exit(3)

    handle = watched.submit([(1, 1)], die, add)
    assert "exit code 3" in str(handle.exception(PATIENCE_S))
    assert [death["outcome"] for death in handle.deaths()] == ["retried", "retried", "failed"]
    assert len(handle.notices) == 2
    watched.check()


def test_an_executor_near_its_memory_limit_is_warned_of_once_and_killed_beyond_it(watched, tmp_path):
    """In two steps, each of which waits for what it brings about."""
    go = tmp_path / "go"
    heard = Heard()

    def grow(key, value):
        import mmap

        memory = mmap.mmap(-1, 800 << 20)  # shared: RLIMIT_DATA, which would refuse it, does not count it
        for start in range(0, 465 << 20, 4096):
            memory[start] = 1
        while not os.path.exists(value):
            time.sleep(0.005)
        for start in range(465 << 20, 800 << 20, 4096):
            memory[start] = 1
        time.sleep(1000)

    job = mmg.Job({"big": str(go)}, grow, add, memory_limit="512MiB")
    handle = watched.cluster.submit(job, on_notice=heard)
    warning = r"^mapfn at 'big' on \S+: it uses 4\d\d MiB of memory_limit, 512 MiB$"
    heard.wait_for(warning)
    assert not handle.deaths()
    go.touch()
    error = handle.exception(PATIENCE_S)
    assert error.kind == "memory"
    assert "memory_limit, 512 MiB" in str(error)
    assert [death["kind"] for death in handle.deaths()] == ["memory"] * 3
    warned = [text for text in heard.texts() if re.search(warning, text)]
    assert 1 <= len(warned) <= 3  # once an executor: the later ones grow without a stop
    watched.check()


def test_a_killed_worker_is_told_within_a_second_with_what_it_had(commands, tmp_path, monkeypatch):
    monkeypatch.setenv("MMG_PASSWORD", "the same on both sides")
    environ = {"MMG_PASSWORD": "the same on both sides"}
    go = tmp_path / "go"
    heard = Heard()
    with mmg.LocalCluster(0, listen="127.0.0.1:0") as cluster:
        address = format_address(cluster.address)
        first = commands.start("worker", "--procs", "1", address, environ=environ)
        job = mmg.Job({"wait": 1, "b": 2}, waiting_for(str(go), str(tmp_path)), add)
        handle = cluster.submit(job, on_notice=heard)
        (executor,) = wait_until(lambda: arrived(tmp_path))
        ((name, _),) = cluster.workers()
        commands.start("worker", "--procs", "1", address, environ=environ)
        wait_until(lambda: len(cluster.workers()) == 2)
        died_s = time.monotonic()
        first.kill()
        told_s, _ = heard.wait_for(f"^worker {re.escape(name)} was lost .*batch.*; tried again on ")
        assert told_s - died_s < a_second()
        (death,) = handle.deaths()
        assert (death["kind"], death["worker"], death["outcome"]) == ("lost", name, "retried")
        assert "of batch" in death["task"]
        assert death["retried_on"] != name
        wait_until(lambda: not psutil.pid_exists(executor))
        go.touch()
        assert handle.result(PATIENCE_S) == {"sum": 3}


def test_mmg_run_says_it_on_stderr_while_the_job_goes_on(commands, tmp_path):
    commands.write(
        "job.py",
        f"""
import os, time
datasource = {{"a": 1}}
def mapfn(key, value):
    if not os.path.exists({str(tmp_path / "once")!r}):
        open({str(tmp_path / "once")!r}, "w").close()
        print("famous last words")
        os._exit(3)
    while not os.path.exists({str(tmp_path / "go")!r}):
        time.sleep(0.01)
    yield key, value
""",
    )
    process = commands.start("run", "--procs", "1", "job.py")
    wait_for(
        process.stderr, r"^mmg-run: mapfn at 'a' on \S+: the executor died: exit code 3 .*; tried again on "
    )
    wait_for(process.stderr, r"^  \| famous last words$")
    assert process.poll() is None
    (tmp_path / "go").touch()
    ended = commands.finish(process)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "a\t[1]\n", "")
    assert commands.left_behind() == []
