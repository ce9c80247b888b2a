"""What users do wrong, and what goes wrong: one message that says so, the right exit code, nothing left."""

import os
import re
import signal
import socket
import sys

import pytest

from tests.integration.commands import PROGRESS, ROOT, patience_s, read_tsv, wait_for
from tests.ports import reserved_port

DATA = "datasource = {'a': 1, 'b': 2}\n"
MAP = "def mapfn(k, v):\n    yield k, v\n"
JOB = DATA + MAP

#: what mmg-run says of an executor's death that is not the job's end, with its last words
DEATH = re.compile(r"^mmg-run: .* the executor died: .*; tried again on .*\n(  \|.*\n)*", re.MULTILINE)


def check_message(ended, code, *expected, command="mmg-run"):
    """One message on stderr, with all of `expected` and no frame of mmgevent's; nothing on stdout.

    Before it, of each executor that died and was tried again, another one.
    """
    assert ended.returncode == code, ended
    assert ended.stdout == ""
    said = DEATH.sub("", ended.stderr)
    assert re.findall(r"^mmg\w*[- ]\w+:", said, re.MULTILINE) == [f"{command}:"], ended.stderr
    assert said.startswith(f"{command}: ")
    for part in expected:
        assert part in ended.stderr
    assert f"{ROOT}{os.sep}mmgevent" not in ended.stderr
    assert "Traceback" not in ended.stderr or code in (1, 2, 6)


@pytest.fixture
def fails(commands):
    """Run a job file that must fail; its stderr."""

    def run(code, source, *options, expected=(), name="job.py", **kwargs):
        commands.write(name, source)
        ended = commands.run("run", "--procs", "2", "--no-logs", *options, name, **kwargs)
        check_message(ended, code, *expected)
        assert commands.left_behind() == []
        return ended.stderr

    return run


