"""Wall clocks that are wrong, and that are set while a job runs: nothing depends on them."""

import contextlib
import json
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.trust.machines import Machines, Reports, family_of

YEAR_S = 365 * 24 * 3600
#: what a clock may be away from the year it should show, in a test that takes minutes at worst
DAY_S = 24 * 3600

JOB = """
import sys, time
from tests.trust.reporting import report

ITEMS = 160
PATH = sys.argv[1]  # here, not where functions run

def datasource():
    return ((number, number) for number in range(ITEMS))

def mapfn(number, value):
    report(PATH, f"map {number}")
    time.sleep(0.04)  # so that timers fire before the next jump
    yield number % 4, (number, time.time())

def reducefn(key, values):
    return values

options = {"task_timeout": 60.0, "retransmit": 0}
"""
ITEMS = 160


class Clock:
    """The wall clock of one command and its processes."""

    def __init__(self, shim, path, shift_s):
        self._path = path
        path.write_bytes(bytes(8))
        self.set(shift_s)
        self.environ = {"LD_PRELOAD": str(shim), "SHIFT_FILE": str(path)}

    def set(self, shift_s):
        with open(self._path, "r+b", buffering=0) as file:
            file.write(struct.pack("=q", shift_s))


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler to make the library that shifts clocks")
    library = tmp_path_factory.mktemp("shim") / "shifted_clock.so"
    source = Path(__file__).with_name("shifted_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def machines(tmp_path):
    with contextlib.closing(Machines(tmp_path)) as machines:
        yield machines


def assert_all_shifted(process, shim):
    """Every process of this command has the library, executors and all."""
    for member in family_of(process.pid):
        assert str(shim) in Path(f"/proc/{member.pid}/maps").read_text(), member


def test_clocks_that_differ_by_years_and_jump_change_nothing(machines, shim, tmp_path):
    clocks = [
        Clock(shim, tmp_path / name, shift_s)
        for name, shift_s in (("server", YEAR_S), ("worker", -YEAR_S), ("driver", 0))
    ]
    server = machines.start_server(environ=clocks[0].environ)
    worker = machines.start_worker(server.address, 2, environ=clocks[1].environ)
    others = []
    jumps = {40: YEAR_S, 80: -YEAR_S, 120: 0}

    def look(what, pid):
        number = reports.count("map")
        if number in jumps:
            for clock in clocks:
                clock.set(jumps[number])
        if number == 60:  # and who comes now
            others.append(machines.start_worker(server.address, 1, environ=clocks[2].environ))
        if number == 100:
            for process in (server, worker, *others):
                assert_all_shifted(process, shim)

    with contextlib.closing(Reports(look)) as reports:
        job = machines.write("clocks.py", JOB)
        driver = machines.start(
            "run", "--format", "jsonl", "--join", server.address, job, reports.path, environ=clocks[2].environ
        )
        code, written = driver.finish()
    assert code == 0, driver.said
    results = dict(map(json.loads, written.splitlines()))
    assert {key: [number for number, _ in values] for key, values in results.items()} == {
        key: list(range(key, ITEMS, 4)) for key in range(4)
    }
    now = time.time()
    years = {round((at - now) / YEAR_S) for values in results.values() for _, at in values}
    assert years == {-1, 0, 1}  # the clocks of executors did jump
    assert server.said.count("worker joined") == 2
    assert "worker left" not in server.said
    assert "resubmitted" not in driver.said
    assert all("left the server" not in process.said for process in (worker, *others))


def test_the_loop_of_an_engine_sees_the_shifted_clock(machines, shim, tmp_path):
    """Else the test above would show less than it says."""
    clock = Clock(shim, tmp_path / "clock", YEAR_S)
    program = (
        "import gevent, time; loop = gevent.get_hub().loop; loop.update_now(); print(loop.now(), time.time())"
    )
    asked = machines.start(program=("-c", program), environ=clock.environ)
    code, written = asked.finish()
    assert code == 0, asked.said
    for seen in map(float, written.split()):
        assert abs(seen - time.time() - YEAR_S) < DAY_S
