"""Server, workers and drivers in processes of their own, over TLS; processes are killed for real."""

import collections
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

import mmgevent as mmg
from tests.ports import reserved_port

LISTENS = r"server listens on 127\.0\.0\.1:(\d+)"
PASSWORD = "a password for these tests only"
WORDS = re.findall(r"\w+", "the quick brown fox jumps over the lazy dog and runs away from the other dog")
ITEMS = [(n, " ".join(WORDS[n % 7 :])) for n in range(120)]
EXPECTED = dict(collections.Counter(word for _, text in ITEMS for word in text.split()))


def slow_map(key, text):
    time.sleep(0.02)
    for word in text.split():
        yield word, 1


def slow_add(word, counts):
    time.sleep(0.2)
    return sum(counts)


class Command:
    """One mmgevent command in a process group of its own, with what it said on stderr."""

    def __init__(self, *arguments, password=PASSWORD, program=("-m", "mmgevent")):
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "MMG_PASSWORD": password},
            start_new_session=True,
        )
        self.said = ""

    def wait_for(self, pattern, timeout_s=30.0):
        """Read stderr until it matches; the match."""
        until = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.said)):
            ready, _, _ = select.select([self.process.stderr], [], [], until - time.monotonic())
            data = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            assert data, f"{pattern!r} did not come; said: {self.said}"
            self.said += data.decode()
        return match

    def stop(self, number=signal.SIGTERM, timeout_s=20.0):
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=timeout_s)
        self.said += err.decode()
        return self.process.returncode


@contextlib.contextmanager
def command(*arguments, **options):
    started = Command(*arguments, **options)
    children = []
    try:
        yield started
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(started.process.pid).children(recursive=True)
        if started.process.poll() is None:
            started.stop(signal.SIGKILL)
        started.process.stdout.close()
        started.process.stderr.close()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, f"left behind: {alive}"


def wait_until(condition, timeout_s=30.0):
    """Look until it holds: what another process does has no event here."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.01)


@pytest.fixture
def server():
    with command("server", "--listen", "127.0.0.1:0", "-v") as started:
        started.port = int(started.wait_for(LISTENS)[1])
        started.address = f"127.0.0.1:{started.port}"
        yield started


def executors_of(worker):
    """The processes that run user code: grandchildren, children of the template."""
    found = []
    for template in psutil.Process(worker.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            found += template.children()
    return found


@pytest.mark.timeout(120)
def test_killed_executors_and_workers_in_both_phases_change_nothing(server, tmp_path):
    gates = {phase: str(tmp_path / phase) for phase in ("map", "reduce")}

    def wait_for_kill(phase):
        while not os.path.exists(gates[phase]):
            time.sleep(0.01)

    def gated_map(key, text):  # neither phase can end before the kill
        if key == ITEMS[-1][0]:
            wait_for_kill("map")
        yield from slow_map(key, text)

    def gated_add(word, counts):
        if word == "dog":
            wait_for_kill("reduce")
        return slow_add(word, counts)

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(command("worker", "--procs", "2", server.address)) for _ in range(4)]
        for worker in workers:
            worker.wait_for("joined the server")
        killed = collections.Counter()

        def kill(progress):
            # One executor and one whole worker in the middle of each phase.
            if progress.phase in ("map", "reduce") and progress.running and not killed[progress.phase]:
                if progress.phase == "map" and not progress.done:
                    return
                killed[progress.phase] += 1
                victim = workers.pop()
                executor = executors_of(workers[-1])[0]
                executor.kill()
                os.killpg(victim.process.pid, signal.SIGKILL)
                open(gates[progress.phase], "w").close()

        with mmg.connect(server.address, password=PASSWORD) as cluster:
            notices = []
            job = mmg.Job(ITEMS, gated_map, gated_add)
            assert cluster.run(job, progress=kill, on_notice=notices.append) == EXPECTED
            assert killed == {"map": 1, "reduce": 1}
            assert any("was lost" in text for text in notices)
            wait_until(lambda: len(cluster.workers()) == 2)


def test_a_worker_waits_for_a_server_and_comes_back_to_the_next():
    with reserved_port() as port, command("worker", "--procs", "1", f"127.0.0.1:{port}") as worker:
        worker.wait_for("waiting for a server")
        for _ in range(2):
            with command("server", "--listen", f"127.0.0.1:{port}") as server:
                worker.wait_for("joined the server")
                worker.said = ""
                with mmg.connect(("127.0.0.1", port), password=PASSWORD) as cluster:
                    assert cluster.run(mmg.Job([(1, 2), (1, 3)], reducefn=lambda k, v: sum(v))) == {1: 5}
                assert server.stop(signal.SIGINT) == 130
            worker.wait_for("left the server")
        assert worker.stop() == 143
        assert "Traceback" not in worker.said


def test_once_ends_with_the_server(server):
    with command("worker", "--procs", "1", "--once", server.address) as worker:
        worker.wait_for("joined the server")
        assert server.stop() == 143
        assert worker.process.wait(20) == 0


def test_a_wrong_password_is_refused_on_both_ends(server):
    with command("worker", server.address, password="not the right one at all") as worker:
        assert worker.process.wait(30) == 4
        _, said = worker.process.communicate()
        assert b"password" in said
        assert b"Traceback" not in said
    with pytest.raises(mmg.AuthenticationError, match="password"):
        mmg.connect(server.address, password="not the right one at all")


def test_no_server_is_said_with_what_was_tried():
    with reserved_port() as port, pytest.raises(mmg.ConnectError, match=f"127.0.0.1:{port}.*refused"):
        mmg.connect(("127.0.0.1", port), password=PASSWORD)


def test_a_port_in_use_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(mmg.ListenError, match=f"{port}.*in use"),
            mmg.LocalCluster(1, listen=("127.0.0.1", port), password=PASSWORD) as cluster,
        ):
            cluster.wait_ready()
        with command("server", "--listen", f"127.0.0.1:{port}") as server:
            assert server.process.wait(20) == 3


def test_workers_join_a_local_cluster_that_listens():
    with mmg.LocalCluster(0, listen=("127.0.0.1", 0), password=PASSWORD) as cluster:
        notices = []
        waits = threading.Event()

        def notice(text):
            notices.append(text)
            waits.set()

        handle = cluster.submit(mmg.Job(ITEMS, slow_map, lambda k, v: sum(v)), on_notice=notice)
        assert waits.wait(30)
        assert "worker" in notices[0]
        host, port = cluster.address
        with command("worker", "--procs", "2", "--once", f"{host}:{port}") as worker:
            assert handle.result(timeout=60) == EXPECTED
            cluster.close()
            assert worker.process.wait(20) == 0


def test_a_driver_may_bring_executors_along(server):
    with mmg.connect(server.address, password=PASSWORD, procs=2) as cluster:
        assert cluster.run(mmg.Job(ITEMS, slow_map, lambda k, v: sum(v))) == EXPECTED


def test_a_server_that_dies_and_comes_back_gets_the_job_again(tmp_path):
    gate = str(tmp_path / "killed")

    def gated_map(key, text):  # the job cannot end before the kill
        while key == ITEMS[-1][0] and not os.path.exists(gate):
            time.sleep(0.01)
        yield from slow_map(key, text)

    with contextlib.ExitStack() as stack:
        address = f"127.0.0.1:{stack.enter_context(reserved_port())}"
        first = stack.enter_context(command("server", "--listen", address))
        worker = stack.enter_context(command("worker", "--procs", "2", address))
        worker.wait_for("joined the server")
        begun = threading.Event()
        with mmg.connect(address, password=PASSWORD) as cluster:
            handle = cluster.submit(
                mmg.Job(ITEMS, gated_map, lambda k, v: sum(v)),
                on_progress=lambda p: begun.set() if p.done else None,
                on_notice=lambda text: None,
            )
            assert begun.wait(30)
            first.stop(signal.SIGKILL)
            open(gate, "w").close()
            with command("server", "--listen", address):
                assert handle.result(timeout=60) == EXPECTED


AUDITED_SERVER = """
import sys