# found wrong before it ran: 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("datasource = {\ndef mapfn(k, v:\n    pass\n", ["job.py, line 2: SyntaxError", "def mapfn(k, v:"]),
        ("def f():\nx = 1\n", ["job.py, line 2: IndentationError"]),
        (
            "def f():\n    return 1 / 0\nf()\n",
            ["failed while it was loaded", "line 2, in f", "ZeroDivisionError"],
        ),
        ("import nosuchmodule\n", ["failed while it was loaded", "line 1", "No module named 'nosuchmodule'"]),
        (DATA, ["binds neither mapfn nor reducefn", "def mapfn(key, value)"]),
        (MAP, ["binds no datasource", "Files(sys.argv[1:])"]),
        ("job = 5\n", ["its job is of type int, not mmgevent.Job"]),
        (
            "import mmgevent\n" + JOB + "job = mmgevent.Job(datasource, mapfn)\n",
            ["binds both job and datasource, mapfn", "pass them to Job(...)"],
        ),
    ],
)
def test_job_file_that_cannot_be_one(fails, source, expected):
    fails(2, source, expected=expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (DATA + "def mapfun(k, v): yield k, v\n" + "def reducefn(k, vs): return 1\n", "did you mean mapfn?"),
        (DATA + "def map_function(k, v): yield k, v\n", "did you mean mapfn?"),
        (DATA + "def mapper(k, v): yield k, v\n", "did you mean mapfn by mapper?"),
        (JOB + "def reduceFunc(k, vs): return 1\n", "did you mean reducefn?"),
        (JOB + "def redcuefn(k, vs): return 1\n", "did you mean reducefn?"),
        ("data_source = {1: 2}\n" + MAP, "did you mean it by data_source?"),
        (JOB + "option = {'retries': 1}\n", "did you mean options?"),
        (JOB + "options = {'retires': 2}\n", "options: unknown option 'retires'; did you mean retries?"),
        (JOB + "options = {'xyzzy': 2}\n", "unknown option 'xyzzy'; there are retries, task_timeout"),
        (JOB + "options = {'retries': 'x'}\n", "option retries must be an int from 0 to 1e+12; got 'x'"),
        (JOB + "options = 5\n", 'options must be a dict such as {"retries": 2}; got 5'),
    ],
)
def test_misspelt_name_is_met_with_the_nearest_right_one(fails, source, expected):
    fails(2, source, expected=[expected])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            "def mapfn(k): yield k, 1",
            ["mapfn (job.py, line 2) has 1 required positional parameter;", "with two"],
        ),
        ("def mapfn(*args): yield 1, 1", ["mapfn (job.py, line 2) takes *args", "lambda key, value:"]),
        ("mapfn = zip", ["mapfn zip is a builtin", "lambda key, value: [(key, zip(value))]"]),
        ("mapfn = 5", ["mapfn must be a function", "got int"]),
        ("async def mapfn(k, v): return []", ["async", "def, not async def"]),
        (
            "def reducefn(a, b, c): return 1",
            ["has 3 required positional parameters", "with two", "or with one"],
        ),
        ("def reducefn(*args): return 1", ["takes *args", "lambda key, values: reducefn(values)"]),
        ("reducefn = sum", ["reducefn sum is a builtin", "lambda key, values: sum(values)"]),
        (MAP + "def reducefn(k, vs): yield 1", ["yields, but that form returns one value"]),
        (MAP + "collectfn = max", ["collectfn max is a builtin"]),
        (
            MAP + "def finishfn(): return 1",
            ["finishfn (job.py, line 4) has 0 required positional parameters"],
        ),
    ],
)
def test_function_that_cannot_be_called(fails, function, expected):
    fails(2, f"{DATA}{function}\n", expected=expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "import threading\nstop = threading.Event()\ndef helper(): return stop\n"
            "def mapfn(k, v):\n    with helper(): yield k, v\n",
            ["mapfn → helper → stop", "an event of threads", "make it inside the function"],
        ),
        ("log = open(__file__)\ndef mapfn(k, v): yield log.read(), v\n", ["mapfn → log", "an open file"]),
        (
            "import socket\nsock = socket.socket()\ndef mapfn(k, v): yield sock.fileno(), v\n",
            ["mapfn → sock", "a socket", "connect inside the function"],
        ),
        (
            "import threading\ndef mapfn(k, v, stop=threading.Event()): yield k, v\n",
            ["a default argument", "an event of threads"],
        ),
        (
            "class A:\n    def __setstate__(self, state): raise ValueError('cannot be made again')\n"
            "a = A()\na.x = 1\ndef mapfn(k, v): yield str(a), v\n",
            ["mapfn → a does not load in an executor", "cannot be made again"],
        ),
        (
            "class A:\n    def __reduce__(self): return (make, ())\ndef make(): raise ValueError('not here')\n"
            "a = A()\ndef mapfn(k, v): yield a, v\n",
            ["mapfn → a does not load in an executor", "not here"],
        ),
    ],
)
def test_what_cannot_travel_is_named(fails, source, expected):
    fails(2, DATA + source, expected=expected)


def test_module_that_does_not_load_in_another_process_is_named_before_an_item_is_mapped(commands, fails):
    commands.write(
        "here.py",
        "import sys\nif 'mmgevent.cli.run' not in sys.modules: raise RuntimeError('only in the driver')\n",
    )
    source = DATA + "import here\ndef mapfn(k, v):\n    print(here)\n    yield k, v\n"
    fails(2, source, expected=["mapfn → here does not load in an executor", "only in the driver"])
    commands.write("here.py", "import os, sys\nif 'mmgevent.cli.run' not in sys.modules: os._exit(3)\n")
    fails(2, source, expected=["ended a fresh process (exit code 3)"])


