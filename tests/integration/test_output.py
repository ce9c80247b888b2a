"""Results have stdout, or what -o names, to themselves; signals leave nothing behind; seen from outside, as processes."""

import gzip
import os
import pty
import signal
import stat
import subprocess
import sys

import pytest

from mmgevent.cli import exits
from tests.integration.test_commands import kill_and_wait_for_children

#: a job that writes to stdout in every way there is, at every time that it can
NOISY = """
import atexit, ctypes, os, subprocess, sys
def make_noise(when):
    libc = ctypes.CDLL(None)
    print("print", when)
    print("without an end", when, end="")
    print("by its other name", when, file=sys.__stdout__)
    sys.stdout.buffer.write(b"in bytes\\n")
    sys.stdout.flush()
    os.write(1, b"by its number\\n")
    subprocess.run(["echo", "in a process"])
    libc.puts(b"from C")
    libc.fflush(None)
make_noise("while it loads")
atexit.register(make_noise, "at the end")
def datasource():
    make_noise("in the datasource")
    yield 1, 1
def mapfn(key, value):
    make_noise("in mapfn")
    yield key, value
def reducefn(key, values):
    make_noise("in reducefn")
    return sum(values)
def finishfn(records):
    make_noise("in finishfn")
    yield from records
"""

PLAIN = "datasource = {1: 1}\ndef mapfn(key, value):\n    yield key, value\n"

SQUARES = "datasource = {i: i * i for i in range(10)}\ndef mapfn(key, value):\n    yield key, value\n"

#: a job whose finishfn says through a pipe that it runs, and then does nothing for ever
BLOCKS_AT_THE_END = """
import sys, threading
pipe = sys.argv[1]
datasource = {i: i for i in range(100)}
def mapfn(key, value):
    yield key, value
def finishfn(records):
    for count, record in enumerate(records):
        yield record
        if count == 50:
            with open(pipe, "w") as file:
                file.write("runs")
            threading.Event().wait()
"""


def run_in_shell(commands, line, **kwargs):
    """Run a line of bash in the folder, in which $mmg is the command."""
    environ = {**commands.environ, "mmg": f"{sys.executable} -m mmgevent run"}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=commands.folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        **kwargs,
    )


# what is printed


@pytest.mark.parametrize("how", [["--inline"], ["--procs", "1"]], ids=lambda how: how[0])
def test_nothing_but_results_comes_to_stdout(commands, how):
    job = commands.write("noisy.py", NOISY)
    ended = commands.run("run", *how, job)
    assert (ended.returncode, ended.stdout) == (0, "1\t1\n"), ended
    times = ["while it loads", "in the datasource", "in mapfn", "in reducefn", "in finishfn", "at the end"]
    for when in times:
        assert f"print {when}\n" in ended.stderr
        assert f"without an end {when}" in ended.stderr
        assert f"by its other name {when}\n" in ended.stderr
    for line in ("in bytes", "by its number", "in a process", "from C"):
        assert ended.stderr.count(line) == len(times)


def test_results_alone_go_to_a_file_too_and_prints_still_to_stderr(commands):
    job = commands.write("noisy.py", NOISY)
    ended = commands.run("run", "--inline", "-o", "out.tsv", job)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert (commands.folder / "out.tsv").read_text() == "1\t1\n"
    assert "print in mapfn" in ended.stderr


def test_prints_go_where_stderr_goes_whatever_kind_of_file_that_is(commands):
    commands.write("noisy.py", NOISY)
    ended = run_in_shell(commands, "$mmg --inline noisy.py 2>&1 >/dev/null")
    assert ended.returncode == 0, ended
    assert "print in mapfn" in ended.stdout
    ended = run_in_shell(commands, "$mmg --inline noisy.py 2>log | cat; exit ${PIPESTATUS[0]}")
    assert (ended.returncode, ended.stdout) == (0, "1\t1\n"), ended
    assert "print in mapfn" in (commands.folder / "log").read_text()


