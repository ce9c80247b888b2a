"""Job logs and reports of real jobs: deaths, slow items, jobs that fail, are cancelled, killed or resubmitted."""

import json
import os
import re
import signal
import threading
import time

import pytest

import mmgevent as mmg
from mmgevent.cli import job_records
from mmgevent.cli.options import Arguments
from mmgevent.driver.input import feeding
from mmgevent.driver.input.batching import BatchSize
from mmgevent.driver.log.file import LogFile
from mmgevent.report.digest import Digest
from mmgevent.report.embedded import read_data
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2) as cluster:
        yield cluster


def read(path):
    text = path.read_text("ascii")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def named(events, name, **fields):
    return [e for e in events if e["event"] == name and all(e[key] == value for key, value in fields.items())]


def test_a_job_on_our_engine_logs_tasks_deaths_slow_and_skipped_items(cluster, tmp_path):
    path, marker = tmp_path / "job.jsonl", str(tmp_path / "died")

    def troubled(key, value):
        if value == 3:
            raise ValueError("three")
        if value == 5 and not os.path.exists(marker):
            with open(marker, "w"):
                os._exit(3)
        if value == 7:
            time.sleep(1.1)
        yield value % 2, value

    items = [(f"item {i}", i) for i in range(40)]
    job = mmg.Job(items, troubled, lambda key, values: len(values), max_skipped=1, name="troubled")
    before = time.time()
    assert cluster.run(job, on_notice=lambda text: None, job_log=path) == {0: 20, 1: 19}
    events = read(path)
    assert events[0]["runner"] == "local"
    (end,) = named(events, "end", outcome="done")
    assert events[-1] is end
    done = named(events, "task", outcome="done")
    assert sum(task["items"] for task in done if task["phase"] == "map") == end["totals"]["items"] == 39
    assert sum(task["records"] for task in done if task["phase"] == "reduce") == 2
    assert {task["slot"] for task in done} <= {0, 1}
    assert all(before - 1 < task["start"] <= task["at"] for task in done)
    assert len(named(events, "death")) == end["totals"]["deaths"] == 1
    died = named(events, "task", outcome="died")
    assert len(died) == 1
    assert "exit code 3" in died[0]["error"]
    assert [e["key"] for e in named(events, "item", outcome="failed")] == ["'item 5'"]
    (slow,) = named(events, "item", outcome="slow")
    assert slow["key"] == "'item 7'"
    assert 1.0 <= slow["seconds"] <= end["seconds"]
    assert [e["key"] for e in named(events, "item", outcome="skipped")] == ["'item 3'"]
    assert {key["values"] for task in done for key in task["largest"]} == {20, 19}
    phases = [e["phase"] for e in named(events, "phase")]
    assert [phase for phase in phases if phase in ("map", "reduce")] == ["map", "reduce"]


