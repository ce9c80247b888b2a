"""Any process is killed or stopped at chosen moments of a job: the result is right, and nothing is left of the dead."""

import contextlib
import os
import signal
import threading

import psutil
import pytest

import mmgevent as mmg
from tests.ports import reserved_port
from tests.trust.machines import (
    PASSWORD,
    Machines,
    Reports,
    family_of,
    open_files_of,
    wait_until,
    wait_until_gone,
)
from tests.trust.reporting import EXPECTED, ITEMS, KEYS, reporting_job

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
            worker = self._worker_of(pid)
            worker.kill()
            self.workers.remove(worker)
            self.workers.append(self.machines.start_worker(self.address, SLOTS))
        elif victim == "server":
            self.server.kill()
            self.server = self._start_server()
        else:
            psutil.Process(cluster._engine.pid).kill()

    def _worker_of(self, pid):
        if pid is None:
            return self.workers[0]
        ancestors = {process.pid for process in psutil.Process(pid).parents()}
        return next(worker for worker in self.workers if worker.pid in ancestors)

    def wait_until_all_are_here(self, cluster):
        wait_until(lambda: len(cluster.workers()) == WORKERS, lambda: f"all workers: {cluster.workers()}")

    def wait_until_idle(self):
        """Wait until nothing is left of any job: executors, spill files, descriptors."""
        wait_until(lambda: not any(map(executors_of, self.workers)), "the end of all executors")
        wait_until(lambda: not open_files_of(self.server.pid, "mmgevent-spill"), "the end of the spill file")
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
    return [child for child in family_of(worker.pid) if child.ppid() != worker.pid and child.pid != worker.pid]


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


def assert_right(results):
    """Every key once, with every item once, in order."""
    assert sorted((key, numbers) for key, (numbers, _) in results) == sorted(EXPECTED.items())


#: who is killed, and at which report; a "result" is a record that reaches the driver
MOMENTS = [
    (victim, what, count)
    for victim, whats in {
        "executor": ["map 1", "map 12", "flushed 1", "mapped 24", "reduce 1", "reduce 6"],
        "template": ["map 6", "flushed 1", "mapped 24", "reduce 6"],
        "worker": ["map 1", "map 12", "flushed 1", "mapped 24", "reduce 1", "reduce 6", "result 2"],
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
        resubmitted = [text for text in notices if "handed in again" in text]
        assert len(resubmitted) == (victim in ("server", "engine")), notices
    house.wait_until_idle()
    started = set(psutil.Process().children()) - children
    assert started <= {psutil.Process(p.pid) for p in (house.server, *house.workers)}
    wait_until(lambda: psutil.Process().num_fds() <= descriptors, "the end of descriptors")
