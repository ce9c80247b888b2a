"""What a looker reads of a job: printed lines and grouped errors, from before it looked, and after the job's end."""

import contextlib
import json
import os
import re
import time
from types import SimpleNamespace

import pytest

import mmgevent as mmg
from mmgevent.access.addresses import parse_address
from mmgevent.engine.looking import looking_at
from mmgevent.errors import UsageError
from tests.integration.commands import Commands
from tests.trust.raw_peer import PASSWORD, connected, running, running_server, wait_until

JOB = """
import logging, os, sys, time
datasource = [(number, sys.argv[1]) for number in range(20)]
options = {"max_skipped": 8, "retransmit": 0, "name": "noisy"}
def mapfn(key, path):
    print(f"item {key} \\x1b[31mred")
    if key in (0, 1, 2, 3):
        logging.getLogger("mine").error("five")
        raise ValueError(f"no {key}")
    if key == 4:
        {}["x"]
    while key == 19 and not os.path.exists(path):
        time.sleep(0.01)
    yield key, 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    commands = Commands(folder)
    commands.environ["MMG_PASSWORD"] = PASSWORD
    with (
        running_server(folder) as server,
        running(folder, "worker", "--procs", "2", "--name", "node7", server.where),
        connected(server) as cluster,
    ):
        wait_until(lambda: cluster.workers(), "the worker")
        yield SimpleNamespace(server=server, cluster=cluster, commands=commands, folder=folder)
    commands.close()


def looking(place):
    return looking_at(parse_address(place.server.where), PASSWORD)


def _waits(job):
    return (job.skipped, job.running, job.waiting, job.total) == (5, 1, 0, 20)


@contextlib.contextmanager
def noisy(place):
    """A job that has done all but its last item, which waits."""
    go = place.folder / "go"
    go.unlink(missing_ok=True)
    run = place.commands.start("run", "--join", place.server.where, place.commands.write("noisy.py", JOB), go)
    job = wait_until(
        lambda: next((job for job in place.cluster.jobs() if _waits(job)), None),
        "the job, with its last task left",
    )
    yield SimpleNamespace(run=run, id=job.id, end=go.touch)
    go.touch()
    run.communicate(timeout=60)


def read_all(looker, what, job, after=0):
    rows = []
    while True:
        events = looker.follow(what, job, after)
        rows += events.rows
        after = events.next
        if not events.has_more:
            return rows, after, events.is_over


def test_lines_from_before_are_read_once_and_new_ones_follow_until_the_job_is_over(place):
    with noisy(place) as job, looking(place) as looker:
        rows, after, is_over = read_all(looker, "logs", job.id)
        while (
            sum(row["text"].startswith("item") for row in rows) < 20
        ):  # those of the last task are on the way
            more, after, _ = read_all(looker, "logs", job.id, after)
            rows += more
        texts = [row["text"] for row in rows if row["text"].startswith("item")]
        assert sorted(texts) == sorted(rf"item {number} \x1b[31mred" for number in range(20))
        assert {row["worker"] for row in rows} == {"node7"}
        assert sum("ERROR:mine:five" in row["text"] for row in rows) == 4
        assert not is_over
        began_s = time.monotonic()
        assert looker.follow("logs", "noisy", after).rows == []  # by name, too
        assert time.monotonic() - began_s > 0.3  # at most twice a second
        job.end()
        job.run.wait(60)
        assert wait_until(lambda: looker.follow("logs", job.id, after).is_over, "the end")
        assert len(read_all(looker, "logs", job.id)[0]) == len(rows)


def test_errors_are_counted_as_the_job_counts_what_it_set_aside(place):
    with noisy(place) as job, looking(place) as looker:
        rows, after, _ = read_all(looker, "errors", job.id)
        groups = {(row["function"], row["error_type"]): row for row in rows}
        assert set(groups) == {("mapfn", "ValueError"), ("mapfn", "KeyError")}
        values = groups["mapfn", "ValueError"]
        assert (values["set_aside"], groups["mapfn", "KeyError"]["set_aside"]) == (4, 1)
        assert os.path.basename(values["line"]) == "noisy.py:9"
        assert values["error"] == f"ValueError: no {values['key']}"
        assert looker.follow("errors", job.id, after).rows == []


def test_a_job_that_has_failed_is_remembered_with_its_error(place):
    path = place.commands.write(
        "fails.py", "datasource = [(1, 1)]\ndef mapfn(k, v):\n    raise OSError('gone')\n"
    )
    assert place.commands.run("run", "--join", place.server.where, path).returncode == 1
    with looking(place) as looker:
        row = looker.ended()[0]
        assert (row["name"], row["outcome"]) == ("fails", "failed")
        assert "gone" in row["error"]
        assert row["submitter"].endswith(")")
        assert row["ended"] >= row["since"]
        (group,), _, is_over = read_all(looker, "errors", row["id"])
        assert (group["count"], group["set_aside"], group["error_type"], is_over) == (1, 0, "OSError", True)
        with pytest.raises(UsageError, match="no job is called 'nothing'"):
            looker.follow("logs", "nothing")


def test_tasks_of_slots_are_seen_with_what_runs_and_how_partitions_differ(place):
    with noisy(place) as job, looking(place) as looker:
        events = looker.follow("tasks", job.id)
        (running,) = events.found["running"]
        assert (running["worker"], running["phase"]) == ("node7", "map")
        assert running["slot"] in (0, 1)
        assert running["start"] <= time.time()
        seen, after = events.rows, events.next
        late, after, _ = read_all(
            looker, "tasks", job.id, after
        )  # bars end when nothing was added for a while
        seen += late
        assert {row["outcome"] for row in seen} == {"done"}
        sizes = looker.follow("shape", job.id).found["rows"][0]
        assert sizes["count"] > 0
        job.end()
        job.run.communicate(timeout=60)
        last, _, is_over = read_all(looker, "tasks", job.id, after)
        assert is_over
        assert {row["phase"] for row in last} == {"map", "reduce"}
        assert sum(row["tasks"] for row in seen + last) > 2
        shape = looker.follow("shape", job.id).found["rows"][0]
        assert shape["bytes"] == sum(each["bytes"] for each in shape["largest"]) > 0


def test_an_executor_that_dies_is_a_bar_and_a_group(place):
    path = place.commands.write(
        "dies.py",
        "import os, signal\ndatasource = [(1, 1)]\ndef mapfn(k, v):\n    os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    assert place.commands.run("run", "--join", place.server.where, path).returncode == 1
    with looking(place) as looker:
        job = looker.ended()[0]["id"]
        rows, _, _ = read_all(looker, "tasks", job)
        assert {row["outcome"] for row in rows} == {"died"}
        assert all("SIGKILL" in row["error"] for row in rows)
        (group,), _, _ = read_all(looker, "errors", job)
        assert group["count"] == len(rows) == 3


def test_mmg_server_logs_prints_what_was_kept_follows_and_ends_with_the_job(place):
    with noisy(place) as job:
        following = place.commands.start("server", "logs", place.server.where, "noisy")
        lines = [following.stdout.readline() for _ in range(24)]
        assert sum("ERROR:mine:five" in line for line in lines) == 4
        assert sum(r" at 7: item 7 \x1b[31mred" in line and line.startswith("node7") for line in lines) == 1
        late = place.commands.start("server", "logs", "--since", "now", place.server.where, job.id)
        there = place.commands.run("server", "logs", place.server.where, job.id, "--no-follow", "--json")
        rows = [json.loads(line) for line in there.stdout.splitlines()]
        (first,) = [row for row in rows if row["text"].startswith("item 7 ")]
        assert set(first) == {"at", "worker", "item", "text", "level", "logger", "dropped"}
        assert (first["worker"], first["item"], first["level"]) == ("node7", "7", "")
        assert {(row["level"], row["logger"]) for row in rows} == {("", ""), ("ERROR", "mine")}
        assert following.poll() is None
        job.end()
        rest, said = following.communicate(timeout=60)
        assert (following.returncode, said) == (0, "")
        out, said = late.communicate(timeout=60)
        assert (late.returncode, said) == (0, "")
        assert len(out.splitlines()) < 24
    over = place.commands.run("server", "logs", place.server.where, job.id)
    assert over.returncode == 0
    assert sorted(over.stdout.splitlines(True)) == sorted([*lines, *rest.splitlines(True)])


def test_lines_that_nobody_wants_are_not_sent_until_somebody_looks(place, tmp_path):
    begun, go = tmp_path / "begun", tmp_path / "go"

    def says(key, value):
        print("first stage")  # noqa: T201
        yield key, value

    def waits(key, value):
        begun.touch()
        while not go.exists():
            time.sleep(0.01)
        print("second stage")  # noqa: T201
        yield key, value

    job = mmg.Job([(1, 1)], says, name="silent").then(waits)
    handle = place.cluster.submit(job, logs=False)
    wait_until(begun.exists, "the second stage")
    with looking(place) as looker:
        for stage in (1, 2):
            assert looker.follow("logs", f"silent (stage {stage} of 2)").rows == []
        go.touch()
        assert handle.result(60) == {1: [[1]]}
        assert handle.logs() == []
        names = [row for row in looker.ended() if row["name"].startswith("silent")]
        heard = [row["text"] for job in names for row in looker.follow("logs", job["id"]).rows]
        assert heard == ["second stage"]
    handle = place.cluster.submit(job)
    assert handle.result(60)
    assert [line.text for line in handle.logs()] == ["first stage", "second stage"]


def test_mmg_server_logs_says_what_was_forgotten_and_what_is_wrong(place):
    path = place.commands.write(
        "long.py",
        "datasource = [(i, i) for i in range(1)]\ndef mapfn(k, v):\n"
        "    for i in range(3000):\n        print(i)\n    yield k, v\n",
    )
    assert place.commands.run("run", "--join", place.server.where, path).returncode == 0
    ended = place.commands.run("server", "logs", place.server.where, "long")
    lines = ended.stdout.splitlines()
    assert lines[-1].endswith(": 2999")
    forgotten = int(re.search(r"([\d,]+) lines before these are forgotten", ended.stderr)[1].replace(",", ""))
    assert len(lines) + forgotten == 3000
    for words, why in [
        ((place.server.where, "nothing"), "no job is called 'nothing'"),
        (("--since", "yesterday", place.server.where, "long"), "expected start or now"),
        ((), "nothing is named"),
    ]:
        refused = place.commands.run("server", "logs", *words)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert why in refused.stderr


def test_mmg_server_logs_ends_with_its_server(place, tmp_path):
    commands = place.commands
    with running_server(tmp_path) as server, connected(server) as cluster:
        run = commands.start("run", "--join", server.where, commands.write("waits.py", WAITS))
        wait_until(lambda: cluster.jobs(), "the job")
        command = commands.start("server", "logs", server.where, "waits")
        server.process.kill()
        out, said = command.communicate(timeout=60)
        assert (command.returncode, out) == (3, "")
        assert "Traceback" not in said
        run.kill()
        run.communicate()


WAITS = "datasource = [(1, 1)]\ndef mapfn(k, v):\n    yield k, v\n"
