"""Templates that outlive their job: the next job starts none, and finds nothing of the one before."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import mmgevent as mmg
from mmgevent.box import spares, templates
from tests.box.conftest import children
from tests.driver.runners.test_contract import EXPECTED, add, by_three, numbers
from tests.integration.commands import ROOT

#: Far longer than anything here takes, seconds.
WAIT_S = 30.0


def wait_until(condition):
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s, "it never came about"
        time.sleep(0.01)


def processes(key, value):
    """Tell the executor and its template, and what the executor found."""
    import builtins

    main = sys.modules["__main__"]
    found = [getattr(each, "left_by_a_job", None) for each in (builtins, main, os)]
    builtins.left_by_a_job = main.left_by_a_job = os.left_by_a_job = "left"
    yield key, (os.getpid(), os.getppid(), found, hash("mmgevent"))


def run_alone(cluster, mapfn=processes):
    """Run a job of one item; return what its map function told."""
    return cluster.run(mmg.Job([(0, 0)], mapfn))[0][0]


def test_the_next_job_has_the_template_and_nothing_of_the_job_before(cluster):
    first, second = run_alone(cluster), run_alone(cluster)
    assert first[0] != second[0]
    assert first[1] == second[1]
    assert second[2] == [None, None, None]
    assert first[3] == second[3]


@pytest.mark.parametrize("number", ["SIGSTOP", "SIGKILL"])
def test_a_template_that_was_stopped_or_ended_while_it_waited_is_not_used_again(cluster, number):
    template = run_alone(cluster)[1]
    os.kill(template, getattr(signal, number))
    began_s = time.monotonic()
    assert cluster.run(mmg.Job(numbers(100), by_three, add)) == EXPECTED
    assert time.monotonic() - began_s < WAIT_S
    assert run_alone(cluster)[1] != template
    wait_until(lambda: not psutil.pid_exists(template))


def test_executors_have_the_environment_and_folder_of_their_host_now(cluster, monkeypatch, tmp_path):
    def tells(key, value):
        yield key, (os.environ.get("MMGEVENT_TEST_NOW"), os.getcwd(), os.getppid())

    with ThreadPoolExecutor(1) as executor, mmg.connect(executor, folder=str(tmp_path)) as other:
        before = run_alone(other, tells)
        monkeypatch.setenv("MMGEVENT_TEST_NOW", "now")
        monkeypatch.chdir(tmp_path)
        after = run_alone(other, tells)
    assert before[0] is None
    assert after[:2] == ("now", str(tmp_path))
    assert after[2] != before[2]


HOST_IS_CHANGED = """
import os, resource, sys, threading
from concurrent.futures import ThreadPoolExecutor
import mmgevent as mmg

def change():
    {change}

def told(key, value):
    import os, resource
    umask = os.umask(0)
    os.umask(umask)
    yield key, (({look}), os.getppid())

executor = ThreadPoolExecutor(1)
with executor, mmg.connect(executor) as cluster:
    for _ in range(2):
        print(*cluster.run(mmg.Job([(0, 0)], told))[0][0], flush=True)
        executor.submit(change).result()
"""


@pytest.mark.parametrize(
    ("change", "look", "expected"),
    [
        (
            "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))",
            "resource.getrlimit(resource.RLIMIT_NOFILE)[0]",
            "300",
        ),
        ("os.umask(0o27)", "umask", str(0o27)),
        ("os.nice(3)", "os.getpriority(os.PRIO_PROCESS, 0) >= 3", "True"),
        ("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", "len(os.sched_getaffinity(0))", "1"),
        ("os.setgroups([os.getgid(), 54321])", "54321 in os.getgroups()", "True"),
    ],
    ids=["limits", "umask", "niceness", "cpus", "groups"],
)
def test_executors_have_what_the_thread_of_their_host_has_now(change, look, expected):
    """In a process of its own, since most of it cannot be taken back."""
    if "groups" in change and os.geteuid() != 0:
        pytest.skip("only root changes its groups")
    program = HOST_IS_CHANGED.format(change=change, look=look)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    before, after = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert after[0] == expected
    assert after[1] != before[1]


def test_an_action_that_fails_is_logged_and_the_thread_goes_on(caplog):
    """Else no template could be started in this process any more, and every job would hang."""
    called = threading.Event()

    def fails():
        raise OSError("no such thing")

    templates.call_later(0.0, fails)
    templates.call_later(0.0, called.set)
    assert called.wait(WAIT_S)
    assert "no such thing" in caplog.text
    pool = spares.Spares()
    take(pool).link.close()


def take(pool, flags=()):
    """Take a template, and wait until it has started."""
    taken = pool.take(greenlets=False, flags=flags)
    assert taken.link.answers(WAIT_S)
    return taken


def test_the_number_of_those_that_wait_is_limited(monkeypatch):
    monkeypatch.setattr(spares, "MAX_SPARES", 1)
    before = children()
    pool = spares.Spares()
    taken = [take(pool) for _ in range(2)]
    assert len(children() - before) == 2
    for template in taken:
        pool.leave(template)
    assert len(children() - before) == 1
    assert take(pool) is taken[1]
    pool.leave(taken[1])
    pool.end_all()
    assert children() - before == set()


def test_one_that_waits_too_long_ends(monkeypatch):
    monkeypatch.setattr(spares, "SPARE_S", 0.2)
    before = children()
    pool = spares.Spares()
    pool.leave(take(pool))
    wait_until(lambda: children() - before == set())


def test_other_flags_need_another_template():
    pool = spares.Spares()
    plain = take(pool)
    pool.leave(plain)
    optimized = take(pool, ("-O",))
    assert optimized is not plain
    pool.leave(optimized)
    assert take(pool) is plain
    pool.leave(plain)
    pool.end_all()


HOST = """
import sys, time
from mmgevent.box import spares
template = spares.take_template(greenlets=False, flags=())
assert template.link.answers(30.0)
spares.leave_template(template)
print("ready", flush=True)
sys.stdin.read()
"""


def test_those_that_wait_end_with_their_host():
    with subprocess.Popen(
        [sys.executable, "-c", HOST], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as host:
        host.stdout.readline()
        waiting = psutil.Process(host.pid).children()
        assert len(waiting) == 1
        host.kill()
    psutil.wait_procs(waiting, WAIT_S)
    assert not any(process.is_running() for process in waiting)