@pytest.mark.parametrize(
    ("datasource", "expected"),
    [
        ("Files('nothere.txt')", ["nothere.txt does not exist (looked in "]),
        ("Files('job.py', 'nothere.txt')", ["nothere.txt does not exist"]),
        ("Files('*.txt')", ["nothing matches *.txt in "]),
        ("Files('empty')", ["the folder empty has none"]),
        ("Files([])", ["no path was given"]),
        ("Files(sys.argv[1:])", ["no path was given"]),
        ("Lines('nothere.txt')", ["nothere.txt does not exist"]),
        ("Files('job.py', encoding='utf-9')", ["utf-9"]),
        ("'some.txt'", ["the datasource is the str 'some.txt'", "Files('some.txt')"]),
        ("[1, 2]", ["item 0 of the datasource is the int 1, not a (key, value) pair", "enumerate"]),
        ("lambda: None", ["returned None", "must return (or yield) (key, value) pairs"]),
        ("lambda x: {}", ["requires x", "called without arguments"]),
        ("{'a': (x for x in [])}", ["an item of the datasource cannot travel", "'a'"]),
    ],
)
def test_input_that_is_not_there_or_is_none(commands, fails, datasource, expected):
    (commands.folder / "empty").mkdir()
    fails(
        2,
        f"import sys\nfrom mmgevent import Files, Lines\ndatasource = {datasource}\n{MAP}",
        expected=expected,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.py", "missing.py does not exist (looked in "),
        ("folder.py", "folder.py is a folder"),
        ("notes.txt", "notes.txt does not end in .py"),
        ("right", "did you mean right.py?"),
        ("random.py", "rename it, say my_random.py"),
        ("my-job.py", "'my-job', which is not a name Python allows"),
    ],
)
def test_job_file_with_a_name_that_will_not_do(commands, name, expected):
    (commands.folder / "folder.py").mkdir()
    for written in ("notes.txt", "right.py", "random.py", "my-job.py"):
        commands.write(written, JOB)
    check_message(commands.run("run", name), 2, expected)
    assert commands.left_behind() == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "retires=2"], "unknown option 'retires'; did you mean retries?"),
        (["--set", "retries=x"], "option retries must be a whole number; got 'x'"),
        (["--set", "retries"], "expected OPTION=VALUE"),
        (["--prcs", "2"], "unknown option --prcs; did you mean --procs?"),
        (["--procs", "x"], "--procs 'x': expected a whole number"),
        (["--py-files", "nofile.py"], "nofile.py does not exist"),
        (["--listen", "5000", "--join", "x"], "exclude one another"),
        (["--listen", "127.0.0.1:99999"], "'99999' is not a port number"),
        (["-o", "no/out.tsv"], "no does not exist; make it first"),
        (["-o", "."], "it is a folder; name a file in it"),
        (["-o", "out.xyz"], "the suffix of out.xyz does not say which format it is"),
        (["--format", "xyz"], "unknown format 'xyz'; there are tsv, jsonl, csv, pickle"),
        (
            ["-o", "out.tsv.gz", "--format", "tsv.xz"],
            "the format tsv.xz is not what the suffix of out.tsv.gz says",
        ),
        (["-o", "out.tsv", "--columns", "a,b"], "the format tsv has no columns to name"),
        (["-o", "out.tsv", "--overwrite"], "overwriting is for folders, whose path ends in /"),
        (["--part-size", "1MiB"], "the size of parts is for folders"),
        (["--part-size", "0"], "--part-size: expected a size above 0"),
        (["-o", "./"], "cannot write ./: the folder is not empty"),
        (["-o", "no/out/"], "no does not exist; make it first"),
        (["-o", "out/", "--format", "csv.zip"], "unknown format 'csv.zip'"),
        (["--sort", "size"], "--sort 'size': expected key, -key, value or -value"),
        (["--top", "0"], "--top '0': expected a whole number from 1 to"),
        (["-o", "out.csv", "--columns", "a,a"], "two columns have the name 'a'"),
    ],
)
def test_command_line_that_will_not_do(fails, options, expected):
    fails(2, JOB, *options, expected=[expected])


