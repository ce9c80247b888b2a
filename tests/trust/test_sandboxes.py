"""What old kernels, sandboxes and bare containers lack is done without: jobs run, deaths are seen, nothing is left.

The kernel itself refuses the calls, see `tests.sandbox`; folders are hidden, or made read-only, in namespaces.
"""

import contextlib
import subprocess
import sys

import pytest

from tests import sandbox
from tests.trust.machines import Machines, family_of, wait_until, wait_until_gone

#: a job, with a place for what happens at the item 17
JOB = """
import os, subprocess, time
datasource = [(n, n) for n in range(40)]

def mapfn(key, value):
    if key == 17:
        {}
    yield key % 2, value

def reducefn(key, values):
    return sum(values)
"""
KINDS = {
    "counts": "pass",
    "waits": "time.sleep(1000)",
    "dies": "os._exit(3)",
    "leaves": "subprocess.Popen(['sleep', '100'], start_new_session=True); os._exit(3)",
}
SUMS = {"0\t380", "1\t400"}
SUMS_WITHOUT_17 = {"0\t380", "1\t383"}

CALLS = (
    "pidfd_open",
    "memfd_create",
    "prctl",
    "sched_getaffinity",
    "setpriority",
    "prlimit64",
    "close_range",
)
RULES = [
    *([f"{call}={error}"] for call in CALLS for error in ("ENOSYS", "EPERM")),
    ["socket_inet6=EAFNOSUPPORT"],
    [*(f"{call}=EPERM" for call in CALLS), "socket_inet6=EAFNOSUPPORT"],
]

READ_ONLY = "mount -o remount,ro,bind /"
NO_SHARED_MEMORY = "mount -t tmpfs -o ro none /dev/shm"


@pytest.fixture
def machines(tmp_path):
    with contextlib.closing(Machines(tmp_path)) as machines:
        yield machines


@pytest.fixture
def jobs(machines):
    return {kind: machines.write(f"{kind}.py", JOB.format(what)) for kind, what in KINDS.items()}


def refused(rules):
    """Return a command that becomes the one behind it, and has those calls refused."""
    if not sandbox.is_possible():
        pytest.skip("the numbers of this machine's calls are not known here")
    return [sys.executable, sandbox.__file__, *rules, "--"]


def in_namespace(*setup, network=False):
    """Return a command that does this to mounts of its own, then becomes the one behind it; or skip the test."""
    prefix = ["unshare", "--mount", *(["--net", "--uts"] if network else []), "sh", "-c"]
    script = " && ".join([*setup, 'exec "$@"'])
    with contextlib.suppress(FileNotFoundError):
        if not subprocess.run([*prefix, script, "sh", "true"], capture_output=True).returncode:
            return [*prefix, script, "sh"]
    pytest.skip("this machine gives us no namespaces in which that can be done")


def check_done(done):
    code, written = done.finish()
    assert (code, set(written.splitlines())) == (0, SUMS), done.said
    assert "Traceback" not in done.said


@pytest.mark.parametrize("rules", RULES, ids=" ".join)
def test_jobs_run_without_calls_that_the_kernel_refuses(machines, jobs, rules):
    check_done(
        machines.start(
            "run", "--procs", 2, "--set", "memory_limit=2GiB", jobs["counts"], prefix=refused(rules)
        )
    )


@pytest.mark.parametrize("rules", [RULES[0], RULES[1], RULES[-1]], ids=" ".join)
def test_servers_and_workers_run_without_them(machines, jobs, rules):
    server = machines.start_server(prefix=refused(rules))
    machines.start_worker(server.address, prefix=refused(rules))
    check_done(machines.start("run", "--join", server.address, jobs["counts"], prefix=refused(rules)))
    check_done(machines.start("run", "--elect", server.address, jobs["counts"], prefix=refused(rules)))


@pytest.mark.parametrize(
    ("kind", "rules"),
    [("leaves", RULES[0]), ("leaves", RULES[2]), ("dies", RULES[4]), ("dies", RULES[-1])],
    ids=["without pidfd", "without memfd", "without prctl", "without all"],
)
def test_deaths_are_seen_and_nothing_is_left(machines, jobs, kind, rules):
    """Without prctl what a function puts into a session of its own stays: the kernel does not give it to us."""
    done = machines.start("run", "--procs", 2, "--set", "max_skipped=1", jobs[kind], prefix=refused(rules))
    code, written = done.finish()
    assert (code, set(written.splitlines())) == (0, SUMS_WITHOUT_17), done.said
    assert "mapfn at 17 " in done.said  # the page said which item it was


@pytest.mark.parametrize("rules", [RULES[0], RULES[1], RULES[-1]], ids=" ".join)
def test_an_engine_ends_with_its_driver_though_the_kernel_does_not_tell(machines, jobs, rules):
    driver = machines.start("run", "--procs", 1, jobs["waits"], prefix=refused(rules))
    wait_until(lambda: len(family_of(driver.pid)) >= 4, "driver, engine, template, executor")
    family = family_of(driver.pid)
    driver.kill()
    wait_until_gone(family)


@pytest.mark.parametrize(("kind", "expected"), [("counts", SUMS), ("dies", SUMS_WITHOUT_17)])
def test_without_proc(machines, jobs, kind, expected):
    prefix = in_namespace("mount -t tmpfs none /proc")
    options = ("--procs", 2, "--set", "max_skipped=1", "--set", "memory_limit=2GiB")
    done = machines.start("run", *options, jobs[kind], prefix=prefix)
    code, written = done.finish()
    assert (code, set(written.splitlines())) == (0, expected), done.said


@pytest.mark.parametrize(
    "options", [("--procs", 2), ("--listen", "127.0.0.1:0", "--procs", 2), ("--inline",)]
)
@pytest.mark.parametrize("more", [(), (NO_SHARED_MEMORY,)])
def test_where_no_folder_can_be_written_to_jobs_run_that_need_none(machines, jobs, options, more):
    prefix = in_namespace(*more, READ_ONLY)
    check_done(
        machines.start(
            "run", *options, jobs["counts"], prefix=prefix, environ={"PYTHONDONTWRITEBYTECODE": "1"}
        )
    )


def test_where_no_folder_can_be_written_to_a_job_that_needs_one_says_so(machines):
    text = "datasource = [(n, n) for n in range(9)]\n\ndef mapfn(key, value):\n    yield from ((n, bytes(1000)) for n in range(5000))\n"
    job = machines.write("large.py", text)
    prefix = in_namespace(NO_SHARED_MEMORY, READ_ONLY)
    done = machines.start("run", "--procs", 1, "--memory", "1MiB", job, prefix=prefix)
    assert done.finish()[0] == 1
    assert "cannot make a spill file: [Errno 30] Read-only file system" in done.said
    assert "set TMPDIR to a folder that has room" in done.said


@pytest.mark.parametrize("home", ["", "/nonexistent", "/proc/1/no"])
def test_without_a_home(machines, jobs, home):
    done = machines.start("run", "--procs", 1, jobs["counts"], environ={"HOME": home})
    check_done(done)


@pytest.mark.parametrize("listen", ["11999", "localhost:11999"])
def test_without_ipv6_and_with_a_name_that_nobody_knows(machines, jobs, listen):
    no_ipv6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    prefix = in_namespace("ip link set lo up", no_ipv6, "hostname no-such-host", network=True)
    check_done(machines.start("run", "--procs", 1, "--listen", listen, jobs["counts"], prefix=prefix))
    check_done(
        machines.start("run", "--procs", 1, "--elect", "localhost:11999", jobs["counts"], prefix=prefix)
    )
