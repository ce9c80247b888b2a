"""The commands from end to end, as processes: results, exit codes, signals, several machines in one."""

import collections
import contextlib
import json
import os
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

import mmgevent
from benchmarks.make_corpus import make_corpus
from tests.integration.commands import ROOT, read_tsv, wait_for
from tests.ports import reserved_port

EXAMPLES = ROOT / "examples"

RHYME = """humpty dumpty sat on a wall humpty dumpty had a great fall
all the king's horses and all the king's men couldn't put humpty together again"""
HUMPTY = dict(collections.Counter(RHYME.split()))

#: a job whose map says through a pipe that it runs, and then does nothing for ever
BLOCKER = """
import sys, threading
datasource = [(1, sys.argv[1])]
def mapfn(key, pipe):
    with open(pipe, "w") as file:
        file.write("runs")
    threading.Event().wait()
"""

#: a job that leaves to the end of the process to close, in four ways, files of the folder it is given
LEAVES_OPEN = """
import atexit, gc, sys
assert gc.isenabled()
folder = sys.argv[1]
class Log:
    def __init__(self, name):
        self.file = open(f"{folder}/{name}", "w")
        self.myself = self  # a cycle, which only a collection ends
    def __del__(self):
        self.file.write("closed")
        self.file.close()
plain = open(f"{folder}/plain", "w")
plain.write("closed")
log = Log("global")
def datasource():
    log = Log("local")
    yield 1, 2
@atexit.register
def at_exit():
    with open(f"{folder}/atexit", "w") as file:
        file.write("closed")
def mapfn(key, value):
    yield key, value
"""


def count_words(paths):
    words = collections.Counter()
    for path in paths:
        words.update(re.findall(r"[a-z']+", Path(path).read_text(encoding="utf-8").lower()))
    return dict(words)


def kill_and_wait_for_children(process, number):
    """Send a signal; return what the command says at its end, and who of its children is left."""
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    _, left = psutil.wait_procs(children, timeout=30)
    return stdout, stderr, left


# results


def test_humpty_is_counted_and_nothing_else_is_said(commands):
    ended = commands.run("run", "--procs", "2", EXAMPLES / "humpty.py")
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == HUMPTY
    assert ended.stderr == ""


def test_wordcount_of_files_is_what_three_lines_of_python_say(commands, tmp_path):
    corpus = make_corpus(600_000, 5, seed=7, folder=tmp_path)
    files = sorted(map(str, corpus.iterdir()))
    ended = commands.run("run", "--procs", "2", EXAMPLES / "wordcount.py", *files)
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == count_words(files)


def test_wordcount_of_novels_is_right(commands):
    folder = os.environ.get("MMGEVENT_CORPUS", "")
    if not os.path.isdir(folder):
        pytest.skip("MMGEVENT_CORPUS does not name a folder of text files")
    files = sorted(str(path) for path in Path(folder).glob("*.txt"))
    ended = commands.run("run", "--procs", "2", EXAMPLES / "wordcount.py", *files)
    assert read_tsv(ended.stdout) == count_words(files)


@pytest.mark.parametrize("example", ["wordcount.py", "inverted_index.py", "topwords.py"])
def test_inline_gives_what_executors_give(commands, tmp_path, example):
    corpus = make_corpus(60_000, 3, seed=8, folder=tmp_path)
    inline, spread = (
        commands.run("run", how, EXAMPLES / example, corpus) for how in ("--inline", "--procs=2")
    )
    assert inline.returncode == spread.returncode == 0, (inline, spread)
    if example == "topwords.py":  # its finishfn decides the order
        assert inline.stdout == spread.stdout
        assert len(inline.stdout.splitlines()) == 20
    else:
        assert sorted(inline.stdout.splitlines()) == sorted(spread.stdout.splitlines())


