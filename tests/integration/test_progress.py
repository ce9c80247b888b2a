"""mmg-run at work, as a person and as a script see it: the block, the closing line, the summary."""

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tests.integration.commands import CLOSING, PROGRESS
from tests.waiting import wait_until

#: a job whose items wait for a file, where its argument says so
WAITS = """
import os, sys, time
datasource = {i: i for i in range(8)}
def mapfn(key, value):
    if key == 7:
        open("began", "w").close()
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
    yield key % 2, value
def reducefn(key, values):
    return sum(values)
"""

FAILS = """
datasource = {i: i for i in range(8)}
def mapfn(key, value):
    yield key, 1 // (key - 5)
"""


def whole(commands, *argv, **kwargs):
    """Run mmg-run; return its exit code and all of stderr."""
    process = commands.start("run", "--procs", "1", *argv, **kwargs)
    _, stderr = process.communicate(timeout=100)
    return process.returncode, stderr


def test_the_last_line_says_what_the_job_did_and_where_its_results_are(commands):
    commands.write("go", "")
    job = commands.write("job.py", WAITS)
    code, stderr = whole(commands, "-o", "out.tsv", job, "go")
    assert code == 0
    last = stderr.splitlines()[-1]
    assert re.match(f"mmg-run: {CLOSING}", last)
    assert ": 8 items, 8 records, 2 keys, " in last
    assert " shuffled, 2 results in out.tsv, at most " in last
    assert PROGRESS.sub("", f"{last}\n") == ""
    code, stderr = whole(commands, "-q", "-o", "out.tsv", job, "go")
    assert (code, stderr) == (0, "")


@pytest.mark.parametrize("mode", [(), ("--inline",)])
def test_a_summary_is_one_object_with_figures_for_scripts(commands, mode):
    commands.write("go", "")
    job = commands.write("job.py", WAITS)
    code, stderr = whole(commands, *mode, "-q", "--summary", "json", "-o", "out.tsv", job, "go")
    summary = json.loads(stderr.splitlines()[-1])
    expected = {
        "state": "done",
        "exit_code": code,
        "job": "job",
        "items": 8,
        "mapped_records": 8,
        "keys": 2,
        "records": 2,
        "written": 2,
        "skipped": 0,
        "retries": 0,
        "deaths": 0,
        "output": "out.tsv",
    }
    assert {name: summary[name] for name in expected} == expected
    assert ("peak_bytes" in summary) == (not mode)
    assert 0 <= summary["cpu_share"] < 64


def test_a_failure_and_a_refusal_of_the_summary_are_said(commands):
    job = commands.write("job.py", FAILS)
    code, stderr = whole(commands, "--summary", "out.json", job)
    assert code == 1
    assert "ZeroDivisionError" in stderr
    assert re.match(r"mmg-run: failed after [\d.]+ s", stderr.splitlines()[-1])
    summary = json.loads((commands.folder / "out.json").read_text())
    assert (summary["state"], summary["exit_code"]) == ("failed", 1)
    assert summary["items"] < 8
    code, stderr = whole(commands, "--summary", "out.txt", job)
    assert code == 2
    assert "expected json" in stderr
    code, stderr = whole(commands, "--set", "max_skipped=1", "--summary", "none/out.json", job)
    assert code == 1
    assert stderr.splitlines()[-1].startswith("mmg-run: cannot write the summary none/out.json")
    assert ", 1 skipped (named above)" in stderr


def test_ctrl_c_ends_with_the_figures_so_far(commands):
    job = commands.write("job.py", WAITS)
    process = commands.start("run", "--procs", "1", "--summary", "out.json", job, "never")
    wait_until((commands.folder / "began").exists)
    process.send_signal(signal.SIGINT)
    stderr = process.stderr.read()
    assert process.wait(timeout=100) == 130
    assert re.match(r"mmg-run: interrupted after [\d.]+ s", stderr.splitlines()[-1])
    assert json.loads((commands.folder / "out.json").read_text())["state"] == "interrupted"


def start_on_terminal(commands, job):
    """Run a job on a terminal of its own; return the process, and the other end of the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmgevent", "run", "--procs", "1", "-o", "out.tsv", job, "go"],
        cwd=commands.folder,
        env={**commands.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def test_a_terminal_sees_the_block_until_the_last_result_is_written(commands):
    job = commands.write("job.py", WAITS)
    process, ours = start_on_terminal(commands, job)
    try:
        seen = read_until(ours, b"/8 items")
        commands.write("go", "")
        seen += read_until(ours, None)
    finally:
        process.kill()
        os.close(ours)
    assert process.wait(timeout=100) == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen.decode())
    assert "1 worker with 1 slot, 1 busy" in text
    assert " gone" in text
    assert re.search(r"finish +\S+ +2 results", text)
    assert re.search(f"mmg-run: {CLOSING}", text.splitlines()[-1])
    assert seen.rindex(b"\x1b[2K") < seen.rindex(b"mmg-run: done")


def test_a_terminal_that_was_closed_does_not_fail_the_job(commands):
    job = commands.write("job.py", WAITS)
    process, ours = start_on_terminal(commands, job)
    try:
        read_until(ours, b"/8 items")
    finally:
        os.close(ours)
        commands.write("go", "")
    assert process.wait(timeout=100) == 0
    assert (commands.folder / "out.tsv").read_text().count("\n") == 2


def test_bytes_of_a_failed_job_are_those_that_were_mapped(commands):
    (commands.folder / "input.txt").write_text("word\n" * 1000)
    text = "import mmgevent\ndatasource = mmgevent.Lines('input.txt')\n"
    job = commands.write("job.py", text + "def mapfn(key, value):\n    1 / 0\n")
    code, stderr = whole(commands, "--procs", "1", "--summary", "json", job)
    assert code == 1
    figures = json.loads(stderr.splitlines()[-1])
    assert figures["items"] == 0
    assert "input_bytes" not in figures


def test_a_summary_never_replaces_the_results(commands):
    job = commands.write("job.py", WAITS)
    code, stderr = whole(
        commands, "--format", "jsonl", "-o", "out.json", "--summary", "./out.json", job, "job.py"
    )
    assert code == 2
    assert "--summary and -o are the same file" in stderr
    assert not (commands.folder / "out.json").exists()


def read_until(terminal, wanted):
    """Read until these bytes came, or until nobody has the other end if they are None."""
    seen = b""
    while wanted is None or wanted not in seen:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            assert wanted is None, seen
            return seen
        seen += data
    return seen
