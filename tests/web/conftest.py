"""A server with a worker and a dashboard, and a job in which something has happened."""

import re
from types import SimpleNamespace

import pytest

from tests.integration.commands import Commands
from tests.web.requests import PATIENCE_S, fetch, wait_until

#: A job with an item that kills its executor once, one that cannot be mapped, and one that waits for a file.
JOB = """
import logging, os, signal, sys, time
datasource = {number: number for number in range(20)}
folder = sys.argv[1]
def mapfn(key, value):
    if value < 10:
        print(f"line {value}")
    if value == 5:
        logging.getLogger("mine").warning("\\x1b[31m\\u202e<b>hot</b>")
    died = os.path.join(folder, "died")
    if value == 3 and not os.path.exists(died):
        open(died, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if value == 7:
        raise ValueError("seven")
    if value == 19:
        open(os.path.join(folder, "waits"), "w").close()
    while value == 19 and not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.01)
    yield key % 2, value
options = {"max_skipped": 1, "name": "<b>a job</b>"}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server with a worker, and a dashboard that looks at it."""
    commands = Commands(tmp_path_factory.mktemp("place"))
    server, where = commands.start_server()
    worker = commands.start("worker", "--procs", "2", "--name", "node7", where)
    dashboard = commands.start("dashboard", where)
    match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{16,})\n", dashboard.stdout.readline())
    yield SimpleNamespace(
        commands=commands, where=where, server=server, worker=worker, dashboard=dashboard,
        port=int(match[1]), token=match[2], url=match[0].strip(),
    )  # fmt: skip
    commands.close()


def _waits(row):
    """Whether nothing will change: of twenty items one is set aside, one runs, and the others are done."""
    return (row.get("skipped"), row.get("running"), row.get("waiting")) == (1, 1, 0) and row.get(
        "total"
    ) == 20


@pytest.fixture
def job(place, tmp_path):
    """A job that waits for a file; it has died once and set one item aside."""
    path = place.commands.write("waits.py", JOB)
    run = place.commands.start("run", "--join", place.where, path, str(tmp_path))
    wait_until(lambda: (tmp_path / "waits").exists())
    row = wait_until(lambda: next(filter(_waits, fetch(place, "/api/jobs")["jobs"]), None))
    yield SimpleNamespace(run=run, row=row)
    (tmp_path / "go").touch()
    run.communicate(timeout=PATIENCE_S)
    wait_until(lambda: not fetch(place, "/api/jobs")["jobs"])