def test_job_file_sees_its_arguments_and_options_can_be_set(commands):
    job = commands.write(
        "args.py",
        "import sys\ndatasource = [(1, sys.argv[1:])]\ndef mapfn(key, args):\n    yield 'args', args\n",
    )
    ended = commands.run(
        "run", "--procs", "1", "--set", "retries=2", "--set", "name=mine", job, "--procs", "x", "-v"
    )
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == {"args": [["--procs", "x", "-v"]]}


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "pickle"])
def test_suffix_of_the_output_decides_its_format(commands, tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    ended = commands.run("run", "--procs", "1", "-o", path, EXAMPLES / "humpty.py")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    if suffix == "tsv":
        results = read_tsv(path.read_text())
    elif suffix == "jsonl":
        results = dict(map(json.loads, path.read_text().splitlines()))
    else:
        results = dict(mmgevent.load(path))
    assert results == HUMPTY


def test_variables_stand_in_for_options(commands, tmp_path):
    environ = {"MMG_PROCS": "1", "MMG_OUTPUT": str(tmp_path / "x"), "MMG_FORMAT": "jsonl"}
    ended = commands.run("run", EXAMPLES / "humpty.py", environ=environ)
    assert ended.returncode == 0, ended
    assert dict(map(json.loads, (tmp_path / "x").read_text().splitlines())) == HUMPTY


def test_output_is_utf_8_whatever_the_locale(commands):
    job = commands.write("umlaut.py", "datasource = {1: 'größe'}\ndef mapfn(k, v):\n    yield v, 1\n")
    ended = commands.run("run", "--procs=1", job, environ={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert ended.stdout == "größe\t[1]\n"


# failures


def test_failed_job_ends_with_1_names_the_item_and_leaves_no_output(commands, tmp_path):
    job = commands.write(
        "fails.py", "datasource = {'a': 1, 'b': 0}\ndef mapfn(key, n):\n    yield key, 1 / n\n"
    )
    output = tmp_path / "out.tsv"
    output.write_text("of yesterday")
    before = sorted(os.listdir(tmp_path))
    ended = commands.run("run", "--procs", "1", "-o", output, job)
    assert ended.returncode == 1, ended
    assert ended.stderr.startswith("mmg-run: mapfn at 'b'")
    assert "ZeroDivisionError" in ended.stderr
    assert "yield key, 1 / n" in ended.stderr
    about_code = [line for line in ended.stderr.splitlines() if ".mmgbundle" not in line]
    assert "mmgevent/" not in "\n".join(about_code).replace(str(tmp_path), "")
    assert output.read_text() == "of yesterday"
    no_output = {*before, "__pycache__", ".cache"}  # the failure's bundle is in the home folder
    assert [name for name in sorted(os.listdir(tmp_path)) if name not in no_output] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "does not exist"),
        ("def mapfn(:\n", "SyntaxError"),
        (
            "datasource = {1: 2}\ndef mapfn(k, v):\n    yield k, v\ndef redcuefn(k, vs):\n    return 1\n",
            "reducefn",
        ),
        (
            "from mmgevent import Files\ndatasource = Files([])\ndef mapfn(k, v):\n    yield k, v\n",
            "no input",
        ),
    ],
)
def test_what_is_found_wrong_before_the_job_ran_ends_with_2(commands, tmp_path, source, expected):
    job = str(tmp_path / "missing.py") if source is None else commands.write("wrong.py", source)
    ended = commands.run("run", "--procs", "1", job)
    assert ended.returncode == 2, ended
    assert expected in ended.stderr
    assert ended.stdout == ""
    assert str(ROOT / "mmgevent") not in ended.stderr


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-o", "no/such/folder.tsv"], "does not exist"),
        (["--format", "xml"], "unknown format"),
        (["--set", "retires=2"], "did you mean retries"),
        (["--py-files", "none.py"], "none.py"),
    ],
)
def test_wrong_output_or_option_is_found_before_the_job_runs(commands, argv, expected):
    ended = commands.run("run", "--procs", "1", *argv, EXAMPLES / "humpty.py")
    assert ended.returncode == 2, ended
    assert expected in ended.stderr
    assert ended.stdout == ""


