"""Networks that are cut without a word and healed again, in namespaces of their own; and a port that fails."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading

import pytest

import mmgevent as mmg
from tests.ports import reserved_port
from tests.trust.machines import LATE_S, PASSWORD, Machines, Reports, ancestors_of, wait_until
from tests.trust.reporting import assert_right, reporting_job

PORT = 11235


def run_ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """Hosts on one switch, each a network namespace; nothing leads out of it."""

    _numbers = itertools.count(1)

    def __init__(self):
        self._prefix = f"mmg-{os.getpid()}-{next(self._numbers)}"
        self._spaces = []
        self._ports = {}
        self._switch = self._add_space("switch")
        run_ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        run_ip("-n", self._switch, "link", "set", "switch", "up")

    def _add_space(self, name):
        space = f"{self._prefix}-{name}"
        run_ip("netns", "add", space)
        self._spaces.append(space)
        return space

    def add_host(self, name):
        """Add a host to the switch; return its address."""
        number = len(self._spaces)
        space, port, address = self._add_space(name), f"port{number}", f"10.99.0.{number}"
        ends = ("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        run_ip("-n", self._switch, *ends)
        run_ip("-n", self._switch, "link", "set", port, "up")
        run_ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run_ip("-n", space, "link", "set", device, "up")
        self._ports[name] = port
        self.heal(name)
        return address

    def on(self, name):
        """Return a command that becomes the one behind it, on that host."""
        return ["ip", "netns", "exec", f"{self._prefix}-{name}"]

    def cut(self, name):
        """Let nothing through to or from a host any more. Neither end is told: the cable stays where it is."""
        run_ip("-n", self._switch, "link", "set", self._ports[name], "nomaster")

    def heal(self, name):
        run_ip("-n", self._switch, "link", "set", self._ports[name], "master", "switch")

    def close(self):
        for space in self._spaces:
            run_ip("netns", "delete", space)


def why_no_network():
    """Say why there can be no such network here; "" if there can."""
    try:
        with contextlib.closing(Network()) as network:
            network.add_host("any")
    except FileNotFoundError:
        return "there is no ip command here"
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return ""


@pytest.fixture(scope="module")
def can_be_cut():
    if reason := why_no_network():
        pytest.skip(reason)


@pytest.fixture
def machines(tmp_path):
    with contextlib.closing(Machines(tmp_path)) as machines:
        yield machines


@pytest.fixture
def network(can_be_cut, machines):
    with contextlib.closing(Network()) as network:
        yield network
        machines.close()


#: what drivers on a host of their own run; its functions report where they are
JOB = """
import sys
from tests.trust.reporting import reporting_job

def leave_out_bytes(key, result):
    return result[0]

