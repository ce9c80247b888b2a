"""What Dask adds to the contract: its own failures, its address, and nothing left running there."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import mmgevent as mmg
from mmgevent import reducers
from mmgevent.driver.runners.map_tasks import CARRIED_BYTES
from tests.driver.runners.places import DEADLINE_S, dask
from tests.driver.runners.test_contract import EXPECTED, add, by_three, numbers, wait_until
from tests.integration.commands import ROOT

distributed = pytest.importorskip("distributed", reason="the package distributed is not installed")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place():
    with dask() as place:
        yield place


@pytest.fixture
def client(place):
    return distributed.Client.current()


@pytest.fixture
def cluster(place):
    return place.cluster


def boxes_of(client):
    """Return the pids of all executors of the workers. Their templates wait for the next job."""

    def children():
        import contextlib

        import psutil

        found = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                if "mmgevent" in " ".join(child.cmdline()):
                    for executor in child.children(recursive=True):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            if executor.status() != psutil.STATUS_ZOMBIE:
                                found.append(executor.pid)
        return found

    return [pid for pids in client.run(children).values() for pid in pids]


def kill_a_worker(client):
    """Kill the process of a worker, whose nanny starts another, and wait until Dask has noticed."""
    address, pid = next(iter(client.run(os.getpid).items()))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: address not in client.scheduler_info()["workers"])


def by_two(key, value):
    yield key % 2, 1


@pytest.mark.parametrize("phase", ["map", "between", "reduce"])
def test_a_workers_death_costs_time_only(client, cluster, tmp_path, phase):
    client.wait_for_workers(2, timeout=DEADLINE_S)
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()

    def pass_gate(name):
        (marks / name).touch()
        while not gate.exists():
            time.sleep(0.01)

    def map_waits(key, value):
        if phase == "map" or (phase == "between" and value == 99):
            pass_gate(str(value))
        yield value % 3, value

    def reduce_waits(key, values):
        if phase == "reduce":
            pass_gate(f"key {key}")
        return sum(values)

    job = mmg.Job([(i, i) for i in range(100)], map_waits, reduce_waits, partitions=8, retries=0)
    handle = cluster.submit(job)
    wait_until(lambda: any(marks.iterdir()))
    kill_a_worker(client)
    gate.touch()
    assert handle.result(timeout=DEADLINE_S) == EXPECTED
    assert handle.deaths() == []


def test_a_job_whose_driver_is_killed_leaves_nothing_running(client, cluster, tmp_path):
    program = tmp_path / "job.py"
    program.write_text(
        "import os, time\n"
        "datasource = {i: i for i in range(4)}\n"
        "def mapfn(k, v):\n"
        f"    open(os.path.join({str(tmp_path)!r}, f'pid {{os.getpid()}}'), 'w').close()\n"
        "    while True: time.sleep(1)\n"
        "def reducefn(k, values): return sum(values)\n"
    )
    address = client.scheduler.address.replace("tcp://", "dask://")
    command = [sys.executable, "-m", "mmgevent", "run", "--on", address, str(program)]
    client.wait_for_workers(2, timeout=DEADLINE_S)  # an earlier test may have killed one
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as run:
        try:
            wait_until(lambda: len(list(tmp_path.glob("pid *"))) == 2)
        finally:
            run.kill()
    pids = [path.name.partition(" ")[2] for path in tmp_path.glob("pid *")]
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert cluster.run(mmg.Job(numbers(100), by_three, add)) == EXPECTED


def test_a_tiny_job_costs_a_task_for_each_slot_and_phase(client, cluster, monkeypatch):
    """Nothing is picked, nothing has a second round, and the workers are asked nothing again."""
    items = [(number, None) for number in range(20_000)]
    expected = {0: 10_000, 1: 10_000}
    keys, calls = [], []
    submit, run = client.submit, client.run
    client.wait_for_workers(2, timeout=DEADLINE_S)
    for _ in range(2):  # the first job may find a worker that was not asked yet
        keys.clear(), calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(
                client, "submit", lambda *args, **more: keys.append(more["key"]) or submit(*args, **more)
            )
            patched.setattr(
                client,
                "run",
                lambda function, *args, **more: calls.append(function) or run(function, *args, **more),
            )
            patched.setattr(client, "map", None)
            assert cluster.run(mmg.Job(items, by_two, reducers.count_values)) == expected
    phases = sorted(key.split("-")[1] for key in keys)
    assert [phase for phase in phases if phase != "code"] == ["map", "map", "reduce", "reduce"]
    assert [function.__name__ for function in calls] == ["end_job"]


def test_nothing_is_left_when_a_job_has_ended(client, cluster, tmp_path):
    def more_than_is_carried(key, value):
        yield value % 3, bytes(2 * CARRIED_BYTES)  # so it stays on the workers until it is reduced

    def waits(key, values):
        (tmp_path / "begun").touch()
        while not (tmp_path / "gate").exists():
            time.sleep(0.01)
        return len(values)

    handle = cluster.submit(mmg.Job(numbers(9), more_than_is_carried, waits))
    try:
        wait_until(lambda: (tmp_path / "begun").exists() or handle.done())
        assert boxes_of(client)
        assert any(client.has_what().values())
    finally:
        (tmp_path / "gate").touch()  # or it would keep the workers of all tests
    assert handle.result(timeout=DEADLINE_S) == {0: 3, 1: 3, 2: 3}
    wait_until(lambda: boxes_of(client) == [])
    wait_until(lambda: not any(client.has_what().values()))


def test_nobody_at_the_address_is_one_sentence():
    with pytest.raises(
        mmg.ConnectError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "
    ) as caught:
        mmg.connect("dask://127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2"])
def test_what_is_no_scheduler_is_told_in_time(greeting, monkeypatch):
    """Dask itself would wait for ever."""
    monkeypatch.setattr("mmgevent.driver.runners.dask.CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = threading.Thread(target=lambda: held.append(server.accept()[0]) or held[0].send(greeting))
        held = []
        answer.start()
        port = server.getsockname()[1]
        with pytest.raises(
            mmg.ConnectError, match=rf"no Dask scheduler answers at tcp://127\.0\.0\.1:{port} "
        ):
            mmg.connect(f"dask://127.0.0.1:{port}")
        answer.join(30)
        held[0].close()


@pytest.mark.parametrize("where", ["dask://", "dask://h:x", "dask://me@h", "dask://h:1/path"])
def test_an_address_that_is_none_is_named_as_it_was_given(where):
    with pytest.raises(mmg.UsageError, match=rf"expected dask://HOST\[:8786\], got '{where}'"):
        mmg.connect(where)


def test_an_asynchronous_client_is_refused(place):
    class Asynchronous(distributed.Client):
        asynchronous = True

        def __init__(self):
            pass

        def __del__(self):
            pass

    with pytest.raises(mmg.UsageError, match="asynchronous"):
        mmg.connect(Asynchronous())


def test_workers_of_other_versions_are_refused(client):
    """A cluster asks each worker once, so each of these asks anew."""

    def pretend(version):
        from mmgevent.box import guest

        found, guest.VERSION = guest.VERSION, version
        return found

    version = client.run(pretend, "9.9")
    try:
        with (
            mmg.connect(client) as cluster,
            pytest.raises(mmg.VersionMismatchError, match=r"mmgevent 9\.9, this driver has mmgevent"),
        ):
            cluster.run(mmg.Job(numbers(3), by_three, add))
    finally:
        client.run(pretend, next(iter(version.values())))
    with mmg.connect(client) as cluster:
        assert cluster.run(mmg.Job(numbers(100), by_three, add)) == EXPECTED


def test_workers_without_mmgevent_are_told_how_to_get_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nsys.path[:] = [p for p in sys.path if not os.path.isdir(os.path.join(p, 'mmgevent'))]\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as standing,
        distributed.Client(standing) as client,
    ):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--no-nanny"]
        worker = subprocess.Popen(
            [*command, standing.scheduler_address], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        try:
            client.wait_for_workers(1, timeout=DEADLINE_S)
            with (
                mmg.connect(client) as cluster,
                pytest.raises(mmg.UsageError, match=r"pip install mmgevent==.*PipInstall.*1 of 1"),
            ):
                cluster.run(mmg.Job(numbers(3), by_three, add))
        finally:
            worker.kill()
            worker.wait()