def test_what_a_job_file_leaves_open_is_closed_at_the_end(commands, tmp_path):
    job = commands.write("leaves.py", LEAVES_OPEN)
    ended = commands.run("run", "--procs", "1", job, tmp_path)
    assert ended.returncode == 0, ended
    for name in ("plain", "global", "local", "atexit"):
        assert (tmp_path / name).read_text() == "closed", name


def test_exit_of_the_job_file_itself_is_kept(commands):
    job = commands.write(
        "parses.py",
        "import argparse\nparser = argparse.ArgumentParser(prog='parses')\nparser.add_argument('n')\nparser.parse_args()\n",
    )
    ended = commands.run("run", job)
    assert ended.returncode == 2
    assert "parses: error" in ended.stderr


def test_too_many_skipped_items_end_with_6(commands):
    job = commands.write(
        "skips.py",
        "datasource = {i: i for i in range(10)}\n"
        "def mapfn(key, n):\n    yield key, 10 // (n % 2)\n"
        "options = {'max_skipped': 2}\n",
    )
    ended = commands.run("run", "--procs", "1", job)
    assert ended.returncode == 6, ended
    ended = commands.run("run", "--procs", "1", "--set", "max_skipped=5", job)
    assert ended.returncode == 0, ended
    assert len(ended.stdout.splitlines()) == 5


def test_port_that_is_taken_ends_with_3(commands):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        both = [
            commands.start("run", "--listen", address, EXAMPLES / "humpty.py"),
            commands.start("server", "--listen", address),
        ]
        for ended in map(commands.finish, both):
            assert ended.returncode == 3, ended
            assert address in ended.stderr


def test_nobody_listening_ends_with_3(commands):
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        ended = commands.run("run", "--join", address, EXAMPLES / "humpty.py")
    assert ended.returncode == 3, ended
    assert address in ended.stderr


def test_other_password_ends_with_4_and_is_not_shown(commands):
    _, address = commands.start_server()
    environ = {"MMG_PASSWORD": "not the one of the server"}
    both = [
        commands.start("run", "--join", address, EXAMPLES / "humpty.py", environ=environ),
        commands.start("worker", "--procs", "1", address, environ=environ),
    ]
    for ended in map(commands.finish, both):
        assert ended.returncode == 4, ended
        assert "password" in ended.stderr
        assert "not the one" not in ended.stderr


def test_no_workers_in_time_ends_with_7(commands):
    ended = commands.run(
        *[
            "run",
            "--listen",
            "127.0.0.1:0",
            "--procs",
            "0",
            "--workers-timeout",
            "0.5",
            EXAMPLES / "humpty.py",
        ]
    )
    assert ended.returncode == 7, ended
    assert "no worker joined in 0.5 s" in ended.stderr


def test_reader_that_goes_away_ends_the_job_with_141(commands):
    job = commands.write(
        "endless.py",
        "datasource = {i: i for i in range(8)}\n"
        "def mapfn(key, n):\n    for i in range(20000):\n        yield (n, i), 1\n",
    )
    process = commands.start("run", "-q", "--procs", "1", job)
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 141
    assert stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_job_with_all_its_processes(commands, tmp_path, number, code):
    job = commands.write("blocks.py", BLOCKER)
    os.mkfifo(tmp_path / "pipe")
    process = commands.start("run", "--procs", "2", job, tmp_path / "pipe")
    assert (tmp_path / "pipe").read_text() == "runs"
    stdout, stderr, left = kill_and_wait_for_children(process, number)
    assert process.returncode == code
    assert left == []
    assert stdout == ""
    assert "Traceback" not in stderr


