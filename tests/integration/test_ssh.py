"""Workers that are started over ssh: a real sshd on loopback, and the system's ssh."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

import mmgevent as mmg
from mmgevent.access.ssh_hosts import parse_ssh_hosts
from mmgevent.access.worker_password import make_worker_password
from mmgevent.driver.runners.ssh_cluster import SshCluster
from mmgevent.errors import ConnectError
from tests.integration.commands import patience_s
from tests.integration.sshd import running_sshd
from tests.ports import free_port

WAIT_S = 60.0


class Hosts:
    """Hosts that `ssh` reaches, and what runs there."""

    def __init__(self, mark):
        self.mark = mark

    def processes(self):
        """Return the command lines of all processes there."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("MMGEVENT_TESTED_BY") == self.mark:
                    found.append(process)
        return found

    def command_lines(self):
        lines = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
        return lines

    def left_behind(self):
        _, alive = psutil.wait_procs(self.processes(), timeout=3 * patience_s())
        return alive


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    mark = uuid.uuid4().hex
    with running_sshd(tmp_path_factory.mktemp("sshd"), mark, free_port(), free_port()) as folder:
        yield folder, mark


@pytest.fixture
def hosts(sshd, monkeypatch):
    folder, mark = sshd
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    hosts = Hosts(mark)
    yield hosts
    assert not hosts.left_behind()


def open_cluster(where, python=sys.executable, **options):
    return SshCluster(parse_ssh_hosts(where), remote_python=python, remote_procs=1, **options)


def where(key, value):
    import os
    import time

    time.sleep(0.2)
    yield os.environ.get("SSH_CONNECTION", "here"), os.getppid()


def test_a_job_runs_on_the_hosts_and_nothing_is_left_there(hosts):
    with open_cluster("ssh://h1,h2") as cluster:
        handle = cluster.submit(mmg.Job([(n, n) for n in range(12)], where))
        results = handle.result(WAIT_S)
        assert "here" not in results
        assert len(results) == 2  # two connections
        assert cluster.address[0] == "127.0.0.1"
        lines = [line for line in hosts.command_lines() if "remote_worker" in line]
        assert len(lines) >= 4  # ssh here, Python there
        secrets = (cluster._password, make_worker_password(cluster._password))
        assert not any(secret in line for line in hosts.command_lines() for secret in secrets)
        environs = [process.environ() for process in hosts.processes()]
        assert environs
        assert not any(secret in json.dumps(environ) for environ in environs for secret in secrets)
    assert not hosts.left_behind()


def test_each_host_that_fails_is_named_with_its_reason_and_the_others_work(hosts):
    told = []
    with open_cluster("ssh://nobody,h1,stranger", on_failure=told.append) as cluster:
        assert cluster.run(mmg.Job([(1, 1)], where))
        while len(told) < 2:
            cluster.wait_ready()
    told.sort()
    assert told[0].startswith("nobody: ssh failed: ")
    assert "refused" in told[0]
    assert told[1].startswith("stranger: ssh failed: ")
    assert "verification failed" in told[1]


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("no-such-python", "h1: there is no no-such-python that can be run; name one with --remote-python"),
        ("/bin/sh", "h1: its worker ended with exit code"),
        ("{evil}", "h1: its worker ended with exit code 3: \\x1b[31mred\\x07 alert"),
        ("{bare}", "h1: mmgevent is not installed there for"),
    ],
)
def test_when_all_hosts_have_failed_the_job_ends_and_says_why(hosts, tmp_path, python, reason):
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nshift\nunset PYTHONPATH; cd /; exec {sys.executable} -IS -m "$@"\n')
    evil = tmp_path / "evil"
    evil.write_text("#!/bin/sh\nprintf '\\033[31mred\\007 alert\\n' >&2\nexit 3\n")
    for program in (bare, evil):
        program.chmod(0o755)
    with open_cluster("ssh://h1", python.format(bare=bare, evil=evil)) as cluster:
        handle = cluster.submit(mmg.Job([(1, 1)], where))
        with pytest.raises(ConnectError) as caught:
            handle.result(WAIT_S)
        assert str(caught.value).startswith(f"no host of ssh:// is left:\n  {reason}")  # two lines
        assert len(str(caught.value).split("\n")) == 2


def hang(key, value):
    import time

    with open(value, "w"):
        pass
    time.sleep(1000)
    yield 1, 1


