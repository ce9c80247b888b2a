"""Any process is killed or stopped at chosen moments of a job: the result is right, and nothing is left of the dead."""

import contextlib
import os
import signal
import socket
import threading

import psutil
import pytest

import mmgevent as mmg
from tests.ports import reserved_port
from tests.trust.machines import (
    LATE_S,
    PASSWORD,
    Machines,
    Reports,
    ancestors_of,
    family_of,
    temporary_files_of,
    wait_until,
    wait_until_gone,
)
from tests.trust.reporting import ITEMS, assert_right, report, reporting_job

WORKERS = 2
SLOTS = 2


class House:
    """A server and two workers that outlive the tests, and are replaced when they are killed."""

    def __init__(self, machines, port):
        self.machines = machines
        self.address = f"127.0.0.1:{port}"
        self.server = self._start_server()
        self.workers = [machines.start_worker(self.address, SLOTS) for _ in range(WORKERS)]
        #: descriptors of a server and of a worker that have nothing to do, once they had
        self.idle = {}

    def _start_server(self):
        return self.machines.start_server("--memory", "4MiB", listen=self.address)

    def kill(self, victim, pid, cluster):
        """Kill what is called so; `pid` is the executor that has reported, if one has."""
        if victim == "executor":
            os.kill(pid, signal.SIGKILL)
        elif victim == "template":
            template = psutil.Process(pid).parent()
            family = family_of(template.pid)
            template.kill()
            wait_until_gone(family)
        elif victim == "worker":
            worker = self.worker_of(pid)
            worker.kill()
            self.workers.remove(worker)
            self.workers.append(self.machines.start_worker(self.address, SLOTS))
        elif victim == "server":
            self.server.kill()
            self.server = self._start_server()
        else:
            psutil.Process(cluster._engine.pid).kill()

    def worker_of(self, pid):
        if pid is None:
            return self.workers[0]
        return next(worker for worker in self.workers if worker.pid in ancestors_of(pid))

    def wait_until_all_are_here(self, cluster):
        wait_until(lambda: len(cluster.workers()) == WORKERS, lambda: f"all workers: {cluster.workers()}")

    def wait_until_idle(self):
        """Wait until nothing is left of any job: executors, spill files, descriptors."""
        wait_until(lambda: not any(map(executors_of, self.workers)), "the end of all executors")
        wait_until(lambda: not temporary_files_of(self.server.pid), "the end of the spill file")
        for role, process in (("server", self.server), *(("worker", worker) for worker in self.workers)):
            psutil_process = psutil.Process(process.pid)
            count = self.idle.setdefault(role, psutil_process.num_fds())
            wait_until(
                lambda process=psutil_process, count=count: process.num_fds() <= count,
                lambda process=psutil_process, role=role: f"{role}: {process.open_files()}",
            )
        assert list(self.machines.tmp.iterdir()) == []


def executors_of(worker):
    """The processes of a worker that run user code: children of its template."""
    return [
        child for child in family_of(worker.pid) if child.ppid() != worker.pid and child.pid != worker.pid
    ]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with (
        contextlib.closing(Machines(tmp_path_factory.mktemp("kills"))) as machines,
        contextlib.closing(Reports()) as reports,
        reserved_port() as port,
    ):
        house = House(machines, port)
        with mmg.connect(house.address, password=PASSWORD) as cluster:
            assert_right(list(cluster.submit(reporting_job(reports.path)).stream()))
        house.wait_until_idle()
        yield house


#: who is killed, and at which report; a "result" is a record that reaches the driver
MOMENTS = [
    (victim, what, count)
    for victim, whats in {
        "executor": ["map 1", "map 12", "flushed 1", "mapped 24", "reduce 6"],
        "template": ["flushed 1", "mapped 24", "reduce 6"],
        "worker": ["map 1", "map 12", "flushed 1", "mapped 24", "reduce 1", "reduce 6"],
        "server": ["map 12", "flushed 1", "mapped 24", "reduce 1", "result 2", "result 9"],
        "engine": ["map 12", "flushed 1", "reduce 6", "result 2", "result 9"],
    }.items()
    for what, count in (text.split() for text in whats)
]


@pytest.mark.parametrize(("victim", "what", "count"), MOMENTS)
def test_a_kill_at_any_moment_changes_no_result_and_leaves_nothing(house, victim, what, count):
    killed = []
    seen = {"map": 0, "flushed": 0, "mapped": 0, "reduce": 0, "result": 0}

    def look(text, pid):
        name = text.split()[0]
        seen[name] += 1
        if (name, str(seen[name])) == (what, count) and not killed:
            killed.append(text)
            house.kill(victim, pid, cluster)

    def finish(results):  # in the driver, while the rest of the results is on its way
        for number, record in enumerate(results, start=1):
            look(f"result {number}", None)
            yield record

    descriptors = psutil.Process().num_fds()
    children = set(psutil.Process().children())
    notices = []
    with contextlib.closing(Reports(look)) as reports:
        with mmg.connect(house.address, password=PASSWORD) as cluster:
            house.wait_until_all_are_here(cluster)
            handle = cluster.submit(
                reporting_job(reports.path, finishfn=finish, retransmit=0), on_notice=notices.append
            )
            results = list(handle.stream())
            house.wait_until_all_are_here(cluster)
        assert killed
        assert_right(results)
        resubmitted = [text for text in notices if "resubmitted" in text]
        assert len(resubmitted) == (victim in ("server", "engine")), notices
    house.wait_until_idle()
    started = set(psutil.Process().children()) - children
    assert started <= {psutil.Process(p.pid) for p in (house.server, *house.workers)}
    wait_until(lambda: psutil.Process().num_fds() <= descriptors, "the end of descriptors")


