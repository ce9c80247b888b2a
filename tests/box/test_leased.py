"""Leases: they are there while a process of their job lives, and the next job deletes those that are left."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from mmgevent.box import leased
from tests.integration.commands import ROOT

HOLDER = """
import sys
from mmgevent.box import leased
leased.leases.hold(leased._path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder():
    """A process that holds the lease of a job, like one of Ray's that ran a task."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "a/job-1"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def count_open(folder):
    """Return how many files in a folder this process has open, deleted ones too."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(f"{folder}/")
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def test_a_lease_of_a_process_that_was_killed_is_deleted_by_the_next_job(holder, folder):
    ours = leased.Leases()
    ours.hold(leased._path("job-2"))
    assert sorted(os.listdir(folder)) == ["mmgevent-lease-1", "mmgevent-lease-2"]  # it is held
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    ours.hold(leased._path("job-3"))
    assert sorted(os.listdir(folder)) == ["mmgevent-lease-2", "mmgevent-lease-3"]
    leased.release("job-2")
    leased.release("job-3")
    ours.sweep()
    assert os.listdir(folder) == []


def test_a_lease_that_is_released_is_let_go_and_may_be_made_again(folder):
    ours = leased.Leases()
    path = leased._path("job-1")
    ours.hold(path)
    assert count_open(folder) == 1
    for number in range(20):
        os.unlink(path)
        path = leased._path(f"job-{number % 3}")
        ours.hold(path)
        ours.hold(path)
    assert os.listdir(folder) == [os.path.basename(path)]
    assert count_open(folder) == 1
    os.unlink(path)
    ours.sweep()
    assert count_open(folder) == 0


def test_what_is_none_of_our_files_stays(folder):
    (folder / "mmgevent-lease-x").mkdir()
    (folder / "target").write_text("kept")
    (folder / "mmgevent-lease-y").symlink_to(folder / "target")
    leased.Leases().sweep()
    assert sorted(os.listdir(folder)) == ["mmgevent-lease-x", "mmgevent-lease-y", "target"]
