"""What a user who looks for a fault sees: breakpoints, pdb, prints and logs of functions."""

import os
import pty
import subprocess
import sys

import pytest

#: a job that fails in a library, two calls below mapfn, for one of its items; or where its argument says
FAILS = """
import json, sys
where = sys.argv[1]
def parse(text):
    here = "in parse"
    return json.loads(text)
def datasource():
    here = "in the datasource"
    yield "good", "[1]"
    if where == "datasource":
        1 / 0
    yield "bad", "nonsense" if where == "mapfn" else "[2]"
def mapfn(key, text):
    mine = "in mapfn"
    yield key, parse(text)
def reducefn(key, values):
    here = "in reducefn"
    return values[0][0 if where != "reducefn" else 5]
def finishfn(key, value):
    here = "in finishfn"
    return value // (where != "finishfn")
here = "in the file"
1 / (where != "file")
"""

STOPS = """
import pdb
datasource = {{"key": 1}}
def mapfn(key, value):
    {}
    yield key, value
"""

#: a job that prints and logs in its own format
SPEAKS = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="MINE %(levelname)s %(message)s", stream=sys.stderr)
datasource = [(i, i) for i in range(3)]
def mapfn(key, value):
    print("first of", key)
    print("second of", key, file=sys.stderr)
    sys.stderr.write("no end")
    yield key, value
def finishfn(key, value):
    logging.info("finishes %s", key)
    return value