def audit(event, arguments):
    if event == "import" and arguments[0].partition(".")[0] in ("pickle", "_pickle", "dill", "shelve"):
        sys.stderr.write(f"IMPORTED {arguments[0]}\\n")
    elif event.startswith("pickle"):
        sys.stderr.write(f"AUDITED {event}\\n")

sys.addaudithook(audit)
from mmgevent.cli.server import main
main()
sys.stderr.write("never reached")
"""


def test_a_server_at_work_neither_imports_nor_uses_pickle():
    arguments = ("--listen", "127.0.0.1:0", "-v")
    with command(*arguments, program=("-c", AUDITED_SERVER)) as server:
        address = f"127.0.0.1:{server.wait_for(LISTENS)[1]}"
        with command("worker", "--procs", "1", address), mmg.connect(address, password=PASSWORD) as cluster:
            assert cluster.run(mmg.Job(ITEMS[:5], slow_map, lambda k, v: sum(v)))
        server.stop()
    assert "job done" in server.said
    assert "IMPORTED" not in server.said
    assert "AUDITED" not in server.said


def test_a_job_whose_server_stays_away_says_what_it_waits_for_and_ends_with_the_reason(server, monkeypatch):
    monkeypatch.setattr("mmgevent.driver.cluster.PATIENCE_S", 4.0)
    address = server.address
    notices = []
    with mmg.connect(address, password=PASSWORD) as cluster:
        handle = cluster.submit(mmg.Job(ITEMS, slow_map, slow_add), on_notice=notices.append)
        wait_until(lambda: handle.id is not None)  # it waits for a worker
        server.stop(signal.SIGKILL)
        with pytest.raises(mmg.ConnectError, match="Connection refused"):
            handle.result(60)
    assert any(f"no server answers at {address}" in text for text in notices), notices
    assert not any("0.25 s" in text for text in notices), notices


def test_files_that_a_worker_does_not_have_are_sent(server, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one two two")
    with command("worker", "--procs", "1", server.address) as worker:
        worker.wait_for("joined the server")
        job = mmg.Job(mmg.Files(path), lambda k, v: [(w, 1) for w in v.split()], lambda k, v: sum(v))
        with mmg.connect(server.address, password=PASSWORD) as cluster:
            assert cluster.run(job) == {"one": 1, "two": 2}
