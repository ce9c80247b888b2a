"""Whoever is stopped says so, hands back what it has, and ends in bounded time, with the exit code that is documented."""

import collections
import signal
import socket
import time
from pathlib import Path

import pytest

import mmgevent as mmg
from tests.trust.raw_peer import (
    PASSWORD,
    PATIENCE_S,
    RawDriver,
    RawWorker,
    connected,
    running,
    running_server,
    running_worker,
    wait_until,
)

MIB = 1024 * 1024
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
BOTH = pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["SIGTERM", "SIGINT"])

#: for goodbyes, grace and flushing together, and as much again; on a busy machine a few seconds more
BOUND_S = 10.0


@pytest.fixture
def server(tmp_path):
    with running_server(tmp_path) as server:
        yield server
        assert "Traceback" not in server.said


@pytest.fixture
def cluster(server):
    with connected(server) as cluster:
        yield cluster


def end(process, number, bound_s=BOUND_S):
    """Send a signal; return the exit code. It has to come in bounded time."""
    began = time.monotonic()
    process.send_signal(number)
    code = process.wait()
    assert time.monotonic() - began < bound_s
    assert "Traceback" not in process.said
    return code


def hang(key, value):
    """Say which item it is, then ignore whatever comes."""
    import os
    import signal
    import time

    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    with open(os.path.join(value, f"hangs-{os.getpid()}"), "w"):
        pass
    while os.path.exists(os.path.join(value, "hang")):
        time.sleep(0.01)
    yield key, 1


@pytest.fixture
def hanging(cluster, tmp_path):
    """A job whose one item hangs in the executors of whoever takes it, until the test is over."""
    (tmp_path / "hang").touch()
    handle = cluster.submit(mmg.Job({1: str(tmp_path)}, hang, retransmit=0))
    handle.hangs = lambda: len(list(tmp_path.glob("hangs-*")))
    yield handle
    (tmp_path / "hang").unlink(missing_ok=True)
    handle.cancel()


# Workers


def test_sigterm_lets_a_worker_finish_what_runs_and_hand_back_the_rest(server, cluster, tmp_path):
    folder = str(tmp_path)

    def note(key, value):
        import os
        import time

        with open(os.path.join(folder, f"{key}.began"), "a") as file:
            file.write("x")
        time.sleep(0.2)
        yield value, bytes(MIB)  # which takes a while to send: nothing may overtake it

    patient = ("--grace", "3600")  # on a busy machine a task may take longer than the default
    with running_worker(tmp_path, server, *patient) as first, running_worker(tmp_path, server):
        handle = cluster.submit(mmg.Job([(n, n % 3) for n in range(40)], note, count, retransmit=0))
        wait_until(lambda: len(list(tmp_path.glob("*.began"))) >= 4)
        assert end(first, signal.SIGTERM, PATIENCE_S) == 143
        assert not handle.done()
        server.wait_said("it said goodbye: the worker was stopped")
        assert handle.result(PATIENCE_S) == {0: 14, 1: 13, 2: 13}
    began = collections.Counter(len(path.read_text()) for path in tmp_path.glob("*.began"))
    assert began == {1: 40}  # nothing was cut, and so nothing was done twice


def count(key, values):
    return sum(1 for _ in values)


@BOTH
def test_an_executor_that_ignores_everything_holds_up_no_end(server, hanging, tmp_path, number, code):
    with running_worker(tmp_path, server, procs=1) as worker:
        wait_until(lambda: hanging.hangs() == 1)
        assert end(worker, number) == code
        server.wait_said("it said goodbye: the worker was stopped")
    with running_worker(tmp_path, server, procs=1):  # what it had goes to the next
        wait_until(lambda: hanging.hangs() == 2)
        (tmp_path / "hang").unlink()
        assert hanging.result(PATIENCE_S) == {1: [1]}


