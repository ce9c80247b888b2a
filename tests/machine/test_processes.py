"""processes: what /proc tells of other processes."""

import os
import signal
import subprocess
import sys

import pytest

from mmgevent.machine.processes import find_parent, look_at
from tests.trust.watch import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_a_process_that_sleeps_is_stopped_or_is_dead_is_seen(sleeper):
    wait_until(lambda: look_at(sleeper.pid).state == "S")
    sleeper.send_signal(signal.SIGSTOP)
    wait_until(lambda: look_at(sleeper.pid).state == "T")
    sleeper.kill()
    wait_until(lambda: look_at(sleeper.pid).state == "Z")
    sleeper.wait()
    assert look_at(sleeper.pid) is None
    assert find_parent(sleeper.pid) is None


def test_the_cpu_time_of_one_that_runs_grows():
    before = look_at(os.getpid())
    used = sum(os.times()[:2])
    while sum(os.times()[:2]) < used + 0.1:
        pass
    assert look_at(os.getpid()).state == "R"
    assert look_at(os.getpid()).cpu_s - before.cpu_s >= 0.08


def test_the_parent_is_found_whatever_the_name(sleeper, tmp_path):
    assert find_parent(sleeper.pid) == os.getpid()
    odd = tmp_path / "a) R 1 (b"
    os.symlink("/bin/sleep", odd)
    process = subprocess.Popen([odd, "1000"])
    try:
        wait_until(lambda: look_at(process.pid).state == "S")
        assert find_parent(process.pid) == os.getpid()
    finally:
        process.kill()
        process.wait()
