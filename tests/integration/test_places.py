"""Where a command or program may be started: also in a folder that no longer exists."""

import pytest

from tests.integration.commands import ROOT, read_tsv

JOB = """
import sys
from mmgevent import Files
datasource = Files(sys.argv[1:]) if sys.argv[1:] else {1: "to be or not to be"}
def mapfn(key, text):
    for word in text.split():
        yield word, 1
def reducefn(word, counts):
    return sum(counts)
"""

FIND = f"import sys\nsys.path.append({str(ROOT)!r})\n"

COUNTS = {"to": 2, "be": 2, "or": 1, "not": 1}

PROGRAM = """
import mmgevent as mmg
job = mmg.Job([(1, "to be or not to be")], lambda k, v: [(w, 1) for w in v.split()], lambda k, values: sum(values))
for options in ({"inline": True}, {"procs": 1}):
    assert mmg.run(job, **options) == {"to": 2, "be": 2, "or": 1, "not": 1}
"""

#: removes the folder that it is in and becomes another Python there
START = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


@pytest.fixture
def run_nowhere(commands):
    """Run Python in a folder that no longer exists, and without PYTHONPATH, as most people do."""

    def run(*argv):
        folder = commands.folder / "gone"
        folder.mkdir()
        inside = f"import os, sys; os.chdir({str(folder)!r}); {START}"
        return commands.finish(commands.start("-c", inside, *argv, program=(), environ={"PYTHONPATH": ""}))

    return run


@pytest.fixture
def command(commands):
    return commands.write("mmg-run", f"{FIND}from mmgevent.cli.run import main\nsys.exit(main())\n")


@pytest.mark.parametrize("options", [(), ("--inline",), ("--listen", "127.0.0.1:0"), ("-o", "/dev/stdout")])
def test_a_job_runs_where_the_working_directory_is_gone(commands, run_nowhere, command, options):
    done = run_nowhere(command, *options, commands.write("words.py", JOB))
    assert done.returncode == 0, done.stderr
    assert read_tsv(done.stdout) == COUNTS


def test_a_program_runs_where_the_working_directory_is_gone(run_nowhere):
    done = run_nowhere("-c", FIND + PROGRAM)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ("words.py",),
            "job file words.py does not exist (looked in the working directory, which no longer exists",
        ),
        (
            ("-m", "package.words"),
            "there is no module package (looked in the working directory, which no longer exists",
        ),
        (("-o", "words.tsv", "{job}"), "cannot write words.tsv: No such file or directory"),
        (
            ("{job}", "text.txt"),
            "text.txt does not exist (looked in the working directory, which no longer exists",
        ),
        (("{job}", "*.txt"), "nothing matches *.txt in the working directory, which no longer exists"),
        (("{job}", "."), "no input files: the folder . has none"),
        (("--py-files", "words.py", "{job}"), "option py_files: words.py does not exist"),
    ],
)
def test_what_would_have_been_there_is_named(commands, run_nowhere, command, argv, said):
    job = commands.write("words.py", JOB)
    done = run_nowhere(command, *(job if argument == "{job}" else argument for argument in argv))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