def test_prints_without_a_line_end_are_there_at_once_where_the_user_wants_that(commands):
    job = commands.write("dots.py", "import os\nprint('.', end='')\nos.write(2, b'after')\n" + PLAIN)
    for unbuffered, said in (("1", ".after"), ("", "after.")):
        ended = commands.run("run", "--inline", "-q", job, environ={"PYTHONUNBUFFERED": unbuffered})
        assert (ended.stdout, ended.stderr) == ("1\t[1]\n", said)


def test_closed_stderr_takes_the_prints_with_it(commands):
    commands.write("noisy.py", NOISY)
    for how in ("--inline", "--procs 1"):
        ended = run_in_shell(commands, f"$mmg {how} noisy.py 2>&-")
        assert (ended.returncode, ended.stdout) == (0, "1\t1\n"), ended


def test_closed_stdout_is_refused_unless_results_go_elsewhere(commands):
    commands.write("noisy.py", NOISY)
    ended = run_in_shell(commands, "$mmg --inline noisy.py >&-")
    assert ended.returncode == 2
    assert "stdout is closed; write the results to a file with -o PATH" in ended.stderr
    ended = run_in_shell(commands, "$mmg --procs 1 -o out.tsv noisy.py >&-")
    assert ended.returncode == 0, ended
    assert (commands.folder / "out.tsv").read_text() == "1\t1\n"
    assert "print in finishfn" in ended.stderr


