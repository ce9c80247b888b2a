"""Jobs on rows of a database as commands: what their connections may do, and how they end."""

import os
import signal
import sqlite3

import pytest

from tests.integration.commands import read_tsv

JOB = """
import os, sqlite3, sys, threading
from mmgevent import Query
from places import DATABASE

HERE = os.getpid()
MODE = sys.argv[1]

def connect():
    is_here = os.getpid() == HERE
    if MODE == "blocks here" or (MODE == "blocks there" and not is_here):
        open(sys.argv[2], "w").close()
        threading.Event().wait()
    if MODE == "fails once" and not is_here:
        try:
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            raise sqlite3.OperationalError("try again")
    return sqlite3.connect(DATABASE)

datasource = Query(connect, "SELECT id, kind FROM " + (sys.argv[3:] or ["sales"])[0], key="id", ranges=6)

def mapfn(key, row):
    yield row["kind"], 1

def reducefn(key, values):
    return sum(values)
"""


@pytest.fixture
def job(commands):
    made = sqlite3.connect(commands.folder / "sales.db")
    with made:
        made.execute("CREATE TABLE sales (id INTEGER PRIMARY KEY, kind TEXT)")
        made.executemany("INSERT INTO sales VALUES (?, ?)", [(i, f"kind {i % 3}") for i in range(300)])
    made.close()
    commands.write("places.py", "DATABASE = 'sales.db'\n")
    return commands.write("job.py", JOB)


EXPECTED = {f"kind {i}": 100 for i in range(3)}


def test_a_job_file_reads_a_database(commands, job):
    ended = commands.run("run", "-q", "--procs", "2", job, "reads")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert read_tsv(ended.stdout) == EXPECTED
    ended = commands.run("run", "--try", 12, job, "reads")
    assert ended.returncode == 0, ended.stderr
    assert "items     11 of 300: the first, the last" in ended.stdout
    assert "'kind 0'" in ended.stdout


def test_a_connection_that_fails_is_tried_again(commands, job):
    ended = commands.run("run", "-q", "--procs", "1", "--set", "retries=1", job, "fails once", "failed")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (commands.folder / "failed").exists()
    assert read_tsv(ended.stdout) == EXPECTED


def test_a_missing_table_is_told_before_the_job_runs(commands, job):
    ended = commands.run("run", "--procs", "1", job, "reads", "-", "nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "cannot be read: OperationalError: " in ended.stderr


def test_it_cannot_be_resumed(commands, job):
    ended = commands.run("run", "--resume", "-o", "out/", job, "reads")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Query('SELECT id, kind FROM sales', key='id') does not say what it depends on" in ended.stderr


def test_ctrl_c_ends_a_connect_that_blocks_here(commands, job):
    os.mkfifo(commands.folder / "pipe")
    process = commands.start("run", "--procs", "1", job, "blocks here", "pipe")
    (commands.folder / "pipe").read_text()
    process.send_signal(signal.SIGINT)
    ended = commands.finish(process)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert "Traceback" not in ended.stderr
    assert commands.left_behind() == []


def test_a_connect_that_blocks_in_an_executor_ends_by_the_time_limit(commands, job):
    ended = commands.run(
        "run", "-q", "--procs", "1", "--set", "task_timeout=0.5", job, "blocks there", os.devnull
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "id >= 0 and id < 50" in ended.stderr
    assert "0.5 s" in ended.stderr
