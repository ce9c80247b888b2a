"""A job log: whole lines, in order, whatever becomes of the disk; what an inline job writes into it."""

import itertools
import json
import os
import subprocess
import sys

import pytest

import mmgevent as mmg
from mmgevent.driver.log.file import LogFile
from mmgevent.tasks.item_clock import ItemClock
from mmgevent.wire.task_ends import MAX_LARGEST, MAX_SLOW
from tests.integration.commands import ROOT


def read(path):
    text = path.read_text("ascii")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def named(events, name):
    return [event for event in events if event["event"] == name]


def fails_at_3(key, value):
    if key == 3:
        raise ValueError("three")
    yield key % 2, value


def add(key, values):
    return sum(values)


def numbers(count=10):
    return [(i, i) for i in range(count)]


def test_an_inline_job_logs_its_tasks_and_what_it_sets_aside(tmp_path):
    path = tmp_path / "job.jsonl"
    path.write_text("what was there before\n")
    job = mmg.Job(numbers(), fails_at_3, add, max_skipped=1, name="ten")
    assert mmg.run(job, inline=True, job_log=path) == {0: 20, 1: 22}
    events = read(path)
    first, last = events[0], events[-1]
    assert (first["event"], first["name"], first["runner"], first["format"]) == ("job", "ten", "inline", 1)
    assert first["options"]["max_skipped"] == 1
    assert first["versions"]["mmgevent"] == mmg.__version__
    assert (last["event"], last["outcome"], last["error"]) == ("end", "done", None)
    assert last["totals"]["items"] == 9
    assert last["totals"]["skipped"] == 1
    (skipped,) = [event for event in named(events, "item") if event["outcome"] == "skipped"]
    assert (skipped["key"], skipped["function"], skipped["worker"]) == ("3", "mapfn", "inline")
    assert skipped["error"] == "ValueError: three"
    tasks = named(events, "task")
    assert {task["outcome"] for task in tasks} == {"done"}
    assert sum(task["items"] for task in tasks if task["phase"] == "map") == 9
    largest = [key for task in tasks for key in task["largest"]]
    assert sorted((key["key"], key["values"]) for key in largest) == [("0", 5), ("1", 4)]
    assert [event["phase"] for event in named(events, "phase")] == ["map", "reduce"]
    assert all(before["at"] <= after["at"] for before, after in itertools.pairwise(events))


def test_a_failed_and_a_broken_off_job_say_so_in_the_last_line(tmp_path):
    path = tmp_path / "job.jsonl"
    with pytest.raises(mmg.JobError):
        mmg.run(mmg.Job(numbers(), fails_at_3, add), inline=True, job_log=path)
    events = read(path)
    assert events[-1]["outcome"] == "failed"
    assert "three" in events[-1]["error"]
    (failed,) = named(events, "item")
    assert (failed["outcome"], failed["key"], failed["item"]) == ("failed", "3", 3)

    def interrupted():
        yield 1, 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mmg.run(mmg.Job(interrupted, fails_at_3, add), inline=True, job_log=path)
    assert read(path)[-1]["outcome"] == "cancelled"


def test_a_chain_has_one_log_whose_lines_name_the_stage(tmp_path):
    path = tmp_path / "job.jsonl"
    job = mmg.Job(numbers(), lambda k, v: [(k % 2, v)], add).then(lambda k, v: [(0, v)], add)
    assert mmg.run(job, inline=True, job_log=path) == {0: 45}
    events = read(path)
    assert events[0]["stages"] == 2
    assert {task["stage"] for task in named(events, "task")} == {1, 2}
    phases = [(event["stage"], event["phase"]) for event in named(events, "phase")]
    assert phases == [(1, "map"), (1, "reduce"), (2, "map"), (2, "reduce")]
    assert len(named(events, "end")) == 1


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("missing/job.jsonl", "folder that is there"),
        (".", "folder that is there"),
        ("pipe", "is no file"),
        ("a\0b", "cannot be"),
    ],
)
def test_a_log_that_cannot_be_written_is_refused_before_the_job(tmp_path, monkeypatch, path, why):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    began = []

    def items():
        began.append(1)
        return numbers()

    try:
        for inline in (True, False):
            with pytest.raises(mmg.OutputError, match=why):
                mmg.run(
                    mmg.Job(items, fails_at_3),
                    inline=inline,
                    job_log=path,
                    **({} if inline else {"procs": 1}),
                )
    finally:
        os.close(reader)
    assert not began


def test_a_file_of_a_job_that_never_began_is_removed_and_one_that_was_there_stays(tmp_path):
    new, old = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
    old.write_text("old\n")
    for path in (new, old):
        LogFile(path).close()
    assert not new.exists()
    assert old.read_text() == "old\n"


def test_a_full_disk_is_said_while_the_job_runs_and_at_its_end(caplog):
    assert mmg.run(mmg.Job(numbers(), add_key, add), inline=True, job_log="/dev/full") == {0: 45}
    texts = [record.getMessage() for record in caplog.records]
    assert sum("the job log /dev/full cannot be written" in text for text in texts) == 1
    assert sum("lacks its last" in text for text in texts) == 1


def add_key(key, value):
    yield 0, key


FILLS_UP = """
import resource, signal, sys
import mmgevent as mmg
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
job = mmg.Job([(i, i) for i in range(40)], lambda k, v: [(k, v)], lambda k, v: v[0])
most = int(sys.argv[2])
sys.dont_write_bytecode = True  # it would be cut short
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
assert len(mmg.run(job, inline=True, job_log=sys.argv[1])) == 40
"""


def test_of_a_line_for_which_there_is_no_room_nothing_stays(tmp_path):
    path = tmp_path / "job.jsonl"
    most = 2003
    command = [sys.executable, "-c", FILLS_UP, str(path), str(most)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert path.stat().st_size <= most
    assert read(path)[0]["event"] == "job"
    assert "cannot be written" in ended.stderr


def test_the_clock_of_items_keeps_the_slowest_and_leaves_flushes_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("mmgevent.tasks.item_clock.monotonic", lambda: now[0])
    clock = ItemClock()
    marked, flushed = [], []
    mark = clock.marking(lambda position, key: marked.append(key))
    mark_flush = clock.marking_flush(flushed.append)
    for position in range(2 * MAX_SLOW):
        mark(position, f"k{position}")
        now[0] += position + 1
        mark_flush(None)
        now[0] += 1000  # no item's
        mark_flush(position)
    found = clock.found()["slow"]
    assert [row[2] for row in found] == list(range(2 * MAX_SLOW - 1, MAX_SLOW - 1, -1))
    assert found[0] == [2 * MAX_SLOW * 1000, f"'k{2 * MAX_SLOW - 1}'", 2 * MAX_SLOW - 1]
    assert len(marked) == len(flushed) / 2 == 2 * MAX_SLOW
    assert clock.found()["slow"] == found  # nothing runs any more


def test_the_clock_of_items_keeps_the_keys_with_the_most_values_also_of_types_without_an_order():
    clock = ItemClock()
    clock.count_values({key: [0] * 3 for key in (1j, "a", None, 2.5, b"x", (1,), 7)})
    clock.count_values({"most": [0] * 9, "one": [0]})
    largest = clock.found()["largest"]
    assert len(largest) == MAX_LARGEST
    assert largest[0] == [9, "'most'"]
