"""What functions print and log reaches whoever submitted the job, and nobody else."""

import os
import sys
import threading

import pytest

import mmgevent as mmg

JOB = """
import logging, sys
datasource = {"a": 1, "b": 2}


def mapfn(key, value):
    if key == "b":
        print("to stdout \\x1b[2J")
        print("to stderr", file=sys.stderr)
        logging.getLogger("of.job").warning("careful")
        logging.info("not shown")
    yield "sum", value


def reducefn(key, values):
    print("reducing", end="")
    return sum(values)
"""


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2) as cluster:
        yield cluster


def add(key, values):
    return sum(values)


def test_mmg_run_shows_prints_and_logs_on_stderr_unless_told_not_to(commands):
    job = commands.write("job.py", JOB)
    shown = commands.run("run", "--procs", "1", job)
    assert (shown.returncode, shown.stdout) == (0, "sum\t3\n")
    lines = shown.stderr.splitlines()
    assert [line.partition(": ")[2].partition("/")[2].partition(" ")[2] for line in lines] == [
        r"at 'b': to stdout \x1b[2J",
        "at 'b': to stderr",
        "at 'b': WARNING:of.job:careful",
        "at 'sum': reducing",
    ]
    assert all(line.startswith("mmg-run: ") for line in lines)
    for option in ("--no-logs", "-q"):
        silent = commands.run("run", "--procs", "1", option, job)
        assert (silent.returncode, silent.stdout, silent.stderr) == (0, "sum\t3\n", "")
    inline = commands.run("run", "--inline", job)
    assert (inline.returncode, inline.stdout) == (0, "sum\t3\n")
    assert inline.stderr.splitlines()[:2] == ["to stdout \x1b[2J", "to stderr"]


def test_lines_keep_their_order_and_jobs_get_their_own_only(cluster):
    barrier = threading.Barrier(2)
    seen = {}

    def run(name):
        def mapfn(key, value):
            for n in range(50):
                print(name, key, n)  # noqa: T201
            yield key, value

        seen[name] = []
        handle = cluster.submit(
            mmg.Job([(i, i) for i in range(6)], mapfn, add, retransmit=0), logs=seen[name].append
        )
        barrier.wait(30)
        handle.result(60)
        assert handle.logs() == seen[name]

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("one", "other"):
        for key in range(6):
            texts = [line.text for line in seen[name] if line.item == str(key)]
            assert texts == [f"{name} {key} {n}" for n in range(50)]
        assert len(seen[name]) == 300


def test_what_was_printed_before_a_death_is_told_once_and_last_words_as_well(cluster):
    def mapfn(key, value):
        print("a line")  # noqa: T201
        print("no end", end="", flush=True)  # noqa: T201
        os._exit(3)

    handle = cluster.submit(mmg.Job({1: 1}, mapfn, add, max_skipped=1))
    handle.result()
    deaths = handle.deaths()
    assert [death["last_words"] for death in deaths] == ["a line\nno end"] * len(deaths)
    assert [(line.text, line.item) for line in handle.logs()] == [("a line", "1"), ("no end", "1")] * len(
        deaths
    )


def test_setupfn_and_calls_of_many_items_are_named(cluster):
    def setup():
        print("setting up")  # noqa: T201

    def mapfn(keys, values):
        print("a call")  # noqa: T201
        yield from zip(keys, values, strict=True)

    job = mmg.Job([(i, i) for i in range(4)], mapfn, add, setupfn=setup, items_per_call=4)
    handle = cluster.submit(job)
    handle.result()
    assert {(line.text, line.item) for line in handle.logs()} == {
        ("setting up", "setupfn"),
        ("a call", "a call of 4 items, from 0 on"),
    }


def test_a_callback_that_raises_changes_nothing(cluster):
    def mapfn(key, value):
        print("hello")  # noqa: T201
        yield key, value

    def refuse(line):
        raise ZeroDivisionError

    assert cluster.run(mmg.Job({1: 1}, mapfn, add), logs=refuse) == {1: 1}


def test_a_flood_is_told_in_part_with_a_count_and_its_job_succeeds(cluster):
    def mapfn(key, value):
        for n in range(100_000):
            print("line", n)  # noqa: T201
        yield key, value

    handle = cluster.submit(mmg.Job({1: 1}, mapfn, add), logs=(seen := []).append)
    assert handle.result() == {1: 1}
    told = [line.text for line in seen if line.worker]
    dropped = [line.text.split()[0].replace(",", "") for line in seen if line.text.endswith("were dropped")]
    assert len(told) + sum(map(int, dropped)) == 100_000
    assert told[0] == "line 0"
    assert len(told) < 100_000


def test_a_stream_of_the_user_that_cannot_be_flushed_fails_no_task(cluster):
    def mapfn(key, value):
        class Tee:
            def write(self, text):
                ours.write(text)

            def flush(self):
                raise ZeroDivisionError

        ours = sys.stdout
        sys.stdout = Tee()
        print("no end", end="")  # noqa: T201
        yield key, value

    handle = cluster.submit(mmg.Job({1: 1}, mapfn, add))
    assert handle.result() == {1: 1}
    assert [(line.text, line.item) for line in handle.logs()] == [("no end", "1")]


@pytest.mark.long
def test_a_driver_elsewhere_gets_the_prints_of_its_job(commands):
    _, address = commands.start_server()
    commands.start("worker", "--procs", "1", address)
    job = commands.write("job.py", JOB)
    done = commands.run("run", "--join", address, job)
    assert done.returncode == 0
    assert done.stderr.count("to stderr") == 1