job = reporting_job(sys.argv[1], finishfn=leave_out_bytes, retransmit=0)
"""


def start_driver(machines, network, host, where, path):
    job = machines.write("job.py", JOB)
    return machines.start("run", "--format", "jsonl", *where, job, path, prefix=network.on(host))


def assert_done(driver):
    """The driver has ended well, with the right result."""
    code, written = driver.finish()
    assert code == 0, driver.said
    assert_right((key, (numbers, None)) for key, numbers in map(json.loads, written.splitlines()))


@pytest.mark.timeout(240)
def test_hosts_cut_off_without_a_word_are_given_up_and_come_back(machines, network):
    """A host with two workers, one of which is killed meanwhile, and a host with a driver."""
    where = f"{network.add_host('server')}:{PORT}"
    for name in ("near", "far", "desk"):
        network.add_host(name)
    server = machines.start_server(listen=where, prefix=network.on("server"))
    near = machines.start_worker(where, prefix=network.on("near"))
    lost, back = (machines.start_worker(where, prefix=network.on("far")) for _ in range(2))
    heard = set()

    def look(what, pid):
        heard.update(ancestors_of(pid))
        if not is_cut.is_set() and heard >= {near.pid, lost.pid, back.pid}:
            network.cut("far")
            network.cut("desk")
            lost.kill()
            is_cut.set()

    is_cut = threading.Event()
    with contextlib.closing(Reports(look)) as reports:
        drivers = [
            start_driver(machines, network, host, ("--join", where), reports.path)
            for host in ("server", "desk")
        ]
        assert is_cut.wait(LATE_S)
        assert_done(drivers[0])
        for worker in (lost, back):
            server.wait_for(f"worker left: .*/{worker.pid}: silent for 15 s")
        back.wait_for("left the server: silent for 15 s")
        drivers[1].wait_for("silent for 15 s; the job is resubmitted")
        network.heal("far")
        network.heal("desk")
        assert_done(drivers[1])
        back.wait_for("joined the server", count=2)
    assert f"/{near.pid}: " not in server.said
    assert "Traceback" not in server.said + back.said + near.said


def test_a_short_cut_is_not_noticed(machines, network):
    where = f"{network.add_host('server')}:{PORT}"
    for name in ("near", "far"):
        network.add_host(name)
    server = machines.start_server(listen=where, prefix=network.on("server"))
    workers = [machines.start_worker(where, prefix=network.on(name)) for name in ("near", "far")]
    cuts = []

    def look(what, pid):
        if not cuts and workers[1].pid in ancestors_of(pid):
            network.cut("far")
            cuts.append(reports.count("map "))
        elif cuts and reports.count("map ") == cuts[0] + 6:  # others have gone on meanwhile
            network.heal("far")
            cuts.append("healed")

    with contextlib.closing(Reports(look)) as reports:
        assert_done(start_driver(machines, network, "server", ("--join", where), reports.path))
    assert "healed" in cuts
    assert "worker left" not in server.said
    assert all("left the server" not in worker.said for worker in workers)


@pytest.mark.timeout(240)
def test_a_cluster_that_is_split_works_on_both_sides_and_becomes_one_again(machines, network):
    addresses = {name: f"{network.add_host(name)}:{PORT}" for name in ("first", "second")}
    where = ",".join(addresses.values())
    members = {}
    for name, became in (("first", "elected"), ("second", "joined")):
        members[name] = machines.start("worker", "--elect", "--procs", 1, where, prefix=network.on(name))
        members[name].wait_for(became)
    is_cut = threading.Event()

    def look(what, pid):
        if not is_cut.is_set() and members["second"].pid in ancestors_of(pid):
            network.cut("second")
            is_cut.set()

    with contextlib.closing(Reports(look)) as reports:
        drivers = [
            start_driver(machines, network, name, ("--elect", where, "--procs", 0), reports.path)
            for name in addresses
        ]
        assert is_cut.wait(LATE_S)
        for driver in drivers:
            assert_done(driver)
        members["second"].wait_for(f"elected: this is the server at {addresses['second']}")
        network.heal("second")
        members["second"].wait_for(f"joined the server at {addresses['first']}", count=2)
        assert_done(start_driver(machines, network, "second", ("--elect", where, "--procs", 0), reports.path))
    assert "Traceback" not in "".join(member.said for member in members.values())


# a port that fails

#: as `sitecustomize.py` it lets the listening sockets of a process fail at SIGUSR1
PORT_FAILS = """
import contextlib, os, signal, socket

def fail(number, frame):
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # no socket, or the folder itself
            copy = os.dup(int(fd))
            try:
                with socket.socket(fileno=copy) as sock:
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                os.close(copy)

signal.signal(signal.SIGUSR1, fail)
"""


@pytest.fixture
def port_fails(machines, monkeypatch):
    """Every process started from now on has a port that fails at SIGUSR1."""
    machines.write("sitecustomize.py", PORT_FAILS)
    machines.environ["PYTHONPATH"] = f"{machines.folder}{os.pathsep}{machines.environ['PYTHONPATH']}"
    monkeypatch.setenv("PYTHONPATH", machines.environ["PYTHONPATH"])


def test_a_server_that_nobody_can_reach_any_more_ends_and_says_why(machines, port_fails):
    with (
        reserved_port() as port,
        contextlib.closing(Reports(lambda what, pid: what == "map 3" and not has_failed.is_set())) as reports,
    ):
        has_failed = threading.Event()
        server = machines.start_server(listen=f"127.0.0.1:{port}")
        worker = machines.start_worker(server.address, 2)
        with mmg.connect(server.address, password=PASSWORD) as cluster:
            handle = cluster.submit(reporting_job(reports.path), on_notice=lambda text: None)
            wait_until(lambda: reports.held, "a job under way")
            server.signal(signal.SIGUSR1)
            assert server.finish() == (3, "")
            assert "mmg-server: the server accepts no connections any more" in server.said
            has_failed.set()
            reports.let_go()
            worker.wait_for("left the server: the server said goodbye: the server accepts no connections")
            machines.start_server(listen=server.address)
            assert_right(handle.stream())


def test_a_cluster_whose_port_fails_gets_another_engine_at_the_same_address(machines, port_fails):
    has_failed = threading.Event()
    notices = []
    with (
        contextlib.closing(Reports(lambda what, pid: what == "map 3" and not has_failed.is_set())) as reports,
        mmg.LocalCluster(1, listen=("127.0.0.1", 0), password=PASSWORD) as cluster,
    ):
        host, port = cluster.address
        worker = machines.start_worker(f"{host}:{port}")
        handle = cluster.submit(reporting_job(reports.path), on_notice=notices.append)
        wait_until(lambda: reports.held, "a job under way")
        os.kill(cluster._engine.pid, signal.SIGUSR1)
        wait_until(
            lambda: any(re.search("accepts no connections any more.*resubmitted", text) for text in notices),
            lambda: f"the end of an engine: {notices}",
        )
        has_failed.set()
        reports.let_go()
        assert_right(handle.stream())
        worker.wait_for("joined the server", count=2)
        assert cluster.address == (host, port)