@pytest.mark.parametrize("way", ["cancel", "SIGKILL"])
def test_whatever_ends_the_driver_ends_the_hosts(hosts, tmp_path, way):
    begun = tmp_path / "begun"
    if way == "cancel":
        with contextlib.suppress(KeyboardInterrupt), open_cluster("ssh://h1") as cluster:
            cluster.submit(mmg.Job({1: str(begun)}, hang))
            wait_for_file(begun)
            raise KeyboardInterrupt
    else:
        program = tmp_path / "program.py"
        program.write_text(
            "import sys\nfrom tests.integration.test_ssh import hang, mmg, open_cluster\n"
            "with open_cluster('ssh://h1') as cluster:\n"
            "    cluster.run(mmg.Job({1: sys.argv[1]}, hang))\n"
        )
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        driver = subprocess.Popen([sys.executable, program, begun], env=environ)
        wait_for_file(begun)
        driver.kill()
        driver.wait()
    assert not hosts.left_behind()


def wait_for_file(path):
    end_s = time.monotonic() + WAIT_S
    while not path.exists():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.long
def test_a_host_that_is_lost_in_the_middle_is_told_and_its_items_go_elsewhere(hosts, tmp_path):
    told = []
    with open_cluster("ssh://h1,h2", on_failure=told.append) as cluster:
        handle = cluster.submit(mmg.Job([(n, n) for n in range(20)], where, retransmit=0))
        while len(cluster.workers()) < 2:
            handle.done()
        first = cluster._workers[0]
        first._process.kill()
        assert sum(map(len, handle.result(WAIT_S).values())) == 20
        assert [text.partition(":")[0] for text in told] == [str(first.host)]


WORDS = """
import os

datasource = {n: n for n in range(20)}

def mapfn(key, value):
    yield "SSH_CONNECTION" in os.environ, value

def reducefn(key, values):
    return sum(values)
"""

#: stands for uv: says how it was called, and is the interpreter
UV = """#!/bin/sh
echo "$@" > {folder}/uv-arguments
while [ "$1" != python ]; do shift; done
shift
exec {python} "$@"
"""


def test_mmg_run_starts_workers_and_ends_them(hosts, commands):
    environ = {"PATH": os.environ["PATH"]}
    job = commands.write("words.py", WORDS)
    python = ("--remote-python", sys.executable)
    done = commands.run(
        "run",
        "--on",
        "ssh://h1,nobody",
        *python,
        "--procs",
        "1",
        "--expect-workers",
        "1",
        job,
        environ=environ,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["true", "190"]
    assert "mmg-run: nobody: ssh failed: " in done.stderr
    failed = commands.run("run", "--on", "ssh://nobody,stranger", *python, job, environ=environ)
    assert failed.returncode == 3
    assert "mmg-run: no host of ssh:// is left:\n  nobody: ssh failed" in failed.stderr
    assert failed.stdout == ""
    uv = Path(commands.write("uv", UV.format(folder=commands.folder, python=sys.executable)))
    uv.chmod(0o755)
    with_uv = commands.run("run", "--on", "ssh://h1", "--remote-python", str(uv), job, environ=environ)
    assert with_uv.returncode == 0, with_uv.stderr
    called = (commands.folder / "uv-arguments").read_text()
    assert f"--python 3.{sys.version_info[1]} --with mmgevent=={mmg.__version__} python -m" in called
    assert not commands.left_behind()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--on", "ssh://h1;reboot"), "is no host"),
        (("--on", "ssh://"), "a host is empty"),
        (("--on", "ssh://h1", "--remote-python", "a b"), "is no interpreter"),
        (("--remote-python", "python3"), "--remote-python is for --on ssh://"),
        (("--on", "ssh://h1", "--procs", "0"), "--procs 0 would do no work"),
        (("--on", "ssh://h1", "--password-file", "x"), "--password-file has no use"),
        (("--on", "ssh://h1", "--listen", "0"), "exclude one another"),
        (("--on", "local", "--expect-workers", "2"), "no worker can join"),
    ],
)
def test_options_that_do_not_go_together_are_refused(commands, options, error):
    refused = commands.run("run", *options, commands.write("words.py", WORDS))
    assert refused.returncode == 2
    assert error in refused.stderr
    assert "Traceback" not in refused.stderr


def test_connect_takes_ssh_hosts_too(hosts):
    with mmg.connect("ssh://nobody") as cluster:
        handle = cluster.submit(mmg.Job([(1, 1)], where))
        with pytest.raises(ConnectError, match="nobody: ssh failed"):
            handle.result(WAIT_S)