def test_a_function_that_is_killed_before_it_reports_stalls_no_other():
    with contextlib.closing(Reports()) as reports:
        with socket.socket(socket.AF_UNIX) as killed:
            killed.connect(reports.path)
        thread = threading.Thread(target=report, args=(reports.path, "map 1"), daemon=True)
        thread.start()
        thread.join(LATE_S)
        assert reports.seen == [(os.getpid(), "map 1")]


# stopped, not killed


@pytest.fixture
def machines(tmp_path):
    with contextlib.closing(Machines(tmp_path)) as machines:
        yield machines


@pytest.mark.timeout(240)
def test_stopped_workers_and_servers_are_given_up_when_silent_and_may_come_back(house, machines):
    """A worker of one server, and another server, at the same time: both take as long as silence may."""
    other = machines.start_server()
    others = [machines.start_worker(other.address, SLOTS) for _ in range(2)]
    stopped = {}
    lost = threading.Event()

    def stop_worker(what, pid):
        if what.startswith("map") and "worker" not in stopped:
            stopped["worker"] = house.worker_of(pid)
            stopped["worker"].signal(
                signal.SIGSTOP
            )  # its executors go on, and nobody passes on what they send

    def stop_server(what, pid):
        if what.startswith("map") and "server" not in stopped:
            stopped["server"] = other
            other.signal(signal.SIGSTOP)

    def notice(text):
        if "silent for 15 s; the job is resubmitted" in text:
            lost.set()

    with (
        contextlib.closing(Reports(stop_worker)) as of_house,
        contextlib.closing(Reports(stop_server)) as of_other,
        mmg.connect(house.address, password=PASSWORD) as cluster,
        mmg.connect(other.address, password=PASSWORD) as other_cluster,
    ):
        house.wait_until_all_are_here(cluster)
        handle = cluster.submit(reporting_job(of_house.path, retransmit=0), on_notice=lambda text: None)
        other_handle = other_cluster.submit(reporting_job(of_other.path), on_notice=notice)

        assert_right(handle.stream())
        worker = stopped["worker"]
        assert f"/{worker.pid}: silent for 15 s" in house.server.said
        assert len(cluster.workers()) == WORKERS - 1
        joined = worker.said.count("joined the server")
        worker.signal(signal.SIGCONT)
        worker.wait_for("joined the server", count=joined + 1)
        house.wait_until_all_are_here(cluster)
        assert_right(cluster.submit(reporting_job(of_house.path)).stream())

        for left in others:
            left.wait_for("left the server: silent for 15 s")
        assert lost.wait(LATE_S)
        other.signal(signal.SIGCONT)
        assert_right(other_handle.stream())
        for back in others:
            back.wait_for("joined the server", count=2)
    assert "Traceback" not in worker.said + other.said
    house.wait_until_idle()


# workers that go, and others that come


def test_when_the_only_worker_dies_the_job_waits_for_another(machines):
    server = machines.start_server()
    worker = machines.start_worker(server.address)
    is_alone, is_killed = threading.Event(), threading.Event()

    def look(what, pid):
        if what.startswith("map") and reports.count("map") == 7:
            worker.kill()
            is_killed.set()

    def notice(text):
        if "no workers" in text:
            is_alone.set()

    with (
        contextlib.closing(Reports(look)) as reports,
        mmg.connect(server.address, password=PASSWORD) as cluster,
    ):
        handle = cluster.submit(reporting_job(reports.path), on_notice=notice)
        assert is_killed.wait(LATE_S)
        assert is_alone.wait(LATE_S)
        assert not handle.done()
        machines.start_worker(server.address)
        assert_right(handle.stream())


@pytest.mark.timeout(240)
def test_workers_that_are_killed_one_after_another_while_others_come_lose_nothing(machines):
    server = machines.start_server()
    first = [machines.start_worker(server.address) for _ in range(3)]
    living, joiners, notices = {worker.pid: worker for worker in first}, [], []

    def look(what, pid):
        of = ancestors_of(pid) & living.keys()
        if of and reports.count("map") > 3 * (len(first) - len(living)):
            living.pop(of.pop()).kill()
            joiners.append(machines.start("worker", "--procs", "1", server.address))

    with (
        contextlib.closing(Reports(look)) as reports,
        mmg.connect(server.address, password=PASSWORD) as cluster,
    ):
        handle = cluster.submit(reporting_job(reports.path, retransmit=0), on_notice=notices.append)
        assert_right(handle.stream())
        assert not living
        assert sum("was lost" in text for text in notices) == len(first)
        wait_until(lambda: len(cluster.workers()) == len(joiners), lambda: cluster.workers())
    mapped = [int(what.split()[1]) for _, what in reports.seen if what.startswith("map ")]
    assert set(mapped) == set(range(ITEMS))
