"""`ssh` that does not end by itself, or leaves processes behind that hold its output open."""

import contextlib
import os
import threading
import time

import psutil
import pytest

from mmgevent.access.ssh_hosts import parse_ssh_hosts
from mmgevent.driver.runners import ssh, ssh_cluster
from mmgevent.errors import StartError

WAIT_S = 20.0

#: Stands for `ssh`: the first line is what it leaves behind, the rest its own end.
STAYS = "trap '' TERM HUP\nsleep 1000 &\necho $! > child\nsleep 1000"
DIES = "sleep 1000 &\necho $! > child\necho last words >&2\nexit 255"
LEAVES_A_SESSION = "setsid sh -c 'while true; do echo on and on >&2; done' &\necho $! > stray\nexit 255"


@pytest.fixture
def worker(request, tmp_path, monkeypatch):
    (tmp_path / "ssh").write_text(f"#!/bin/sh\ncd {tmp_path}\n{request.param}\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    before = set(psutil.Process().children(recursive=True))
    ends, has_ended = [], threading.Event()
    worker = ssh.SshWorker(
        parse_ssh_hosts("ssh://h1")[0],
        "python",
        port=1,
        order={},
        on_line=lambda worker, text: None,
        on_end=lambda worker, reason: (ends.append(reason), has_ended.set()),
    )
    worker.ends, worker.has_ended = ends, has_ended
    yield worker
    _, left = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=WAIT_S)
    assert not left
    assert not worker._reader.is_alive()
    for child in tmp_path.glob("child"):
        wait_until_gone(int(child.read_text()))
    for stray in tmp_path.glob("stray"):
        with contextlib.suppress(psutil.NoSuchProcess):  # nobody reads what it writes any more
            psutil.Process(int(stray.read_text())).kill()


def wait_until_gone(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(WAIT_S)


@pytest.mark.parametrize("worker", [STAYS], indirect=True)
def test_what_does_not_end_is_killed_with_what_it_started(worker, tmp_path):
    worker.close()
    while not (tmp_path / "child").exists():
        time.sleep(0.01)  # pytest's own limit ends this
    began_s = time.monotonic()
    worker.join(began_s + 0.1)
    assert time.monotonic() - began_s < WAIT_S
    assert worker.ends == []


@pytest.mark.parametrize("worker", [DIES, LEAVES_A_SESSION], indirect=True)
def test_the_end_is_noticed_whoever_holds_its_output_open(worker):
    assert worker.has_ended.wait(WAIT_S)
    assert worker.ends[0].startswith("ssh failed")
    worker.close()
    worker.join(time.monotonic() + WAIT_S)


def test_a_cluster_that_gets_no_thread_leaves_no_engine(monkeypatch):
    def refuse(thread):
        raise StartError("a thread cannot be started: none left")

    monkeypatch.setattr(ssh_cluster, "start_thread", refuse)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(StartError):
        ssh_cluster.SshCluster(parse_ssh_hosts("ssh://h1"))
    _, left = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=WAIT_S)
    assert not left