def test_signal_while_the_job_file_loads_ends_at_once(commands, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    job = commands.write(
        "loads.py",
        f"open({str(tmp_path / 'pipe')!r}, 'w').close()\nimport threading; threading.Event().wait()\n",
    )
    process = commands.start("run", "--procs", "1", job)
    (tmp_path / "pipe").read_text()
    _, stderr, left = kill_and_wait_for_children(process, signal.SIGINT)
    assert process.returncode == 130
    assert left == []
    assert "Traceback" not in stderr


# several machines


def test_worker_joins_a_listening_run_and_leaves_with_it(commands):
    run = commands.start("run", "--listen", "127.0.0.1:0", "--procs", "0", EXAMPLES / "humpty.py")
    address = wait_for(run.stderr, r"mmg-worker (127\.0\.0\.1:\d+)")[1]
    worker = commands.start("worker", "--once", "--procs", "2", address)
    ended = commands.finish(run)
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == HUMPTY
    left = commands.finish(worker)
    assert left.returncode == 0, left
    password = (commands.folder / ".config/mmgevent/password").read_text().strip()
    assert password not in ended.stderr + left.stderr


def test_server_serves_one_job_after_another(commands, tmp_path):
    server, address = commands.start_server()
    worker = commands.start("worker", "--procs", "2", address)
    corpus = make_corpus(60_000, 3, seed=9, folder=tmp_path)
    for _ in range(2):
        ended = commands.run("run", "--join", address, EXAMPLES / "humpty.py")
        assert ended.returncode == 0, ended
        assert read_tsv(ended.stdout) == HUMPTY
    ended = commands.run("run", "--join", address, EXAMPLES / "wordcount.py", corpus)
    assert read_tsv(ended.stdout) == count_words(corpus.iterdir())
    worker.send_signal(signal.SIGTERM)
    assert commands.finish(worker).returncode == 143
    server.send_signal(signal.SIGINT)
    ended = commands.finish(server)
    assert ended.returncode == 130, ended
    assert "Traceback" not in ended.stderr


def test_joining_run_may_bring_its_own_executors(commands):
    _, address = commands.start_server()
    ended = commands.run("run", "--join", address, "--procs", "1", EXAMPLES / "humpty.py")
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == HUMPTY


def test_all_find_the_password_that_the_first_one_made(commands):
    _, address = commands.start_server()
    printed = commands.run("server", "password").stdout
    environ = {"HOME": str(commands.folder / "elsewhere"), "MMG_PASSWORD": printed.strip()}
    ended = commands.run("run", "--join", address, "--procs", "1", EXAMPLES / "humpty.py", environ=environ)
    assert ended.returncode == 0, ended


def test_server_knows_nothing_of_the_password_in_its_command_line_or_children(commands):
    password = "a password that is long enough"
    server, address = commands.start_server(environ={"MMG_PASSWORD": password})
    worker = commands.start("worker", "--procs", "1", address, environ={"MMG_PASSWORD": password})
    wait_for(worker.stderr, "joined")
    for process in psutil.Process(worker.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            assert password not in process.environ().values()
    assert password not in " ".join(psutil.Process(server.pid).cmdline())


@pytest.mark.parametrize("name", ["random", "pickle", "tempfile", "copy"])
def test_a_file_beside_the_job_may_have_the_name_of_a_module_we_need(commands, name):
    (commands.folder / "sub").mkdir()
    commands.write(f"sub/{name}.py", "raise ImportError('hidden')")
    path = commands.write("sub/job.py", "datasource = [(1, 2)]\ndef mapfn(k, v):\n    yield k, v\n")
    ended = commands.run("run", "--procs", "1", path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\t[2]\n", "")


def test_an_option_behind_the_job_file_is_warned_of(commands):
    path = commands.write("job.py", "datasource = [(1, 2)]\ndef mapfn(k, v):\n    yield k, v\n")
    ended = commands.run("run", "--procs", "1", path, "-o", "x.tsv")
    assert ended.returncode == 0
    assert "-o stands after the job file" in ended.stderr