# the job ran and failed: 1


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (
            "def helper(v): return 1 / (v - 2)\ndef mapfn(k, v): yield k, helper(v)\n",
            ["mapfn at 'b' on ", "ZeroDivisionError", "line 3, in mapfn", "line 2, in helper"],
        ),
        (MAP + "def collectfn(k, vs): raise KeyError('x')\n", ["collectfn at '", " on ", "KeyError: 'x'"]),
        (
            MAP + "def reducefn(k, vs): return 1 / (vs[0] - 2)\n",
            ["reducefn at 'b' on ", "line 4, in reducefn"],
        ),
        (MAP + "def finishfn(k, vs): return 1 / (vs[0] - 2)\n", ["finishfn at 'b': ", "line 4, in finishfn"]),
        ("def mapfn(k, v): yield [k], v\n", ["mapfn at '", "keys must be hashable, got list: use a tuple"]),
        (
            "class Key:\n    pass\ndef mapfn(k, v): yield Key(), v\n",
            [
                "keys cannot be of class job.Key",
                "by identity",
                "define __eq__ and __hash__, or __partition_key__",
            ],
        ),
        (
            "import threading\ndef mapfn(k, v): yield k, threading.Lock()\n",
            ["value of key '", "cannot be pickled"],
        ),
        (
            MAP + "import threading\ndef collectfn(k, vs): return threading.Lock()\n",
            ["collectfn at '", "cannot be pickled"],
        ),
        (
            "def mapfn(k, v): pass\n",
            ["mapfn returned None, which holds no records", "yield (key, value) pairs"],
        ),
        ("def mapfn(k, v): yield k\n", ["mapfn must yield (key, value) pairs, got str '"]),
        ("def mapfn(k, v): yield k, v, 1\n", ["mapfn must yield (key, value) pairs, got tuple of 3"]),
        ("import sys\ndef mapfn(k, v): sys.exit(3)\n", ["SystemExit: 3", "a job's functions must return"]),
        (
            MAP + "import sys\ndef finishfn(k, v): sys.exit()\n",
            ["finishfn at '", "a job's functions must return"],
        ),
        (
            "import os\ndef mapfn(k, v):\n    print('last words', flush=True)\n    os._exit(7)\n",
            ["mapfn at '", " on ", "the executor died: exit code 7", "it last printed:\nlast words"],
        ),
        (
            "import os\ndef mapfn(k, v): os.kill(os.getpid(), 11)\n",
            ["the executor died: signal 11 (SIGSEGV)", "line 3 in mapfn"],
        ),
        (MAP + "import os\ndef reducefn(k, vs): os.kill(os.getpid(), 9)\n", ["reducefn at '", "(SIGKILL)"]),
        (
            "def mapfn(k, v):\n    import nosuchmodule\n    yield k, v\n",
            ["No module named 'nosuchmodule'", "line 3, in mapfn", "--py-files nosuchmodule.py"],
        ),
    ],
)
def test_function_that_fails_is_named_with_item_line_and_worker(fails, functions, expected):
    said = fails(1, DATA + functions, expected=expected)
    assert said.count("Traceback (most recent call last)") <= 1


@pytest.mark.parametrize(
    ("datasource", "expected"),
    [
        ("def datasource():\n    raise ValueError('no luck')\n", "ValueError: no luck"),
        ("def datasource():\n    yield 1, 1\n    raise ValueError('no luck')\n", "ValueError: no luck"),
        ("import sys\ndef datasource():\n    sys.exit(5)\n", "a job's functions must return"),
    ],
)
def test_datasource_that_fails_is_named(fails, datasource, expected):
    fails(1, datasource + MAP, expected=["mmg-run: the datasource: ", "in datasource", expected])


def test_undecodable_file_is_named_with_the_byte(commands, fails):
    (commands.folder / "bad.txt").write_bytes(b"hello \xff there")
    source = "from mmgevent import {0}\ndatasource = {0}('bad.txt')\n" + MAP
    for kind in ("Files", "Lines"):
        fails(1, source.format(kind), expected=["bad.txt: byte 6 is not utf-8", 'errors="replace"'])