def test_a_character_that_stderr_does_not_know_is_no_failure(commands):
    job = commands.write("umlaut.py", "print('größe')\n" + PLAIN)
    ended = commands.run("run", "--inline", job, environ={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\t[1]\n", "gr\\xf6\\xdfe\n")


def test_what_the_job_file_leaves_running_does_not_hold_the_results(commands):
    """A process that the job started has no copy of stdout, so its reader sees the end when the job ends."""
    job = commands.write(
        "leaves.py",
        "import subprocess\nchild = subprocess.Popen(['cat', 'pipe'])\n" + PLAIN,
    )
    os.mkfifo(commands.folder / "pipe")
    writer = os.open(commands.folder / "pipe", os.O_RDWR)
    try:
        with commands.start("run", "--inline", job) as process:
            assert process.stdout.read() == "1\t[1]\n"
    finally:
        os.close(writer)


# -o


@pytest.mark.parametrize(
    ("how", "path"),
    [
        ("--procs=1", "-"),
        ("--procs=1", "/dev/stdout"),
        *(("--inline", path) for path in ("-", "/dev/fd/1", "/proc/self/fd/1", "link.jsonl")),
    ],
)
def test_every_name_of_stdout_is_stdout(commands, path, how):
    job = commands.write("noisy.py", NOISY)
    (commands.folder / "link.jsonl").symlink_to("/dev/stdout")
    ended = commands.run("run", how, "-o", path, job)
    assert ended.returncode == 0, ended
    assert ended.stdout == ("[1, 1]\n" if path == "link.jsonl" else "1\t1\n")


def test_dash_is_stdout_as_a_variable_too(commands):
    job = commands.write("plain.py", PLAIN)
    assert commands.run("run", "--inline", job, environ={"MMG_OUTPUT": "-"}).stdout == "1\t[1]\n"


def test_the_file_that_stdout_is_gets_the_results_and_stays_the_same_file(commands):
    commands.write("plain.py", PLAIN)
    out = commands.folder / "out"
    out.write_text("before\n")
    number = out.stat().st_ino
    ended = run_in_shell(commands, "$mmg --inline -o /dev/stdout plain.py >> out")
    assert ended.returncode == 0, ended
    assert out.read_text() == "before\n1\t[1]\n"
    assert out.stat().st_ino == number


@pytest.mark.parametrize("how", ["--inline", "--procs 1"])
def test_a_process_substitution_gets_the_results(commands, how):
    commands.write("plain.py", PLAIN)
    # gzip has the shell's stderr, so the end of that is the end of gzip.
    ended = run_in_shell(commands, f"$mmg {how} -o >(gzip > out.gz) plain.py")
    assert ended.returncode == 0, ended
    assert ended.stdout == ""
    with gzip.open(commands.folder / "out.gz", "rt") as file:
        assert file.read() == "1\t[1]\n"


def test_a_pipe_with_a_name_gets_the_results_and_stays_one(commands):
    job = commands.write("plain.py", PLAIN)
    os.mkfifo(commands.folder / "pipe.jsonl")
    process = commands.start("run", "--procs", "1", "-o", "pipe.jsonl", job)
    assert (commands.folder / "pipe.jsonl").read_text() == "[1, [1]]\n"
    assert commands.finish(process).returncode == 0
    assert stat.S_ISFIFO(os.stat(commands.folder / "pipe.jsonl").st_mode)


def test_a_device_is_written_to(commands):
    job = commands.write("plain.py", PLAIN)
    ended = commands.run("run", "--inline", "-o", "/dev/null", job)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    ended = commands.run("run", "--inline", "-o", "/dev/full", job)
    assert ended.returncode == 1
    assert "cannot write /dev/full: No space left on device" in ended.stderr


def test_a_descriptor_that_is_not_open_is_found_before_the_job_file_is_loaded(commands):
    job = commands.write("plain.py", "print('loaded')\n" + PLAIN)
    ended = commands.run("run", "--procs", "1", "-o", "/dev/fd/7", job)
    assert ended.returncode == 2
    assert ended.stderr == "mmg-run: cannot write /dev/fd/7: descriptor 7 is not open; add 7> PATH\n"


def test_the_reader_of_a_pipe_that_goes_away_ends_the_job_with_141(commands):
    commands.write(
        "endless.py",
        "datasource = {i: i for i in range(8)}\n"
        "def mapfn(key, n):\n    for i in range(20000):\n        yield (n, i), 1\n",
    )
    ended = run_in_shell(commands, "$mmg -q --procs 1 -o >(head -n 1 > first) endless.py")
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_private_file_stays_private_and_a_warning_is_one_line(commands):
    job = commands.write("plain.py", PLAIN)
    out = commands.folder / "out.tsv"
    out.touch(0o600)
    os.link(out, commands.folder / "other")
    ended = commands.run("run", "--inline", "-o", out, job)
    assert ended.returncode == 0, ended
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    expected = (
        f"mmg-run: warning: {out} was replaced, but its other names (hard links) keep the old contents\n"
    )
    assert ended.stderr == expected
    os.link(out, commands.folder / "third")
    assert commands.run("run", "--inline", "-q", "-o", out, job).stderr == ""


@pytest.mark.parametrize("how", ["--inline", "--procs=1"])
def test_a_job_file_that_changes_the_folder_does_not_change_where_results_go(commands, how):
    (commands.folder / "elsewhere").mkdir()
    job = commands.write("moves.py", "import os\nos.chdir('elsewhere')\n" + PLAIN)
    ended = commands.run("run", how, "-o", "out.tsv", job)
    assert ended.returncode == 0, ended
    assert (commands.folder / "out.tsv").read_text() == "1\t[1]\n"
    assert os.listdir(commands.folder / "elsewhere") == []


# signals


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGHUP, exits.HUNG_UP), (signal.SIGINT, exits.INTERRUPTED), (signal.SIGTERM, exits.TERMINATED)],
)
@pytest.mark.parametrize("how", [["--procs", "2"], ["--inline"]], ids=lambda how: how[0])
def test_a_signal_leaves_no_file_and_has_its_exit_code(commands, number, code, how):
    job = commands.write("blocks.py", BLOCKS_AT_THE_END)
    os.mkfifo(commands.folder / "pipe")
    (commands.folder / "out.tsv").write_text("before")
    process = commands.start("run", *how, "-o", "out.tsv", job, "pipe")
    assert (commands.folder / "pipe").read_text() == "runs"
    if how == ["--inline"]:
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    else:
        _, stderr, left = kill_and_wait_for_children(process, number)
        assert left == []
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert (commands.folder / "out.tsv").read_text() == "before"
    assert [name for name in os.listdir(commands.folder) if name.startswith(".mmg")] == []


def test_a_terminal_that_is_closed_ends_the_job_with_129(commands):
    """The kernel sends SIGHUP when the other end of the terminal is closed."""
    job = commands.write("blocks.py", BLOCKS_AT_THE_END)
    os.mkfifo(commands.folder / "pipe")
    child, terminal = pty.fork()
    if not child:
        os.chdir(commands.folder)
        argv = [sys.executable, "-m", "mmgevent", "run", "--procs", "1", "-o", "out.tsv", job, "pipe"]
        os.execve(sys.executable, argv, commands.environ)
    assert (commands.folder / "pipe").read_text() == "runs"
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == exits.HUNG_UP
    assert not [name for name in os.listdir(commands.folder) if name.startswith((".mmg", "out"))]
    assert commands.left_behind() == []


