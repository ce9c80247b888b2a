"""What this machine has, within the limits of its control groups."""

import errno
import os
import resource
import subprocess
import tempfile
import threading

import pytest

from mmgevent.driver.runners import inline_run
from mmgevent.engine import server_start
from mmgevent.errors import StartError
from mmgevent.executor.record_memory import record_memory_bytes
from mmgevent.machine import resources as machine
from mmgevent.machine.cgroups import Limits
from mmgevent.tasks.run import RECORD_SHARE

MIB = 2**20


@pytest.fixture
def limited(monkeypatch):
    """Put this process under limits, on a machine of 64 cores and 256 GiB."""
    pages = 256 * 2**30 // os.sysconf("SC_PAGE_SIZE")
    sysconf = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: pages if name == "SC_PHYS_PAGES" else sysconf(name))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)

    def limit(cores=None, memory=None):
        groups = type("Groups", (), {"limits": Limits(cores, memory)})()
        monkeypatch.setattr(machine, "find_control_groups", lambda: groups)

    limit()
    return limit


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 64), (0.01, 1), (0.5, 1), (1.0, 1), (1.5, 2), (2.5, 3), (64.5, 64), (1000.0, 64)],
)
def test_a_part_of_a_core_counts_as_one(limited, quota, cores):
    limited(quota)
    assert machine.count_cores() == cores


def test_memory_is_that_of_the_smallest_limit(limited):
    assert machine.total_memory_bytes() == 256 * 2**30
    limited(memory=700 * MIB)
    assert machine.total_memory_bytes() == 700 * MIB
    limited(memory=2**50)
    assert machine.total_memory_bytes() == 256 * 2**30


@pytest.mark.parametrize(
    ("memory", "count"), [(None, 64), (64 * 2**30, 64), (700 * MIB, 5), (200 * MIB, 1), (MIB, 1)]
)
def test_executors_that_nobody_asked_for_are_no_more_than_there_is_memory_for(limited, memory, count):
    limited(memory=memory)
    assert machine.count_default_executors() == count


@pytest.mark.parametrize("memory", [100 * MIB, 300 * MIB, 700 * MIB, 4096 * MIB])
@pytest.mark.parametrize("executors", [1, 2, 8])
def test_the_records_of_all_executors_take_a_quarter_of_the_memory_at_most(limited, memory, executors):
    limited(cores=2, memory=memory)
    each = record_memory_bytes(None, executors)
    assert 0 < each * max(executors, machine.count_default_executors()) <= RECORD_SHARE * memory


def test_a_limit_of_the_job_counts_and_so_does_that_of_the_process(limited, monkeypatch):
    assert record_memory_bytes(400 * MIB) == 100 * MIB
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (80 * MIB, resource.RLIM_INFINITY))
    assert record_memory_bytes(400 * MIB) == 20 * MIB


def test_what_servers_and_inline_runs_hold_comes_of_the_limit(limited):
    assert server_start.default_memory_bytes() == 2 * 2**30
    limited(memory=400 * MIB)
    assert server_start.default_memory_bytes() == 50 * MIB
    assert inline_run.total_memory_bytes() // inline_run.MEMORY_SHARE == 50 * MIB


def refuse(*args):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_where_the_affinity_may_not_be_asked_for_all_cores_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine._count_affinity() == 7


def test_where_the_system_does_not_know_its_memory_some_is_assumed(limited, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: -1)
    assert machine.total_memory_bytes() == machine.UNKNOWN_MEMORY_BYTES


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_file_without_a_name_needs_no_call_of_new_kernels(monkeypatch, tmp_path, number):
    def missing(*args):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "memfd_create", missing, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open(machine.create_nameless_file("mmgevent-test"), "w+b") as file:
        file.write(b"something")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_name_passes_on_what_is_no_lack_of_the_kernels(monkeypatch):
    def full(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", full, raising=False)
    with pytest.raises(OSError, match="Too many open files"):
        machine.create_nameless_file("mmgevent-test")


def test_a_thread_that_cannot_be_started_is_told_in_a_sentence():
    class Refused(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    with pytest.raises(
        StartError, match=r"^a thread cannot be started: can't start new thread; this user or container"
    ):
        machine.start_thread(Refused())


def test_a_process_that_has_ended_cannot_be_opened():
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ProcessLookupError):
        machine.open_process(process.pid)