def test_results_that_cannot_be_written_fail_the_job_that_ran(commands, fails):
    expected = ["jsonl cannot say the record of '", "JSON has no complex", "change it in finishfn"]
    fails(1, DATA + "def mapfn(k, v): yield k, 1j\n", "-o", "out.jsonl", expected=expected)
    assert not (commands.folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    "broken",
    [
        DATA + "def mapfn(k, v): yield k, 1 / (v - 2)\n",
        JOB + "def finishfn(k, vs): return 1 / (vs[0] - 2)\n",
        DATA,
    ],
)
def test_old_results_stay_as_they_are_when_the_job_fails(commands, broken):
    output = commands.folder / "out.tsv"
    output.write_text("of yesterday")
    commands.write("job.py", broken)
    assert commands.run("run", "--procs", "1", "-o", output, "job.py").returncode in (1, 2)
    assert output.read_text() == "of yesterday"
    assert [name for name in os.listdir(commands.folder) if name.endswith(".tmp")] == []


def test_results_with_one_key_are_all_written(commands):
    commands.write("job.py", JOB + "def reducefn(groups):\n    for k, vs in groups:\n        yield 'x', vs\n")
    ended = commands.run("run", "--procs", "1", "job.py")
    assert ended.returncode == 0, ended
    assert sorted(ended.stdout.splitlines()) == ["x\t[1]", "x\t[2]"]


def test_too_many_skipped_items_say_how_many_and_why(commands):
    commands.write(
        "job.py", "datasource = {i: i for i in range(10)}\ndef mapfn(k, v): yield k, 1 / (v % 2)\n"
    )
    ended = commands.run("run", "--procs", "1", "-q", "--set", "max_skipped=2", "job.py")
    check_message(ended, 6, "ZeroDivisionError", "max_skipped=2")


# servers, passwords, versions


def test_port_in_use_is_one_message(commands):
    commands.write("job.py", JOB)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        expected = [f"cannot listen on {address}", "choose another port"]
        check_message(commands.run("run", "--listen", address, "job.py"), 3, *expected)
        check_message(commands.run("server", "--listen", address), 3, *expected, command="mmg-server")
    ended = commands.run("run", "--listen", "192.0.2.1:5000", "job.py")
    check_message(ended, 3, "cannot listen on 192.0.2.1:5000", "this machine does not have that address")
    assert commands.left_behind() == []


def test_no_server_is_one_message_that_says_what_was_tried(commands):
    commands.write("job.py", JOB)
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        ended = commands.run("run", "--join", address, "job.py")
    check_message(ended, 3, f"cannot connect to {address}: Connection refused", "start mmg-server there")
    assert commands.left_behind() == []


def test_job_that_cannot_run_asks_nobody_to_join(fails):
    fails(2, DATA + "def mapfn(k): pass\n", "--listen", "127.0.0.1:0", expected=["1 required positional"])


def test_wrong_password_is_one_message(commands):
    _, address = commands.start_server()
    commands.write("job.py", JOB)
    environ = {"MMG_PASSWORD": "another one altogether"}
    expected = [f"{address}: the password was refused", "both sides need the same", "mmg-server password"]
    check_message(commands.run("run", "--join", address, "job.py", environ=environ), 4, *expected)
    ended = commands.run("worker", address, environ=environ)
    check_message(ended, 4, *expected, command="mmg-worker")
    assert commands.left_behind() == []


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ("a fine password\n", 0o644, "others may read or change the password file"),
        ("\n", 0o600, "is empty; give one, or leave it out"),
        (None, 0, "cannot read the password file"),
    ],
)
def test_password_file_that_will_not_do(commands, content, mode, expected):
    path = commands.folder / "secret"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    commands.write("job.py", JOB)
    for name, argv in (
        ("mmg-run", ["run", "--password-file", path, "--join", "localhost:1", "job.py"]),
        ("mmg-worker", ["worker", "--password-file", path, "localhost:1"]),
        ("mmg-server", ["server", "--password-file", path]),
    ):
        check_message(commands.run(*argv), 2, expected, str(path), command=name)