"""


def run_with_input(commands, text, *argv):
    process = subprocess.run(
        [sys.executable, "-m", "mmgevent", "run", *map(str, argv)],
        cwd=commands.folder,
        env=commands.environ,
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "this is a fault of mmgevent's own" not in process.stderr, process
    return process


# on a cluster


@pytest.mark.parametrize(
    ("statement", "came"),
    [
        ("breakpoint()", "breakpoint() was called in an executor"),
        ("pdb.set_trace()", "something wanted to read stdin"),
        ("input('name? ')", "something wanted to read stdin"),
    ],
)
def test_who_wants_a_terminal_in_an_executor_is_told_to_use_inline(commands, statement, came):
    job = commands.write("stops.py", STOPS.format(statement))
    ended = commands.run("run", "--procs", "1", "--no-logs", job)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("mmg-run: mapfn at 'key' on ")
    assert came in ended.stderr
    assert "use --inline" in ended.stderr
    assert f"{job}" in ended.stderr
    assert "BdbQuit" not in ended.stderr


def test_breakpoints_that_are_switched_off_stay_so_in_executors(commands):
    job = commands.write("stops.py", STOPS.format("breakpoint()"))
    ended = commands.run("run", "--procs", "1", job, environ={"PYTHONBREAKPOINT": "0"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "key\t[1]\n", "")


def test_a_debugger_that_needs_no_terminal_is_called_in_executors(commands):
    commands.write("own_debugger.py", "def stop(*args):\n    raise RuntimeError('stopped in my debugger')\n")
    job = commands.write("stops.py", STOPS.format("breakpoint()"))
    ended = commands.run("run", "--procs", "1", job, environ={"PYTHONBREAKPOINT": "own_debugger.stop"})
    assert ended.returncode == 1
    assert "RuntimeError: stopped in my debugger" in ended.stderr


def test_pdb_without_inline_is_a_wrong_command_line(commands):
    job = commands.write("stops.py", STOPS.format("pass"))
    ended = commands.run("run", "--pdb", job)
    assert ended.returncode == 2
    assert ended.stderr.startswith("mmg-run: --pdb needs --inline: on a cluster functions run in processes")


# inline


@pytest.mark.parametrize(
    ("where", "function", "code"),
    [
        ("mapfn", "parse", 1),
        ("reducefn", "reducefn", 1),
        ("finishfn", "finishfn", 1),
        ("datasource", "datasource", 1),
        ("file", "<module>", 2),
    ],
)
def test_pdb_stops_in_the_users_frame(commands, where, function, code):
    job = commands.write("fails.py", FAILS)
    ended = run_with_input(commands, "p here\nw\nq\n", "--inline", "--pdb", job, where)
    assert (ended.returncode, ended.stdout) == (code, "")
    message, _, debugger = ended.stderr.partition("\n> ")
    assert message.startswith("mmg-run: ")
    assert message.count("Traceback") == 1
    assert debugger.startswith(f"{job}(")
    assert f"){function}()" in debugger.partition("\n")[0]
    expected = {"mapfn": "parse", "file": "the file", "datasource": "the datasource"}.get(where, where)
    assert f"'in {expected}'" in debugger
    assert "mmgevent" not in debugger.replace(str(commands.folder), "")


def test_pdb_goes_up_to_the_caller_and_down_to_where_a_library_raised(commands):
    job = commands.write("fails.py", FAILS)
    ended = run_with_input(commands, "up\np mine\ndown\ndown\nq\n", "--inline", "--pdb", job, "mapfn")
    assert "'in mapfn'" in ended.stderr
    assert "json/__init__.py" in ended.stderr.partition("'in mapfn'")[2]


def test_pdb_does_nothing_when_all_goes_well(commands):
    job = commands.write("fails.py", FAILS)
    ended = run_with_input(commands, "", "-q", "--inline", "--pdb", job, "nowhere")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(ended.stdout.splitlines()) == ["bad\t2", "good\t1"]


def test_pdb_is_asked_for_by_its_variable_too(commands):
    job = commands.write("fails.py", FAILS)
    commands.environ["MMG_PDB"] = "1"
    assert "(Pdb)" in run_with_input(commands, "q\n", "--inline", job, "mapfn").stderr


def test_without_anything_to_read_commands_from_there_is_no_debugger(commands):
    job = commands.write("fails.py", FAILS)
    ended = commands.run("run", "--inline", "--pdb", job, "mapfn")  # stdin is /dev/null
    assert ended.returncode == 1
    assert "--pdb has nothing to read commands from: stdin is no terminal" in ended.stderr
    assert "(Pdb)" not in ended.stderr


def test_leaving_a_breakpoint_does_not_lead_into_another_debugger(commands):
    job = commands.write("stops.py", STOPS.format("breakpoint()"))
    ended = run_with_input(commands, "p key\nq\n", "--inline", "--pdb", job)
    assert ended.returncode == 1
    assert "'key'" in ended.stderr
    assert ended.stderr.count("(Pdb)") == 2


def test_what_no_line_of_the_job_raised_has_nowhere_to_stop(commands):
    job = commands.write("odd.py", "datasource = {1: 1}\ndef mapfn(key, value):\n    yield 1\n")
    ended = run_with_input(commands, "q\n", "--inline", "--pdb", job)
    assert ended.returncode == 1
    assert "--pdb has nowhere to stop" in ended.stderr


def test_ctrl_c_in_the_debugger_ends_nothing(commands):
    """On a terminal, both at a breakpoint and after a failure; else the process would end TIDY_S after it."""
    job = commands.write("stops.py", STOPS.format("breakpoint(); 1 / 0"))
    program = "from mmgevent.cli import exits, run; exits.TIDY_S = 0.1; run.main()"
    child, terminal = pty.fork()
    if not child:
        os.chdir(commands.folder)
        argv = [sys.executable, "-c", program, "--inline", "--pdb", job]
        os.execve(sys.executable, argv, {**commands.environ, "TERM": "dumb"})
    seen = b""

    def wait_for(text):
        nonlocal seen
        while text not in seen:
            seen += os.read(terminal, 65536)
        before, _, seen = seen.partition(text)
        return before

    def interrupt_a_command():
        wait_for(b"(Pdb) ")
        os.write(terminal, b"import threading; print('wa' + 'its'); threading.Event().wait()\n")
        wait_for(b"waits")
        os.write(terminal, b"\x03")
        wait_for(b"KeyboardInterrupt")
        wait_for(b"(Pdb) ")
        os.write(terminal, b"threading.Event().wait(0.5); print(key + ' is still here')\n")
        wait_for(b"key is still here")

    interrupt_a_command()
    os.write(terminal, b"c\n")
    wait_for(b"ZeroDivisionError")
    interrupt_a_command()
    os.write(terminal, b"q\n")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 1


# -v


def test_with_v_each_line_that_functions_print_is_shown_once(commands):
    job = commands.write("speaks.py", SPEAKS)
    ended = commands.run("run", "-v", "--procs", "1", job)
    assert ended.returncode == 0, ended
    lines = ended.stderr.splitlines()
    for i in range(3):
        assert len([line for line in lines if line.endswith(f"first of {i}")]) == 1
        assert len([line for line in lines if line.endswith(f"second of {i}")]) == 1
    # What has no line end is shown with what comes after it, or when its task ends.
    assert sum(line.count("no end") for line in lines) == 3


def test_last_lines_of_an_executor_that_dies_are_shown(commands):
    job = commands.write(
        "dies.py",
        "import os\ndatasource = {1: 1}\n"
        "def mapfn(key, value):\n    os.write(2, b'without an end')\n    os._exit(1)\n",
    )
    ended = commands.run("run", "-v", "--procs", "1", job)
    assert ended.returncode == 1
    shown = [line for line in ended.stderr.splitlines() if line.endswith("without an end")]
    assert len(shown) >= 3  # tries, and the report


@pytest.mark.parametrize("how", [["--inline"], ["--procs", "1"]], ids=lambda how: how[0])
def test_v_leaves_the_users_format_alone(commands, how):
    job = commands.write("speaks.py", SPEAKS)
    ended = commands.run("run", "-v", *how, job)
    said = [line.removeprefix("no end") for line in ended.stderr.splitlines() if "finishes" in line]
    assert sorted(said) == [f"MINE INFO finishes {i}" for i in range(3)]


@pytest.mark.parametrize(("flag", "levels"), [("-v", ["INFO"]), ("-vv", ["DEBUG", "INFO"])])
def test_v_shows_what_is_logged_below_a_warning(commands, flag, levels):
    job = commands.write(
        "logs.py",
        "import logging\nlogging.basicConfig(format='MINE %(levelname)s %(message)s')\n"
        "datasource = {1: 1}\n"
        "def mapfn(key, value):\n    logging.debug('said')\n    logging.info('said')\n    yield key, value\n",
    )
    ended = commands.run("run", flag, "--inline", job)
    assert [line for line in ended.stderr.splitlines() if "said" in line] == [
        f"MINE {level} said" for level in levels
    ]
    assert "said" not in commands.run("run", "--inline", job).stderr