def test_every_task_has_a_line_and_a_report_as_many(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "next_size", lambda *a, **b: BatchSize(1, 1))
    path, count = tmp_path / "job.jsonl", 3000
    digest = Digest()
    log = LogFile(path, digest.add)
    job = mmg.Job(
        [(i, i) for i in range(count)], lambda key, value: [(0, value)], lambda key, values: sum(values)
    )
    assert cluster.run(job, job_log=log) == {0: count * (count - 1) // 2}
    events = read(path)
    done = named(events, "task", phase="map", outcome="done")
    assert len(done) == count
    assert len({(task["batch"], task["task"], task["attempt"]) for task in done}) == count
    assert {(task["entries"], task["items"], task["records"], task["keys"]) for task in done} == {
        (1, 1, 1, 1)
    }
    assert all(events[0]["at"] <= task["start"] <= task["at"] for task in done)
    assert all(task["start"] + task["seconds"] <= task["at"] + 0.01 for task in done)
    assert set(done[0]) == set(named(events, "task", phase="reduce")[0])
    (end,) = named(events, "end")
    assert (end["totals"]["items"], end["totals"]["records"]) == (count, count)
    assert end["totals"]["tasks"] == len(named(events, "task", outcome="done"))
    assert not named(events, "lost_lines")
    lanes = digest.data()["work"]["lanes"]
    assert sum(lane["tasks"] for lane in lanes) == end["totals"]["tasks"]
    assert 0 < sum(bar[5] for lane in lanes for bar in lane["bars"]) < end["seconds"] * 2


def test_the_only_item_of_a_task_is_named_if_it_is_slow(cluster, tmp_path):
    path = tmp_path / "job.jsonl"

    def sleeps(key, value):
        time.sleep(value)
        yield key, 1

    cluster.run(mmg.Job([("slow", 1.1)], sleeps), job_log=path)
    (slow,) = named(read(path), "item", outcome="slow")
    assert (slow["key"], slow["item"]) == ("'slow'", 0)
    assert 1.1 <= slow["seconds"] < 2
    cluster.run(mmg.Job([("short", 0.01)], sleeps), job_log=path)
    (task,) = named(read(path), "task", phase="map")
    assert task["slowest"][0]["key"] == "'short'"
    assert not named(read(path), "item")


def test_a_job_that_is_cancelled_and_one_that_fails_say_so(cluster, tmp_path):
    path, go_on = tmp_path / "job.jsonl", threading.Event()

    def waits():
        yield 1, 1
        go_on.wait()

    handle = cluster.submit(mmg.Job(waits, lambda key, value: [(1, 1)]), job_log=path)
    handle.cancel()
    go_on.set()
    with pytest.raises(mmg.JobCancelled):
        handle.result()
    assert read(path)[-1]["outcome"] == "cancelled"
    with pytest.raises(mmg.JobError, match="division"):
        cluster.run(mmg.Job([(1, 1)], lambda key, value: 1 // 0), job_log=path)
    events = read(path)
    assert events[-1]["outcome"] == "failed"
    assert "ZeroDivisionError" in events[-1]["error"]
    assert named(events, "task", outcome="failed")
    assert [e["key"] for e in named(events, "item", outcome="failed")] == ["1"]


@pytest.mark.long
def test_a_job_that_is_submitted_again_says_so_and_a_chain_names_its_stages(cluster, tmp_path):
    path, engines = tmp_path / "job.jsonl", []

    def source():
        yield 1, 1
        if not engines:
            engines.append(cluster._engine)
            os.kill(engines[0].pid, signal.SIGKILL)
        yield 2, 2

    job = mmg.Job(source, lambda key, value: [(0, value)], lambda key, values: sum(values))
    job = job.then(lambda key, value: [(1, value)], lambda key, values: sum(values))
    assert cluster.run(job, on_notice=lambda text: None, job_log=path) == {1: 3}
    events = read(path)
    (again,) = named(events, "resubmitted")
    assert "lost" in again["error"] or "killed" in again["error"]
    behind = events[events.index(again) :]
    assert {task["stage"] for task in named(behind, "task", outcome="done")} == {1, 2}
    assert events[-1]["totals"]["resubmitted"] == 1
    assert events[0]["stages"] == 2


COUNT = """
datasource = [(i, i) for i in range(50)]
def mapfn(key, value):
    if value == 13:
        raise ValueError("bad </script> item")
    yield value % 5, value
def reducefn(key, values):
    return len(values)
"""


def test_mmg_run_writes_log_and_report_and_names_the_largest_also_if_the_job_fails(commands):
    job = commands.write("count.py", COUNT)
    log, report, other = (commands.folder / name for name in ("a.jsonl", "a.html", "b.html"))
    failed = commands.run("run", "--job-log", log, "--report", report, "--set", "results=trusted", job)
    assert failed.returncode == 1
    assert read(log)[-1]["outcome"] == "failed"
    data = read_data(str(report))
    assert (data["outcome"], data["name"]) == ("failed", "count")
    assert "bad </script> item" in data["error"]
    options = ("--inline", "-v", "--report", other, "--set", "max_skipped=1")
    done = commands.run("run", *options, job)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 5
    assert f"mmg-run: report: {other}" in done.stderr
    assert "keys with the most values:" in done.stderr
    differs = commands.run("run", "--report-diff", report, other)
    assert differs.returncode == 0
    assert [line.split() for line in differs.stdout.splitlines() if line.startswith("outcome")] == [
        ["outcome", "failed", "done", "differs"]
    ]


def test_a_report_replaces_no_pipe_or_device_and_no_link(commands):
    job = commands.write("count.py", COUNT)
    pipe, link = commands.folder / "pipe", commands.folder / "link"
    os.mkfifo(pipe)
    refused = commands.run("run", "--report", "pipe", job)
    assert refused.returncode == 2
    assert "the report pipe cannot be written (it is no file)" in refused.stderr
    assert pipe.is_fifo()
    link.symlink_to("real.html")
    assert commands.run("run", "--report", link, job).returncode == 1
    assert link.is_symlink()
    assert read_data(str(commands.folder / "real.html"))["outcome"] == "failed"


def test_a_link_in_the_way_of_a_report_is_not_followed(tmp_path, capsys):
    target, report = tmp_path / "target", tmp_path / "a.html"
    target.write_text("kept")
    (tmp_path / f"a.html.{os.getpid()}.tmp").symlink_to(target)
    job_records._write_report("mmg-run", Arguments([], {"quiet": False}, {}), str(report), Digest())
    assert target.read_text() == "kept"
    assert report.is_file()
    assert not report.is_symlink()
    assert "report: " in capsys.readouterr().err


def test_paths_that_cannot_be_written_end_mmg_run_before_the_job(commands):
    job = commands.write("count.py", COUNT + "\nopen('ran', 'w').close()\n")
    for options, words in (
        (["--report", "no/report.html"], "no/report.html cannot be written (its folder is not there)"),
        (["--job-log", "x", "--report", "x"], "--report and --job-log are the same file"),
        (["--job-log", "no/log"], "no/log cannot be written"),
        (["--report-diff"], "expected A.html B.html"),
    ):
        ended = commands.run("run", *options, job)
        assert ended.returncode == 2
        assert words in ended.stderr
        assert ended.stderr.count("\n") <= 2
    assert not (commands.folder / "ran").exists()


ENDLESS = """
import threading
def datasource():
    yield 1, 1
    threading.Event().wait()
def mapfn(key, value):
    yield key, value
"""


@pytest.mark.long
def test_a_command_that_is_killed_leaves_whole_lines(commands):
    log = commands.folder / "log.jsonl"
    process = commands.start(
        "run", "-q", "--procs", 1, "--job-log", log, commands.write("endless.py", ENDLESS)
    )
    wait_until(lambda: log.exists() and '"event":"task"' in log.read_text())
    process.kill()
    process.wait()
    whole, _, _ = log.read_text("ascii").rpartition("\n")  # the kill may have cut the last line
    events = [json.loads(line) for line in whole.splitlines()]
    assert events[0]["name"] == "endless"
    assert named(events, "task", outcome="done")
    assert not named(events, "end")
    assert not commands.left_behind()


def test_a_log_that_was_cut_is_compared_and_that_is_said(commands):
    job = commands.write("count.py", COUNT.replace("value == 13", "False"))
    for name in ("a.jsonl", "b.jsonl"):
        assert commands.run("run", "--procs", "1", "--job-log", name, job).returncode == 0
    whole = commands.run("run", "--report-diff", "a.jsonl", "b.jsonl")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert re.search(r"outcome +done +done", whole.stdout)
    lines = (commands.folder / "b.jsonl").read_bytes().splitlines(True)
    (commands.folder / "cut.jsonl").write_bytes(b"".join(lines[:-2]) + lines[-2][:50])
    cut = commands.run("run", "--report-diff", "a.jsonl", "cut.jsonl")
    assert cut.returncode == 0
    assert re.search(r"outcome +done +unknown", cut.stdout)
    assert f"line {len(lines) - 1}, the last one, is cut, and left out" in cut.stderr
    assert "has no line of its end" in cut.stderr
    os.mkfifo(commands.folder / "pipe")
    for name, content in [
        ("list.jsonl", b'{"event":"job"}\n[]\n'),
        ("text.jsonl", b'{"event":"job"\n'),
        ("kind.jsonl", b'{"event":"job","at":1}\n{"event":"task","at":"x"}\n'),
        ("deep.jsonl", b'{"event":"job","at":1}\n' + b"[" * 100_000 + b"\n"),
        ("pipe", None),
        ("empty", b""),
    ]:
        if content is not None:
            (commands.folder / name).write_bytes(content)
        refused = commands.run("run", "--report-diff", "a.jsonl", name)
        assert (refused.returncode, refused.stdout) == (2, ""), name
        assert "Traceback" not in refused.stderr


def test_two_jobs_do_not_write_one_log(cluster, tmp_path):
    path, go_on = tmp_path / "job.jsonl", threading.Event()

    def waits():
        yield 1, 1
        go_on.wait()

    handle = cluster.submit(mmg.Job(waits, lambda key, value: [(1, 1)]), job_log=path)
    wait_until(lambda: path.stat().st_size)
    with pytest.raises(mmg.OutputError, match="another job writes the job log"):
        mmg.run(mmg.Job([(1, 1)], lambda key, value: [(1, 1)]), inline=True, job_log=path)
    go_on.set()
    assert handle.result()
    assert len(named(read(path), "job")) == 1
    mmg.run(mmg.Job([(1, 1)], lambda key, value: [(1, 1)]), inline=True, job_log=path)
    assert read(path)[0]["runner"] == "inline"
