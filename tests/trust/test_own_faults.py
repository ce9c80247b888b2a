"""A fault of our own in any greenlet ends what it served, by name and soon, and the next job is right.

The fault is injected into a real engine: a sitecustomize, which only the processes of the test import, lets one method
raise once.
"""

import contextlib
import json
import os
import sys

import pytest

import mmgevent as mmg
from mmgevent.driver import engine_link
from mmgevent.machine.processes import find_parent

#: Time for a job, seconds: a fault ends it at once, or is noticed within three pings of a template.
PATIENCE_S = 45.0

SITE = """
import importlib.machinery, os, sys
MODULE, CLASS, METHOD, MARK = %s

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            owner = getattr(module, CLASS)
            real = getattr(owner, METHOD)
            def faulty(*args, **kwargs):
                try:
                    os.close(os.open(MARK, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return real(*args, **kwargs)
                raise ZeroDivisionError("a fault of our own")
            setattr(owner, METHOD, faulty)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder)
"""

#: What greenlets of an engine run: module, class, method.
SERVED = [
    ("engine.worker.supervisor", "Supervisor", "_watch"),
    ("engine.worker.printout", "Printout", "_drain"),
    ("engine.worker.crew", "Crew", "_watch"),
    ("engine.worker.crew", "Crew", "_on_death"),
    ("engine.worker.forker", "Forker", "_write"),
    ("engine.worker.forker", "Forker", "_read"),
    ("engine.worker.forker", "Forker", "_take_report"),
    ("engine.worker.forker", "Forker", "_ping"),
    ("engine.worker.template_deaths", "TemplateDeaths", "judge"),
    ("engine.worker.workload", "Workload", "on_death"),
    ("engine.server.hosted", "HostedJob", "_guard"),
    ("engine.server.attempts", "HostedAttempt", "_send_input"),
    ("engine.server.delivery", "Delivery", "send_all"),
    ("engine.server.role", "ServerRole", "_tick"),
    ("engine.net.link", "Link", "_deliver"),
    ("engine.net.socket_link", "SocketLink", "_read_burst"),
    ("engine.net.socket_link", "SocketLink", "_write_burst"),
    ("engine.net.local_link", "LocalLink", "_carry_burst"),
]


def inject(folder, monkeypatch, mark, module, owner, method):
    """Let a method raise once, in a process that starts from now on. It leaves the mark."""
    where = json.dumps([module, owner, method, str(mark)])
    (folder / "sitecustomize.py").write_text(SITE % where)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def add(key, values):
    return sum(values)


def die_once(mark):
    """A mapfn that ends one executor, and one template: deaths are served, too.

    The item that ended the executor ends the template when it is tried again, so both are told apart.
    """

    def mapfn(key, value):
        for number, pid in ((1, os.getpid()), (2, os.getppid())):
            try:
                fd = os.open(f"{mark}-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                with open(f"{mark}-{number}") as file:
                    if file.read() != str(key):
                        break
                continue
            os.write(fd, str(key).encode())
            os.kill(pid, 9)
        yield key % 3, value

    return mapfn


#: Those that `make test` tries; the others take the same ways.
SHORT = ("Supervisor._watch", "HostedJob._guard", "LocalLink._carry_burst")


@pytest.mark.parametrize(
    ("module", "owner", "method"),
    [
        pytest.param(*served, marks=() if f"{served[1]}.{served[2]}" in SHORT else pytest.mark.long)
        for served in SERVED
    ],
)
def test_no_fault_of_our_own_hangs_a_job_or_hurts_the_next(tmp_path, monkeypatch, module, owner, method):
    mark = tmp_path / "raised"
    inject(tmp_path, monkeypatch, mark, f"mmgevent.{module}", owner, method)
    items = [(n, n) for n in range(20)]
    with mmg.LocalCluster(2) as cluster:
        job = mmg.Job(items, die_once(str(tmp_path / "died")), add, task_timeout=30.0)
        handle = cluster.submit(job)
        with contextlib.suppress(mmg.JobError, mmg.EngineError):  # it may fail, and must end
            assert handle.result(PATIENCE_S) == {r: sum(range(r, 20, 3)) for r in range(3)}
        assert mark.exists(), "the fault was never injected"
        assert cluster.submit(mmg.Job(items, lambda k, v: [(k % 3, v)], add)).result(PATIENCE_S) == {
            r: sum(range(r, 20, 3)) for r in range(3)
        }


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find the engine")
def test_an_engine_whose_end_cannot_be_explained_is_replaced_all_the_same(tmp_path, monkeypatch):
    def fail(process, reason):
        raise ZeroDivisionError("a fault of our own")

    monkeypatch.setattr(engine_link, "explain_end", fail)
    mark = str(tmp_path / "killed")

    def kill_engine_once(key, value):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            os.kill(find_parent(os.getppid()), 9)
        yield key % 3, value

    with mmg.LocalCluster(1) as cluster:
        job = mmg.Job([(n, n) for n in range(20)], kill_engine_once, add)
        assert cluster.submit(job).result(PATIENCE_S) == {r: sum(range(r, 20, 3)) for r in range(3)}
    assert os.path.exists(mark)
