"""What a killed process leaves is removed by the next one, and what a living one has stays."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mmgevent.machine import leftovers
from mmgevent.machine.leftovers import TemporaryFolder

#: Makes a temporary folder and a locked file in a folder, says so, and waits to be killed.
OWNER = """
import os, sys
from mmgevent.machine import leftovers
made = leftovers.TemporaryFolder("mine-", sys.argv[1])
open(os.path.join(made.path, "piece"), "w").write("x")
file = open(os.path.join(sys.argv[1], ".file.tmp"), "w")
leftovers.hold(file.fileno())
print(made.path, flush=True)
sys.stdin.read()
"""

NAME = re.compile(r"\.file\.tmp")


def make_old(path, age_s=2 * leftovers.FILE_LEFT_S):
    os.utime(path, (time.time() - age_s,) * 2)


@pytest.fixture
def owner(tmp_path):
    """Yield a process that has a folder and a file, which look old."""
    arguments = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        path = process.stdout.readline().strip()
        make_old(os.path.join(path, ".owner"))
        make_old(tmp_path / ".file.tmp")
        yield process, path
        process.kill()


def clean(tmp_path):
    leftovers.remove_files(str(tmp_path), NAME)
    TemporaryFolder("mine-", str(tmp_path)).remove()


def test_what_a_living_process_has_stays_and_what_a_killed_one_left_goes(owner, tmp_path):
    process, path = owner
    clean(tmp_path)
    assert os.listdir(path)
    assert (tmp_path / ".file.tmp").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    clean(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_is_new_of_another_machine_or_of_others_stays(owner, tmp_path):
    process, path = owner
    process.kill()
    process.wait()
    (tmp_path / "mine-notes").write_text("no folder")
    (tmp_path / "mine-empty").mkdir()
    (tmp_path / "mine-full").mkdir()
    (tmp_path / "mine-full" / "notes").write_text("no owner")
    os.utime(tmp_path / ".file.tmp")
    owner_file = os.path.join(path, ".owner")
    with open(owner_file, "w") as file:
        file.write("another.machine")
    make_old(owner_file)
    make_old(tmp_path / "mine-full")
    clean(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(
        [".file.tmp", "mine-notes", "mine-empty", "mine-full", os.path.basename(path)]
    )
    make_old(tmp_path / "mine-empty")
    clean(tmp_path)
    assert not (tmp_path / "mine-empty").exists()


def test_a_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    make_old(target)
    os.symlink(target, tmp_path / ".file.tmp")
    clean(tmp_path)
    assert target.exists()
