"""Modules of the user's beside a job: whatever they are called, and whatever they are made of."""

import ast
import os
import py_compile
import sys
import zipfile
from pathlib import Path

import pytest

from mmgevent import real_modules
from tests.integration.commands import read_tsv

POISON = "raise SystemExit('this is ' + __name__ + ' of the user')\n"

JOB = """
class Record:
    def __init__(self, n): self.n = n
datasource = [(n, Record(n)) for n in range(3)]
options = {"memory_limit": "1GiB", "task_timeout": 100}
def mapfn(key, record): yield key % 2, record.n
def reducefn(key, values): return sum(values)
"""

RESULT = {"0": 2, "1": 1}

SCRIPT = "import mmgevent as mmg\n" + JOB + "print(mmg.run(mmg.Job(datasource, mapfn, reducefn)))\n"

#: without what Python imports while it starts, in any folder of PYTHONPATH
POISONOUS = sorted((sys.stdlib_module_names | real_modules.DEPENDENCIES) - {"__main__", "encodings"})
LATE = (
    "json",
    "queue",
    "decimal",
    "logging",
    "rich",
    "dill",
    "random",
    "xxhash",
    "psutil",
    "gevent",
    "select",
)


def poison(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(POISON)
    return folder


@pytest.fixture
def start(commands):
    """Run a command, or Python itself, in a folder."""

    def start(folder, *argv, environ=None, program=("-m", "mmgevent")):
        process = commands.start("-c", START, folder, *program, *argv, program=(), environ=environ)
        return commands.finish(process)

    return start


#: changes the folder and becomes another Python
START = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


@pytest.mark.parametrize("options", [(), ("--inline",), ("--listen", "127.0.0.1:0")])
def test_our_processes_import_nothing_from_the_folders_of_a_job(commands, start, options):
    here = poison(commands.folder / "here", POISONOUS)
    job = poison(commands.folder / "there", POISONOUS) / "job.py"
    job.write_text(JOB)
    (commands.folder / "bin").mkdir()
    command = commands.write(
        "bin/mmg-run", "import sys\nfrom mmgevent.cli.run import main\nsys.exit(main())\n"
    )
    done = start(here, *options, job, program=(command,))
    assert read_tsv(done.stdout) == RESULT, done.stderr


def test_a_program_beside_such_modules_runs_jobs(commands, start):
    script = poison(commands.folder / "there", POISONOUS) / "script.py"
    script.write_text(SCRIPT)
    done = start(commands.folder, script, program=())
    assert done.stderr == ""
    assert ast.literal_eval(done.stdout) == {0: 2, 1: 1}


@pytest.mark.parametrize("program", [("-m", "mmgevent", "run", "job.py"), ("script.py",)])
def test_our_processes_import_nothing_from_the_folders_of_pythonpath(commands, start, program):
    users = poison(commands.folder / "users", LATE)
    (commands.folder / "job.py").write_text(JOB)
    (commands.folder / "script.py").write_text(SCRIPT)
    path = os.pathsep.join((str(users), commands.environ["PYTHONPATH"]))
    done = start(commands.folder, program=program, environ={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr


def test_a_server_and_a_worker_import_nothing_from_the_working_directory(commands, monkeypatch):
    monkeypatch.setattr(commands, "folder", poison(commands.folder / "here", LATE))
    server, address = commands.start_server()
    commands.start("worker", "--procs", "1", address)
    job = commands.write("job.py", JOB)
    done = commands.run("run", "--join", address, job)
    assert read_tsv(done.stdout) == RESULT, done.stderr
    server.terminate()
    commands.finish(server)


OWN = {
    "queue.py": "import json\nclass Mine:\n    def __init__(self, n): self.n = n\ndef double(n): return 2 * n\n",
    "json.py": "def dumps(value): return 'mine'\n",
    "rich/__init__.py": "from . import text\nfrom rich.text import WORDS\n",
    "rich/text.py": "WORDS = ['rich']\n",
    "helper.py": "import json\nimport queue\ndef both(n): return json.dumps(n), queue.double(n)\n",
}

OWN_JOB = """
import logging, queue, rich
from helper import both
datasource = [(1, queue.Mine(3))]
def mapfn(key, mine):
    import json
    from queue import double
    from rich.text import WORDS
    import decimal
    yield key, [mine.n, double(2), both(5), json.dumps(2), isinstance(mine, queue.Mine), WORDS, rich.WORDS,
                str(decimal.Decimal(1))]
"""

OWN_RESULT = [3, 4, ["mine", 10], "mine", True, ["rich"], ["rich"], "1"]


@pytest.mark.parametrize("options", [(), ("--inline",), ("--listen", "127.0.0.1:0")])
def test_the_users_code_gets_its_own_modules_as_in_plain_python(commands, options):
    for name, text in {**OWN, "job.py": OWN_JOB}.items():
        (commands.folder / name).parent.mkdir(exist_ok=True)
        (commands.folder / name).write_text(text)
    done = commands.run("run", *options, "job.py")
    assert read_tsv(done.stdout) == {"1": [OWN_RESULT]}, done.stderr


@pytest.mark.parametrize("at", ["import mmgevent as mmg\n{}", "{}import mmgevent as mmg\n"])
def test_a_program_gets_its_own_modules_whenever_it_imports_them(commands, at):
    script = at.format(OWN_JOB) + "import json\nprint(json.dumps(mmg.run(mmg.Job(datasource, mapfn))))\n"
    script += "print(*mmg.run(mmg.Job(datasource, mapfn)).values())\n"
    for name, text in {**OWN, "script.py": script}.items():
        (commands.folder / name).parent.mkdir(exist_ok=True)
        (commands.folder / name).write_text(text)
    done = commands.run(program=("script.py",))
    expected = "[[3, 4, ('mine', 10), 'mine', True, ['rich'], ['rich'], '1']]"
    assert done.stdout == f"mine\n{expected}\n", done.stderr


DATA_JOB = """
from importlib.resources import files
from importlib import resources
import pkgutil
import words
from words.stop import count
datasource = {1: 1}
def mapfn(key, value):
    text = (resources.files("words") / "data" / "stop.txt").read_text()
    with resources.as_file(files(words) / "data/stop.txt") as path:
        size = path.stat().st_size
    yield key, [text.split(), count(), pkgutil.get_data("words", "data/stop.txt").decode().split(), size]
"""


def make_words(folder):
    (folder / "words" / "data").mkdir(parents=True)
    (folder / "words" / "__init__.py").write_text("")
    (folder / "words" / "data" / "stop.txt").write_text("a the\n")
    (folder / "words" / "stop.py").write_text(
        "from importlib.resources import files\n"
        "def count(): return len(files(__package__).joinpath('data', 'stop.txt').read_text().split())\n"
    )


WORDS_RESULT = {"1": [[["a", "the"], 2, ["a", "the"], 6]]}


def test_files_of_a_package_beside_the_job_are_read_by_resources(commands):
    make_words(commands.folder)
    commands.write("job.py", DATA_JOB)
    for options in ((), ("--inline",)):
        done = commands.run("run", *options, "job.py")
        assert read_tsv(done.stdout) == WORDS_RESULT, done.stderr


def test_files_of_a_package_travel_to_workers_that_have_none(commands, tmp_path):
    home = commands.folder / "home"
    home.mkdir()
    make_words(home)
    (home / "job.py").write_text(DATA_JOB)
    server, address = commands.start_server()
    commands.start("worker", "--procs", "1", address)
    moved = home.with_name("moved")
    submit = commands.start(
        "-c",
        "import sys, os\n"
        "import mmgevent as mmg\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "job = mmg.Job.from_file(sys.argv[2] + '/job.py')\n"
        "with mmg.connect(sys.argv[1]) as cluster:\n"
        "    handle = cluster.submit(job)\n"
        "    os.rename(sys.argv[2], sys.argv[3])\n"
        "    print(handle.result())\n",
        address, home, moved, program=(),
    )  # fmt: skip
    done = commands.finish(submit)
    assert done.stdout == f"{ {1: WORDS_RESULT['1']} }\n", done.stderr
    server.terminate()
    commands.finish(server)


def test_files_of_a_package_in_a_zip_are_read(commands):
    make_words(commands.folder / "inside")
    with zipfile.ZipFile(commands.folder / "words.zip", "w") as archive:
        for path in sorted((commands.folder / "inside").rglob("*.*")):
            archive.write(path, path.relative_to(commands.folder / "inside"))
    commands.write("job.py", "import sys\nsys.path.insert(1, 'words.zip')\n" + DATA_JOB)
    done = commands.run("run", "job.py")
    assert read_tsv(done.stdout) == WORDS_RESULT, done.stderr


def test_a_package_whose_files_are_too_large_is_refused_by_name(commands):
    make_words(commands.folder)
    with (commands.folder / "words" / "data" / "model.bin").open("wb") as file:
        file.truncate(65 << 20)
    commands.write("job.py", DATA_JOB)
    done = commands.run("run", "--listen", "127.0.0.1:0", "job.py")
    assert done.returncode == 2
    assert "package 'words': its files" in done.stderr
    assert "are 65 MiB, and at most 64 MiB" in done.stderr
    done = commands.run("run", "job.py")
    assert read_tsv(done.stdout) == WORDS_RESULT, done.stderr


@pytest.mark.parametrize("options", [(), ("--listen", "127.0.0.1:0")])
def test_a_module_of_which_there_is_bytecode_only_travels(commands, options):
    source = commands.write("seven.py", "def seven(n): return 7 * n\n")
    py_compile.compile(source, str(commands.folder / "seven.pyc"))
    os.remove(source)
    commands.write("job.py", "import seven\ndatasource = {1: 6}\ndef mapfn(k, v): yield k, seven.seven(v)\n")
    done = commands.run("run", *options, "job.py")
    assert read_tsv(done.stdout) == {"1": [42]}, done.stderr


def test_an_extension_beside_the_job_is_imported_on_this_machine(commands):
    import _struct

    suffix = "".join(Path(_struct.__file__).suffixes)
    (commands.folder / f"_struct{suffix}").write_bytes(Path(_struct.__file__).read_bytes())
    (commands.folder / "inner").mkdir()
    (commands.folder / "inner" / "__init__.py").write_text("from . import _struct\n")
    (commands.folder / "inner" / f"_struct{suffix}").write_bytes(Path(_struct.__file__).read_bytes())
    job = "import inner\ndatasource = {1: 1}\ndef mapfn(k, v): yield k, inner._struct.calcsize('<I')\n"
    commands.write("job.py", job)
    done = commands.run("run", "job.py")
    assert read_tsv(done.stdout) == {"1": [4]}, done.stderr
    done = commands.run("run", "--listen", "127.0.0.1:0", "job.py")
    assert done.returncode == 2
    assert "'inner._struct' is a compiled extension" in done.stderr
    assert "jobs can use it that run on this machine only" in done.stderr


def test_a_job_file_that_is_a_link_has_the_folder_of_its_target_on_the_path(commands):
    (commands.folder / "real").mkdir()
    (commands.folder / "real" / "helper.py").write_text("def f(n): return n + 1\n")
    (commands.folder / "real" / "job.py").write_text(
        "import sys\nfrom helper import f\ndatasource = {1: 1}\ndef mapfn(k, v): yield k, [f(v), __name__]\n"
    )
    (commands.folder / "link.py").symlink_to(commands.folder / "real" / "job.py")
    for options in ((), ("--inline",)):
        done = commands.run("run", *options, "link.py")
        assert read_tsv(done.stdout) == {"1": [[2, "link"]]}, done.stderr


PACKAGE_JOB = """
import sys
from . import near
from .near import add
LIMIT = int(sys.argv[1])
class Record:
    def __init__(self, n): self.n = n
datasource = {1: Record(5)}
def mapfn(key, record):
    from .far import far
    import pack.job
    yield key, [add(record.n), near.back(), far(), pack.job.LIMIT, type(record).__module__, __package__]
"""


@pytest.fixture
def package(commands):
    (commands.folder / "pack").mkdir()
    for name, text in {
        "__init__.py": "",
        "near.py": "from . import far\ndef add(n): return n + 1\ndef back():\n    from .job import LIMIT\n    return LIMIT\n",
        "far.py": "def far(): return 'far'\n",
        "job.py": PACKAGE_JOB,
    }.items():
        (commands.folder / "pack" / name).write_text(text)


@pytest.mark.parametrize("options", [(), ("--inline",), ("--listen", "127.0.0.1:0")])
def test_a_job_in_a_package_runs_by_its_name(commands, package, options):
    done = commands.run("run", *options, "-m", "pack.job", "7")
    assert read_tsv(done.stdout) == {"1": [[6, 7, "far", 7, "pack.job", "pack"]]}, done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pack", "pack is a package; name the module in it"),
        ("nowhere.job", "there is no module nowhere"),
        ("pack.nowhere", "there is no module pack.nowhere"),
        ("pack/job.py", "a path goes without -m"),
        ("pack.broken", "failed while it was loaded"),
    ],
)
def test_a_name_that_is_no_job_is_refused(commands, package, name, said):
    (commands.folder / "pack" / "broken.py").write_text("1 / 0\n")
    done = commands.run("run", "-m", name)
    assert done.returncode == 2
    assert said in done.stderr
    assert "mmgevent/" not in done.stderr


def test_a_lock_of_the_job_is_one_of_greenlets_where_items_are_greenlets(commands):
    commands.write(
        "job.py",
        "import threading, time\nlock, local = threading.Lock(), threading.local()\n"
        "options = {'greenlets': 4}\ndatasource = {n: n for n in range(8)}\n"
        "def mapfn(key, value):\n    with lock: time.sleep(.01)\n    local.key = key\n    time.sleep(.01)\n"
        "    yield key, local.key == key\n",
    )
    done = commands.run("run", "--procs", "1", "job.py")
    assert read_tsv(done.stdout) == {str(n): [True] for n in range(8)}, done.stderr


def test_a_prompt_gets_the_modules_of_the_working_directory(commands):
    commands.write("queue.py", OWN["queue.py"].replace("import json\n", ""))
    done = commands.run(program=("-c", "import mmgevent as mmg, queue; mmg.Job; print(queue.double(4))"))
    assert done.stdout == "8\n", done.stderr


@pytest.mark.parametrize("options", [(), ("--inline",), ("--listen", "127.0.0.1:0", "--procs", "1")])
def test_a_module_of_the_users_called_numpy_is_theirs(commands, options):
    commands.write("numpy.py", "def add(a, b): return a + b\n")
    job = "import numpy\ndatasource = {1: 2}\ndef mapfn(key, value): yield key, numpy.add(value, 3)\n"
    commands.write("job.py", job)
    done = commands.run("run", *options, "job.py")
    assert read_tsv(done.stdout) == {"1": [5]}, done.stderr