@pytest.mark.parametrize("argv", [["run", "-p", "", "--join", "localhost:1", "x.py"], ["server", "-p", ""]])
def test_empty_password_is_refused(commands, argv):
    check_message(commands.run(*argv), 2, "the password given is empty", command=f"mmg-{argv[0]}")


#: a command as it would be under another Python, as far as a server can tell
OTHER_PYTHON = """
import sys, mmgevent.wire.hello
mmgevent.wire.hello.PYTHON_VERSION = "3.9"
from mmgevent.cli.{0} import main
main()
"""


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("run", "this driver has Python 3.9, the server has Python {}: install the same version of Python"),
        (
            "worker",
            "this worker has Python 3.9, the server has Python {}: install the same version of Python",
        ),
    ],
)
def test_other_python_version_ends_with_5_and_names_both(commands, command, sentence):
    _, address = commands.start_server()
    commands.write("job.py", JOB)
    argv = ["--join", address, "job.py"] if command == "run" else ["--procs", "1", address]
    ended = commands.run(*argv, program=("-c", OTHER_PYTHON.format(command)))
    said = "\n".join(line for line in ended.stderr.splitlines() if " joined the server " not in line)
    ended.stderr = said
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    check_message(ended, 5, sentence.format(version), command=f"mmg-{command}")
    assert commands.left_behind() == []


def test_no_workers_in_time_is_one_message(commands):
    _, address = commands.start_server()
    commands.write("job.py", JOB)
    ended = commands.run("run", "-q", "--join", address, "--workers-timeout", "0.3", "job.py")
    check_message(ended, 7, "no worker joined in 0.3 s", "start one with mmg-worker", "--workers-timeout")
    assert commands.left_behind() == []


def test_module_that_only_the_driver_can_import_is_sent_with_py_files(commands):
    """A plugin that no import statement names is missing on the worker, until --py-files sends it."""
    _, address = commands.start_server()
    elsewhere = commands.folder / "elsewhere"
    elsewhere.mkdir()
    commands.start("worker", "--procs", "1", address, environ={"HOME": str(commands.folder)})
    (elsewhere / "plugin.py").write_text("x = 5\n")
    source = "import importlib\ndef mapfn(k, v): yield k, importlib.import_module('plugin').x\n"
    commands.write("job.py", DATA + source)
    ended = commands.run("run", "-q", "--join", address, "job.py")
    check_message(ended, 1, "No module named 'plugin'", "--py-files plugin.py")
    ended = commands.run("run", "-q", "--join", address, "--py-files", elsewhere / "plugin.py", "job.py")
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == {"a": [5], "b": [5]}


# signals

#: says through a pipe that it runs, and then does nothing for ever, in the phase that is asked for
BLOCKER = """
import sys, threading
datasource = {1: sys.argv[1]}
phase = sys.argv[2]
def block(pipe):
    with open(pipe, "w") as file:
        file.write("runs")
    threading.Event().wait()
def mapfn(key, pipe):
    if phase == "map":
        block(pipe)
    yield key, pipe
def reducefn(key, pipes):
    block(pipes[0])
def finishfn(key, value):
    return value
"""

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture
def begin(commands):
    """Start a blocking job; return a function that waits until it runs."""
    pipe = commands.folder / "pipe"
    os.mkfifo(pipe)
    commands.write("blocks.py", BLOCKER)

    def start(phase, *options):
        process = commands.start("run", *options, "blocks.py", pipe, phase)
        return process, pipe.read_text

    return start


def end(commands, process, number, code):
    """Send a signal; the command must end in three seconds, with the code and all that came of it."""
    limit_s = patience_s()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=limit_s)
    assert process.returncode == code, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    return PROGRESS.sub("", stderr)


