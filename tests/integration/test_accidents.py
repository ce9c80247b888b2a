"""Folders that go away, full devices, closed streams, terminals that close: a sentence, never a trace or a leftover."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

import mmgevent as mmg
from tests.integration.commands import Commands, read_tsv

COMMANDS = ["run", "server", "worker"]
PASSWORD = {"MMG_PASSWORD": "a password of the tests of accidents"}

#: Counts words; with a gate, its functions wait until the file exists, and say that they do.
JOB = """
import os, sys
GATE = {gate!r}
datasource = {{n: "a b" for n in range(6)}}
def mapfn(key, value):
    import time
    open(GATE + ".began", "w").close()
    while not os.path.exists(GATE):
        time.sleep(0.01)
    for word in value.split():
        yield word, 1
def reducefn(key, values):
    return sum(values)
"""


@pytest.fixture
def commands(tmp_path):
    commands = Commands(tmp_path)
    yield commands
    assert commands.left_behind() == []
    commands.close()


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


@pytest.fixture
def job(commands, gate):
    return commands.write("job.py", JOB.format(gate=str(gate)))


def wait_began(process, gate):
    """Wait until a function of the job runs; fail if the command ends before."""
    began = gate.with_name("gate.began")
    while not began.exists():
        assert process.poll() is None, process.communicate()
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue


def check_said(said):
    assert "Traceback" not in said
    assert "fault" not in said
    assert said.count("\n") <= 2


def shell(commands, line):
    """Run a line of a shell in which `$MMG` is `python -m mmgevent`; return its exit code and stderr."""
    environ = {**commands.environ, **PASSWORD, "MMG": f"{sys.executable} -m mmgevent"}
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=commands.folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    said = done.stderr.decode()
    check_said(said)
    return done.returncode, said


ASKED = [
    *(f"{name} {what}" for name in COMMANDS for what in ("--help", "--version")),
    "--help",
    "server password",
]


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_asked_for_and_cannot_be_written_is_said_in_a_sentence(commands, asked):
    assert shell(commands, f"$MMG {asked} > /dev/full") == (
        2,
        SAYS[asked.split()[0]] + ": cannot write to stdout: No space left on device\n",
    )
    code, said = shell(commands, f"$MMG {asked} >&-")
    assert (code, "stdout is closed" in said) == (2, True)
    assert shell(commands, f"$MMG {asked} >&- 2>&-") == (2, "")
    assert shell(commands, f"$MMG {asked} 2>&-") == (0, "")
    assert shell(commands, f"$MMG {asked} 2> /dev/full") == (0, "")


SAYS = {"run": "mmg-run", "server": "mmg-server", "worker": "mmg-worker", "--help": "mmgevent"}


@pytest.mark.parametrize("asked", ["run --help", "server password"])
def test_what_nobody_reads_ends_as_a_closed_pipe_does(commands, asked):
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "mmgevent", *asked.split()],
        stdout=write,
        stderr=subprocess.PIPE,
        env={**commands.environ, **PASSWORD},
        timeout=60,
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")


def test_an_output_folder_that_is_removed_costs_the_results_and_is_named(commands, gate, job, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    process = commands.start("run", "--procs", 1, "-o", folder / "x.tsv", job)
    wait_began(process, gate)
    shutil.rmtree(folder)
    gate.touch()
    done = commands.finish(process)
    assert done.returncode == 1
    assert done.stderr == f"mmg-run: cannot write {folder}/x.tsv: No such file or directory\n"
    assert not folder.exists()


def test_a_folder_for_temporary_files_that_is_removed_costs_nothing_that_fits_memory(
    commands, gate, job, tmp_path
):
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = commands.start("run", "--procs", 1, job, environ={"TMPDIR": str(folder)})
    wait_began(process, gate)
    shutil.rmtree(folder)
    gate.touch()
    done = commands.finish(process)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_tsv(done.stdout) == {"a": 6, "b": 6}


@pytest.mark.long
def test_a_working_directory_that_is_removed_matters_to_relative_paths_only(commands, gate, job, tmp_path):
    gate.touch()
    lost = tmp_path / "lost"
    for arguments, code in (
        (f"run --procs 1 {job} > /dev/null", 0),
        (f"run --inline {job} > /dev/null", 0),
        ("run job.py", 2),
        ("run -m job", 2),
        (f"run -o x.tsv {job}", 2),
        ("worker --help > /dev/null", 0),
    ):
        lost.mkdir()
        assert shell(commands, f"cd {lost}; rmdir {lost}; $MMG {arguments}")[0] == code


@pytest.mark.parametrize(
    "name",
    [
        "new\nline.py",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("esc\x1b[31m.py", "rtl\u202e.py", "wild\udcff.py")
        ),
    ],
)
def test_names_of_files_are_shown_in_one_line(commands, name):
    for argv in (["run", name], ["run", "-o", f"{name}/x", "job.py"], ["run", "--py-files", name, "job.py"]):
        if argv[-1] == "job.py":
            commands.write("job.py", JOB.format(gate="unused"))
        done = commands.run(*argv)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.rstrip("\n").isprintable()


@pytest.mark.long
@pytest.mark.parametrize("ignored", [False, True], ids=["a terminal", "nohup"])
def test_a_closed_terminal_ends_a_running_job_unless_nohup_protects_it(
    commands, gate, job, tmp_path, ignored
):
    folder = tmp_path / "temporary"
    folder.mkdir()
    output = tmp_path / "x.tsv"
    process = commands.start(
        "run",
        "--procs",
        1,
        "-o",
        output,
        job,
        environ={"TMPDIR": str(folder)},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )
    wait_began(process, gate)
    process.send_signal(signal.SIGHUP)
    if ignored:
        gate.touch()
    done = commands.finish(process)
    assert done.returncode == (0 if ignored else 129)
    assert output.exists() is ignored
    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("x.tsv.", ".x.tsv"))] == []


#: A command whose every usual place for temporary files is read-only, in a namespace of its own.
READ_ONLY = 'for d in /tmp /var/tmp /dev/shm; do [ ! -d $d ] || mount -t tmpfs -o ro none $d; done; cd /proc; exec "$@"'


def may_mount():
    try:
        return not subprocess.run(
            ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", "true"], capture_output=True
        ).returncode
    except FileNotFoundError:
        return False


#: What must stay in sight: the interpreter and the code.
IN_SIGHT = (sys.executable, sys.prefix, mmg.__file__)


@pytest.mark.long
@pytest.mark.skipif(not may_mount(), reason="this user may not mount in a namespace")
@pytest.mark.skipif(
    any(os.path.abspath(path).startswith(("/tmp/", "/var/tmp/", "/dev/shm/")) for path in IN_SIGHT),
    reason="the checkout is in a folder for temporary files",
)
@pytest.mark.parametrize("source", ["{n: n for n in range(5)}", "iter([(n, n) for n in range(5)])"])
def test_without_any_folder_for_temporary_files_a_job_runs_or_says_why_not_in_a_sentence(
    commands, tmp_path, source
):
    # The job's text is given to Python itself: whatever folder it were in might be hidden.
    program = (
        "import mmgevent as mmg, sys\n"
        "with mmg.LocalCluster(1) as cluster:\n"
        "    try:\n"
        f"        print(cluster.run(mmg.Job({source}, lambda k, v: [(k, v)])))\n"
        "    except mmg.JobError as error:\n"
        "        print(error, file=sys.stderr)\n"
        "        sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", sys.executable, "-c", program],
        env={**commands.environ, "TMPDIR": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    if source.startswith("{"):
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 1
        assert "TMPDIR" in done.stderr
        assert "[Errno" not in done.stderr