@BOTH
def test_a_second_signal_ends_a_worker_at_once(server, hanging, tmp_path, number, code):
    """With an hour of grace: whatever ends it, it is not patience."""
    with running_worker(tmp_path, server, "--grace", "3600", procs=1) as worker:
        wait_until(lambda: hanging.hangs() == 1 and hanging.progress().slots == 1)
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: hanging.progress().slots == 0, "the server knows that it leaves")
        assert worker.process.poll() is None
        assert end(worker, number) == code


def test_a_worker_ends_though_its_server_does_not_read(server, hanging, tmp_path):
    with running_worker(tmp_path, server, procs=1) as worker:
        wait_until(lambda: hanging.hangs() == 1)
        server.send_signal(signal.SIGSTOP)
        try:
            assert end(worker, signal.SIGTERM) == 143
        finally:
            server.send_signal(signal.SIGCONT)
    server.wait_said("worker left: ")


@BOTH
def test_a_worker_ends_while_it_waits_for_a_server_that_does_not_answer(tmp_path, number, code):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        where = f"127.0.0.1:{deaf.getsockname()[1]}"
        with running(tmp_path, "worker", "--procs", "1", where) as worker:
            connection, _ = deaf.accept()
            with connection:
                assert connection.recv(1)  # it has begun to greet, and will wait for 10 s
                assert end(worker, number, 8.0) == code


# Servers


@BOTH
def test_a_server_says_goodbye_to_everybody(server, tmp_path, number, code):
    with (
        RawWorker(server.address) as worker,
        RawDriver(server.address) as driver,
        running_worker(tmp_path, server) as real,
    ):
        worker.wait_for("hello")
        driver.wait_for("hello")
        assert end(server, number) == code
        for peer in (worker, driver):
            assert peer.wait_for("goodbye")[1]["reason"] == "the server was stopped"
            peer.wait_closed()
        real.wait_said("left the server: the server said goodbye: the server was stopped")


def test_a_server_ends_though_peers_do_not_read(server, cluster, tmp_path):
    items = [(n, bytes(4 * MIB)) for n in range(8)]
    deaf = [RawWorker(server.address, receive_bytes=4096, slots=2) for _ in range(10)]
    silent = [socket.create_connection(server.address) for _ in range(20)]
    try:
        wait_until(lambda: len(cluster.workers()) == 10)
        handle = cluster.submit(mmg.Job(items, lambda key, value: [(key, len(value))]))
        wait_until(lambda: handle.progress().running)
        assert end(server, signal.SIGTERM) == 143
        handle.cancel()
    finally:
        for peer in deaf:
            peer.leave()
        for sock in silent:
            sock.close()


@BOTH
def test_a_second_signal_ends_a_server_at_once(server, tmp_path, number, code):
    """While a peer that does not read holds up its goodbyes; it may be over before the second, with the same code."""
    with RawWorker(server.address, receive_bytes=4096):
        server.send_signal(number)
        server.send_signal(number)
        assert server.wait() == code


# Drivers


def test_a_driver_closes_though_its_server_is_stopped(server, tmp_path):
    (tmp_path / "hang").touch()
    with running_worker(tmp_path, server, procs=1):
        cluster = mmg.connect(server.address, password=PASSWORD)
        handle = cluster.submit(mmg.Job({1: str(tmp_path)}, hang))
        wait_until(lambda: list(tmp_path.glob("hangs-*")))
        server.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            handle.cancel()
            cluster.close()
            assert time.monotonic() - began < BOUND_S
        finally:
            server.send_signal(signal.SIGCONT)
        server.wait_said("the job was cancelled")
        (tmp_path / "hang").unlink()


def test_a_listening_cluster_closes_though_its_executors_ignore_everything(tmp_path):
    (tmp_path / "hang").touch()
    cluster = mmg.LocalCluster(1, listen=("127.0.0.1", 0), password=PASSWORD)
    try:
        handle = cluster.submit(mmg.Job({1: str(tmp_path)}, hang))
        wait_until(lambda: list(tmp_path.glob("hangs-*")))
        pid = int(next(tmp_path.glob("hangs-*")).name.split("-")[1])
        handle.cancel()
    finally:
        began = time.monotonic()
        cluster.close()
    assert time.monotonic() - began < BOUND_S
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