@pytest.mark.parametrize("phase", ["map", "reduce"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signal_ends_an_embedded_job(commands, begin, phase, number, code):
    process, wait = begin(phase, "--procs", "2")
    assert wait() == "runs"
    assert end(commands, process, number, code).count("\n") == 1
    assert commands.left_behind() == []


@pytest.mark.parametrize("phase", ["map", "reduce"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signal_ends_a_listening_job_and_its_worker_goes_on(commands, begin, phase, number, code):
    process, wait = begin(phase, "--procs", "0", "--listen", "127.0.0.1:0")
    address = wait_for(process.stderr, r"mmg-worker (127\.0\.0\.1:\d+)")[1]
    worker = commands.start("worker", "--procs", "1", address)
    assert wait() == "runs"
    end(commands, process, number, code)
    wait_for(worker.stderr, "waiting for a server there")
    end(commands, worker, number, code)
    assert commands.left_behind() == []


@pytest.mark.parametrize("phase", ["map", "reduce"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signal_ends_driver_worker_and_server_in_the_middle_of_a_job(commands, begin, phase, number, code):
    server, address = commands.start_server()
    worker = commands.start("worker", "--procs", "1", address)
    wait_for(worker.stderr, "joined")  # or the driver might say that it waits for one
    process, wait = begin(phase, "--join", address)
    assert wait() == "runs"
    assert end(commands, process, number, code).count("\n") == 1
    process, wait = begin(phase, "--join", address)
    assert wait() == "runs"
    end(commands, worker, number, code)
    second = commands.start("worker", "--procs", "1", address)
    assert wait() == "runs"
    end(commands, server, number, code)
    end(commands, process, number, code)
    end(commands, second, number, code)
    assert commands.left_behind() == []


def test_killed_driver_leaves_nothing_while_it_looks_for_another_server(commands, begin):
    server, address = commands.start_server()
    worker = commands.start("worker", "--procs", "1", address)
    process, wait = begin("map", "--join", address)
    assert wait() == "runs"
    server.kill()
    wait_for(process.stderr, "resubmitted")
    limit_s = patience_s()
    process.kill()
    worker.kill()
    process.communicate(timeout=limit_s)
    assert commands.left_behind() == []


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("where", ["datasource", "finishfn"])
def test_signal_ends_a_command_whose_own_functions_hang(commands, where, number, code):
    pipe = commands.folder / "pipe"
    os.mkfifo(pipe)
    block = f"open({str(pipe)!r}, 'w').close(); import threading; threading.Event().wait()"
    functions = {"datasource": "{'a': 1}", "finishfn": None}
    functions[where] = "lambda *ignored: block()" if where == "datasource" else "lambda k, v: block()"
    bound = "".join(f"{name} = {value}\n" for name, value in functions.items())
    commands.write("job.py", f"def block():\n    {block}\n{bound}{MAP}")
    process = commands.start("run", "--procs", "1", "job.py")
    assert pipe.read_text() == ""
    end(commands, process, number, code)
    assert commands.left_behind() == []


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signal_ends_a_job_whose_module_hangs_where_it_is_tried(commands, number, code):
    pipe = commands.folder / "pipe"
    os.mkfifo(pipe)
    wait = f"open({str(pipe)!r}, 'w').close(); threading.Event().wait()"
    commands.write("hangs.py", f"import sys, threading\nif 'mmgevent.cli.run' not in sys.modules: {wait}\n")
    commands.write("job.py", DATA + "import hangs\ndef mapfn(k, v):\n    print(hangs)\n    yield k, v\n")
    process = commands.start("run", "--procs", "1", "job.py")
    assert pipe.read_text() == ""
    end(commands, process, number, code)
    assert commands.left_behind() == []


def test_reader_that_goes_away_ends_the_job_and_its_processes(commands):
    commands.write("job.py", "datasource = {i: i for i in range(50000)}\n" + MAP)
    process = commands.start("run", "--procs", "2", "job.py")
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    ended = commands.finish(process)
    assert (ended.returncode, ended.stderr) == (141, "")
    assert commands.left_behind() == []
