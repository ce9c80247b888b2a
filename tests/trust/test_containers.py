"""In a container cores, memory and processes are those of its limits, and what ends there says so."""

import contextlib
import os
import re
import shutil

import pytest

from tests.trust.containers import count_kills, inside, memory_group, pids_group, quota_group
from tests.trust.machines import Machines

MIB = 2**20

#: a job whose records are larger than the memory: they go to disk
LARGE = """
ITEMS, RECORDS = 30, 8000
datasource = [(n, n) for n in range(ITEMS)]

def mapfn(key, value):
    for n in range(RECORDS):
        yield (n, key), b"%d of %d" % (n, key) * 60

def reducefn(key, values):
    return sum(map(len, values))
"""

#: a job whose function wants more memory than there is, at one item
GREEDY = """
datasource = [(n, n) for n in range(4)]

def mapfn(key, value):
    if key == 2:
        kept = [bytearray(b"x" * (8 << 20)) for _ in range(200)]
    yield key, value
"""

SMALL = """
datasource = [(n, n) for n in range(40)]

def mapfn(key, value):
    yield key % 2, value

def reducefn(key, values):
    return sum(values)
"""
SUMS = {"0\t380", "1\t400"}

COUNT = (
    "import mmgevent; cluster = mmgevent.LocalCluster(); print(cluster.workers()[0].slots); cluster.close()"
)


@pytest.fixture
def machines(tmp_path):
    with contextlib.closing(Machines(tmp_path)) as machines:
        yield machines


@pytest.mark.parametrize("more", [("--set", "partitions=2"), ("--inline", "--set", "partitions=2")])
def test_a_job_that_is_larger_than_the_container_runs_in_it(machines, more):
    job = machines.write("large.py", LARGE)
    with memory_group(300 * MIB) as group:
        done = machines.start("run", *more, job, prefix=inside(group))
        code, written = done.finish()
        assert (code, len(written.splitlines()), count_kills(group)) == (0, 240_000, 0), done.said


def test_an_executor_that_the_kernel_kills_is_told_of_with_the_limit(machines):
    job = machines.write("greedy.py", GREEDY)
    with memory_group(300 * MIB) as group:
        done = machines.start("run", "--procs", 1, job, prefix=inside(group))
        assert done.finish()[0] == 1
        assert count_kills(group) > 0
    assert "mapfn at 2 " in done.said
    assert (
        "out of memory: the kernel killed it at the limit of its container (control group), 300 MiB"
        in done.said
    )
    assert "give it more, use fewer slots (--procs)" in done.said


def test_an_engine_that_the_kernel_kills_is_told_of_with_the_limit(machines):
    job = machines.write("large.py", LARGE)
    with memory_group(100 * MIB) as group:
        done = machines.start("run", "--memory", "1GiB", "--procs", 1, job, prefix=inside(group))
        assert done.finish()[0] == 1
        assert count_kills(group) > 0
    reason = "the kernel killed it at the memory limit of its container (control group), 100 MiB"
    assert f"the engine process ended: {reason}; the job is resubmitted" in done.said


@pytest.mark.parametrize(("cores", "slots"), [(0.5, 1), (1.5, 2)])
def test_executors_are_as_many_as_the_quota_has_cores(machines, cores, slots):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core")
    with quota_group(cores) as group:
        done = machines.start(program=("-c", COUNT), prefix=inside(group))
        assert done.finish() == (0, f"{slots}\n"), done.said


def test_executors_are_no_more_than_there_is_memory_for(machines):
    with memory_group(200 * MIB) as group:
        done = machines.start(program=("-c", COUNT), prefix=inside(group))
        assert done.finish() == (0, "1\n"), done.said


# processes

#: of a command that ends before it has begun anything
SENTENCE = r"mmg-{}: .* cannot be started: .*; this user or container may have no more processes and threads \({}: allow more of them\n"


def check_few(done, command, reason):
    """See that the job was done, or one sentence says why not; return whether it was done."""
    code, written = done.finish()
    if code == 0:
        assert set(written.splitlines()) == SUMS
        return True
    assert (code, "Traceback" in done.said) == (2, False), done.said
    last = re.sub(r"mmg-run: (listening|on this machine)(.*\n){1,3}with the same.*\n", "", done.said)
    assert re.fullmatch(SENTENCE.format(command, reason), last.splitlines(keepends=True)[-1]), done.said
    return False


@pytest.mark.parametrize("more", [(), ("--listen", "127.0.0.1:0")])
def test_with_few_processes_a_job_is_done_or_one_sentence_says_why_not(machines, more):
    job = machines.write("small.py", SMALL)
    was_done = []
    for count in range(1, 10):
        with pids_group(count) as group:
            done = machines.start("run", "--procs", 3, *more, job, prefix=inside(group))
            reason = rf".*pids.max of its container is {count}\)"
            was_done.append(check_few(done, "run", reason))
    assert not was_done[0]
    assert was_done[-1]  # with fewer executors than slots, or all of them


@pytest.mark.parametrize("argv", [("server", "--listen", "127.0.0.1:0"), ("worker", "127.0.0.1:1")])
def test_a_server_or_worker_that_can_start_nothing_says_so(machines, argv):
    with pids_group(1) as group:
        done = machines.start(*argv, prefix=inside(group))
        check_few(done, argv[0], r".*pids.max of its container is 1\)")


def other_user(count):
    """Return a command that becomes the one behind it, as a user who may have so many processes."""
    abilities = "+dac_override,+dac_read_search"  # or it could not read what root installed
    return [
        *("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"),
        *(f"--inh-caps={abilities}", f"--ambient-caps={abilities}"),
        *("prlimit", f"--nproc={count}"),
    ]


def test_a_user_who_may_have_few_processes_is_told_of_the_limit(machines):
    if os.geteuid() != 0 or not (shutil.which("setpriv") and shutil.which("prlimit")):
        pytest.skip("only root can be another user, and takes setpriv and prlimit for it")
    job = machines.write("small.py", SMALL)
    for count in (1, 2, 4):
        done = machines.start("run", "--procs", 2, job, prefix=other_user(count))
        assert not check_few(done, "run", rf"ulimit -u is {count}\)")
    assert machines.start("run", "--inline", job, prefix=other_user(1)).finish()[0] == 0