def test_nohup_still_protects(commands):
    job = commands.write("blocks.py", BLOCKS_AT_THE_END)
    os.mkfifo(commands.folder / "pipe")
    process = commands.start(
        "run", "--inline", job, "pipe", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    assert (commands.folder / "pipe").read_text() == "runs"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == exits.TERMINATED


@pytest.mark.parametrize("role", ["server", "worker"])
def test_a_server_or_worker_whose_terminal_is_closed_says_goodbye(commands, role):
    server, address = commands.start_server()
    process = server
    if role == "worker":
        process = commands.start("worker", "--procs", "1", address)
        for line in process.stderr:
            if "joined" in line:
                break
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)  # the shell sends another
    ended = commands.finish(process)
    assert ended.returncode == exits.HUNG_UP, ended
    assert "Traceback" not in ended.stderr


# order


def test_results_are_sorted_and_the_best_are_kept(commands):
    job = commands.write("squares.py", SQUARES)
    ended = commands.run("run", "--inline", "--top", "2", job)
    assert (ended.returncode, ended.stdout) == (0, "9\t[81]\n8\t[64]\n")
    ended = commands.run("run", "--procs", "1", "--sort", "-key", "--top=2", "--format", "csv", job)
    assert (ended.returncode, ended.stdout) == (0, "9,[81]\n8,[64]\n")
    ended = commands.run("run", "--inline", "--sort", "value", "-o", "out.tsv", job)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert (commands.folder / "out.tsv").read_text() == "".join(f"{i}\t[{i * i}]\n" for i in range(10))


def test_what_has_no_order_fails_the_job_by_name(commands):
    job = commands.write("mixed.py", SQUARES + "    yield 'text', value\n")
    ended = commands.run("run", "--inline", "--sort", "key", "-o", "out.tsv", job)
    assert ended.returncode == 1
    assert "cannot sort by key: a" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (commands.folder / "out.tsv").exists()


# folders


def test_parts_are_ordered_one_after_another(commands):
    job = commands.write("squares.py", SQUARES)
    environ = {"MMG_PART_SIZE": "10"}
    ended = commands.run("run", "--procs", "1", "--sort", "-key", "-o", "out/", job, environ=environ)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    names = sorted(os.listdir(commands.folder / "out"))
    assert names[0] == "_SUCCESS"
    text = "".join((commands.folder / "out" / name).read_text() for name in names[1:])
    assert text == "".join(f"{i}\t[{i * i}]\n" for i in reversed(range(10)))
    ended = commands.run("run", "--inline", "-o", "out/", job)
    assert ended.returncode == 2
    assert "the folder is not empty ('_SUCCESS')" in ended.stderr
    ended = commands.run("run", "--inline", "-o", "out/", "--overwrite", "--format=csv", job)
    assert ended.returncode == 0, ended
    assert sorted(os.listdir(commands.folder / "out")) == ["_SUCCESS", "part-00000.csv"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_a_folder_of_a_command_that_was_ended_is_not_complete(commands, number, code):
    job = commands.write("blocks.py", BLOCKS_AT_THE_END)
    pipe = commands.folder / "pipe"
    os.mkfifo(pipe)
    (commands.folder / "out").mkdir()
    (commands.folder / "out" / "_SUCCESS").write_text("old")
    options = ["-o", "out/", "--part-size", "20", "--overwrite"]
    process = commands.start("run", "--inline", *options, job, pipe)
    assert pipe.read_text() == "runs"
    assert not (commands.folder / "out" / "_SUCCESS").exists()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    left = set(os.listdir(commands.folder / "out"))
    parts = {name for name in left if name.startswith("part-")}
    assert parts
    assert left - parts == ({".mmg-lock"} if number == signal.SIGKILL else set())
    assert ("is not complete" in said) == (number != signal.SIGKILL)
